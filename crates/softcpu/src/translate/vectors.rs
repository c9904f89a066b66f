//! Whose values the host's vector registers hold.
//!
//! Translated code enters with the guest's vector registers and MXCSR in the vCPU's state. The first instruction of a block that
//! needs them looks whether they are in the host's already and loads them otherwise; they stay there from block to block until
//! translated code is left or the interpreter is called. The XMM registers alone are loaded where that is enough, so that
//! instructions of the legacy encoding do not wait for upper halves that nobody uses.

use std::mem::offset_of;

use iced_x86::Instruction;

use super::assembler::{Assembler, Label, Memory, S0, S1, S2, condition};
use super::lower::Lowering;
use super::memory::{Access, is_simple};
use super::state_at;
use crate::native::{InPlace, NativeState};
use crate::state::Cpu;

/// What the host's vector registers hold of the guest's, while a block is translated and in [`state_at::VECTORS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Vectors {
    /// Nothing for certain.
    Away = 0,
    /// XMM registers and MXCSR at least.
    Xmm = 1,
    /// YMM registers and MXCSR.
    Ymm = 2,
}

/// Shared code that moves the registers.
#[derive(Debug, Clone, Copy)]
pub struct VectorStubs {
    /// Called to load the XMM registers.
    load_xmm: *const u8,
    /// Called to load the YMM registers, also where the XMM registers are in the host's already.
    load_ymm: *const u8,
}

/// Offset of vector register `number` in [`Cpu`].
const fn vector_at(number: usize) -> usize {
    offset_of!(Cpu, vec) + 32 * number
}

/// Bytes of half a YMM register.
const HALF: usize = 16;
const HOST_MXCSR: usize = offset_of!(Cpu, native) + offset_of!(NativeState, host_mxcsr);
const MXCSR: usize = offset_of!(Cpu, mxcsr);

/// Places of the stubs in the code that [`emit`] wrote.
pub struct Places {
    load_xmm: usize,
    load_ymm: usize,
}

impl Places {
    /// The stubs of code that begins at `at`.
    pub fn at(&self, at: *const u8) -> VectorStubs {
        VectorStubs {
            load_xmm: at.wrapping_add(self.load_xmm),
            load_ymm: at.wrapping_add(self.load_ymm),
        }
    }
}

/// Writes the loading stubs. They change flags, but no general registers.
pub fn emit(code: &mut Assembler) -> Places {
    let avx = std::is_x86_feature_detected!("avx");
    let load_xmm = code.len();
    if avx {
        code.vzeroupper();
    }
    for number in 0..16 {
        code.load_xmm(number, vector_at(number.into()));
    }
    code.load_mxcsr(MXCSR);
    code.set_state8(state_at::VECTORS, Vectors::Xmm as u8);
    code.ret();

    let load_ymm = code.len();
    if avx {
        store(code);
        // Upper halves that are all zero stay untouched: once they were written, even with zeros, instructions of the legacy
        // encoding become many times slower on Intel's processors, until the next VZEROUPPER.
        code.load_low_half(0, vector_at(0) + HALF);
        for number in 1..16 {
            code.or_xmm0(vector_at(number) + HALF);
        }
        code.test_xmm0();
        let (clean, loaded) = (code.label(), code.label());
        code.jump_if(condition::E, clean);
        for number in 0..16 {
            code.load_ymm(number, vector_at(number.into()));
        }
        code.jump(loaded);
        code.place(clean);
        code.vzeroupper();
        for number in 0..16 {
            code.load_low_half(number, vector_at(number.into()));
        }
        code.place(loaded);
        code.load_mxcsr(MXCSR);
        code.set_state8(state_at::VECTORS, Vectors::Ymm as u8);
    }
    code.ret();
    Places { load_xmm, load_ymm }
}

/// Writes code that brings the registers back into the state, if the host's hold them. Changes flags.
pub fn store(code: &mut Assembler) {
    let done = code.label();
    let rest = code.label();
    code.cmp_state8(state_at::VECTORS, Vectors::Xmm as u8);
    code.jump_if(condition::B, done);
    if std::is_x86_feature_detected!("avx") {
        let xmm = code.label();
        code.jump_if(condition::E, xmm);
        for number in 0..16 {
            code.store_ymm(number, vector_at(number.into()));
        }
        code.vzeroupper();
        code.jump(rest);
        code.place(xmm);
    }
    for number in 0..16 {
        code.store_xmm(number, vector_at(number.into()));
    }
    code.place(rest);
    code.store_mxcsr(MXCSR);
    code.load_mxcsr(HOST_MXCSR);
    code.set_state8(state_at::VECTORS, Vectors::Away as u8);
    code.place(done);
}

/// A piece of code out of the way that loads the registers.
pub struct Load {
    label: Label,
    back: Label,
    wanted: Vectors,
}

impl Lowering<'_> {
    /// Makes sure that the host's vector registers hold what `in_place` needs.
    pub(super) fn need_vectors(&mut self, in_place: InPlace) {
        let wanted = match in_place {
            InPlace::Sse => Vectors::Xmm,
            InPlace::Avx => Vectors::Ymm,
            InPlace::General | InPlace::X87 | InPlace::Nothing => return,
        };
        if self.vectors >= wanted {
            return;
        }
        self.spare_flags();
        let (label, back) = (self.code.label(), self.code.label());
        self.code.cmp_state8(state_at::VECTORS, wanted as u8);
        self.code.jump_if(condition::B, label);
        self.code.place(back);
        self.loads.push(Load { label, back, wanted });
        self.vectors = wanted;
    }

    /// LDMXCSR, where it may be executed. `None` leaves it to the interpreter, as does a value that leaves an exception unmasked or has reserved bits.
    pub(super) fn load_mxcsr(&mut self, index: usize, i: &Instruction) -> Option<()> {
        const MASKS: u32 = 0x1f80;
        const RESERVED: u32 = 0xffff_0000;
        if !is_simple(i) {
            return None;
        }
        self.need_vectors(InPlace::Sse);
        self.operand(i, index, Access::Read, 4);
        let miss = self.miss(index);
        self.code.load32(S1, Memory::at(S0, 0));
        self.code.mov32(S2, S1);
        self.code.and32(S2, MASKS | RESERVED);
        self.code.cmp_imm(S2, MASKS as i32);
        self.code.jump_if(condition::NE, miss);
        self.code.store_state32(S1, MXCSR);
        self.code.load_mxcsr(MXCSR);
        Some(())
    }

    /// Calls what loads `wanted`.
    pub(super) fn load_vectors(&mut self, wanted: Vectors) {
        match wanted {
            Vectors::Away => {}
            Vectors::Xmm => self.code.call_outside(self.stubs.vectors.load_xmm),
            Vectors::Ymm => self.code.call_outside(self.stubs.vectors.load_ymm),
        }
    }

    /// The code that [`Lowering::need_vectors`] leads to.
    pub(super) fn vectors_out_of_the_way(&mut self) {
        for load in std::mem::take(&mut self.loads) {
            self.code.place(load.label);
            self.load_vectors(load.wanted);
            self.code.jump(load.back);
        }
    }
}
