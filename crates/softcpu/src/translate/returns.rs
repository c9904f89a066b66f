//! Calls and returns.
//!
//! A guest's call is a call of the host too: below the host's return address lies the guest's. A guest's return compares the address
//! that it finds in the guest's memory with that, and returns on the host, whose own prediction knows where to. Where they differ
//! (another stack, a longer jump back) the return goes through the jump cache and the return stack starts again, as it does whenever
//! translated code is left, and when it is too deep. So nothing on it is older than the last change of the mode, of the address space
//! or of the code cache.

use iced_x86::{Code, Instruction};

use super::assembler::{Assembler, Label, Memory, RSP, S0, S1, S2, condition};
use super::branch::{in_page, near_target, search_cache, take_page};
use super::flags::Flags;
use super::lower::{Done, Lowering};
use super::memory::Access;
use super::registers::STACK;
use super::runtime::JUMP_CODE;
use super::vectors::Vectors;
use super::{Entry, gpr_at, state_at};
use crate::block::Outcome;
use crate::state::reg;

/// Bytes of the host's stack that return addresses may take.
const DEPTH: i32 = 4096;

/// Writes the bottom of the return stack: a return that reaches it goes to `bottom`, whose address is put into `S0`.
pub fn begin(code: &mut Assembler, bottom: Label) {
    code.lea_label(S0, bottom);
    code.push_imm(0);
    code.push(S0);
    code.store_state(RSP, state_at::RETURN_STACK);
    code.lea(S0, Memory::at(RSP, -DEPTH));
    code.store_state(S0, state_at::RETURN_LIMIT);
}

/// Bytes that [`begin`] pushed.
pub const BOTTOM: u8 = 16;

/// Starts the return stack again.
pub fn forget(code: &mut Assembler) {
    code.load_state(RSP, state_at::RETURN_STACK);
}

impl Lowering<'_> {
    /// A near call with 64-bit operands. `None` leaves it to the interpreter.
    pub(super) fn call(&mut self, index: usize, i: &Instruction) -> Option<()> {
        let next = i.next_ip();
        if i.code() == Code::Call_rel32_64 {
            let target = near_target(i)?;
            self.flags_to_state();
            self.push_return(index, next);
            let counted = i32::from(self.uncounted) + 1;
            self.count(counted);
            if in_page(target) {
                self.adjust_stack(-8);
                self.bound_depth();
                self.code.push(S1);
                self.link_call(target as u16);
            } else {
                self.code.push(S1);
                let between = target.wrapping_sub(next) as i64;
                self.code.lea(S0, Memory::at(S1, i32::try_from(between).ok()?));
                let miss = self.miss_after(index, Done { counted, moved: 0 });
                self.code.lea_label(S1, miss);
                self.code.call_outside(self.stubs.find_callee);
                self.code.call_memory(JUMP_CODE);
            }
        } else {
            self.target(index, i)?;
            self.need_canonical(index);
            self.code.store_state(S0, state_at::KEPT);
            self.push_return(index, next);
            self.code.load_state(S0, state_at::KEPT);
            self.call_by_cache(index, next);
        }
        self.after_call(next);
        Some(())
    }

    /// Leaves a call of the address in `S0` to the interpreter if it faults, as no return address may be written then.
    fn need_canonical(&mut self, index: usize) {
        let miss = self.miss(index);
        self.code.mov(S1, S0);
        self.code.sar(S1, 47);
        self.code.lea(S1, Memory::at(S1, 1));
        self.code.cmp_imm(S1, 1);
        self.code.jump_if(condition::A, miss);
    }

    /// Writes the return address below the stack's top, which stays where it is, and leaves it in `S1`.
    fn push_return(&mut self, index: usize, next: u64) {
        self.stack_slot(index, -8, Access::Write);
        self.code.load_state(S1, gpr_at(reg::RIP_BASE));
        self.code.lea(S1, Memory::at(S1, next as i32));
        self.code.store(Memory::at(S0, 0), S1);
    }

    /// Calls the address in `S0` through the jump cache.
    fn call_by_cache(&mut self, index: usize, next: u64) {
        self.find_by_cache(index);
        self.count(i32::from(self.uncounted) + 1);
        self.code.load_state(S2, gpr_at(reg::RIP_BASE));
        self.code.lea(S2, Memory::at(S2, next as i32));
        self.take_page();
        self.adjust_stack(-8);
        self.bound_depth();
        self.code.push(S2);
        self.code.call_memory(JUMP_CODE);
    }

    /// Starts the return stack again if it is too deep.
    fn bound_depth(&mut self) {
        let fits = self.code.label();
        self.code.cmp_state(RSP, state_at::RETURN_LIMIT);
        self.code.jump_if(condition::A, fits);
        forget(self.code);
        self.code.place(fits);
    }

    /// Where a return comes to, with the guest's return address in `S0`.
    fn after_call(&mut self, next: u64) {
        self.code.lea(RSP, Memory::at(RSP, 8));
        self.flags = Flags::State;
        self.vectors = Vectors::Away;
        self.uncounted = 0;
        if in_page(next) {
            self.code.and_simm32(S0, -4096);
            self.code.store_state(S0, gpr_at(reg::RIP_BASE));
            self.link(Outcome::Next, next as u16, Entry::Returned);
        } else {
            self.jump_by_cache();
        }
    }

    /// A near return with 64-bit operands that takes `more` bytes of arguments with it.
    pub(super) fn ret(&mut self, index: usize, more: i32) {
        self.flags_to_state();
        self.stack_slot(index, 0, Access::Read);
        self.return_to(index, Memory::at(S0, 0), more);
    }

    /// Returns to the address in `from`, on the host's memory, where RSP points to. The flags are in the state.
    pub(super) fn return_to(&mut self, index: usize, from: Memory, more: i32) {
        let done = Done {
            counted: i32::from(self.uncounted) + 1,
            moved: 8 + more,
        };
        self.code.load(S0, from);
        self.count(done.counted);
        self.adjust_stack(done.moved);
        let label = self.code.label();
        let miss = self.miss_after(index, done);
        self.code.cmp(S0, Memory::at(RSP, 8));
        self.code.jump_if(condition::NE, label);
        self.code.ret();
        self.far_returns.push(FarReturn { label, miss });
    }

    /// The code of returns to elsewhere than the return stack says.
    pub(super) fn far_returns_out_of_the_way(&mut self) {
        for far in std::mem::take(&mut self.far_returns) {
            self.code.place(far.label);
            self.code.lea_label(S1, far.miss);
            self.code.call_outside(self.stubs.find_caller);
            forget(self.code);
            self.code.jump_memory(JUMP_CODE);
        }
    }
}

/// A return to elsewhere than the return stack says.
pub struct FarReturn {
    label: Label,
    /// Where nothing is known of the address either.
    miss: Label,
}

/// Writes the stub that finds the jump cache's entry for a call of the address in `S0`, puts it into `S1` and makes everything ready for
/// the host's call; below the host's return address lies the guest's. Where there is no entry, it goes to the address in `S1`.
pub fn emit_find_callee(code: &mut Assembler) {
    let (unknown, deep) = (code.label(), code.label());
    code.store_state(S1, state_at::KEPT);
    search_cache(code, unknown);
    take_page(code);
    code.lea(STACK, Memory::at(STACK, -8));
    code.cmp_state(RSP, state_at::RETURN_LIMIT);
    code.jump_if(condition::BE, deep);
    code.ret();
    code.place(deep);
    code.load(S0, Memory::at(RSP, 0));
    code.load(S2, Memory::at(RSP, 8));
    forget(code);
    code.push(S2);
    code.push(S0);
    code.ret();
    code.place(unknown);
    code.lea(RSP, Memory::at(RSP, 16));
    code.jump_state(state_at::KEPT);
}

/// The same for a return, which finds nothing of the guest on the host's stack.
pub fn emit_find_caller(code: &mut Assembler) {
    let unknown = code.label();
    code.store_state(S1, state_at::KEPT);
    search_cache(code, unknown);
    take_page(code);
    code.ret();
    code.place(unknown);
    code.lea(RSP, Memory::at(RSP, 8));
    code.jump_state(state_at::KEPT);
}
