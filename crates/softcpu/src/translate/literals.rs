//! Constants: what a block reads at addresses relative to RIP.
//!
//! Floating-point code reads most of its constants from one page. Its host address is looked up for the block's first constant from
//! there, and kept in the state for those that follow.

use iced_x86::{Instruction, Register};

use super::assembler::{Memory, S0, S1, condition};
use super::lower::Lowering;
use super::memory::{Access, is_simple};
use super::{Single, state_at};
use crate::block::Owner;

/// What is known of the pages that a block reads constants from.
#[derive(Default)]
pub struct Literals {
    /// The pages of all such operands, counted from the block's.
    pages: Vec<i64>,
    /// The page whose host address is in the state, or zero where it could not be found.
    held: Option<i64>,
}

impl Literals {
    /// Before `singles` are lowered.
    pub fn of(singles: &[Single]) -> Self {
        let places = singles.iter().filter_map(|single| place(&single.instruction));
        Self {
            pages: places.map(|(page, _)| page).collect(),
            held: None,
        }
    }

    /// Before an instruction of `owner`: one with system semantics may flush the TLB.
    pub fn pass(&mut self, owner: &Owner) {
        if matches!(owner, Owner::System) {
            self.held = None;
        }
    }
}

/// The page of an operand relative to RIP, and the offset in it.
fn place(i: &Instruction) -> Option<(i64, u16)> {
    let plain = i.memory_base() == Register::RIP
        && i.memory_index() == Register::None
        && !matches!(i.memory_segment(), Register::FS | Register::GS)
        && is_simple(i);
    let at = i.memory_displacement64() as i64;
    plain.then_some((at >> 12, (at & 0xfff) as u16))
}

impl Lowering<'_> {
    /// Before a miss that passes over the look for `i`'s constant: those that follow must not find one from before.
    pub(super) fn forget_literal(&mut self, i: &Instruction) {
        if place(i).is_some_and(|(page, _)| self.literals.held != Some(page)) {
            self.code.clear_state(state_at::LITERALS);
            self.literals.held = None;
        }
    }

    /// Puts the host address of a constant of `size` bytes, which has to lie at a multiple of `alignment`, into `S0` and says true; or
    /// says that `i`'s operand is to be treated like others. Spares the flags.
    pub(super) fn literal(
        &mut self,
        i: &Instruction,
        index: usize,
        access: Access,
        size: usize,
        alignment: usize,
    ) -> bool {
        let Some((page, offset)) = place(i) else {
            return false;
        };
        let offset = usize::from(offset);
        if access != Access::Read || offset + size > 4096 || !offset.is_multiple_of(alignment) {
            return false;
        }
        if self.literals.held == Some(page) {
            self.spare_flags();
            let miss = self.miss(index);
            self.code.load_state(S0, state_at::LITERALS);
            self.code.cmp_imm(S0, 0);
            self.code.jump_if(condition::E, miss);
            self.code.lea(S0, Memory::at(S0, offset as i32));
            return true;
        }
        if self.literals.pages.iter().filter(|&&used| used == page).count() < 2 {
            return false;
        }
        self.spare_flags();
        self.code.clear_state(state_at::LITERALS);
        self.effective_address(i);
        self.look_up(index, Access::Read, size);
        self.code.lea(S1, Memory::at(S0, -(offset as i32)));
        self.code.store_state(S1, state_at::LITERALS);
        self.literals.held = Some(page);
        true
    }
}
