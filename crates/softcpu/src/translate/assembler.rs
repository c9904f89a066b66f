//! The few host instructions that surround the guest's own, and labels.

/// A host register by its number in encodings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reg(pub u8);

/// RAX.
pub const RAX: Reg = Reg(0);
/// The host's stack pointer.
pub const RSP: Reg = Reg(4);
/// RCX.
pub const RCX: Reg = Reg(1);
/// RDX.
pub const RDX: Reg = Reg(2);
/// RBP.
pub const RBP: Reg = Reg(5);
/// RSI.
pub const RSI: Reg = Reg(6);
/// RDI.
pub const RDI: Reg = Reg(7);
/// Scratch; addresses are formed in it.
pub const S0: Reg = Reg(13);
/// Scratch.
pub const S1: Reg = Reg(14);
/// Scratch.
pub const S2: Reg = Reg(15);

impl Reg {
    fn low(self) -> u8 {
        self.0 & 7
    }
    fn high(self) -> u8 {
        self.0 >> 3
    }
}

/// Conditions of host jumps, as they are encoded.
pub mod condition {
    /// Below.
    pub const B: u8 = 2;
    /// Above or equal.
    pub const AE: u8 = 3;
    /// Equal.
    pub const E: u8 = 4;
    /// Below or equal.
    pub const BE: u8 = 6;
    /// Not equal.
    pub const NE: u8 = 5;
    /// Above.
    pub const A: u8 = 7;
    /// Less.
    pub const L: u8 = 12;
}

/// A place in the code that jumps lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label(usize);

/// A memory operand.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Base register.
    pub base: Option<Reg>,
    /// Index register and the shift of its value.
    pub index: Option<(Reg, u8)>,
    /// Displacement.
    pub disp: i32,
}

impl Memory {
    /// `[base + disp]`.
    pub fn at(base: Reg, disp: i32) -> Self {
        Self {
            base: Some(base),
            index: None,
            disp,
        }
    }
}

/// Code in the making.
#[derive(Default)]
pub struct Assembler {
    bytes: Vec<u8>,
    labels: Vec<Option<usize>>,
    /// Places of 32-bit displacements that lead to labels.
    local: Vec<(usize, Label)>,
    /// The same that lead to code outside.
    outside: Vec<(usize, *const u8)>,
}

impl Assembler {
    /// Forgets everything, but keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.labels.clear();
        self.local.clear();
        self.outside.clear();
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The code, for execution at `at`. Every label has been placed.
    pub fn finish(&mut self, at: *const u8) -> &[u8] {
        for &(place, label) in &self.local {
            let target = self.labels[label.0].unwrap_or_default();
            let displacement = target as i64 - (place as i64 + 4);
            self.bytes[place..place + 4].copy_from_slice(&(displacement as i32).to_le_bytes());
        }
        for &(place, target) in &self.outside {
            let after = at.addr() + place + 4;
            let displacement = target.addr().wrapping_sub(after) as i32;
            self.bytes[place..place + 4].copy_from_slice(&displacement.to_le_bytes());
        }
        &self.bytes
    }

    /// A label to be placed later.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Places a label here.
    pub fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.bytes.len());
    }

    /// Appends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn dword(&mut self, value: i32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// `opcode reg, gs:[offset]` with 64-bit operands.
    fn state(&mut self, opcode: u8, reg: Reg, offset: usize) {
        self.raw(&[0x65, 0x48 | reg.high() << 2, opcode, reg.low() << 3 | 4, 0x25]);
        self.dword(offset as i32);
    }

    /// Loads a register from the vCPU's state.
    pub fn load_state(&mut self, reg: Reg, offset: usize) {
        self.state(0x8b, reg, offset);
    }

    /// Stores a register to the vCPU's state.
    pub fn store_state(&mut self, reg: Reg, offset: usize) {
        self.state(0x89, reg, offset);
    }

    /// Stores the lower half of a register to the vCPU's state.
    pub fn store_state32(&mut self, reg: Reg, offset: usize) {
        self.raw(&[0x65, 0x40 | reg.high() << 2, 0x89, reg.low() << 3 | 4, 0x25]);
        self.dword(offset as i32);
    }

    /// Adds a part of the vCPU's state to a register. Changes flags.
    pub fn add_state(&mut self, reg: Reg, offset: usize) {
        self.state(0x03, reg, offset);
    }

    /// Combines a register with a part of the vCPU's state by exclusive or. Changes flags.
    pub fn xor_state(&mut self, reg: Reg, offset: usize) {
        self.state(0x33, reg, offset);
    }

    /// Compares a register with a part of the vCPU's state.
    pub fn cmp_state(&mut self, reg: Reg, offset: usize) {
        self.state(0x3b, reg, offset);
    }

    /// Subtracts from a part of the vCPU's state. Changes flags.
    pub fn sub_state_imm(&mut self, offset: usize, value: i32) {
        match i8::try_from(value) {
            Ok(short) => {
                self.raw(&[0x65, 0x48, 0x83, 0x2c, 0x25]);
                self.dword(offset as i32);
                self.raw(&[short as u8]);
            }
            Err(_) => {
                self.raw(&[0x65, 0x48, 0x81, 0x2c, 0x25]);
                self.dword(offset as i32);
                self.dword(value);
            }
        }
    }

    /// Compares a part of the vCPU's state with a small number.
    pub fn cmp_state_imm8(&mut self, offset: usize, value: i8) {
        self.raw(&[0x65, 0x48, 0x83, 0x3c, 0x25]);
        self.dword(offset as i32);
        self.raw(&[value as u8]);
    }

    /// `add to, from`.
    pub fn add_register(&mut self, to: Reg, from: Reg) {
        self.between(true, 0x01, to.0, from.0);
    }

    /// `sub to, from`.
    pub fn sub_register(&mut self, to: Reg, from: Reg) {
        self.between(true, 0x29, to.0, from.0);
    }

    /// Puts the lower half of `from`, shifted to the right by `count`, into `to`; the bits above those may be anything. May change flags.
    pub fn shifted32(&mut self, to: Reg, from: Reg, count: u8) {
        if std::is_x86_feature_detected!("bmi2") {
            // rorx to, from, count
            let no_r = u8::from(to.high() == 0) << 7;
            let no_b = u8::from(from.high() == 0) << 5;
            let modrm = 0xc0 | to.low() << 3 | from.low();
            self.raw(&[0xc4, 0x43 | no_r | no_b, 0x7b, 0xf0, modrm, count]);
        } else {
            self.mov32(to, from);
            self.shr32(to, count);
        }
    }

    /// `0f opcode [S0], S1`.
    pub fn bit_operation(&mut self, wide: bool, opcode: u8) {
        let rex = 0x40 | u8::from(wide) << 3 | S1.high() << 2 | S0.high();
        self.raw(&[rex, 0x0f, opcode, 0x40 | S1.low() << 3 | S0.low(), 0]);
    }

    /// `movsxd reg, reg`.
    pub fn sign_extend32(&mut self, reg: Reg) {
        let rex = 0x48 | reg.high() << 2 | reg.high();
        self.raw(&[rex, 0x63, 0xc0 | reg.low() << 3 | reg.low()]);
    }

    /// `neg reg`.
    pub fn neg(&mut self, reg: Reg) {
        self.raw(&[0x48 | reg.high(), 0xf7, 0xd8 | reg.low()]);
    }

    /// Puts the arithmetic flags, in the form that [`crate::flags`] describes, to `offset` of the state. Uses [`S1`].
    pub fn save_flags(&mut self, offset: usize) {
        self.mov(S1, RAX);
        self.raw(&[0x9f, 0x0f, 0x90, 0xc0]); // lahf; seto al
        self.raw(&[0x65, 0x66, 0x89, 0x04, 0x25]); // mov gs:[], ax
        self.dword(offset as i32);
        self.mov(RAX, S1);
    }

    /// The reverse of [`Assembler::save_flags`].
    pub fn load_flags(&mut self, offset: usize) {
        self.mov(S1, RAX);
        self.raw(&[0x65, 0x66, 0x8b, 0x04, 0x25]); // mov ax, gs:[]
        self.dword(offset as i32);
        self.raw(&[0x04, 0x7f, 0x9e]); // add al, 127; sahf
        self.mov(RAX, S1);
    }

    /// `mov to, from`, 64 bits.
    pub fn mov(&mut self, to: Reg, from: Reg) {
        self.between(true, 0x89, to.0, from.0);
    }

    /// `mov reg, value`, zero-extended from 32 bits.
    pub fn mov_imm32(&mut self, reg: Reg, value: u32) {
        if reg.high() != 0 {
            self.raw(&[0x41]);
        }
        self.raw(&[0xb8 | reg.low()]);
        self.dword(value as i32);
    }

    /// `mov reg, value`, sign-extended from 32 bits.
    pub fn mov_simm32(&mut self, reg: Reg, value: i32) {
        self.raw(&[0x48 | reg.high(), 0xc7, 0xc0 | reg.low()]);
        self.dword(value);
    }

    /// `mov reg, value`, 64 bits.
    pub fn mov_imm64(&mut self, reg: Reg, value: u64) {
        self.raw(&[0x48 | reg.high(), 0xb8 | reg.low()]);
        self.raw(&value.to_le_bytes());
    }

    /// `opcode reg, [memory]` with REX.W as asked.
    fn with_memory(&mut self, wide: bool, opcode: u8, reg: u8, memory: Memory) {
        let base = memory.base.unwrap_or(RBP);
        let index = memory.index.map_or(RSP, |(index, _)| index);
        let rex = 0x40 | u8::from(wide) << 3 | (reg >> 3) << 2 | index.high() << 1 | base.high();
        self.raw(&[rex, opcode]);
        let needs_sib = memory.index.is_some() || memory.base.is_none() || base.low() == 4;
        // Without a base: mod 0 with base 101 has a 32-bit displacement alone.
        let mode = match (memory.base, memory.disp) {
            (None, _) => 0,
            (Some(base), 0) if base.low() != 5 => 0,
            (Some(_), -128..=127) => 1,
            _ => 2,
        };
        let rm = if needs_sib { 4 } else { base.low() };
        self.raw(&[mode << 6 | (reg & 7) << 3 | rm]);
        if needs_sib {
            let scale = memory.index.map_or(0, |(_, scale)| scale);
            self.raw(&[scale << 6 | index.low() << 3 | base.low()]);
        }
        match (memory.base, mode) {
            (None, _) | (_, 2) => self.dword(memory.disp),
            (_, 1) => self.raw(&[memory.disp as u8]),
            _ => {}
        }
    }

    /// `lea reg, [memory]`, 64 bits.
    pub fn lea(&mut self, reg: Reg, memory: Memory) {
        self.with_memory(true, 0x8d, reg.0, memory);
    }

    /// `mov reg, [memory]`, 64 bits.
    pub fn load(&mut self, reg: Reg, memory: Memory) {
        self.with_memory(true, 0x8b, reg.0, memory);
    }

    /// `mov reg, [memory]`, 32 bits.
    pub fn load32(&mut self, reg: Reg, memory: Memory) {
        self.with_memory(false, 0x8b, reg.0, memory);
    }

    /// `mov [memory], reg`, 64 bits.
    pub fn store(&mut self, memory: Memory, reg: Reg) {
        self.with_memory(true, 0x89, reg.0, memory);
    }

    /// `mov qword [memory], value`, sign-extended.
    pub fn store_imm(&mut self, memory: Memory, value: i32) {
        self.with_memory(true, 0xc7, 0, memory);
        self.dword(value);
    }

    /// `mov [memory], reg`, 32 bits.
    pub fn store32(&mut self, memory: Memory, reg: Reg) {
        self.with_memory(false, 0x89, reg.0, memory);
    }

    /// `mov dword [memory], value`.
    pub fn store_imm32(&mut self, memory: Memory, value: i32) {
        self.with_memory(false, 0xc7, 0, memory);
        self.dword(value);
    }

    /// `xor reg, [memory]`, 64 bits.
    pub fn xor(&mut self, reg: Reg, memory: Memory) {
        self.with_memory(true, 0x33, reg.0, memory);
    }

    /// `add reg, [memory]`, 64 bits.
    pub fn add(&mut self, reg: Reg, memory: Memory) {
        self.with_memory(true, 0x03, reg.0, memory);
    }

    /// `cmp reg, [memory]`, 64 bits.
    pub fn cmp(&mut self, reg: Reg, memory: Memory) {
        self.with_memory(true, 0x3b, reg.0, memory);
    }

    /// `cmp dword [memory], value`.
    pub fn cmp_memory32(&mut self, memory: Memory, value: u32) {
        self.with_memory(false, 0x81, 7, memory);
        self.dword(value as i32);
    }

    /// `cmp reg, value`, 64 bits, sign-extended.
    pub fn cmp_imm(&mut self, reg: Reg, value: i32) {
        self.raw(&[0x48 | reg.high(), 0x81, 0xf8 | reg.low()]);
        self.dword(value);
    }

    /// `mov to, from`, 32 bits.
    pub fn mov32(&mut self, to: Reg, from: Reg) {
        self.raw(&[
            0x40 | from.high() << 2 | to.high(),
            0x89,
            0xc0 | from.low() << 3 | to.low(),
        ]);
    }

    /// `opcode to, from` between registers, with 32 or 64 bits.
    fn between(&mut self, wide: bool, opcode: u8, to: u8, from: u8) {
        let rex = 0x40 | u8::from(wide) << 3 | from >> 3 << 2 | to >> 3;
        self.raw(&[rex, opcode, 0xc0 | (from & 7) << 3 | to & 7]);
    }

    /// `cmp left, right`, 32 or 64 bits.
    pub fn cmp_registers(&mut self, wide: bool, left: Reg, right: Reg) {
        self.between(wide, 0x39, left.0, right.0);
    }

    /// `sar reg, 31` or `sar reg, 63`: every bit becomes the sign.
    pub fn spread_sign(&mut self, wide: bool, reg: Reg) {
        self.between(wide, 0xc1, reg.0, 7);
        self.raw(&[if wide { 63 } else { 31 }]);
    }

    /// `div reg`, 32 or 64 bits.
    pub fn div(&mut self, wide: bool, reg: Reg) {
        self.between(wide, 0xf7, reg.0, 6);
    }

    /// `idiv reg`, 32 or 64 bits.
    pub fn idiv(&mut self, wide: bool, reg: Reg) {
        self.between(wide, 0xf7, reg.0, 7);
    }

    /// `shr reg, count`, 32 bits.
    pub fn shr32(&mut self, reg: Reg, count: u8) {
        self.raw(&[0x40 | reg.high(), 0xc1, 0xe8 | reg.low(), count]);
    }

    /// `shl reg, count`, 32 bits.
    pub fn shl32(&mut self, reg: Reg, count: u8) {
        self.raw(&[0x40 | reg.high(), 0xc1, 0xe0 | reg.low(), count]);
    }

    /// `and reg, value`, 32 bits.
    pub fn and32(&mut self, reg: Reg, value: u32) {
        self.raw(&[0x40 | reg.high(), 0x81, 0xe0 | reg.low()]);
        self.dword(value as i32);
    }

    /// `and reg, value`, 64 bits, sign-extended.
    pub fn and_simm32(&mut self, reg: Reg, value: i32) {
        self.raw(&[0x48 | reg.high(), 0x81, 0xe0 | reg.low()]);
        self.dword(value);
    }

    /// `xor to, from`, 32 bits.
    pub fn xor32(&mut self, to: Reg, from: Reg) {
        self.raw(&[
            0x40 | from.high() << 2 | to.high(),
            0x31,
            0xc0 | from.low() << 3 | to.low(),
        ]);
    }

    /// `jcc label`.
    pub fn jump_if(&mut self, condition: u8, label: Label) {
        self.raw(&[0x0f, 0x80 | condition]);
        self.local.push((self.bytes.len(), label));
        self.dword(0);
    }

    /// `jmp label`. Returns the place of its displacement.
    pub fn jump(&mut self, label: Label) -> usize {
        self.raw(&[0xe9]);
        self.local.push((self.bytes.len(), label));
        self.dword(0);
        self.bytes.len() - 4
    }

    /// `call label`. Returns the place of its displacement.
    pub fn call(&mut self, label: Label) -> usize {
        self.raw(&[0xe8]);
        self.local.push((self.bytes.len(), label));
        self.dword(0);
        self.bytes.len() - 4
    }

    /// `call [memory]`.
    pub fn call_memory(&mut self, memory: Memory) {
        self.with_memory(false, 0xff, 2, memory);
    }

    /// `push reg`.
    pub fn push(&mut self, reg: Reg) {
        self.raw(&[0x40 | reg.high(), 0x50 | reg.low()]);
    }

    /// `push value`, sign-extended.
    pub fn push_imm(&mut self, value: i32) {
        self.raw(&[0x68]);
        self.dword(value);
    }

    /// `lea reg, label`.
    pub fn lea_label(&mut self, reg: Reg, label: Label) {
        self.raw(&[0x48 | reg.high() << 2, 0x8d, reg.low() << 3 | 5]);
        self.local.push((self.bytes.len(), label));
        self.dword(0);
    }

    /// `jmp` to code outside.
    pub fn jump_outside(&mut self, target: *const u8) {
        self.raw(&[0xe9]);
        self.outside.push((self.bytes.len(), target));
        self.dword(0);
    }

    /// `call` of code outside.
    pub fn call_outside(&mut self, target: *const u8) {
        self.raw(&[0xe8]);
        self.outside.push((self.bytes.len(), target));
        self.dword(0);
    }

    /// `ret`.
    pub fn ret(&mut self) {
        self.raw(&[0xc3]);
    }

    /// Loads an XMM register from the vCPU's state, aligned.
    pub fn load_xmm(&mut self, number: u8, offset: usize) {
        self.xmm(0x28, number, offset);
    }

    /// Stores an XMM register to the vCPU's state, aligned.
    pub fn store_xmm(&mut self, number: u8, offset: usize) {
        self.xmm(0x29, number, offset);
    }

    fn xmm(&mut self, opcode: u8, number: u8, offset: usize) {
        self.raw(&[
            0x65,
            0x40 | number >> 3 << 2,
            0x0f,
            opcode,
            (number & 7) << 3 | 4,
            0x25,
        ]);
        self.dword(offset as i32);
    }

    /// Loads a YMM register from the vCPU's state, aligned.
    pub fn load_ymm(&mut self, number: u8, offset: usize) {
        self.ymm(0x28, number, offset);
    }

    /// Stores a YMM register to the vCPU's state, aligned.
    pub fn store_ymm(&mut self, number: u8, offset: usize) {
        self.ymm(0x29, number, offset);
    }

    fn ymm(&mut self, opcode: u8, number: u8, offset: usize) {
        let vex = if number < 8 { 0xfc } else { 0x7c };
        self.raw(&[0x65, 0xc5, vex, opcode, (number & 7) << 3 | 4, 0x25]);
        self.dword(offset as i32);
    }

    /// Loads the lower half of a YMM register from the vCPU's state, aligned, and clears the upper one.
    pub fn load_low_half(&mut self, number: u8, offset: usize) {
        let vex = if number < 8 { 0xf8 } else { 0x78 };
        self.raw(&[0x65, 0xc5, vex, 0x28, (number & 7) << 3 | 4, 0x25]);
        self.dword(offset as i32);
    }

    /// Combines XMM0 with a part of the vCPU's state, aligned, by inclusive or.
    pub fn or_xmm0(&mut self, offset: usize) {
        self.raw(&[0x65, 0xc5, 0xf9, 0xeb, 0x04, 0x25]); // vpor xmm0, xmm0, gs:[]
        self.dword(offset as i32);
    }

    /// Sets ZF if XMM0 is zero.
    pub fn test_xmm0(&mut self) {
        self.raw(&[0xc4, 0xe2, 0x79, 0x17, 0xc0]); // vptest xmm0, xmm0
    }

    /// `vzeroupper`.
    pub fn vzeroupper(&mut self) {
        self.raw(&[0xc5, 0xf8, 0x77]);
    }

    /// `ldmxcsr` from the vCPU's state.
    pub fn load_mxcsr(&mut self, offset: usize) {
        self.raw(&[0x65, 0x0f, 0xae, 0x14, 0x25]);
        self.dword(offset as i32);
    }

    /// `stmxcsr` to the vCPU's state.
    pub fn store_mxcsr(&mut self, offset: usize) {
        self.raw(&[0x65, 0x0f, 0xae, 0x1c, 0x25]);
        self.dword(offset as i32);
    }

    /// Compares a byte of the vCPU's state.
    pub fn cmp_state8(&mut self, offset: usize, value: u8) {
        self.raw(&[0x65, 0x80, 0x3c, 0x25]);
        self.dword(offset as i32);
        self.raw(&[value]);
    }

    /// Sets a byte of the vCPU's state.
    pub fn set_state8(&mut self, offset: usize, value: u8) {
        self.raw(&[0x65, 0xc6, 0x04, 0x25]);
        self.dword(offset as i32);
        self.raw(&[value]);
    }

    /// `test reg, value`, 64 bits, sign-extended.
    pub fn test_imm(&mut self, reg: Reg, value: i32) {
        self.raw(&[0x48 | reg.high(), 0xf7, 0xc0 | reg.low()]);
        self.dword(value);
    }

    /// `jmp` to the address in a part of the vCPU's state.
    pub fn jump_state(&mut self, offset: usize) {
        self.raw(&[0x65, 0xff, 0x24, 0x25]);
        self.dword(offset as i32);
    }

    /// `jmp [memory]`.
    pub fn jump_memory(&mut self, memory: Memory) {
        self.with_memory(false, 0xff, 4, memory);
    }

    /// Makes 64 bits of the vCPU's state zero.
    pub fn clear_state(&mut self, offset: usize) {
        self.raw(&[0x65, 0x48, 0xc7, 0x04, 0x25]);
        self.dword(offset as i32);
        self.dword(0);
    }

    /// Compares 16 bits of the vCPU's state.
    pub fn cmp_state16(&mut self, offset: usize, value: u16) {
        self.raw(&[0x65, 0x66, 0x81, 0x3c, 0x25]);
        self.dword(offset as i32);
        self.raw(&value.to_le_bytes());
    }
}
