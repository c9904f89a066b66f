//! Near jumps in 64-bit mode.

use super::arithmetic::Kind;
use super::{Address, get, load};
use crate::block::{OpRef, Outcome};
use crate::exec::alu::{Alu, condition};
use crate::fault::Stop;
use crate::flags::HostFlags;
use crate::mmu::access::is_canonical;
use crate::state::{Cpu, reg};

/// JMP to a relative target.
pub fn jmp(cpu: &mut Cpu, op: OpRef) -> Outcome {
    let target = cpu.gpr[reg::RIP_BASE].wrapping_add(op.imm);
    if !is_canonical(target) {
        return op.out_of_line_end(cpu);
    }
    cpu.rip = target;
    Outcome::Taken
}

/// JMP to where a register says.
pub fn jmp_r(cpu: &mut Cpu, op: OpRef) -> Outcome {
    let target = get::<u64>(cpu, op.a);
    if !is_canonical(target) {
        return op.out_of_line_end(cpu);
    }
    cpu.rip = target;
    Outcome::Jump
}

/// JMP to where memory says.
pub fn jmp_m<A: Address>(cpu: &mut Cpu, op: OpRef) -> Outcome {
    match load::<u64, A>(cpu, op) {
        Some(target) if is_canonical(target) => {
            cpu.rip = target;
            Outcome::Jump
        }
        _ => op.out_of_line_end(cpu),
    }
}

/// Goes on at the target or behind the instruction. `None` if the target is not canonical.
#[inline(always)]
fn go(cpu: &mut Cpu, op: OpRef, target: u64, met: bool) -> Option<Outcome> {
    if !met {
        cpu.rip = op.next_rip(cpu);
        return Some(Outcome::Next);
    }
    let target = cpu.gpr[reg::RIP_BASE].wrapping_add(target);
    if !is_canonical(target) {
        return None;
    }
    cpu.rip = target;
    Some(Outcome::Taken)
}

/// Jcc.
pub fn jcc<const CODE: u8>(cpu: &mut Cpu, op: OpRef) -> Outcome {
    let met = condition(CODE, cpu.flags);
    go(cpu, op, op.imm, met).unwrap_or_else(|| op.out_of_line_end(cpu))
}

/// A comparison and the Jcc after it, which has the op's place: `disp` is the target, relative to the page.
#[inline(always)]
fn compare_and_jump<K: Kind, T: Alu>(
    cpu: &mut Cpu,
    op: OpRef,
    b: T,
    code: impl Fn(HostFlags) -> bool,
) -> Outcome {
    let (_, flags) = K::full(get::<T>(cpu, op.a), b, cpu.flags);
    cpu.flags = flags;
    // The pair is taken apart where the jump faults.
    go(cpu, op, op.disp as i64 as u64, code(flags)).unwrap_or_else(|| op.stop(cpu, Stop::Alone))
}

/// CMP or TEST of two registers, and Jcc.
pub fn fused_rr<K: Kind, T: Alu, const CODE: u8>(cpu: &mut Cpu, op: OpRef) -> Outcome {
    let b = get::<T>(cpu, op.b);
    compare_and_jump::<K, T>(cpu, op, b, |flags| condition(CODE, flags))
}

/// CMP or TEST with an immediate, and Jcc.
pub fn fused_ri<K: Kind, T: Alu, const CODE: u8>(cpu: &mut Cpu, op: OpRef) -> Outcome {
    compare_and_jump::<K, T>(cpu, op, T::from_u64(op.imm), |flags| condition(CODE, flags))
}
