//! One instruction at a time, for an accelerator that met one which it cannot execute.

use std::sync::Arc;

use ostler_accel::{CpuState, CpuidLeaf, Error, Exit};
use ostler_memory::RamSlot;

use crate::block::BlockCache;
use crate::engine;
use crate::shared::{VcpuShared, VmShared};
use crate::state::Cpu;
use crate::vm::{Engine, convert, new_shared, vcpu};

/// Bytes of decoded code kept between calls.
const CACHE_BYTES: usize = 64 << 10;

/// Interprets single instructions of a guest that runs elsewhere.
pub struct Emulator {
    vm: Arc<VmShared>,
    shared: Arc<VcpuShared>,
    cpuid: Vec<CpuidLeaf>,
}

impl Emulator {
    /// An emulator for a guest with memory `slots`, whose CPUs answer CPUID by `cpuid`.
    pub fn new(slots: Vec<RamSlot>, cpuid: &[CpuidLeaf]) -> Self {
        let vm = new_shared(1, slots, Engine::Interpreter);
        let shared = Arc::new(VcpuShared::new(0));
        Self {
            vm,
            shared,
            cpuid: cpuid.to_vec(),
        }
    }

    /// Executes the instruction at `state`'s instruction pointer, or delivers the exception that it raises. Ports and devices are
    /// reached through `io`, which gets port and MMIO exits only. Accesses to the LAPIC's page count as MMIO.
    ///
    /// # Errors
    /// A state that no CPU can be in.
    pub fn execute_one(&self, state: &CpuState, io: &mut dyn FnMut(Exit<'_>)) -> Result<CpuState, Error> {
        let mut cpu = Cpu::new(self.vm.clone(), self.shared.clone(), 0, &self.cpuid);
        convert::restore(&mut cpu, state)?;
        let mut cache = BlockCache::new(CACHE_BYTES, Engine::Interpreter);
        while engine::step(&mut cpu, &mut cache) {
            io(vcpu::request(&mut cpu));
            vcpu::complete(&mut cpu);
        }
        let mut after = convert::save(&mut cpu)?;
        // What the real vCPU keeps itself.
        after.lapic = state.lapic.clone();
        after.apic_base = state.apic_base;
        Ok(after)
    }
}
