//! The guest's stack: a window on the page that it is in, and PUSH and POP.
//!
//! An access relative to RSP is probably in the page of the one before. That page's addresses are kept in the state, where looking takes
//! less than in the TLB. Out of the way the window slides to another page, by code that all regions share.

use std::mem::offset_of;

use iced_x86::{Code, Instruction, OpKind};

use super::assembler::{Assembler, Label, Memory, S0, S1, S2, condition};
use super::lower::Lowering;
use super::memory::{Access, add_addend, find, is_simple, table_at};
use super::registers::{HOME, STACK, number};
use super::{gpr_at, state_at};
use crate::mmu::tlb::Entry;
use crate::mmu::{Mmu, Window};
use crate::state::{Cpu, reg};

/// Bytes of a stack slot.
pub const SLOT: i32 = 8;

pub(super) const WINDOW_TAG: usize = offset_of!(Cpu, mmu) + Mmu::WINDOW + offset_of!(Window, tag);
pub(super) const WINDOW_ADDEND: usize = offset_of!(Cpu, mmu) + Mmu::WINDOW + offset_of!(Window, addend);
pub(super) const WINDOW_LIMIT: usize = offset_of!(Cpu, mmu) + Mmu::WINDOW + offset_of!(Window, limit);

/// Where the stubs are that slide the window, for an access of 1, 2, 4 or 8 bytes.
#[derive(Debug, Clone, Copy)]
pub struct SlideStubs {
    read: [*const u8; 4],
    write: [*const u8; 4],
}

impl SlideStubs {
    /// The stub for an access of `size` bytes.
    pub fn of(&self, access: Access, size: usize) -> *const u8 {
        let at = size.trailing_zeros() as usize & 3;
        match access {
            Access::Read => self.read[at],
            Access::Write => self.write[at],
        }
    }

    /// Writes the stubs; their addresses count from the start of `code` until [`SlideStubs::at`].
    pub fn emit(code: &mut Assembler) -> Self {
        let mut stubs = |access| {
            [0, 1, 2, 3].map(|size| {
                let start = code.len();
                emit_slide(code, access, 1 << size);
                std::ptr::without_provenance(start)
            })
        };
        Self {
            read: stubs(Access::Read),
            write: stubs(Access::Write),
        }
    }

    /// The same for code that was put to `base`.
    pub fn at(self, base: *const u8) -> Self {
        let moved = |stubs: [*const u8; 4]| stubs.map(|stub| base.wrapping_add(stub.addr()));
        Self {
            read: moved(self.read),
            write: moved(self.write),
        }
    }
}

/// Writes a stub that makes the page of the linear address in `S0` the stack's window, if it may be read and written plainly there, and
/// turns the address into the host's. It returns with ZF set if the access may be done there.
fn emit_slide(code: &mut Assembler, access: Access, size: i32) {
    let of_entry = |offset: usize| Memory::at(S1, table_at(Access::Write) + offset as i32);
    let narrow = code.label();
    find(code, Access::Write);
    code.cmp_imm(S2, 4096 - SLOT);
    code.jump_if(condition::A, narrow);
    code.load(S2, of_entry(offset_of!(Entry, tag)));
    code.store_state(S2, WINDOW_TAG);
    code.load(S2, of_entry(offset_of!(Entry, addend)));
    code.store_state(S2, WINDOW_ADDEND);
    code.add_register(S0, S2);
    code.mov_imm32(S2, 4096 - SLOT as u32 + 1);
    code.store_state(S2, WINDOW_LIMIT);
    code.xor32(S2, S2);
    code.ret();
    code.place(narrow);
    if access == Access::Read || size < SLOT {
        // A page that cannot be written plainly is no window, but may be read; and less than 8 bytes may lie at a page's end.
        let fails = code.label();
        find(code, access);
        code.cmp_imm(S2, 4096 - size);
        code.jump_if(condition::A, fails);
        add_addend(code, access);
        code.xor32(S2, S2);
        code.place(fails);
    }
    code.ret();
}

/// A piece of code out of the way that moves the window.
pub struct Slide {
    label: Label,
    /// Where the host address is expected in `S0`.
    back: Label,
    /// Has the interpreter execute the instruction.
    miss: Label,
    access: Access,
    size: usize,
}

impl Lowering<'_> {
    /// Puts the host address of the 8 bytes at RSP + `disp` into `S0`. Spares the flags.
    pub fn stack_slot(&mut self, index: usize, disp: i32, access: Access) {
        self.code.lea(S0, Memory::at(STACK, disp));
        self.stack_window(index, access, SLOT as usize);
    }

    /// Turns the linear address in `S0`, of at most 8 bytes that are probably in the page that the stack was last accessed in, into a
    /// host address. Uses `S2`; `S1` too where the page is another. Spares the flags.
    pub(super) fn stack_window(&mut self, index: usize, access: Access, size: usize) {
        self.spare_flags();
        let (slide, back) = (self.code.label(), self.code.label());
        let miss = self.miss(index);
        self.code.mov(S2, S0);
        self.code.xor_state(S2, WINDOW_TAG);
        self.code.cmp_state(S2, WINDOW_LIMIT);
        self.code.jump_if(condition::AE, slide);
        self.code.add_state(S0, WINDOW_ADDEND);
        self.code.place(back);
        self.slides.push(Slide {
            label: slide,
            back,
            miss,
            access,
            size,
        });
    }

    /// The code that [`Lowering::stack_window`] leads to.
    pub(super) fn slides_out_of_the_way(&mut self) {
        for slide in std::mem::take(&mut self.slides) {
            self.code.place(slide.label);
            self.code
                .call_outside(self.stubs.slides.of(slide.access, slide.size));
            self.code.jump_if(condition::NE, slide.miss);
            self.code.jump(slide.back);
        }
    }

    /// PUSH, POP, LEAVE with 64-bit operands. `None` leaves it to the interpreter.
    pub(super) fn stack(&mut self, index: usize, i: &Instruction) -> Option<()> {
        match i.code() {
            Code::Push_r64 | Code::Pushq_imm8 | Code::Pushq_imm32 => {
                let register = i.op0_register();
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
