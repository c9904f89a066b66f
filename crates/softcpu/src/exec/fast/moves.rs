//! MOV, MOVZX, MOVSX, LEA, CMOVcc, SETcc.

use super::{Address, get, load, place, put, set};
use crate::block::{OpRef, Outcome};
use crate::exec::alu::condition;
use crate::host::Int;
use crate::state::Cpu;

/// Register, register.
pub fn rr<T: Int>(cpu: &mut Cpu, op: OpRef) -> Outcome {
    let value = get::<T>(cpu, op.b);
    set(cpu, op.a, value);
    op.continue_with_next(cpu)
}

/// Register, immediate.
pub fn ri<T: Int>(cpu: &mut Cpu, op: OpRef) -> Outcome {
    set(cpu, op.a, T::from_u64(op.imm));
    op.continue_with_next(cpu)
}

/// Register, memory.
pub fn rm<T: Int, A: Address>(cpu: &mut Cpu, op: OpRef) -> Outcome {
    match load::<T, A>(cpu, op) {
        Some(value) => {
            set(cpu, op.a, value);
            op.continue_with_next(cpu)
        }
        None => op.out_of_line(cpu),
    }
}

/// Memory, register.
pub fn mr<T: Int, A: Address>(cpu: &mut Cpu, op: OpRef) -> Outcome {
    match place::<T, A>(cpu, op) {
        Some(ptr) => {
            put(ptr, get::<T>(cpu, op.b));
            op.continue_with_next(cpu)
        }
        None => op.out_of_line(cpu),
    }
}

/// Memory, immediate.
pub fn mi<T: Int, A: Address>(cpu: &mut Cpu, op: OpRef) -> Outcome {
    match place::<T, A>(cpu, op) {
        Some(ptr) => {
            put(ptr, T::from_u64(op.imm));
            op.continue_with_next(cpu)
        }
        None => op.out_of_line(cpu),
    }
}

#[inline(always)]
fn extend<T: Int, D: Int, const SIGNED: bool>(value: T) -> D {
    D::from_u64(if SIGNED { value.sign_extend() } else { value.into() })
}

/// MOVZX, MOVSX, MOVSXD: register of `D`, register of `T`.
pub fn extend_rr<T: Int, D: Int, const SIGNED: bool>(cpu: &mut Cpu, op: OpRef) -> Outcome {
    let value = extend::<T, D, SIGNED>(get::<T>(cpu, op.b));
    set(cpu, op.a, value);
    op.continue_with_next(cpu)
}

/// The same from memory.
pub fn extend_rm<T: Int, D: Int, A: Address, const SIGNED: bool>(cpu: &mut Cpu, op: OpRef) -> Outcome {
    match load::<T, A>(cpu, op) {
        Some(value) => {
            set(cpu, op.a, extend::<T, D, SIGNED>(value));
            op.continue_with_next(cpu)
        }
        None => op.out_of_line(cpu),
    }
}

/// LEA with 64-bit addresses.
pub fn lea<D: Int, A: Address>(cpu: &mut Cpu, op: OpRef) -> Outcome {
    let address = A::linear(cpu, &op);
    set(cpu, op.a, D::from_u64(address));
    op.continue_with_next(cpu)
}

/// CMOVcc register, register; `imm` is the condition.
pub fn cmov_rr<T: Int>(cpu: &mut Cpu, op: OpRef) -> Outcome {
    let source = if condition(op.imm as u8, cpu.flags) {
        op.b
    } else {
        op.a
    };
    let value = get::<T>(cpu, source);
    set(cpu, op.a, value);
    op.continue_with_next(cpu)
}

/// SETcc register; `imm` is the condition.
pub fn set_r(cpu: &mut Cpu, op: OpRef) -> Outcome {
    let value = u8::from(condition(op.imm as u8, cpu.flags));
    set(cpu, op.a, value);
    op.continue_with_next(cpu)
}

/// NOP and ENDBR.
pub fn nop(cpu: &mut Cpu, op: OpRef) -> Outcome {
    op.continue_with_next(cpu)
}
