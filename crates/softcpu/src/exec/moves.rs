//! Moves, conversions and flag instructions, out of line.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::address::{effective, offset};
use super::alu::condition;
use super::operand::{by_size, mask, size, wide};
use crate::fault::{Flow, Result};
use crate::flags::{self, HOST_CF, bit};
use crate::host::Int;
use crate::state::{Cpu, reg};

/// Executes an instruction of this family.
pub fn execute(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    match i.mnemonic() {
        Mnemonic::Mov | Mnemonic::Movzx => {
            let value = cpu.read_operand(i, 1)?;
            cpu.write_operand(i, 0, value)?;
        }
        Mnemonic::Movsx | Mnemonic::Movsxd => {
            let spare = 64 - 8 * size(i, 1) as u32;
            let value = (cpu.read_operand(i, 1)? << spare) as i64 >> spare;
            cpu.write_operand(i, 0, value as u64)?;
        }
        Mnemonic::Lea => {
            let address = offset(cpu, i);
            cpu.write_register(i.op0_register(), address);
        }
        Mnemonic::Xchg => exchange(cpu, i)?,
        Mnemonic::Bswap => {
            let value = cpu.read_register(i.op0_register());
            let swapped = match i.op0_register().size() {
                8 => value.swap_bytes(),
                4 => u64::from((value as u32).swap_bytes()),
                // Undefined by the manuals; processors give zero.
                _ => 0,
            };
            cpu.write_register(i.op0_register(), swapped);
        }
        Mnemonic::Xlatb => {
            let (segment, _) = effective(cpu, i);
            let base = cpu.gpr[reg::RBX].wrapping_add(cpu.gpr[reg::RAX] & 0xff);
            let value = cpu.load::<u8>(segment, base & mask(i.memory_base().size()))?;
            cpu.gpr[reg::RAX] = cpu.gpr[reg::RAX] & !0xff | u64::from(value);
        }
        mnemonic => simple(cpu, mnemonic),
    }
    Ok(Flow::Next)
}

fn exchange(cpu: &mut Cpu, i: &Instruction) -> Result<()> {
    // XCHG with memory is locked with or without the prefix; iced puts memory first.
    let other = cpu.read_operand(i, 1)?;
    let old = if i.op0_kind() == OpKind::Register {
        let old = cpu.read_register(i.op0_register());
        cpu.write_register(i.op0_register(), other);
        old
    } else {
        let (segment, at) = effective(cpu, i);
        by_size!(size(i, 0), T => cpu.update::<T>(segment, at, true, |_| T::from_u64(other)).map(wide))?
    };
    cpu.write_register(i.op1_register(), old);
    Ok(())
}

/// Instructions on fixed registers and flags.
fn simple(cpu: &mut Cpu, mnemonic: Mnemonic) {
    let rax = cpu.gpr[reg::RAX];
    let merge16 = |old: u64, value: u64| old & !0xffff | value & 0xffff;
    match mnemonic {
        Mnemonic::Cbw => cpu.gpr[reg::RAX] = merge16(rax, rax as i8 as u64),
        Mnemonic::Cwde => cpu.gpr[reg::RAX] = u64::from(rax as i16 as u32),
        Mnemonic::Cdqe => cpu.gpr[reg::RAX] = rax as i32 as u64,
        Mnemonic::Cwd => {
            cpu.gpr[reg::RDX] = merge16(cpu.gpr[reg::RDX], (rax as i16 >> 15) as u64);
        }
        Mnemonic::Cdq => cpu.gpr[reg::RDX] = u64::from((rax as i32 >> 31) as u32),
        Mnemonic::Cqo => cpu.gpr[reg::RDX] = (rax as i64 >> 63) as u64,
        Mnemonic::Lahf => {
            let low = flags::to_rflags(cpu.flags) & 0xff | 2;
            cpu.gpr[reg::RAX] = rax & !0xff00 | low << 8;
        }
        Mnemonic::Sahf => {
            let kept = flags::to_rflags(cpu.flags) & bit::OF;
            cpu.flags = flags::from_rflags(rax >> 8 & 0xff | kept);
        }
        Mnemonic::Clc => cpu.flags &= !HOST_CF,
        Mnemonic::Stc => cpu.flags |= HOST_CF,
        Mnemonic::Cmc => cpu.flags ^= HOST_CF,
        Mnemonic::Cld => cpu.rflags_rest &= !bit::DF,
        Mnemonic::Std => cpu.rflags_rest |= bit::DF,
        Mnemonic::Salc => {
            let value = if cpu.flags & HOST_CF != 0 { 0xff } else { 0 };
            cpu.gpr[reg::RAX] = rax & !0xff | value;
        }
        // NOP, ENDBR and the hint space.
        _ => {}
    }
}

/// SETcc.
pub fn set_condition(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    let value = u64::from(condition(super::condition_code(i), cpu.flags));
    cpu.write_operand(i, 0, value)?;
    Ok(Flow::Next)
}

/// CMOVcc: the source is read, and a 32-bit destination cleared above, whether or not the condition is met.
pub fn move_condition(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    let value = cpu.read_operand(i, 1)?;
    let old = cpu.read_register(i.op0_register());
    let met = condition(super::condition_code(i), cpu.flags);
    cpu.write_register(i.op0_register(), if met { value } else { old });
    Ok(Flow::Next)
}
