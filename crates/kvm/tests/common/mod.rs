//! The software CPU as the helper of a KVM that cannot emulate an instruction, as in `ostler run`.

use ostler_accel::{CpuidLeaf, Error, Exit, Vcpu};
use ostler_guest::Helper;
use ostler_memory::RamSlot;
use ostler_softcpu::emulate::Emulator;

struct SoftHelper(Emulator);

impl Helper for SoftHelper {
    fn help(&mut self, vcpu: &mut dyn Vcpu, io: &mut dyn FnMut(Exit<'_>)) -> Result<bool, Error> {
        self.0.help(vcpu, io)
    }
}

/// The helper of CPU `cpu`.
pub fn emulator(cpu: u32, slots: Vec<RamSlot>, cpuid: &[CpuidLeaf]) -> Box<dyn Helper> {
    Box::new(SoftHelper(Emulator::new(cpu, slots, cpuid)))
}
