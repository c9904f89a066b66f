//! Legacy integer instructions.
//!
//! Each family has a file with handlers that work from the decoded [`Instruction`]: complete, and out of line. The forms that matter for
//! speed have specialised handlers in [`fast`].

pub mod address;
pub mod alu;
mod atomic;
pub(crate) mod bits;
pub mod control;
mod decimal;
pub mod fast;
mod integer;
mod io;
mod moves;
mod muldiv;
pub mod operand;
mod shift;
mod stack;
mod string;

use iced_x86::{Instruction, Mnemonic, OpKind};

use crate::fault::{Flow, Result};
use crate::state::Cpu;

/// A family of instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Family {
    /// Arithmetic and logic.
    Integer,
    /// Shifts and rotations.
    Shift,
    /// Multiplication and division.
    MulDiv,
    /// Bit tests and scans.
    Bits,
    /// Moves, conversions, flags.
    Moves,
    /// SETcc.
    SetCondition,
    /// CMOVcc.
    MoveCondition,
    /// Stack.
    Stack,
    /// Near jumps, calls, returns.
    Control,
    /// String instructions.
    String,
    /// Compare-and-exchange and its kin.
    Atomic,
    /// Decimal adjustment.
    Decimal,
    /// Ports.
    Io,
    /// PAUSE.
    Pause,
}

impl Family {
    /// Executes `i`, which belongs to this family. `cpu.rip` and `cpu.next_rip` are exact.
    pub fn execute(self, cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
        match self {
            Family::Integer => integer::execute(cpu, i),
            Family::Shift => shift::execute(cpu, i),
            Family::MulDiv => muldiv::execute(cpu, i),
            Family::Bits => bits::execute(cpu, i),
            Family::Moves => moves::execute(cpu, i),
            Family::SetCondition => moves::set_condition(cpu, i),
            Family::MoveCondition => moves::move_condition(cpu, i),
            Family::Stack => stack::execute(cpu, i),
            Family::Control => control::execute(cpu, i),
            Family::String => string::execute(cpu, i),
            Family::Atomic => atomic::execute(cpu, i),
            Family::Decimal => decimal::execute(cpu, i),
            Family::Io => io::execute(cpu, i),
            Family::Pause => pause(cpu),
        }
    }

    /// The family of `i`; `None` if it belongs to the native or the system part.
    pub fn of(i: &Instruction) -> Option<Family> {
        use Mnemonic::*;
        if touches_system_register(i) {
            return None;
        }
        Some(match i.mnemonic() {
            Add | Or | Adc | Sbb | And | Sub | Xor | Cmp | Test | Not | Neg | Inc | Dec => Family::Integer,
            Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr | Shld | Shrd => Family::Shift,
            Mul | Imul | Div | Idiv => Family::MulDiv,
            Bt | Bts | Btr | Btc | Bsf | Bsr => Family::Bits,
            Mov | Movzx | Movsx | Movsxd | Lea | Xchg | Bswap | Xlatb | Cbw | Cwde | Cdqe | Cwd | Cdq
            | Cqo | Lahf | Sahf | Clc | Stc | Cmc | Cld | Std | Salc | Nop | Endbr64 | Endbr32
            | Reservednop => Family::Moves,
            Push | Pop | Leave | Enter | Pusha | Pushad | Popa | Popad => Family::Stack,
            Jmp | Call | Ret | Loop | Loope | Loopne | Jcxz | Jecxz | Jrcxz if !is_far(i) => Family::Control,
            Movsb | Movsw | Movsq | Stosb | Stosw | Stosd | Stosq | Lodsb | Lodsw | Lodsd | Lodsq | Cmpsb
            | Cmpsw | Cmpsq | Scasb | Scasw | Scasd | Scasq => Family::String,
            Movsd | Cmpsd if i.is_string_instruction() => Family::String,
            Xadd | Cmpxchg | Cmpxchg8b | Cmpxchg16b => Family::Atomic,
            Aaa | Aas | Daa | Das | Aam | Aad => Family::Decimal,
            In | Out | Insb | Insw | Insd | Outsb | Outsw | Outsd => Family::Io,
            mnemonic if is_set(mnemonic) => Family::SetCondition,
            mnemonic if is_move(mnemonic) => Family::MoveCondition,
            Mnemonic::Pause => Family::Pause,
            _ if i.is_jcc_short_or_near() => Family::Control,
            _ => return None,
        })
    }
}

/// The condition of Jcc, SETcc, CMOVcc as it is encoded: iced counts from 1 in the same order.
pub fn condition_code(i: &Instruction) -> u8 {
    (i.condition_code() as u8).wrapping_sub(1) & 15
}

/// PAUSE instructions until a CPU that waits for another gives the host's CPU away.
pub const PATIENCE: i64 = 256;

/// PAUSE.
fn pause(cpu: &mut Cpu) -> Result<Flow> {
    cpu.patience -= 1;
    if cpu.patience < 0 {
        cpu.patience = PATIENCE;
        std::thread::yield_now();
    }
    Ok(Flow::Next)
}

/// SETcc.
pub fn is_set(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Seto | Setno
            | Setb
            | Setae
            | Sete
            | Setne
            | Setbe
            | Seta
            | Sets
            | Setns
            | Setp
            | Setnp
            | Setl
            | Setge
            | Setle
            | Setg
    )
}

/// CMOVcc.
pub fn is_move(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Cmovo
            | Cmovno
            | Cmovb
            | Cmovae
            | Cmove
            | Cmovne
            | Cmovbe
            | Cmova
            | Cmovs
            | Cmovns
            | Cmovp
            | Cmovnp
            | Cmovl
            | Cmovge
            | Cmovle
            | Cmovg
    )
}

fn is_far(i: &Instruction) -> bool {
    i.is_jmp_far() || i.is_jmp_far_indirect() || i.is_call_far() || i.is_call_far_indirect()
}

/// MOV, PUSH, POP with a segment, control, debug or test register.
fn touches_system_register(i: &Instruction) -> bool {
    (0..i.op_count()).any(|n| {
        let register = i.op_register(n);
        i.op_kind(n) == OpKind::Register
            && (register.is_segment_register() || register.is_cr() || register.is_dr() || register.is_tr())
    })
}
