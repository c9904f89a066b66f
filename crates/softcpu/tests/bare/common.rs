//! A bare machine for tests: RAM, one or more vCPUs, no devices.

use std::sync::Arc;

use ostler_accel::{Accelerator, CpuState, Exit, Segment, Vcpu, Vm, VmConfig};
use ostler_memory::vm_memory::{Bytes, GuestAddress};
use ostler_memory::{GuestRam, RamOptions, RamSlot};
use ostler_softcpu::vm::SoftCpu;

/// Where test code is put.
pub const CODE: u64 = 0x1_0000;
/// Top of the test's stack.
pub const STACK: u64 = 0x9_0000;
const TABLES: u64 = 0x10_0000;

/// The accelerator.
pub fn soft_cpu() -> SoftCpu {
    SoftCpu {
        engine: crate::ENGINE,
    }
}

/// RAM and a virtual machine over it.
pub struct Bare {
    pub ram: Arc<GuestRam>,
    pub vm: Arc<dyn Vm>,
}

impl Bare {
    pub fn new(cpus: u32) -> Self {
        let ram = ostler_memory::allocate(16 << 20, RamOptions::default()).unwrap();
        let vm = soft_cpu()
            .create_vm(VmConfig {
                cpus,
                slots: RamSlot::all_of(&ram),
            })
            .unwrap();
        Self { ram, vm }
    }

    pub fn write(&self, gpa: u64, bytes: &[u8]) {
        self.ram.write_slice(bytes, GuestAddress(gpa)).unwrap();
    }

    pub fn vcpu(&self, id: u32) -> Box<dyn Vcpu> {
        self.vm
            .create_vcpu(id, &soft_cpu().supported_cpuid().unwrap())
            .unwrap()
    }

    /// 64-bit mode at [`CODE`], the first GiB mapped one to one in 2 MiB pages, also for the user.
    pub fn long_mode(&self, id: u32) -> CpuState {
        self.write(TABLES, &(TABLES + 0x1007).to_le_bytes());
        self.write(TABLES + 0x1000, &(TABLES + 0x2007).to_le_bytes());
        for n in 0..512u64 {
            self.write(TABLES + 0x2000 + 8 * n, &(n << 21 | 0x87).to_le_bytes());
        }
        let mut state = ostler_accel::reset_state(id);
        let segment = |selector, rights| Segment {
            selector,
            base: 0,
            limit: u32::MAX,
            rights,
        };
        state.segments = [segment(0x10, 0xc093); 6];
        state.segments[1] = segment(8, 0xa09b);
        state.cr0 = 0x8005_0033;
        state.cr3 = TABLES;
        state.cr4 = 0x6b0;
        state.efer = 0xd01;
        state.rip = CODE;
        state.gpr[4] = STACK;
        state.mp = ostler_accel::MpState::Runnable;
        state
    }
}

/// Runs until the guest writes to port 0xf4, and returns the byte.
pub fn run_to_end(vcpu: &mut dyn Vcpu) -> u8 {
    loop {
        match vcpu.run().unwrap() {
            Exit::PortWrite { port: 0xf4, data, .. } => return data[0],
            Exit::PortRead { data, .. } | Exit::MmioRead { data, .. } => data.fill(0x5a),
            Exit::PortWrite { .. } | Exit::MmioWrite { .. } | Exit::Kicked => {}
            exit => panic!("unexpected {exit:?}"),
        }
    }
}

/// Declares the bytes between two labels of assembled code as a function.
macro_rules! guest_code {
    ($name:ident, $begin:literal, $end:literal, $($line:literal),+ $(,)?) => {
        std::arch::global_asm!(".balign 16", concat!($begin, ":"), $($line),+, concat!($end, ":"));
        fn $name() -> Vec<u8> {
            unsafe extern "C" {
                #[link_name = $begin]
                static BEGIN: u8;
                #[link_name = $end]
                static END: u8;
            }
            let (begin, end) = (&raw const BEGIN, &raw const END);
            let len = end as usize - begin as usize;
            // SAFETY: both labels are in one piece of this program's own text, BEGIN before END.
            unsafe { std::slice::from_raw_parts(begin, len) }.to_vec()
        }
    };
}

pub(crate) use guest_code;
