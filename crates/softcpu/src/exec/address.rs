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

/// Bytes of an address of the instruction's memory operand: 2, 4 or 8.
pub fn address_size(instruction: &Instruction) -> usize {
    let registers = [instruction.memory_base(), instruction.memory_index()];
    let size = registers
        .into_iter()
        .find(|&r| r != Register::None && r.is_gpr() || r.is_ip())
        .map(Register::size);
    size.unwrap_or(match instruction.memory_displ_size() {
        0 | 1 => 8,
        size => size as usize,
    })
}

/// `offset` in the width of the instruction's addresses.
pub fn wrap(instruction: &Instruction, offset: u64) -> u64 {
    match address_size(instruction) {
        2 => offset & 0xffff,
        4 => offset & 0xffff_ffff,
        _ => offset,
    }
}

/// Offset of the instruction's memory operand in its segment (what LEA computes).
pub fn offset(cpu: &Cpu, instruction: &Instruction) -> u64 {
    let value = |register: Register| match register {
        Register::None => 0,
        Register::RIP | Register::EIP => cpu.gpr[reg::RIP_BASE],
        _ if register.is_gpr() => cpu.gpr[register.full_register().number()],
        _ => 0,
    };
    let index = value(instruction.memory_index()).wrapping_mul(u64::from(instruction.memory_index_scale()));
    let sum = value(instruction.memory_base())
        .wrapping_add(index)
        .wrapping_add(instruction.memory_displacement64());
    wrap(instruction, sum)
}
