//! Near jumps, PUSH and POP.
//!
//! A jump inside the page is linked to its target's code. Others look their target up in the jump cache; what is not there
//! is left to the interpreter, which executes the whole instruction: nothing is committed before the cache was asked.

use std::mem::offset_of;

use iced_x86::{Code, Instruction, OpKind, Register};

use super::assembler::{Label, Memory, Reg, S0, S1, S2, condition};
use super::lower::Lowering;
use super::memory::{Access, is_simple};
use super::registers::{HOME, STACK, number};
use super::runtime::JUMP_CODE;
use super::{MAX_LENGTH, gpr_at, state_at};
use crate::block::{JUMPS, Jump, Outcome};
use crate::exec::{condition_code, control};
use crate::state::{Cpu, reg};

impl Lowering<'_> {
    /// A near jump, call or return. `None` leaves it to the interpreter.
    pub(super) fn control(&mut self, index: usize, i: &Instruction) -> Option<()> {
        let next = i.next_ip();
        match i.code() {
            Code::Jmp_rel8_64 | Code::Jmp_rel32_64 => {
                let target = near_target(i)?;
                self.flags_to_state();
                self.go(Outcome::Taken, target, Some(index));
            }
            Code::Call_rel32_64 | Code::Call_rm64 => self.call(index, i)?,
            Code::Jmp_rm64 => {
                self.target(index, i)?;
                self.jump_by_cache(Some(index));
            }
            Code::Retnq => self.ret(index, 0),
            Code::Retnq_imm16 => self.ret(index, i.immediate16().into()),
            _ if i.is_jcc_short_or_near() && i.op0_kind() == OpKind::NearBranch64 => {
                let target = near_target(i)?;
                self.flags_to_state();
                self.flags_to_host();
                let taken = self.code.label();
                self.code.jump_if(condition_code(i), taken);
                self.go(Outcome::Next, next, None);
                self.code.place(taken);
                self.go(Outcome::Taken, target, Some(index));
            }
            _ => return None,
        }
        Some(())
    }

    /// Goes on at `target`, relative to the page. The flags are in the state. `index` is the instruction, where it is one that jumps.
    pub(super) fn go(&mut self, outcome: Outcome, target: u64, index: Option<usize>) {
        if in_page(target) {
            self.link(outcome, target as u16, self.entry_of(target as u16));
        } else {
            self.page_address(target);
            self.jump_by_cache(index);
        }
    }

    /// Puts the address of something relative to the page into `S0`.
    pub(super) fn page_address(&mut self, offset: u64) {
        self.code.load_state(S0, gpr_at(reg::RIP_BASE));
        self.code.lea(S0, Memory::at(S0, offset as i32));
    }

    /// Puts where an indirect jump goes to into `S0`.
    pub(super) fn target(&mut self, index: usize, i: &Instruction) -> Option<()> {
        self.flags_to_state();
        if i.op0_kind() == OpKind::Memory {
            if !is_simple(i) {
                return None;
            }
            self.operand(i, index, Access::Read, 8);
            self.code.load(S0, Memory::at(S0, 0));
        } else {
            self.load_register(S0, i.op0_register())?;
        }
        Some(())
    }

    pub(super) fn load_register(&mut self, to: Reg, register: Register) -> Option<()> {
        let number = number(register)?;
        match HOME[number] {
            Some(home) => self.code.mov(to, home),
            None => self.code.load_state(to, gpr_at(number)),
        }
        Some(())
    }

    pub(super) fn adjust_stack(&mut self, by: i32) {
        self.code.lea(STACK, Memory::at(STACK, by));
    }

    /// Goes on at the address in `S0`, by the jump cache where that knows its code. The flags are in the state. `index` is the
    /// instruction, where it is one that jumps.
    pub(super) fn jump_by_cache(&mut self, index: Option<usize>) {
        match index {
            Some(index) => {
                self.find_by_cache(index);
                self.take_page();
                self.code.jump_memory(JUMP_CODE);
            }
            None => {
                let miss = self.code.label();
                self.search_cache(miss);
                self.take_page();
                self.code.jump_memory(JUMP_CODE);
                self.code.place(miss);
                self.code.store_state(S0, offset_of!(Cpu, rip));
                self.leave_for_engine();
            }
        }
    }

    /// Puts the jump cache's entry for the address in `S0` into `S1`. If there is none, instruction `index` is the interpreter's.
    pub(super) fn find_by_cache(&mut self, index: usize) {
        let miss = self.miss(index);
        self.search_cache(miss);
    }

    /// Puts the jump cache's entry for the address in `S0` into `S1`, or goes to `miss`. Uses `S2`.
    fn search_cache(&mut self, miss: Label) {
        const SHIFT: u8 = size_of::<Jump>().trailing_zeros() as u8;
        self.code.mov32(S1, S0);
        self.code.shr32(S1, 12);
        self.code.xor32(S1, S0);
        self.code.and32(S1, JUMPS as u32 - 1);
        self.code.shl32(S1, SHIFT);
        self.code.add_state(S1, state_at::JUMPS);
        self.code.cmp(S0, Memory::at(S1, Jump::LINEAR as i32));
        self.code.jump_if(condition::NE, miss);
        let hit = self.code.label();
        self.code.load(S2, Memory::at(S1, Jump::CONTEXT as i32));
        self.code.cmp_state(S2, state_at::CONTEXT_LOCAL);
        self.code.jump_if(condition::E, hit);
        self.code.cmp_state(S2, state_at::CONTEXT_GLOBAL);
        self.code.jump_if(condition::NE, miss);
        self.code.place(hit);
    }

    /// Makes the page of the address in `S0` the one that executes.
    pub(super) fn take_page(&mut self) {
        self.code.store_state(S0, offset_of!(Cpu, rip));
        self.code.and_simm32(S0, -4096);
        self.code.store_state(S0, gpr_at(reg::RIP_BASE));
    }

    /// PUSH, POP, LEAVE with 64-bit operands. `None` leaves it to the interpreter.
    pub(super) fn stack(&mut self, index: usize, i: &Instruction) -> Option<()> {
        match i.code() {
            Code::Push_r64 | Code::Pushq_imm8 | Code::Pushq_imm32 => {
                let register = i.op0_register();
                self.flags_to_state();
                self.stack_slot(index, -8, Access::Write);
                if i.code() == Code::Push_r64 {
                    self.load_register(S1, register)?;
                    self.code.store(Memory::at(S0, 0), S1);
                } else {
                    let value = i32::try_from(i.immediate(0) as i64).ok()?;
                    self.code.store_imm(Memory::at(S0, 0), value);
                }
                self.adjust_stack(-8);
            }
            Code::Push_rm64 if i.op0_kind() == OpKind::Memory && is_simple(i) => {
                self.operand(i, index, Access::Read, 8);
                self.code.load(S0, Memory::at(S0, 0));
                self.code.store_state(S0, state_at::KEPT);
                self.stack_slot(index, -8, Access::Write);
                self.code.load_state(S1, state_at::KEPT);
                self.code.store(Memory::at(S0, 0), S1);
                self.adjust_stack(-8);
            }
            Code::Pop_r64 => {
                let number = number(i.op0_register())?;
                self.flags_to_state();
                self.stack_slot(index, 0, Access::Read);
                self.adjust_stack(8);
                match HOME[number] {
                    Some(home) => self.code.load(home, Memory::at(S0, 0)),
                    None => {
                        self.code.load(S1, Memory::at(S0, 0));
                        self.code.store_state(S1, gpr_at(number));
                    }
                }
            }
            Code::Leaveq => {
                let frame = HOME[reg::RBP]?;
                self.flags_to_state();
                self.code.mov(S0, frame);
                self.look_up(index, Access::Read, 8);
                self.code.lea(STACK, Memory::at(frame, 8));
                self.code.load(frame, Memory::at(S0, 0));
            }
            _ => return None,
        }
        Some(())
    }
}

/// Target of a direct jump relative to the page, if 32 bits hold it.
pub fn near_target(i: &Instruction) -> Option<u64> {
    let target = control::relative(i);
    i32::try_from(target as i64).ok().map(|_| target)
}

/// True if what begins at `target`, relative to the page, lies in the page as a whole. What reaches into the next page is entered by the
/// jump cache only, which knows both.
pub fn in_page(target: u64) -> bool {
    target <= (4096 - MAX_LENGTH) as u64
}
