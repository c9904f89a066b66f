//! Effective addresses from decoded instructions, for handlers out of line.

use iced_x86::{Instruction, Register};

use crate::state::{Cpu, reg, seg};

/// Segment register index of `register` (ES ... GS), if it is one.
pub fn segment_index(register: Register) -> Option<usize> {
    Some(match register {
        Register::ES => seg::ES,
        Register::CS => seg::CS,
        Register::SS => seg::SS,
        Register::DS => seg::DS,
        Register::FS => seg::FS,
        Register::GS => seg::GS,
        _ => return None,
    })
}

/// Segment and offset of the instruction's memory operand, by the current register values.
pub fn effective(cpu: &Cpu, instruction: &Instruction) -> (usize, u64) {
    let segment = segment_index(instruction.memory_segment()).unwrap_or(seg::DS);
    (segment, offset(cpu, instruction))
}

/// Offset of the instruction's memory operand in its segment (what LEA computes).
pub fn offset(cpu: &Cpu, instruction: &Instruction) -> u64 {
    let value = |register: Register| match register {
        Register::None => 0,
        Register::RIP | Register::EIP => cpu.gpr[reg::RIP_BASE],
        _ => cpu.gpr[register.full_register().number()],
    };
    let base = instruction.memory_base();
    let index = value(instruction.memory_index()).wrapping_mul(u64::from(instruction.memory_index_scale()));
    let sum = value(base)
        .wrapping_add(index)
        .wrapping_add(instruction.memory_displacement64());
    let size = [base, instruction.memory_index()]
        .into_iter()
        .find(|&r| r != Register::None)
        .map(Register::size);
    match size.unwrap_or(instruction.memory_displ_size() as usize) {
        2 => sum & 0xffff,
        4 => sum & 0xffff_ffff,
        _ => sum,
    }
}
