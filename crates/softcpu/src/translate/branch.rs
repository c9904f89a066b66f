//! Near jumps, PUSH and POP.
//!
//! A jump inside the region is one of the host. Another inside the page is linked to its target's code. Those to other pages look their
//! target up in the jump cache.

use std::mem::offset_of;

use iced_x86::{Code, Instruction, OpKind, Register};

use super::assembler::{Assembler, Label, Memory, RSP, Reg, S0, S1, S2, condition};
use super::flags::Flags;
use super::lower::{Detour, Known, Lowering};
use super::memory::{Access, is_simple};
use super::registers::{HOME, STACK, number};
use super::runtime::JUMP_CODE;
use super::{MAX_LENGTH, gpr_at, state_at};
use crate::block::{GRAIN, JUMPS, Jump, Outcome};
use crate::exec::{condition_code, control};
use crate::state::{Cpu, reg};

impl Lowering<'_> {
    /// A near jump, call or return. `None` leaves it to the interpreter.
    pub(super) fn control(&mut self, index: usize, i: &Instruction) -> Option<()> {
        let next = i.next_ip();
        match i.code() {
            Code::Jmp_rel8_64 | Code::Jmp_rel32_64 => {
                let target = near_target(i)?;
                self.go(Outcome::Taken, target);
            }
            Code::Call_rel32_64 | Code::Call_rm64 => self.call(index, i)?,
            Code::Jmp_rm64 => {
                self.target(index, i)?;
                self.find_by_cache(index);
                self.count(i32::from(self.uncounted) + 1);
                self.take_page();
                self.code.jump_memory(JUMP_CODE);
            }
            Code::Retnq => self.ret(index, 0),
            Code::Retnq_imm16 => self.ret(index, i.immediate16().into()),
            _ if i.is_jcc_short_or_near() && i.op0_kind() == OpKind::NearBranch64 => {
                let target = near_target(i)?;
                self.flags_to_host();
                let taken = self.detour(Outcome::Taken, target);
                self.code.jump_if(condition_code(i), taken);
                self.go(Outcome::Next, next);
            }
            _ => return None,
        }
        Some(())
    }

    /// PAUSE. Once in a while the interpreter's, which gives the host's CPU away.
    pub(super) fn pause(&mut self, index: usize, i: &Instruction) {
        self.spare_flags();
        let miss = self.miss(index);
        self.code.sub_state_imm(offset_of!(Cpu, patience), 1);
        self.code.jump_if(condition::L, miss);
        self.code.raw(&[0xf3, 0x90]);
        self.go(Outcome::Next, i.next_ip());
    }

    /// Goes on at `target`, relative to the page, after the current instruction.
    pub(super) fn go(&mut self, outcome: Outcome, target: u64) {
        self.uncounted += 1;
        match self.inside(target) {
            Some(part) => {
                self.arrive(part, target as u16);
                if part != self.part + 1 {
                    self.code.jump(self.places[part].label);
                }
            }
            None => self.go_outside(outcome, target),
        }
    }

    /// A label from which it goes on at `target`, relative to the page, after the current instruction. The flags are as they are now.
    fn detour(&mut self, outcome: Outcome, target: u64) -> Label {
        let mut known = self.known();
        known.uncounted += 1;
        if let Some(part) = self.inside(target) {
            // It may be lowered before the detour is.
            self.meet(part, &known);
            if self.is_plain(part, &known) {
                return self.places[part].label;
            }
        }
        let label = self.code.label();
        self.detours.push(Detour {
            label,
            outcome,
            target,
            part: self.part,
            known,
        });
        label
    }

    /// The code of the detours.
    pub(super) fn take_detours(&mut self) {
        for detour in std::mem::take(&mut self.detours) {
            self.code.place(detour.label);
            self.resume(detour.known);
            self.part = detour.part;
            match self.inside(detour.target) {
                Some(part) => {
                    self.arrive(part, detour.target as u16);
                    self.code.jump(self.places[part].label);
                }
                None => self.go_outside(detour.outcome, detour.target),
            }
        }
    }

    /// The part of the region at `target`, relative to the page.
    fn inside(&self, target: u64) -> Option<usize> {
        in_page(target)
            .then(|| self.region.part_at(target as u16))
            .flatten()
    }

    /// True if `part` is reached from here only, and later in the code.
    fn is_only_way(&self, part: usize) -> bool {
        self.region.parts[part].jumps == 1 && !self.places[part].placed
    }

    /// What is known at `part`, to which a jump leads where `known` is known.
    fn meet(&mut self, part: usize, known: &Known) -> Known {
        let arrival = if self.is_only_way(part) {
            *known
        } else {
            self.places[part].known.unwrap_or_else(|| Known {
                uncounted: known.uncounted,
                ..self.arrival(part)
            })
        };
        self.places[part].known = Some(arrival);
        arrival
    }

    /// True if a jump to `part` with what is known is a jump and nothing else.
    fn is_plain(&self, part: usize, known: &Known) -> bool {
        let place = &self.places[part];
        self.is_only_way(part)
            || !place.placed
                && place.known.is_some_and(|arrival| {
                    arrival.uncounted == known.uncounted
                        && (arrival.flags == Flags::Dead || matches!(known.flags, Flags::State | Flags::Both))
                })
    }

    /// Before a jump to `part`, which begins at page offset `target`.
    fn arrive(&mut self, part: usize, target: u16) {
        let only_way = self.is_only_way(part);
        let known = self.known();
        let arrival = self.meet(part, &known);
        if only_way {
            return;
        }
        if arrival.flags != Flags::Dead {
            self.flags_to_state();
        }
        let more = i32::from(self.uncounted) - i32::from(arrival.uncounted);
        if self.places[part].placed {
            self.spare_flags();
            self.look(target, more);
        } else {
            self.count(more);
        }
    }

    /// Leaves the region for `target`, relative to the page.
    fn go_outside(&mut self, outcome: Outcome, target: u64) {
        self.flags_to_state();
        self.spare_flags();
        self.count(self.uncounted.into());
        if in_page(target) {
            self.link(outcome, target as u16, self.entry_of(target as u16));
        } else {
            self.page_address(target);
            self.jump_by_cache();
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
        self.spare_flags();
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

    /// Goes on at the address in `S0`, by the jump cache where that knows its code. The flags are in the state.
    pub(super) fn jump_by_cache(&mut self) {
        self.code.call_outside(self.stubs.find);
        self.code.jump_memory(JUMP_CODE);
    }

    /// Puts the jump cache's entry for the address in `S0` into `S1`. If there is none, instruction `index` is the interpreter's.
    pub(super) fn find_by_cache(&mut self, index: usize) {
        let miss = self.miss(index);
        search_cache(self.code, miss);
    }

    /// Makes the page of the address in `S0` the one that executes.
    pub(super) fn take_page(&mut self) {
        take_page(self.code);
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

/// Puts the jump cache's entry for the address in `S0` into `S1`, or goes to `miss`. Uses `S2`.
pub fn search_cache(code: &mut Assembler, miss: Label) {
    const SHIFT: u8 = (size_of::<Jump>().trailing_zeros() - GRAIN) as u8;
    code.mov32(S1, S0);
    code.shr32(S1, 12 - GRAIN as u8);
    code.xor32(S1, S0);
    code.xor_state(S1, state_at::SALT);
    code.and32(S1, (JUMPS as u32 - 1) << GRAIN);
    code.shl32(S1, SHIFT);
    code.add_state(S1, state_at::JUMPS);
    code.cmp(S0, Memory::at(S1, Jump::LINEAR as i32));
    code.jump_if(condition::NE, miss);
    let hit = code.label();
    code.load(S2, Memory::at(S1, Jump::CONTEXT as i32));
    code.cmp_state(S2, state_at::CONTEXT_LOCAL);
    code.jump_if(condition::E, hit);
    code.cmp_state(S2, state_at::CONTEXT_GLOBAL);
    code.jump_if(condition::NE, miss);
    code.place(hit);
}

/// Writes the stub that finds the jump cache's entry for the address in `S0`, puts it into `S1` and makes the address's page the one
/// that executes. Where there is none, it leaves translated code by `untranslated`.
pub fn emit_find(code: &mut Assembler, untranslated: Label) {
    let unknown = code.label();
    search_cache(code, unknown);
    take_page(code);
    code.ret();
    code.place(unknown);
    code.lea(RSP, Memory::at(RSP, 8));
    code.store_state(S0, offset_of!(Cpu, rip));
    code.jump(untranslated);
}

/// Makes the page of the address in `S0` the one that executes.
pub fn take_page(code: &mut Assembler) {
    code.store_state(S0, offset_of!(Cpu, rip));
    code.and_simm32(S0, -4096);
    code.store_state(S0, gpr_at(reg::RIP_BASE));
}
