//! Two-operand arithmetic, shifts, INC, DEC, NEG, NOT, IMUL.

use super::{Address, get, load, peek, place, put, set};
use crate::block::{OpRef, Outcome};
use crate::exec::alu::{Alu, carry};
use crate::exec::muldiv;
use crate::flags::HostFlags;
use crate::host::Int;
use crate::state::Cpu;

/// One of ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST.
pub trait Kind {
    /// The result is stored.
    const STORES: bool = true;
    /// Result and flags.
    fn full<T: Alu>(a: T, b: T, flags: HostFlags) -> (T, HostFlags);
    /// The result where nobody looks at the flags.
    fn plain(a: u64, b: u64, flags: HostFlags) -> u64;
}

macro_rules! kind {
    ($name:ident, $stores:literal, |$a:ident, $b:ident, $f:ident| $full:expr, $plain:expr) => {
        /// The instruction of that name.
        pub struct $name;
        impl Kind for $name {
            const STORES: bool = $stores;
            #[inline(always)]
            fn full<T: Alu>($a: T, $b: T, $f: HostFlags) -> (T, HostFlags) {
                let _ = $f;
                $full
            }
            #[inline(always)]
            fn plain($a: u64, $b: u64, $f: HostFlags) -> u64 {
                let _ = ($b, $f);
                $plain
            }
        }
    };
}

kind!(Add, true, |a, b, f| Alu::add(a, b), a.wrapping_add(b));
kind!(Or, true, |a, b, f| Alu::or(a, b), a | b);
kind!(
    Adc,
    true,
    |a, b, f| Alu::adc(a, b, f),
    a.wrapping_add(b).wrapping_add(carry(f))
);
kind!(
    Sbb,
    true,
    |a, b, f| Alu::sbb(a, b, f),
    a.wrapping_sub(b).wrapping_sub(carry(f))
);
kind!(And, true, |a, b, f| Alu::and(a, b), a & b);
kind!(Sub, true, |a, b, f| Alu::sub(a, b), a.wrapping_sub(b));
kind!(Xor, true, |a, b, f| Alu::xor(a, b), a ^ b);
kind!(Cmp, false, |a, b, f| Alu::sub(a, b), a);
kind!(Test, false, |a, b, f| Alu::and(a, b), a);

#[inline(always)]
fn register_form<K: Kind, T: Alu, const FLAGS: bool>(cpu: &mut Cpu, op: OpRef, b: T) -> Outcome {
    let a = get::<T>(cpu, op.a);
    if FLAGS {
        let (value, flags) = K::full(a, b, cpu.flags);
        if K::STORES {
            set(cpu, op.a, value);
        }
        cpu.flags = flags;
    } else if K::STORES {
        set(cpu, op.a, T::from_u64(K::plain(a.into(), b.into(), cpu.flags)));
    }
    op.continue_with_next(cpu)
}

/// Register, register.
pub fn rr<K: Kind, T: Alu, const FLAGS: bool>(cpu: &mut Cpu, op: OpRef) -> Outcome {
    let b = get::<T>(cpu, op.b);
    register_form::<K, T, FLAGS>(cpu, op, b)
}

/// Register, immediate.
pub fn ri<K: Kind, T: Alu, const FLAGS: bool>(cpu: &mut Cpu, op: OpRef) -> Outcome {
    register_form::<K, T, FLAGS>(cpu, op, T::from_u64(op.imm))
}

/// Register, memory.
pub fn rm<K: Kind, T: Alu, A: Address>(cpu: &mut Cpu, op: OpRef) -> Outcome {
    match load::<T, A>(cpu, op) {
        Some(b) => register_form::<K, T, true>(cpu, op, b),
        None => op.out_of_line(cpu),
    }
}

#[inline(always)]
fn memory_form<K: Kind, T: Alu, A: Address>(cpu: &mut Cpu, op: OpRef, b: T) -> Outcome {
    if K::STORES {
        let Some(ptr) = place::<T, A>(cpu, op) else {
            return op.out_of_line(cpu);
        };
        let (value, flags) = K::full(peek::<T>(ptr), b, cpu.flags);
        put(ptr, value);
        cpu.flags = flags;
    } else {
        let Some(a) = load::<T, A>(cpu, op) else {
            return op.out_of_line(cpu);
        };
        cpu.flags = K::full(a, b, cpu.flags).1;
    }
    op.continue_with_next(cpu)
}

/// Memory, register.
pub fn mr<K: Kind, T: Alu, A: Address>(cpu: &mut Cpu, op: OpRef) -> Outcome {
    let b = get::<T>(cpu, op.b);
    memory_form::<K, T, A>(cpu, op, b)
}

/// Memory, immediate.
pub fn mi<K: Kind, T: Alu, A: Address>(cpu: &mut Cpu, op: OpRef) -> Outcome {
    memory_form::<K, T, A>(cpu, op, T::from_u64(op.imm))
}

/// One of the shifts and rotations.
pub trait Shift {
    /// Result and flags.
    fn full<T: Alu>(a: T, count: u8, flags: HostFlags) -> (T, HostFlags);
    /// The result where nobody looks at the flags; `bits` is 32 or 64 and `count` below that.
    fn plain(a: u64, count: u32, bits: u32) -> u64;
}

macro_rules! shift {
    ($name:ident, $function:ident, |$a:ident, $count:ident, $bits:ident| $plain:expr) => {
        /// The instruction of that name.
        pub struct $name;
        impl Shift for $name {
            #[inline(always)]
            fn full<T: Alu>(a: T, count: u8, flags: HostFlags) -> (T, HostFlags) {
                Alu::$function(a, count, flags)
            }
            #[inline(always)]
            fn plain($a: u64, $count: u32, $bits: u32) -> u64 {
                let _ = $bits;
                $plain
            }
        }
    };
}

shift!(Shl, shl, |a, count, bits| a << count);
shift!(Shr, shr, |a, count, bits| a >> count);
shift!(Sar, sar, |a, count, bits| if bits == 32 {
    u64::from((a as i32 >> count) as u32)
} else {
    (a as i64 >> count) as u64
});
shift!(Rol, rol, |a, count, bits| if bits == 32 {
    u64::from((a as u32).rotate_left(count))
} else {
    a.rotate_left(count)
});
shift!(Ror, ror, |a, count, bits| if bits == 32 {
    u64::from((a as u32).rotate_right(count))
} else {
    a.rotate_right(count)
});

/// Shift of a register by an immediate.
pub fn shift_ri<S: Shift, T: Alu, const FLAGS: bool>(cpu: &mut Cpu, op: OpRef) -> Outcome {
    let a = get::<T>(cpu, op.a);
    if FLAGS {
        let (value, flags) = S::full(a, op.imm as u8, cpu.flags);
        set(cpu, op.a, value);
        cpu.flags = flags;
    } else {
        let count = op.imm as u32 & (T::BITS - 1);
        set(cpu, op.a, T::from_u64(S::plain(a.into(), count, T::BITS)));
    }
    op.continue_with_next(cpu)
}

/// Shift of a register by CL.
pub fn shift_rc<S: Shift, T: Alu>(cpu: &mut Cpu, op: OpRef) -> Outcome {
    let (value, flags) = S::full(
        get::<T>(cpu, op.a),
        cpu.gpr[crate::state::reg::RCX] as u8,
        cpu.flags,
    );
    set(cpu, op.a, value);
    cpu.flags = flags;
    op.continue_with_next(cpu)
}

/// INC of a register.
pub fn inc<T: Alu, const FLAGS: bool>(cpu: &mut Cpu, op: OpRef) -> Outcome {
    let a = get::<T>(cpu, op.a);
    if FLAGS {
        let (value, flags) = Alu::inc(a, cpu.flags);
        set(cpu, op.a, value);
        cpu.flags = flags;
    } else {
        set(cpu, op.a, T::from_u64(a.into().wrapping_add(1)));
    }
    op.continue_with_next(cpu)
}

/// DEC of a register.
pub fn dec<T: Alu, const FLAGS: bool>(cpu: &mut Cpu, op: OpRef) -> Outcome {
    let a = get::<T>(cpu, op.a);
    if FLAGS {
        let (value, flags) = Alu::dec(a, cpu.flags);
        set(cpu, op.a, value);
        cpu.flags = flags;
    } else {
        set(cpu, op.a, T::from_u64(a.into().wrapping_sub(1)));
    }
    op.continue_with_next(cpu)
}

/// NEG of a register.
pub fn neg<T: Alu>(cpu: &mut Cpu, op: OpRef) -> Outcome {
    let (value, flags) = Alu::neg(get::<T>(cpu, op.a));
    set(cpu, op.a, value);
    cpu.flags = flags;
    op.continue_with_next(cpu)
}

/// NOT of a register.
pub fn not<T: Alu>(cpu: &mut Cpu, op: OpRef) -> Outcome {
    let value = T::from_u64(!get::<T>(cpu, op.a).into());
    set(cpu, op.a, value);
    op.continue_with_next(cpu)
}

/// IMUL register, register.
pub fn imul_rr<T: Int>(cpu: &mut Cpu, op: OpRef) -> Outcome {
    let (value, flags) = muldiv::multiply(T::SIZE, get::<T>(cpu, op.a).into(), get::<T>(cpu, op.b).into());
    set(cpu, op.a, T::from_u64(value));
    cpu.flags = flags;
    op.continue_with_next(cpu)
}

/// IMUL register, register, immediate.
pub fn imul_rri<T: Int>(cpu: &mut Cpu, op: OpRef) -> Outcome {
    let (value, flags) = muldiv::multiply(T::SIZE, get::<T>(cpu, op.b).into(), op.imm);
    set(cpu, op.a, T::from_u64(value));
    cpu.flags = flags;
    op.continue_with_next(cpu)
}
