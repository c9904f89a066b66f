//! Operands of an [`Instruction`], for the handlers out of line.

use iced_x86::{Instruction, OpKind, Register};

use super::address::{effective, segment_index};
use crate::fault::Result;
use crate::host::Int;
use crate::state::{Cpu, reg, seg};

/// Calls the generic function for the integer type of `$size` bytes.
macro_rules! by_size {
    ($size:expr, $t:ident => $body:expr) => {
        match $size {
            1 => {
                type $t = u8;
                $body
            }
            2 => {
                type $t = u16;
                $body
            }
            4 => {
                type $t = u32;
                $body
            }
            _ => {
                type $t = u64;
                $body
            }
        }
    };
}
pub(crate) use by_size;

/// Zero-extends.
pub fn wide<T: Int>(value: T) -> u64 {
    value.into()
}

/// Bits that `size` bytes have.
pub fn mask(size: usize) -> u64 {
    if size >= 8 {
        u64::MAX
    } else {
        (1 << (8 * size)) - 1
    }
}

/// Byte offset of a general register in [`Cpu::gpr`].
pub fn register_offset(register: Register) -> u8 {
    let high = matches!(
        register,
        Register::AH | Register::CH | Register::DH | Register::BH
    );
    (register.full_register().number() * 8) as u8 + u8::from(high)
}

/// Size in bytes of operand `n`.
pub fn size(i: &Instruction, n: u32) -> usize {
    match i.op_kind(n) {
        OpKind::Register => i.op_register(n).size(),
        OpKind::Immediate8 | OpKind::Immediate8_2nd => 1,
        OpKind::Immediate16 | OpKind::Immediate8to16 => 2,
        OpKind::Immediate32 | OpKind::Immediate8to32 => 4,
        OpKind::Immediate64 | OpKind::Immediate8to64 | OpKind::Immediate32to64 => 8,
        _ => i.memory_size().size(),
    }
}

impl Cpu {
    /// Value of a general or segment register.
    pub fn read_register(&self, register: Register) -> u64 {
        if let Some(segment) = segment_index(register) {
            return u64::from(self.segs[segment].selector);
        }
        let whole = self.gpr[register.full_register().number()];
        match register {
            Register::AH | Register::CH | Register::DH | Register::BH => whole >> 8 & 0xff,
            _ => whole & mask(register.size()),
        }
    }

    /// Sets a general register; 32-bit writes clear the upper half.
    pub fn write_register(&mut self, register: Register, value: u64) {
        let whole = &mut self.gpr[register.full_register().number()];
        *whole = match (register, register.size()) {
            (Register::AH | Register::CH | Register::DH | Register::BH, _) => {
                *whole & !0xff00 | (value & 0xff) << 8
            }
            (_, 1) => *whole & !0xff | value & 0xff,
            (_, 2) => *whole & !0xffff | value & 0xffff,
            (_, 4) => value & 0xffff_ffff,
            _ => value,
        };
    }

    /// Value of operand `n`, zero-extended (immediates sign-extended to their operand's size).
    pub fn read_operand(&mut self, i: &Instruction, n: u32) -> Result<u64> {
        match i.op_kind(n) {
            OpKind::Register => Ok(self.read_register(i.op_register(n))),
            OpKind::Memory => {
                let (segment, offset) = effective(self, i);
                self.load_sized(segment, offset, size(i, n))
            }
            _ => Ok(i.immediate(n)),
        }
    }

    /// Stores into operand `n`.
    pub fn write_operand(&mut self, i: &Instruction, n: u32, value: u64) -> Result<()> {
        match i.op_kind(n) {
            OpKind::Register => {
                self.write_register(i.op_register(n), value);
                Ok(())
            }
            _ => {
                let (segment, offset) = effective(self, i);
                self.store_sized(segment, offset, size(i, n), value)
            }
        }
    }

    /// Reads operand 0, changes it and writes it back, atomically under a LOCK prefix. Returns the old value.
    pub fn update_operand(
        &mut self,
        i: &Instruction,
        locked: bool,
        mut change: impl FnMut(u64) -> u64,
    ) -> Result<u64> {
        if i.op_kind(0) == OpKind::Register {
            let old = self.read_register(i.op_register(0));
            self.write_register(i.op_register(0), change(old));
            return Ok(old);
        }
        let (segment, offset) = effective(self, i);
        by_size!(size(i, 0), T => {
            self.update::<T>(segment, offset, locked, |old| T::from_u64(change(wide(old)))).map(wide)
        })
    }

    /// Loads `size` (1, 2, 4, 8) bytes.
    pub fn load_sized(&mut self, segment: usize, offset: u64, size: usize) -> Result<u64> {
        by_size!(size, T => self.load::<T>(segment, offset).map(wide))
    }

    /// Stores `size` (1, 2, 4, 8) bytes.
    pub fn store_sized(&mut self, segment: usize, offset: u64, size: usize, value: u64) -> Result<()> {
        by_size!(size, T => self.store::<T>(segment, offset, T::from_u64(value)))
    }

    /// The stack pointer with `by` added, in the stack's width.
    pub fn moved_rsp(&self, by: u64) -> u64 {
        let rsp = self.gpr[reg::RSP];
        let moved = rsp.wrapping_add(by) & self.rsp_mask;
        if self.rsp_mask == 0xffff {
            rsp & !0xffff | moved
        } else {
            moved
        }
    }

    /// Pushes `size` bytes.
    pub fn push(&mut self, size: usize, value: u64) -> Result<()> {
        let rsp = self.moved_rsp((size as u64).wrapping_neg());
        self.store_sized(seg::SS, rsp & self.rsp_mask, size, value)?;
        self.gpr[reg::RSP] = rsp;
        Ok(())
    }

    /// The value that a pop of `size` bytes would give; the caller moves RSP.
    pub fn peek(&mut self, size: usize, above: u64) -> Result<u64> {
        let at = self.gpr[reg::RSP].wrapping_add(above) & self.rsp_mask;
        self.load_sized(seg::SS, at, size)
    }

    /// Pops `size` bytes.
    pub fn pop(&mut self, size: usize) -> Result<u64> {
        let value = self.peek(size, 0)?;
        self.gpr[reg::RSP] = self.moved_rsp(size as u64);
        Ok(value)
    }
}
