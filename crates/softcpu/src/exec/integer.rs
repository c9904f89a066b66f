//! Arithmetic and logic, out of line.

use iced_x86::{Instruction, Mnemonic};

use super::alu::Alu;
use super::operand::{by_size, size, wide};
use crate::fault::{Flow, Result};
use crate::host::Int;
use crate::state::Cpu;

/// Executes an instruction of this family.
pub fn execute(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    let locked = i.has_lock_prefix();
    match i.mnemonic() {
        Mnemonic::Cmp | Mnemonic::Test => {
            let a = cpu.read_operand(i, 0)?;
            let b = cpu.read_operand(i, 1)?;
            let test = i.mnemonic() == Mnemonic::Test;
            cpu.flags = by_size!(size(i, 0), T => {
                let (a, b) = (T::from_u64(a), T::from_u64(b));
                if test { Alu::and(a, b).1 } else { Alu::sub(a, b).1 }
            });
        }
        Mnemonic::Not => {
            cpu.update_operand(i, locked, |old| !old)?;
        }
        Mnemonic::Inc | Mnemonic::Dec | Mnemonic::Neg => {
            let before = cpu.flags;
            let mut after = before;
            let mnemonic = i.mnemonic();
            by_size!(size(i, 0), T => cpu.update_operand(i, locked, |old| {
                let (new, flags) = match mnemonic {
                    Mnemonic::Inc => Alu::inc(T::from_u64(old), before),
                    Mnemonic::Dec => Alu::dec(T::from_u64(old), before),
                    _ => Alu::neg(T::from_u64(old)),
                };
                after = flags;
                wide(new)
            }))?;
            cpu.flags = after;
        }
        _ => {
            let other = cpu.read_operand(i, 1)?;
            let before = cpu.flags;
            let mut after = before;
            let mnemonic = i.mnemonic();
            by_size!(size(i, 0), T => cpu.update_operand(i, locked, |old| {
                let (a, b) = (T::from_u64(old), T::from_u64(other));
                let (new, flags) = match mnemonic {
                    Mnemonic::Add => Alu::add(a, b),
                    Mnemonic::Or => Alu::or(a, b),
                    Mnemonic::Adc => Alu::adc(a, b, before),
                    Mnemonic::Sbb => Alu::sbb(a, b, before),
                    Mnemonic::And => Alu::and(a, b),
                    Mnemonic::Sub => Alu::sub(a, b),
                    _ => Alu::xor(a, b),
                };
                after = flags;
                wide(new)
            }))?;
            cpu.flags = after;
        }
    }
    Ok(Flow::Next)
}
