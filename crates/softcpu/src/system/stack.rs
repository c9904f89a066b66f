//! Pushes and pops of any width, on the current stack and on one that is being switched to.

use ostler_accel::Segment;

use super::descriptor::code_of;
use crate::fault::{Exception, Result};
use crate::mmu::access::Access;
use crate::state::{Cpu, reg, rights, seg};

/// A stack that values are pushed to before the switch to it is committed.
pub struct NewStack {
    /// Base of SS; 0 in 64-bit mode.
    base: u64,
    /// Limit check, or none in 64-bit mode.
    segment: Option<Segment>,
    mask: u64,
    /// The stack pointer.
    pub sp: u64,
    user: bool,
}

impl NewStack {
    /// A stack for privilege level `cpl` in segment `ss` at `sp`, outside 64-bit mode.
    pub fn in_segment(ss: Segment, sp: u64, cpl: u8) -> Self {
        let mask = if ss.rights & rights::BIG != 0 {
            0xffff_ffff
        } else {
            0xffff
        };
        Self {
            base: ss.base,
            segment: Some(ss),
            mask,
            sp,
            user: cpl == 3,
        }
    }

    /// A flat stack for 64-bit code.
    pub fn flat(sp: u64, cpl: u8) -> Self {
        Self {
            base: 0,
            segment: None,
            mask: u64::MAX,
            sp,
            user: cpl == 3,
        }
    }

    /// The current stack, from which pushes continue with the current privilege.
    pub fn current(cpu: &Cpu) -> Self {
        let sp = cpu.gpr[reg::RSP];
        if cpu.is_long() {
            return Self::flat(sp, cpu.cpl);
        }
        Self {
            segment: Some(cpu.segs[seg::SS]),
            base: cpu.segs[seg::SS].base,
            mask: cpu.rsp_mask,
            sp,
            user: cpu.cpl == 3,
        }
    }

    /// Pushes the low `width` (2, 4 or 8) bytes of `value`.
    pub fn push(&mut self, cpu: &mut Cpu, width: u8, value: u64) -> Result<()> {
        let sp = self.sp.wrapping_sub(u64::from(width)) & self.mask;
        if let Some(segment) = self.segment
            && !within_limit(&segment, sp, u64::from(width))
        {
            return Err(cpu.raise(Exception::ss(code_of(segment.selector))));
        }
        let mut linear = self.base.wrapping_add(sp);
        if self.segment.is_some() {
            linear &= 0xffff_ffff;
        }
        match width {
            2 => put(cpu, linear, value as u16, self.user)?,
            4 => put(cpu, linear, value as u32, self.user)?,
            _ => put(cpu, linear, value, self.user)?,
        }
        self.sp = sp | self.sp & !self.mask;
        Ok(())
    }
}

fn put<T: crate::host::Int>(cpu: &mut Cpu, linear: u64, value: T, user: bool) -> Result<()> {
    if user && cpu.cpl == 3 {
        cpu.store_linear(linear, value)
    } else if user {
        cpu.probe(linear, T::SIZE as u64, Access::Write, true)?;
        cpu.store_system(linear, value)
    } else {
        cpu.store_system(linear, value)
    }
}

/// True if `len` bytes at `offset` lie inside the limit of `segment` (SDM vol. 3, 6.3).
pub fn within_limit(segment: &Segment, offset: u64, len: u64) -> bool {
    let last = offset + (len - 1);
    let limit = u64::from(segment.limit);
    let expands_down = segment.rights & (rights::CODE | rights::EXPAND_DOWN) == rights::EXPAND_DOWN;
    if expands_down {
        let top = if segment.rights & rights::BIG != 0 {
            0xffff_ffff
        } else {
            0xffff
        };
        offset > limit && last <= top
    } else {
        last <= limit
    }
}

/// Values popped from the current stack; nothing is committed until [`Popper::commit`].
pub struct Popper {
    /// The stack pointer after what was popped.
    pub sp: u64,
    width: u8,
}

impl Popper {
    /// Pops values of `width` (2, 4 or 8) bytes.
    pub fn new(cpu: &Cpu, width: u8) -> Self {
        Self {
            sp: cpu.gpr[reg::RSP] & cpu.rsp_mask,
            width,
        }
    }

    /// The next value.
    pub fn pop(&mut self, cpu: &mut Cpu) -> Result<u64> {
        let value = match self.width {
            2 => u64::from(cpu.load::<u16>(seg::SS, self.sp)?),
            4 => u64::from(cpu.load::<u32>(seg::SS, self.sp)?),
            _ => cpu.load::<u64>(seg::SS, self.sp)?,
        };
        self.skip(cpu, u64::from(self.width));
        Ok(value)
    }

    /// Moves the stack pointer up by `bytes`.
    pub fn skip(&mut self, cpu: &Cpu, bytes: u64) {
        self.sp = self.sp.wrapping_add(bytes) & cpu.rsp_mask;
    }

    /// Makes the stack pointer the register's.
    pub fn commit(&self, cpu: &mut Cpu) {
        set_sp(cpu, self.sp);
    }
}

/// Writes the stack pointer with the width of the current stack.
pub fn set_sp(cpu: &mut Cpu, sp: u64) {
    let rsp = &mut cpu.gpr[reg::RSP];
    *rsp = if cpu.rsp_mask == 0xffff {
        *rsp & !0xffff | sp & 0xffff
    } else {
        sp & cpu.rsp_mask
    };
}

/// Pushes one value on the current stack and commits the stack pointer.
pub fn push(cpu: &mut Cpu, width: u8, value: u64) -> Result<()> {
    let sp = cpu.gpr[reg::RSP].wrapping_sub(u64::from(width)) & cpu.rsp_mask;
    match width {
        2 => cpu.store(seg::SS, sp, value as u16)?,
        4 => cpu.store(seg::SS, sp, value as u32)?,
        _ => cpu.store(seg::SS, sp, value)?,
    }
    set_sp(cpu, sp);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_bound_both_kinds_of_segments() {
        let up = Segment {
            limit: 0xfff,
            rights: 0x93,
            ..Default::default()
        };
        assert!(within_limit(&up, 0xffc, 4));
        assert!(!within_limit(&up, 0xffd, 4));
        let down = Segment {
            limit: 0xfff,
            rights: 0x97,
            ..Default::default()
        };
        assert!(!within_limit(&down, 0xfff, 1));
        assert!(within_limit(&down, 0x1000, 4));
        assert!(!within_limit(&down, 0xfffe, 4));
        let down_big = Segment {
            rights: 0x4097,
            ..down
        };
        assert!(within_limit(&down_big, 0xffff_fffc, 4));
    }
}
