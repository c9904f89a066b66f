//! Host instructions on parts of the vCPU's state, for what has system semantics.

use super::assembler::{Assembler, Reg};

impl Reg {
    fn in_modrm(self) -> u8 {
        (self.0 & 7) << 3 | 4
    }
    fn in_rex(self) -> u8 {
        self.0 >> 3 << 2
    }
}

impl Assembler {
    /// What follows the opcode of an instruction on `gs:[offset]`, from the ModRM byte on.
    fn state_operand(&mut self, modrm: u8, offset: usize) {
        self.raw(&[modrm, 0x25]);
        self.raw(&(offset as u32).to_le_bytes());
    }

    /// Combines a part of the vCPU's state with `value`, sign-extended, by `and`. Changes flags.
    pub fn and_state_imm(&mut self, offset: usize, value: i32) {
        self.raw(&[0x65, 0x48, 0x81]);
        self.state_operand(4 << 3 | 4, offset);
        self.raw(&value.to_le_bytes());
    }

    /// The same by `or`.
    pub fn or_state_imm(&mut self, offset: usize, value: i32) {
        self.raw(&[0x65, 0x48, 0x81]);
        self.state_operand(1 << 3 | 4, offset);
        self.raw(&value.to_le_bytes());
    }

    /// `test dword gs:[offset], value`.
    pub fn test_state32(&mut self, offset: usize, value: u32) {
        self.raw(&[0x65, 0xf7]);
        self.state_operand(4, offset);
        self.raw(&value.to_le_bytes());
    }

    /// Sets 64 bits of the vCPU's state to `value`, sign-extended.
    pub fn set_state(&mut self, offset: usize, value: i32) {
        self.raw(&[0x65, 0x48, 0xc7]);
        self.state_operand(4, offset);
        self.raw(&value.to_le_bytes());
    }

    /// Sets 32 bits of the vCPU's state.
    pub fn set_state32(&mut self, offset: usize, value: u32) {
        self.raw(&[0x65, 0xc7]);
        self.state_operand(4, offset);
        self.raw(&value.to_le_bytes());
    }

    /// Sets 16 bits of the vCPU's state.
    pub fn set_state16(&mut self, offset: usize, value: u16) {
        self.raw(&[0x65, 0x66, 0xc7]);
        self.state_operand(4, offset);
        self.raw(&value.to_le_bytes());
    }

    /// Loads 32 bits of the vCPU's state.
    pub fn load_state32(&mut self, reg: Reg, offset: usize) {
        self.raw(&[0x65, 0x40 | reg.in_rex(), 0x8b]);
        self.state_operand(reg.in_modrm(), offset);
    }

    /// Loads 16 bits of the vCPU's state, zero-extended.
    pub fn load_state16(&mut self, reg: Reg, offset: usize) {
        self.raw(&[0x65, 0x40 | reg.in_rex(), 0x0f, 0xb7]);
        self.state_operand(reg.in_modrm(), offset);
    }

    /// Stores the lowest 16 bits of a register to the vCPU's state.
    pub fn store_state16(&mut self, reg: Reg, offset: usize) {
        self.raw(&[0x65, 0x66, 0x40 | reg.in_rex(), 0x89]);
        self.state_operand(reg.in_modrm(), offset);
    }

    /// Combines a register with a part of the vCPU's state by `and`. Changes flags.
    pub fn and_state(&mut self, reg: Reg, offset: usize) {
        self.raw(&[0x65, 0x48 | reg.in_rex(), 0x23]);
        self.state_operand(reg.in_modrm(), offset);
    }

    /// The same by `or`.
    pub fn or_state(&mut self, reg: Reg, offset: usize) {
        self.raw(&[0x65, 0x48 | reg.in_rex(), 0x0b]);
        self.state_operand(reg.in_modrm(), offset);
    }

    /// `op reg, value` of the group of opcode 0x81, 64 bits, sign-extended.
    fn group1(&mut self, op: u8, reg: Reg, value: i32) {
        self.raw(&[0x48 | reg.0 >> 3, 0x81, 0xc0 | op << 3 | reg.0 & 7]);
        self.raw(&value.to_le_bytes());
    }

    /// `or reg, value`, 64 bits, sign-extended.
    pub fn or_imm(&mut self, reg: Reg, value: i32) {
        self.group1(1, reg, value);
    }

    /// `add reg, value`, 64 bits, sign-extended.
    pub fn add_imm(&mut self, reg: Reg, value: i32) {
        self.group1(0, reg, value);
    }

    /// `opcode to, from`, 64 bits.
    fn registers(&mut self, opcode: u8, to: Reg, from: Reg) {
        self.raw(&[
            0x48 | from.0 >> 3 << 2 | to.0 >> 3,
            opcode,
            0xc0 | (from.0 & 7) << 3 | to.0 & 7,
        ]);
    }

    /// `or to, from`, 64 bits.
    pub fn or_registers(&mut self, to: Reg, from: Reg) {
        self.registers(0x09, to, from);
    }

    /// `not reg`, 64 bits. Changes no flags.
    pub fn not(&mut self, reg: Reg) {
        self.raw(&[0x48 | reg.0 >> 3, 0xf7, 0xd0 | reg.0 & 7]);
    }

    fn shift(&mut self, op: u8, reg: Reg, count: u8) {
        self.raw(&[0x48 | reg.0 >> 3, 0xc1, 0xc0 | op << 3 | reg.0 & 7, count]);
    }

    /// `shl reg, count`, 64 bits.
    pub fn shl(&mut self, reg: Reg, count: u8) {
        self.shift(4, reg, count);
    }

    /// `shr reg, count`, 64 bits.
    pub fn shr(&mut self, reg: Reg, count: u8) {
        self.shift(5, reg, count);
    }

    /// `sar reg, count`, 64 bits.
    pub fn sar(&mut self, reg: Reg, count: u8) {
        self.shift(7, reg, count);
    }

    /// `rdtsc`, after all loads before it.
    pub fn rdtsc(&mut self) {
        self.raw(&[0x0f, 0xae, 0xe8, 0x0f, 0x31]);
    }

    /// `mov word [address], value`.
    pub fn store16(&mut self, address: Reg, value: Reg) {
        // A base of R13 needs a displacement.
        self.raw(&[
            0x66,
            0x40 | value.in_rex() | address.0 >> 3,
            0x89,
            0x40 | (value.0 & 7) << 3 | address.0 & 7,
            0,
        ]);
    }
}
