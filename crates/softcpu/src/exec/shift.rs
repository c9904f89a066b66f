//! Shifts and rotations, out of line.

use std::arch::asm;

use iced_x86::{Instruction, Mnemonic};

use super::alu::Alu;
use super::operand::{by_size, size, wide};
use crate::fault::{Flow, Result};
use crate::flags::HostFlags;
use crate::host::Int;
use crate::state::Cpu;

/// Executes an instruction of this family.
pub fn execute(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    let mnemonic = i.mnemonic();
    let before = cpu.flags;
    let mut after = before;
    if matches!(mnemonic, Mnemonic::Shld | Mnemonic::Shrd) {
        let other = cpu.read_operand(i, 1)?;
        let count = cpu.read_operand(i, 2)? as u8;
        let width = size(i, 0);
        cpu.update_operand(i, false, |old| {
            let (new, flags) = double(mnemonic == Mnemonic::Shld, width, old, other, count, before);
            after = flags;
            new
        })?;
        cpu.flags = after;
        return Ok(Flow::Next);
    }
    let count = cpu.read_operand(i, 1)? as u8;
    by_size!(size(i, 0), T => cpu.update_operand(i, false, |old| {
        let value = T::from_u64(old);
        let (new, flags) = match mnemonic {
            Mnemonic::Shl | Mnemonic::Sal => Alu::shl(value, count, before),
            Mnemonic::Shr => Alu::shr(value, count, before),
            Mnemonic::Sar => Alu::sar(value, count, before),
            Mnemonic::Rol => Alu::rol(value, count, before),
            Mnemonic::Ror => Alu::ror(value, count, before),
            Mnemonic::Rcl => Alu::rcl(value, count, before),
            _ => Alu::rcr(value, count, before),
        };
        after = flags;
        wide(new)
    }))?;
    cpu.flags = after;
    Ok(Flow::Next)
}

/// SHLD (`left`) or SHRD.
fn double(left: bool, width: usize, value: u64, other: u64, count: u8, flags: HostFlags) -> (u64, HostFlags) {
    let (mut value, mut flags) = (value, flags);
    macro_rules! run {
        ($text:literal) => {
            // SAFETY: register arithmetic only; the first two instructions load the guest's flags.
            unsafe {
                asm!("add al, 0x7f", "sahf", $text, "lahf", "seto al", a = inout(reg) value, b = in(reg) other,
                    in("cl") count, inout("ax") flags, options(pure, nomem, nostack))
            }
        };
    }
    match (left, width) {
        (true, 2) => run!("shld {a:x}, {b:x}, cl"),
        (true, 4) => run!("shld {a:e}, {b:e}, cl"),
        (true, _) => run!("shld {a}, {b}, cl"),
        (false, 2) => run!("shrd {a:x}, {b:x}, cl"),
        (false, 4) => run!("shrd {a:e}, {b:e}, cl"),
        (false, _) => run!("shrd {a}, {b}, cl"),
    }
    (value, flags)
}
