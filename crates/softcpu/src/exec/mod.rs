//! Legacy integer instructions.
//!
//! Each family has a file with handlers that work from the decoded [`Instruction`]: complete, and out of line. The forms that matter for
//! speed have specialised handlers in `fast`.

pub mod address;
pub mod alu;
mod atomic;
mod bits;
mod control;
mod decimal;
mod integer;
mod io;
mod moves;
mod muldiv;
pub mod operand;
mod shift;
mod stack;
mod string;

use iced_x86::{ConditionCode, Instruction, Mnemonic, OpKind};

use crate::fault::{Flow, Result};
use crate::state::Cpu;

/// A family's entry.
pub type Execute = fn(&mut Cpu, &Instruction) -> Result<Flow>;

/// The family of `i`; `None` if it belongs to the native or the system part.
pub fn family(i: &Instruction) -> Option<Execute> {
    use Mnemonic::*;
    if touches_segment_register(i) {
        return None;
    }
    Some(match i.mnemonic() {
        Add | Or | Adc | Sbb | And | Sub | Xor | Cmp | Test | Not | Neg | Inc | Dec => integer::execute,
        Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr | Shld | Shrd => shift::execute,
        Mul | Imul | Div | Idiv => muldiv::execute,
        Bt | Bts | Btr | Btc | Bsf | Bsr => bits::execute,
        Mov | Movzx | Movsx | Movsxd | Lea | Xchg | Bswap | Xlatb | Cbw | Cwde | Cdqe | Cwd | Cdq | Cqo
        | Lahf | Sahf | Clc | Stc | Cmc | Cld | Std | Salc | Nop | Endbr64 | Endbr32 | Reservednop => {
            moves::execute
        }
        Push | Pop | Leave | Enter | Pusha | Pushad | Popa | Popad => stack::execute,
        Jmp | Call | Ret | Loop | Loope | Loopne | Jcxz | Jecxz | Jrcxz if !is_far(i) => control::execute,
        Movsb | Movsw | Movsq | Stosb | Stosw | Stosd | Stosq | Lodsb | Lodsw | Lodsd | Lodsq | Cmpsb
        | Cmpsw | Cmpsq | Scasb | Scasw | Scasd | Scasq => string::execute,
        Movsd | Cmpsd if i.is_string_instruction() => string::execute,
        Xadd | Cmpxchg | Cmpxchg8b | Cmpxchg16b => atomic::execute,
        Aaa | Aas | Daa | Das | Aam | Aad => decimal::execute,
        In | Out | Insb | Insw | Insd | Outsb | Outsw | Outsd => io::execute,
        _ => return by_condition(i),
    })
}

fn by_condition(i: &Instruction) -> Option<Execute> {
    macro_rules! by_code {
        ($function:path, $($code:literal)*) => {
            match i.condition_code() as u8 {
                $(code if code == $code + 1 => |cpu, i| $function(cpu, i, $code),)*
                _ => return None,
            }
        };
    }
    if i.condition_code() == ConditionCode::None {
        return None;
    }
    if i.is_jcc_short_or_near() {
        return Some(control::execute);
    }
    let name = i.op_code().mnemonic();
    if is_set(name) {
        Some(by_code!(moves::set_condition, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15))
    } else if is_move(name) {
        Some(by_code!(moves::move_condition, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15))
    } else {
        None
    }
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
fn touches_segment_register(i: &Instruction) -> bool {
    (0..i.op_count()).any(|n| {
        let register = i.op_register(n);
        i.op_kind(n) == OpKind::Register
            && (register.is_segment_register() || register.is_cr() || register.is_dr() || register.is_tr())
    })
}
