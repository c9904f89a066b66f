//! What makes it a system: exceptions, segments, privileged instructions, MSRs, the LAPIC.
//!
//! | file | idea |
//! |---|---|
//! | `ops` | from decoded instructions to the functions here |
//! | `descriptor`, `segment`, `stack` | descriptors, segment loads, pushes and pops |
//! | `far`, `iret`, `syscall` | transfers of control between segments and levels |
//! | `interrupt` | delivery through the IDT |
//! | `task` | the TSS: inner stacks, task switches |
//! | `control`, `debug`, `flag_ops`, `tables` | CR, DR, EFER, XCR0; breakpoints; IF and kin; GDTR, IDTR |
//! | [`cpuid`], [`msr`] | what the CPU says it is; its registers |
//! | [`lapic`], `events`, `reset` | interrupts between CPUs and devices; what waits at an instruction boundary; INIT and SIPI |
//! | `smm` | system management mode |
//! | [`paravirtual`], `random` | the KVM clock, steal time, hypercalls; RDRAND |

mod control;
pub mod cpuid;
mod debug;
mod descriptor;
mod events;
mod far;
mod flag_ops;
mod interrupt;
mod iret;
pub mod lapic;
pub mod msr;
mod ops;
pub mod paravirtual;
mod random;
mod reset;
mod segment;
mod smm;
mod stack;
mod syscall;
mod tables;
mod task;

use std::sync::atomic::Ordering;

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use crate::fault::{Exception, Flow, Result, Stop};
use crate::state::Cpu;

pub use debug::{note_data_access, note_port_access, note_repetition};
pub(crate) use syscall::{code64, data};

/// Executes a system instruction, or any other that neither `exec` nor `native` knows (then `#UD`). On entry `cpu.rip` is the
/// instruction's address and `cpu.next_rip` that of the next one. On `Flow::Next` the caller continues at
/// `next_rip`; on `Flow::Jump` at `cpu.rip`, which was set here. The instruction was decoded with its page offset as address: take
/// immediates and registers from it, RIP-relative addresses by [`crate::exec::address::effective`].
///
/// Far JMP/CALL/RET, IRET, INT n, INT3, INTO, BOUND, segment loads by MOV/POP/LES..., PUSH/POP of segment registers,
/// PUSHF/POPF, CLI and STI are here. ENTER, IN and OUT are not.
pub fn execute(cpu: &mut Cpu, instruction: &Instruction) -> Result<Flow> {
    ops::execute(cpu, instruction)
}

/// True if the block must end after `instruction`: it can change the mode or the address space, or jumps. After the others
/// [`may_go_on`] has to be asked.
pub fn ends_block(instruction: &Instruction) -> bool {
    match instruction.mnemonic() {
        Mnemonic::Mov => match instruction.code() {
            Code::Mov_rm16_Sreg | Code::Mov_r32m16_Sreg | Code::Mov_r64m16_Sreg => false,
            Code::Mov_r32_cr | Code::Mov_r64_cr | Code::Mov_r32_dr | Code::Mov_r64_dr => false,
            // In 64-bit mode only SS has a say in anything, by the shadow it casts.
            Code::Mov_Sreg_rm16 | Code::Mov_Sreg_r32m16 | Code::Mov_Sreg_r64m16 => {
                instruction.code_size() != iced_x86::CodeSize::Code64
                    || instruction.op0_register() == Register::SS
            }
            _ => true,
        },
        Mnemonic::Push => false,
        Mnemonic::Pop => {
            instruction.op0_kind() == OpKind::Register && instruction.op0_register().is_segment_register()
        }
        Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq => false,
        Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq | Mnemonic::Sti => false,
        Mnemonic::Cli | Mnemonic::Clac | Mnemonic::Stac | Mnemonic::Swapgs => false,
        Mnemonic::Nop | Mnemonic::Endbr32 | Mnemonic::Endbr64 => false,
        Mnemonic::Cpuid
        | Mnemonic::Rdtsc
        | Mnemonic::Rdtscp
        | Mnemonic::Rdpid
        | Mnemonic::Rdpmc
        | Mnemonic::Rdmsr => false,
        Mnemonic::Rdrand | Mnemonic::Rdseed | Mnemonic::Xgetbv => false,
        Mnemonic::Rdfsbase | Mnemonic::Rdgsbase | Mnemonic::Wrfsbase | Mnemonic::Wrgsbase => false,
        Mnemonic::Sgdt | Mnemonic::Sidt | Mnemonic::Sldt | Mnemonic::Str | Mnemonic::Smsw => false,
        Mnemonic::Lar
        | Mnemonic::Lsl
        | Mnemonic::Verr
        | Mnemonic::Verw
        | Mnemonic::Arpl
        | Mnemonic::Bound => false,
        Mnemonic::Lgdt | Mnemonic::Lidt => false,
        _ => true,
    }
}

/// True if a block may go on after an instruction that does not end it, which was executed in `mode`: STI and POPF let in what waits.
#[inline]
pub fn may_go_on(cpu: &Cpu, mode: u32) -> bool {
    !cpu.shadow && cpu.mode == mode && cpu.shared.attention.load(Ordering::Relaxed) == 0
}

/// Delivers `exception`, raised by the instruction at `cpu.rip`, to the guest; contributory faults on the way make a
/// double fault, a fault in that one sets `Activity::Shutdown`. `Err(Stop::Exit)` if a device access is on the way.
pub fn deliver(cpu: &mut Cpu, exception: Exception) -> std::result::Result<(), Stop> {
    interrupt::deliver(cpu, exception)
}

/// Looks at everything that waits: INIT, SIPI, NMI, the LAPIC timer, external interrupts; delivers the first that may be (RFLAGS.IF,
/// `cpu.shadow`), at an instruction boundary. Also wakes from `Activity::Halted` and `WaitForSipi`. Called between
/// instructions only. Returns true if something was delivered.
pub fn service_events(cpu: &mut Cpu) -> Result<bool> {
    events::service(cpu)
}

/// Takes over what other threads posted to the LAPIC, and delivers nothing: then it is part of the vCPU's state.
pub(crate) fn take_posted(cpu: &mut Cpu) {
    events::take_posted(cpu);
}

/// Makes the engine look at what waits before its next block.
pub fn request_service(cpu: &Cpu) {
    events::request(cpu);
}

/// Before an instruction that executes on its own: true if RFLAGS.TF is set. RF ends with the instruction.
///
/// # Errors
/// The `#DB` fault of an instruction breakpoint.
pub fn begin_step(cpu: &mut Cpu) -> Result<bool> {
    debug::begin_step(cpu)
}

/// After an instruction retired on its own: the `#DB` trap that is due, if any. `traced` is what [`begin_step`] said.
pub fn debug_trap(cpu: &mut Cpu, traced: bool) -> Option<Exception> {
    debug::trap(cpu, traced)
}

#[cfg(test)]
mod tests;
