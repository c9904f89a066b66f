//! What makes it a system: exceptions, segments, privileged instructions, MSRs, the LAPIC.

pub mod lapic;
pub mod msr;

use iced_x86::Instruction;

use crate::fault::{Exception, Flow, Result, Stop};
use crate::state::Cpu;

/// Executes a system instruction, or any other that neither `exec` nor `native` knows (then `#UD`). On entry `cpu.rip` is the
/// instruction's address and `cpu.next_rip` that of the next one. On `Flow::Next` the caller continues at
/// `next_rip`; on `Flow::Jump` at `cpu.rip`, which was set here. The instruction was decoded with its page offset as address: take
/// immediates and registers from it, RIP-relative addresses by [`crate::exec::address::effective`].
///
/// Far JMP/CALL/RET, IRET, INT n, INT3, INTO, BOUND, segment loads by MOV/POP/LES..., PUSH/POP of segment registers, ENTER is not here;
/// PUSHF/POPF, CLI, STI are. IN/OUT are not.
pub fn execute(cpu: &mut Cpu, _instruction: &Instruction) -> Result<Flow> {
    Err(cpu.ud())
}

/// True if the block must end after `instruction`: it can change the mode, the address space, the flags TF, IF, or jumps.
pub fn ends_block(_instruction: &Instruction) -> bool {
    true
}

/// Delivers `exception`, raised by the instruction at `cpu.rip`, to the guest; contributory faults on the way make a
/// double fault, a fault in that one sets `Activity::Shutdown`. `Err(Stop::Exit)` if a device access is on the way.
pub fn deliver(_cpu: &mut Cpu, _exception: Exception) -> std::result::Result<(), Stop> {
    Ok(())
}

/// Looks at everything that waits: INIT, SIPI, NMI, the LAPIC timer, external interrupts; delivers the first that may be (RFLAGS.IF,
/// `cpu.shadow`), at an instruction boundary. Also wakes from `Activity::Halted` and `WaitForSipi`. Called between
/// instructions only. Returns true if something was delivered.
pub fn service_events(_cpu: &mut Cpu) -> Result<bool> {
    Ok(false)
}

/// After an instruction retired with RFLAGS.TF set before it, or with debug registers armed: the `#DB` that is due, if any.
pub fn debug_trap(_cpu: &mut Cpu) -> Option<Exception> {
    None
}

/// A data access while debug registers are armed: notes a breakpoint that it meets, for [`debug_trap`].
pub fn note_data_access(_cpu: &mut Cpu, _linear: u64, _len: usize, _write: bool) {}

/// CPUID.
pub mod cpuid {
    use ostler_accel::CpuidLeaf;

    /// Everything that can be offered.
    pub fn supported(_tsc_khz: u64) -> Vec<CpuidLeaf> {
        Vec::new()
    }

    /// MAXPHYADDR.
    pub fn physical_bits(_cpu: &crate::state::Cpu) -> u32 {
        40
    }
}
