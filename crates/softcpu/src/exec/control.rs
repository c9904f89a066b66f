//! Near jumps, calls and returns, out of line.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::alu::condition;
use super::operand::mask;
use crate::fault::{Exception, Flow, Result};
use crate::mmu::access::is_canonical;
use crate::state::{Cpu, reg, seg};

/// Executes an instruction of this family.
pub fn execute(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    match i.mnemonic() {
        Mnemonic::Jmp => {
            let target = target(cpu, i)?;
            jump(cpu, target)
        }
        Mnemonic::Call => {
            let target = target(cpu, i)?;
            let width = i.stack_pointer_increment().unsigned_abs() as usize;
            check_target(cpu, target)?;
            cpu.push(width, cpu.next_rip & mask(width))?;
            jump(cpu, target)
        }
        Mnemonic::Ret => {
            let extra = if i.op_count() == 1 {
                u64::from(i.immediate16())
            } else {
                0
            };
            let width = return_width(cpu, i);
            let target = cpu.peek(width, 0)?;
            check_target(cpu, target)?;
            cpu.gpr[reg::RSP] = cpu.moved_rsp(width as u64 + extra);
            jump(cpu, target)
        }
        Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne => count_down(cpu, i),
        Mnemonic::Jcxz | Mnemonic::Jecxz | Mnemonic::Jrcxz => {
            let width = if i.mnemonic() == Mnemonic::Jcxz {
                2
            } else if i.mnemonic() == Mnemonic::Jecxz {
                4
            } else {
                8
            };
            take_if(cpu, i, cpu.gpr[reg::RCX] & mask(width) == 0)
        }
        _ => {
            let met = condition(super::condition_code(i), cpu.flags);
            take_if(cpu, i, met)
        }
    }
}

/// Bytes that a near RET pops.
fn return_width(cpu: &Cpu, i: &Instruction) -> usize {
    use iced_x86::Code;
    match i.code() {
        Code::Retnw | Code::Retnw_imm16 => 2,
        Code::Retnd | Code::Retnd_imm16 => 4,
        _ if cpu.is_long() => 8,
        _ => 4,
    }
}

/// Target of a direct or indirect near branch.
fn target(cpu: &mut Cpu, i: &Instruction) -> Result<u64> {
    match i.op0_kind() {
        OpKind::Register | OpKind::Memory => cpu.read_operand(i, 0),
        kind => {
            let target = cpu.gpr[reg::RIP_BASE].wrapping_add(relative(i));
            let narrow = if kind == OpKind::NearBranch16 {
                0xffff
            } else {
                u64::MAX
            };
            Ok(target & narrow & cpu.rip_mask)
        }
    }
}

/// Target of a direct branch, relative to [`reg::RIP_BASE`].
pub fn relative(i: &Instruction) -> u64 {
    match i.op0_kind() {
        OpKind::NearBranch16 => u64::from(i.near_branch16()),
        OpKind::NearBranch32 => i.near_branch32() as i32 as u64,
        _ => i.near_branch64(),
    }
}

fn check_target(cpu: &mut Cpu, target: u64) -> Result<()> {
    let inside = if cpu.is_long() {
        is_canonical(target)
    } else {
        target <= u64::from(cpu.segs[seg::CS].limit)
    };
    if inside {
        Ok(())
    } else {
        Err(cpu.raise(Exception::gp(0)))
    }
}

fn jump(cpu: &mut Cpu, target: u64) -> Result<Flow> {
    check_target(cpu, target)?;
    cpu.rip = target;
    Ok(Flow::Jump)
}

fn take_if(cpu: &mut Cpu, i: &Instruction, met: bool) -> Result<Flow> {
    if !met {
        return Ok(Flow::Next);
    }
    let target = target(cpu, i)?;
    jump(cpu, target)
}

fn count_down(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    use crate::flags::HOST_ZF;
    let width = loop_width(i);
    let old = cpu.gpr[reg::RCX];
    let count = old.wrapping_sub(1) & mask(width);
    let zero = cpu.flags & HOST_ZF != 0;
    let met = count != 0
        && match i.mnemonic() {
            Mnemonic::Loope => zero,
            Mnemonic::Loopne => !zero,
            _ => true,
        };
    let flow = take_if(cpu, i, met)?;
    cpu.gpr[reg::RCX] = if width == 2 { old & !0xffff | count } else { count };
    Ok(flow)
}

/// Bytes of the counter of LOOP: the address size.
fn loop_width(i: &Instruction) -> usize {
    use iced_x86::Code::*;
    match i.code() {
        Loop_rel8_16_CX | Loop_rel8_32_CX | Loope_rel8_16_CX | Loope_rel8_32_CX | Loopne_rel8_16_CX
        | Loopne_rel8_32_CX => 2,
        Loop_rel8_16_RCX | Loop_rel8_64_RCX | Loope_rel8_16_RCX | Loope_rel8_64_RCX | Loopne_rel8_16_RCX
        | Loopne_rel8_64_RCX => 8,
        _ => 4,
    }
}
