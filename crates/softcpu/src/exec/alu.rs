//! Integer arithmetic with the host's own instructions, so that the flags are the hardware's.
//!
//! Every function returns the result and the arithmetic flags; those that leave some flags alone, or use CF, take the old ones.

use std::arch::asm;

use crate::flags::{HOST_CF, HostFlags};
use crate::host::Int;

/// An integer with the host's arithmetic.
pub trait Alu: Int {
    /// ADD.
    fn add(self, other: Self) -> (Self, HostFlags);
    /// ADC.
    fn adc(self, other: Self, flags: HostFlags) -> (Self, HostFlags);
    /// SUB and CMP.
    fn sub(self, other: Self) -> (Self, HostFlags);
    /// SBB.
    fn sbb(self, other: Self, flags: HostFlags) -> (Self, HostFlags);
    /// AND and TEST.
    fn and(self, other: Self) -> (Self, HostFlags);
    /// OR.
    fn or(self, other: Self) -> (Self, HostFlags);
    /// XOR.
    fn xor(self, other: Self) -> (Self, HostFlags);
    /// INC.
    fn inc(self, flags: HostFlags) -> (Self, HostFlags);
    /// DEC.
    fn dec(self, flags: HostFlags) -> (Self, HostFlags);
    /// NEG.
    fn neg(self) -> (Self, HostFlags);
    /// SHL by `count` (masked as the hardware does); a count of zero leaves the flags.
    fn shl(self, count: u8, flags: HostFlags) -> (Self, HostFlags);
    /// SHR.
    fn shr(self, count: u8, flags: HostFlags) -> (Self, HostFlags);
    /// SAR.
    fn sar(self, count: u8, flags: HostFlags) -> (Self, HostFlags);
    /// ROL.
    fn rol(self, count: u8, flags: HostFlags) -> (Self, HostFlags);
    /// ROR.
    fn ror(self, count: u8, flags: HostFlags) -> (Self, HostFlags);
    /// RCL.
    fn rcl(self, count: u8, flags: HostFlags) -> (Self, HostFlags);
    /// RCR.
    fn rcr(self, count: u8, flags: HostFlags) -> (Self, HostFlags);
}

macro_rules! binary {
    ($name:ident, $op:literal, $t:ty, $class:ident, $m:literal) => {
        #[inline(always)]
        fn $name(self, other: Self) -> (Self, HostFlags) {
            let (mut value, flags): (Self, HostFlags) = (self, 0);
            let mut flags = flags;
            // SAFETY: register arithmetic only.
            unsafe {
                asm!(concat!($op, " {a", $m, "}, {b", $m, "}"), "lahf", "seto al",
                    a = inout($class) value, b = in($class) other, inout("ax") flags,
                    options(pure, nomem, nostack));
            }
            (value, flags)
        }
    };
}

macro_rules! with_carry {
    ($name:ident, $op:literal, $t:ty, $class:ident, $m:literal) => {
        #[inline(always)]
        fn $name(self, other: Self, flags: HostFlags) -> (Self, HostFlags) {
            let (mut value, mut flags) = (self, flags);
            // SAFETY: register arithmetic only.
            unsafe {
                asm!("bt eax, 8", concat!($op, " {a", $m, "}, {b", $m, "}"), "lahf", "seto al",
                    a = inout($class) value, b = in($class) other, inout("ax") flags,
                    options(pure, nomem, nostack));
            }
            (value, flags)
        }
    };
}

macro_rules! keep_carry {
    ($name:ident, $op:literal, $t:ty, $class:ident, $m:literal) => {
        #[inline(always)]
        fn $name(self, flags: HostFlags) -> (Self, HostFlags) {
            let (mut value, mut flags) = (self, flags);
            // SAFETY: register arithmetic only.
            unsafe {
                asm!("bt eax, 8", concat!($op, " {a", $m, "}"), "lahf", "seto al",
                    a = inout($class) value, inout("ax") flags, options(pure, nomem, nostack));
            }
            (value, flags)
        }
    };
}

macro_rules! shift {
    ($name:ident, $op:literal, $t:ty, $class:ident, $m:literal) => {
        #[inline(always)]
        fn $name(self, count: u8, flags: HostFlags) -> (Self, HostFlags) {
            let (mut value, mut flags) = (self, flags);
            // SAFETY: register arithmetic only. Adding 0x7f to OF (0 or 1) sets the host's OF, SAHF the others.
            unsafe {
                asm!("add al, 0x7f", "sahf", concat!($op, " {a", $m, "}, cl"), "lahf", "seto al",
                    a = inout($class) value, in("cl") count, inout("ax") flags, options(pure, nomem, nostack));
            }
            (value, flags)
        }
    };
}

macro_rules! alu {
    ($t:ty, $class:ident, $m:literal) => {
        impl Alu for $t {
            binary!(add, "add", $t, $class, $m);
            binary!(sub, "sub", $t, $class, $m);
            binary!(and, "and", $t, $class, $m);
            binary!(or, "or", $t, $class, $m);
            binary!(xor, "xor", $t, $class, $m);
            with_carry!(adc, "adc", $t, $class, $m);
            with_carry!(sbb, "sbb", $t, $class, $m);
            keep_carry!(inc, "inc", $t, $class, $m);
            keep_carry!(dec, "dec", $t, $class, $m);
            shift!(shl, "shl", $t, $class, $m);
            shift!(shr, "shr", $t, $class, $m);
            shift!(sar, "sar", $t, $class, $m);
            shift!(rol, "rol", $t, $class, $m);
            shift!(ror, "ror", $t, $class, $m);
            shift!(rcl, "rcl", $t, $class, $m);
            shift!(rcr, "rcr", $t, $class, $m);

            #[inline(always)]
            fn neg(self) -> (Self, HostFlags) {
                let zero: Self = 0;
                Alu::sub(zero, self)
            }
        }
    };
}

alu!(u8, reg_byte, "");
alu!(u16, reg, ":x");
alu!(u32, reg, ":e");
alu!(u64, reg, "");

/// CF as 0 or 1.
#[inline(always)]
pub fn carry(flags: HostFlags) -> u64 {
    u64::from(flags & HOST_CF != 0)
}

/// The condition codes of Jcc, SETcc and CMOVcc (SDM vol. 1, appendix B), bit 0 negates.
#[inline(always)]
pub fn condition(code: u8, flags: HostFlags) -> bool {
    use crate::flags::{HOST_PF, HOST_SF, HOST_ZF};
    let less = (flags >> 15) ^ flags;
    let met = match code >> 1 {
        0 => flags & 1 != 0,
        1 => flags & HOST_CF != 0,
        2 => flags & HOST_ZF != 0,
        3 => flags & (HOST_CF | HOST_ZF) != 0,
        4 => flags & HOST_SF != 0,
        5 => flags & HOST_PF != 0,
        6 => less & 1 != 0,
        _ => less & 1 != 0 || flags & HOST_ZF != 0,
    };
    met != (code & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{HOST_AF, HOST_OF, HOST_PF, HOST_SF, HOST_ZF};

    #[test]
    fn additions_set_the_hardware_s_flags() {
        assert_eq!(
            Alu::add(0xffu8, 1),
            (0, HOST_CF | HOST_ZF | HOST_PF | HOST_AF | 0x200)
        );
        assert_eq!(
            Alu::add(0x7fff_ffffu32, 1),
            (0x8000_0000, HOST_OF | HOST_SF | HOST_AF | HOST_PF | 0x200)
        );
    }

    #[test]
    fn carries_go_in_and_stay() {
        assert_eq!(Alu::adc(1u16, 1, HOST_CF).0, 3);
        assert_eq!(Alu::sbb(1u64, 1, HOST_CF).0, u64::MAX);
        assert_ne!(Alu::inc(5u32, HOST_CF).1 & HOST_CF, 0);
        assert_eq!(Alu::dec(5u32, 0).1 & HOST_CF, 0);
    }

    #[test]
    fn a_shift_by_zero_keeps_every_flag() {
        let all = HOST_CF | HOST_OF | HOST_SF | HOST_ZF | HOST_AF | HOST_PF | 0x200;
        assert_eq!(Alu::shl(1u32, 32, all), (1, all));
        assert_eq!(Alu::ror(1u64, 0, all), (1, all));
        assert_eq!(Alu::rol(1u8, 0, 0x200).1, 0x200);
    }

    #[test]
    fn conditions_follow_the_flags() {
        let (_, flags) = Alu::sub(1u32, 2);
        assert!(condition(2, flags) && condition(12, flags) && condition(14, flags) && condition(5, flags));
        let (_, flags) = Alu::sub(0x8000_0000u32, 1);
        assert!(condition(0, flags) && condition(12, flags) && !condition(2, flags));
    }
}
