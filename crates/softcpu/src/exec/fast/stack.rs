//! PUSH, POP, CALL, RET and LEAVE in 64-bit mode.

use super::{get, peek, put, set};
use crate::block::{OpRef, Outcome};
use crate::mmu::access::is_canonical;
use crate::state::{Cpu, reg};

/// Pushes if the TLB has the stack's page. False if the long way must be taken.
#[inline(always)]
fn push(cpu: &mut Cpu, value: u64) -> bool {
    let rsp = cpu.gpr[reg::RSP].wrapping_sub(8);
    match cpu.mmu.write_hit(rsp, 8) {
        Some(ptr) => {
            put(ptr, value);
            cpu.gpr[reg::RSP] = rsp;
            true
        }
        None => false,
    }
}

/// The top of the stack if the TLB has its page.
#[inline(always)]
fn top(cpu: &Cpu, at: u64) -> Option<u64> {
    cpu.mmu.read_hit(at, 8).map(|ptr| peek(ptr.cast_mut()))
}

/// PUSH register.
pub fn push_r(cpu: &mut Cpu, op: OpRef) -> Outcome {
    let value = get::<u64>(cpu, op.a);
    if push(cpu, value) {
        op.continue_with_next(cpu)
    } else {
        op.out_of_line(cpu)
    }
}

/// PUSH immediate.
pub fn push_i(cpu: &mut Cpu, op: OpRef) -> Outcome {
    if push(cpu, op.imm) {
        op.continue_with_next(cpu)
    } else {
        op.out_of_line(cpu)
    }
}

/// POP register.
pub fn pop_r(cpu: &mut Cpu, op: OpRef) -> Outcome {
    match top(cpu, cpu.gpr[reg::RSP]) {
        Some(value) => {
            cpu.gpr[reg::RSP] = cpu.gpr[reg::RSP].wrapping_add(8);
            set(cpu, op.a, value);
            op.continue_with_next(cpu)
        }
        None => op.out_of_line(cpu),
    }
}

/// LEAVE.
pub fn leave(cpu: &mut Cpu, op: OpRef) -> Outcome {
    let frame = cpu.gpr[reg::RBP];
    match top(cpu, frame) {
        Some(value) => {
            cpu.gpr[reg::RSP] = frame.wrapping_add(8);
            cpu.gpr[reg::RBP] = value;
            op.continue_with_next(cpu)
        }
        None => op.out_of_line(cpu),
    }
}

/// CALL to a relative target.
pub fn call(cpu: &mut Cpu, op: OpRef) -> Outcome {
    let target = cpu.gpr[reg::RIP_BASE].wrapping_add(op.imm);
    let back = op.next_rip(cpu);
    if is_canonical(target) && push(cpu, back) {
        cpu.rip = target;
        Outcome::Taken
    } else {
        op.out_of_line_end(cpu)
    }
}

/// CALL to where a register says.
pub fn call_r(cpu: &mut Cpu, op: OpRef) -> Outcome {
    let target = get::<u64>(cpu, op.a);
    let back = op.next_rip(cpu);
    if is_canonical(target) && push(cpu, back) {
        cpu.rip = target;
        Outcome::Jump
    } else {
        op.out_of_line_end(cpu)
    }
}

/// RET.
pub fn ret(cpu: &mut Cpu, op: OpRef) -> Outcome {
    match top(cpu, cpu.gpr[reg::RSP]) {
        Some(target) if is_canonical(target) => {
            cpu.gpr[reg::RSP] = cpu.gpr[reg::RSP].wrapping_add(8);
            cpu.rip = target;
            Outcome::Jump
        }
        _ => op.out_of_line_end(cpu),
    }
}
