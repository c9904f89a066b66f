//! x87 instructions, on the host's x87 registers.
//!
//! They hold the guest's while it uses them (see [`crate::native`]). An instruction is copied where they do so already, and where the
//! control word masks every exception; else it is the interpreter's, which loads them.

use std::mem::offset_of;

use iced_x86::Instruction;

use super::assembler::{Memory, S0, S1, condition};
use super::gpr_at;
use super::lower::Lowering;
use super::memory::segment_selector_at;
use crate::native::{NativeOp, NativeState, Pointers};
use crate::state::{Cpu, reg, seg};

const NATIVE: usize = offset_of!(Cpu, native);
const POINTERS: usize = NATIVE + NativeState::POINTERS;

impl Lowering<'_> {
    /// Leaves instruction `index` to the interpreter unless the host's x87 registers hold the guest's.
    pub(super) fn need_x87(&mut self, index: usize, i: &Instruction) {
        self.forget_literal(i);
        self.spare_flags();
        let miss = self.miss(index);
        self.code
            .cmp_state16(NATIVE + NativeState::READY, NativeState::IS_READY);
        self.code.jump_if(condition::NE, miss);
    }

    /// Remembers where an x87 instruction was and what it accessed, if it does so. Changes no flags.
    pub(super) fn note_x87(&mut self, i: &Instruction, op: &NativeOp) {
        let Some((opcode, data)) = op.noted() else {
            return;
        };
        self.code.load_state(S1, gpr_at(reg::RIP_BASE));
        self.code.lea(S1, Memory::at(S1, i.ip() as i32));
        self.code
            .store_state(S1, POINTERS + offset_of!(Pointers, instruction));
        self.code
            .set_state16(POINTERS + offset_of!(Pointers, opcode), opcode);
        self.code.load_state16(S1, segment_selector_at(seg::CS));
        self.code
            .store_state16(S1, POINTERS + offset_of!(Pointers, code_segment));
        if let Some(segment) = data {
            self.effective_address(i);
            self.code.store_state(S0, POINTERS + offset_of!(Pointers, data));
            self.code.load_state16(S1, segment_selector_at(segment));
            self.code
                .store_state16(S1, POINTERS + offset_of!(Pointers, data_segment));
        }
    }
}
