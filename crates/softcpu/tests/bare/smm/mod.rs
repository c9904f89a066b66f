//! System management mode: a small chipset raises SMIs, a handler in SMRAM answers.
//!
//! | file | idea |
//! |---|---|
//! | here | the machine, handlers, what every test needs |
//! | `entry` | from each mode and back, the saved state, relocation |
//! | `waiting` | what comes in system management mode: SMI, NMI, INIT; HLT; other CPUs; states that move |
//! | `views` | two memories at one address, code of both |
//! | `hostile` | RSM where it may not be, and into states that no processor has |

mod entry;
mod hostile;
mod views;
mod waiting;

use std::sync::Arc;

use ostler_accel::{Accelerator, CpuState, Exit, SmiTarget, Vcpu, VmConfig};
use ostler_memory::vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MmapRegion, VolatileMemory,
};
use ostler_memory::{PageTracker, RamOptions, RamSlot};

use crate::common::{Bare, guest_code, soft_cpu};

/// SMBASE after RESET.
pub const BASE: u64 = 0x3_0000;
/// Where the handler is.
pub const HANDLER: u64 = BASE + 0x8000;
/// Where the saved state is.
pub const SAVED: u64 = BASE + 0xfe00;
/// What handlers count in.
pub const COUNT: u64 = 0x7000;
/// Memory that is in both views, but not the same.
pub const SMRAM: u64 = 0xa_0000;
const SMRAM_SIZE: u64 = 0x2_0000;

guest_code!(
    plain_handler,
    "smm_plain_begin",
    "smm_plain_end",
    ".code16",
    // Shows what it finds, and leaves nothing as it was.
    "inc dword ptr [0x7000]",
    "mov [0x7004], cs",
    "mov [0x7008], ds",
    "mov eax, cr0",
    "mov [0x700c], eax",
    "mov eax, cr4",
    "mov [0x7010], eax",
    "pushfd",
    "pop eax",
    "mov [0x7014], eax",
    "mov eax, dr7",
    "mov [0x7018], eax",
    "mov ecx, 0xc0000080",
    "rdmsr",
    "mov [0x701c], eax",
    "mov eax, 0x1234567",
    "mov ebx, eax",
    "mov edx, eax",
    "mov esi, eax",
    "mov edi, eax",
    "mov ebp, eax",
    "mov esp, eax",
    "mov es, ax",
    "mov ds, ax",
    "mov fs, ax",
    "mov gs, ax",
    "mov ss, ax",
    "mov cr3, eax",
    "xor eax, eax",
    "cpuid",
    "rsm",
    ".code64",
);

guest_code!(
    count_handler,
    "smm_count_begin",
    "smm_count_end",
    ".code16",
    "inc dword ptr [0x7000]",
    "rsm",
    ".code64",
);

/// A machine with system management mode: at [`SMRAM`] normal code sees `display`, and system management mode RAM.
pub struct Machine {
    pub bare: Bare,
    pub display: Arc<MmapRegion<PageTracker>>,
}

impl Machine {
    pub fn new(cpus: u32, handler: &[u8]) -> Self {
        let ram = ostler_memory::allocate(16 << 20, RamOptions::default()).unwrap();
        Self::over(ram, cpus, handler)
    }

    /// The same over RAM that is there already.
    pub fn over(ram: Arc<ostler_memory::GuestRam>, cpus: u32, handler: &[u8]) -> Self {
        let slots = RamSlot::all_of(&ram);
        let vm = soft_cpu()
            .create_vm(VmConfig {
                cpus,
                slots: slots.clone(),
            })
            .unwrap();
        let display = Arc::new(MmapRegion::new(SMRAM_SIZE as usize).unwrap());
        let region = ram.iter().next().unwrap();
        let part = |gpa: u64, end: u64| RamSlot {
            gpa,
            len: end - gpa,
            mapping: region.get_mmap(),
            offset: gpa,
            writable: true,
        };
        let shown = RamSlot {
            gpa: SMRAM,
            len: SMRAM_SIZE,
            mapping: display.clone(),
            offset: 0,
            writable: true,
        };
        let after = SMRAM + SMRAM_SIZE;
        let normal = vec![part(0, SMRAM), shown, part(after, region.len())];
        vm.system_management().unwrap().set_slots(normal, slots).unwrap();
        let bare = Bare { ram, vm };
        bare.write(HANDLER, handler);
        bare.write(COUNT, &[0; 64]);
        Self { bare, display }
    }

    pub fn smi(&self, to: SmiTarget) {
        self.bare.vm.system_management().unwrap().raise_smi(to);
    }

    pub fn show(&self, offset: u64, bytes: &[u8]) {
        let memory = self.display.as_volatile_slice();
        memory.write_slice(bytes, offset as usize).unwrap();
    }

    pub fn word(&self, gpa: u64) -> u32 {
        let mut bytes = [0; 4];
        self.bare.ram.read_slice(&mut bytes, GuestAddress(gpa)).unwrap();
        u32::from_le_bytes(bytes)
    }

    pub fn count(&self) -> u32 {
        self.word(COUNT)
    }

    /// Runs `vcpu` until it writes to port 0xf4, or shuts down (`None`). A write to port 0xb2 raises as many SMIs as it says.
    pub fn run(&self, id: u32, vcpu: &mut dyn Vcpu) -> Option<u8> {
        loop {
            match vcpu.run().unwrap() {
                Exit::PortWrite { port: 0xf4, data, .. } => return Some(data[0]),
                Exit::PortWrite { port: 0xb2, data, .. } => {
                    for _ in 0..data[0] {
                        self.smi(SmiTarget::One(id));
                    }
                }
                Exit::PortRead { data, .. } | Exit::MmioRead { data, .. } => data.fill(0x5a),
                Exit::PortWrite { .. } | Exit::MmioWrite { .. } | Exit::Kicked => {}
                Exit::Shutdown => return None,
                exit => panic!("unexpected {exit:?}"),
            }
        }
    }

    /// Runs CPU 0 from `state` to its end, and returns its state there.
    pub fn run_from(&self, state: &CpuState) -> CpuState {
        let mut vcpu = self.bare.vcpu(0);
        vcpu.set_state(state).unwrap();
        assert!(self.run(0, &mut *vcpu).is_some(), "it shut down");
        vcpu.state().unwrap()
    }
}
