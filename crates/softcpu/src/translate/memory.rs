//! Memory operands: an address, a look into the TLB, and what happens if that is not enough.

use std::mem::offset_of;

use iced_x86::{Instruction, Register};

use super::assembler::{Assembler, Label, Memory, S0, S1, S2, condition};
use super::gpr_at;
use super::lower::Lowering;
use super::registers::{HOME, STACK, number};
use crate::mmu::tlb::{ENTRIES, Entry, Tables};
use crate::mmu::{Mmu, Window};
use crate::state::{Cpu, reg, seg};

/// What an access needs of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A load.
    Read,
    /// A store, or both.
    Write,
}

/// True if the translator can form the address of `i`'s memory operand.
pub fn is_simple(i: &Instruction) -> bool {
    let register =
        |register: Register| matches!(register, Register::None | Register::RIP) || register.is_gpr64();
    let displacement = i.memory_displacement64();
    let absolute = i.memory_base() == Register::None && i.memory_index() == Register::None;
    register(i.memory_base())
        && (i.memory_index() == Register::None || i.memory_index().is_gpr64())
        && i32::try_from(displacement as i64).is_ok()
        // Without registers a displacement of 4 bytes may be one under an address-size prefix.
        && (!absolute || i.memory_displ_size() == 8)
}

impl Lowering<'_> {
    /// Puts the effective address of `i`'s memory operand into `S0`, without a segment's base. Uses `S1` and `S2`, changes no flags.
    pub fn effective_address(&mut self, i: &Instruction) {
        let disp = i.memory_displacement64() as i32;
        let base = match i.memory_base() {
            Register::None => None,
            Register::RIP => {
                self.code.load_state(S1, gpr_at(reg::RIP_BASE));
                Some(S1)
            }
            register => number(register).map(|number| {
                HOME[number].unwrap_or_else(|| {
                    self.code.load_state(S1, gpr_at(number));
                    S1
                })
            }),
        };
        let scale = i.memory_index_scale().trailing_zeros() as u8;
        let index = number(i.memory_index()).map(|number| {
            let index = HOME[number].unwrap_or_else(|| {
                self.code.load_state(S2, gpr_at(number));
                S2
            });
            (index, scale)
        });
        if base.is_none() && index.is_none() {
            self.code.mov_simm32(S0, disp);
        } else {
            self.code.lea(S0, Memory { base, index, disp });
        }
    }

    /// Puts the host address of `i`'s memory operand into `S0`; what misses the TLB has instruction `index` executed by the
    /// interpreter instead. Spares the flags.
    pub fn operand(&mut self, i: &Instruction, index: usize, access: Access, size: usize) {
        if self.literal(i, index, access, size, 1) {
            return;
        }
        self.linear_address(i);
        let on_stack = i.memory_base() == Register::RSP && i.memory_index() == Register::None;
        if on_stack && size <= STACK_SLOT as usize {
            self.stack_window(index, access, size);
        } else {
            self.look_up(index, access, size);
        }
    }

    /// Puts the linear address of `i`'s memory operand into `S0`. Spares the flags.
    pub(super) fn linear_address(&mut self, i: &Instruction) {
        self.spare_flags();
        self.effective_address(i);
        if let Some(base) = segment_base_of(i) {
            self.code.add_state(S0, base);
        }
    }

    /// [`Lowering::operand`] for one whose address is a multiple of its size, or else the interpreter has to say what happens.
    pub fn aligned_operand(&mut self, i: &Instruction, index: usize, access: Access, size: usize) {
        if self.literal(i, index, access, size, size) {
            return;
        }
        self.linear_address(i);
        let miss = self.compare(index, access);
        // Of the difference to the tag only bits inside the page may be set, and none below the alignment.
        self.code.test_imm(S2, !(4096 - size as i32));
        self.code.jump_if(condition::NE, miss);
        add_addend(self.code, access);
    }

    /// Puts the host address of the 8 bytes at RSP + `disp` into `S0`. Spares the flags.
    pub fn stack_slot(&mut self, index: usize, disp: i32, access: Access) {
        self.code.lea(S0, Memory::at(STACK, disp));
        self.stack_window(index, access, STACK_SLOT as usize);
    }

    /// [`Lowering::look_up`] of at most 8 bytes that are probably in the page that the stack was last accessed in.
    fn stack_window(&mut self, index: usize, access: Access, size: usize) {
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
            self.code.call_outside(self.stubs.slide);
            if slide.access == Access::Write && slide.size == STACK_SLOT as usize {
                self.code.jump_if(condition::NE, slide.miss);
            } else {
                // A page that cannot be written plainly is no window, but may be read; and less than 8 bytes may lie at a page's end.
                self.code.jump_if(condition::E, slide.back);
                find(self.code, slide.access);
                self.code.cmp_imm(S2, 4096 - slide.size as i32);
                self.code.jump_if(condition::A, slide.miss);
                add_addend(self.code, slide.access);
            }
            self.code.jump(slide.back);
        }
    }

    /// Turns the linear address in `S0` into a host address. Uses `S1` and `S2`. Spares the flags.
    pub fn look_up(&mut self, index: usize, access: Access, size: usize) {
        let miss = self.compare(index, access);
        self.code.cmp_imm(S2, 4096 - size as i32);
        self.code.jump_if(condition::A, miss);
        add_addend(self.code, access);
    }

    /// Puts what distinguishes the linear address in `S0` from the tag of its entry, whose address goes to `S1`, into `S2`. Returns
    /// where to go if that is too much.
    fn compare(&mut self, index: usize, access: Access) -> Label {
        self.spare_flags();
        let miss = self.miss(index);
        find(self.code, access);
        miss
    }
}

/// Bytes of a stack slot.
const STACK_SLOT: i32 = 8;
const WINDOW_TAG: usize = offset_of!(Cpu, mmu) + Mmu::WINDOW + offset_of!(Window, tag);
const WINDOW_ADDEND: usize = offset_of!(Cpu, mmu) + Mmu::WINDOW + offset_of!(Window, addend);
const WINDOW_LIMIT: usize = offset_of!(Cpu, mmu) + Mmu::WINDOW + offset_of!(Window, limit);

/// A piece of code out of the way that moves the stack's window.
pub struct Slide {
    label: Label,
    /// Where the host address is expected in `S0`.
    back: Label,
    /// Has the interpreter execute the instruction.
    miss: Label,
    access: Access,
    size: usize,
}

/// Puts the address of the entry for the linear address in `S0` into `S1`, without its table's offset, and what distinguishes the
/// address from the tag into `S2`. Changes flags.
pub fn find(code: &mut Assembler, access: Access) {
    const SHIFT: u8 = 12 - size_of::<Entry>().trailing_zeros() as u8;
    let mask = ((ENTRIES - 1) * size_of::<Entry>()) as u32;
    code.shifted32(S1, S0, SHIFT);
    code.and32(S1, mask);
    code.add_state(S1, offset_of!(Cpu, mmu) + Mmu::NOW);
    code.mov(S2, S0);
    code.xor(
        S2,
        Memory::at(S1, table_at(access) + offset_of!(Entry, tag) as i32),
    );
}

/// Makes the linear address in `S0` a host address by the entry that [`find`] found.
fn add_addend(code: &mut Assembler, access: Access) {
    code.add(S0, host_minus_linear(access));
}

/// The addend of the entry that [`find`] found.
pub fn host_minus_linear(access: Access) -> Memory {
    Memory::at(S1, table_at(access) + offset_of!(Entry, addend) as i32)
}

/// Writes the stub that makes the page of the linear address in `S0` the stack's window, if it may be read and written plainly there:
/// then it returns with ZF set and the host address in `S0`.
pub fn emit_slide(code: &mut Assembler) {
    let fails = code.label();
    find(code, Access::Write);
    code.cmp_imm(S2, 4096 - STACK_SLOT);
    code.jump_if(condition::A, fails);
    code.load(
        S2,
        Memory::at(S1, table_at(Access::Write) + offset_of!(Entry, tag) as i32),
    );
    code.store_state(S2, WINDOW_TAG);
    code.load(
        S2,
        Memory::at(S1, table_at(Access::Write) + offset_of!(Entry, addend) as i32),
    );
    code.store_state(S2, WINDOW_ADDEND);
    code.mov_imm32(S2, 4096 - STACK_SLOT as u32 + 1);
    code.store_state(S2, WINDOW_LIMIT);
    code.add(
        S0,
        Memory::at(S1, table_at(Access::Write) + offset_of!(Entry, addend) as i32),
    );
    code.xor32(S2, S2);
    code.place(fails);
    code.ret();
}

/// Offset of the table for `access`.
fn table_at(access: Access) -> i32 {
    let offset = match access {
        Access::Read => offset_of!(Tables, read),
        Access::Write => offset_of!(Tables, write),
    };
    offset as i32
}

/// Where the base of the segment of `i`'s memory operand is in [`Cpu`], if it matters.
pub fn segment_base_of(i: &Instruction) -> Option<usize> {
    match i.memory_segment() {
        Register::FS => Some(segment_base_at(seg::FS)),
        Register::GS => Some(segment_base_at(seg::GS)),
        _ => None,
    }
}

/// Offset of a segment's selector in [`Cpu`].
pub fn segment_selector_at(segment: usize) -> usize {
    offset_of!(Cpu, segs)
        + segment * size_of::<ostler_accel::Segment>()
        + offset_of!(ostler_accel::Segment, selector)
}

/// Offset of a segment's base in [`Cpu`].
fn segment_base_at(segment: usize) -> usize {
    offset_of!(Cpu, segs)
        + segment * size_of::<ostler_accel::Segment>()
        + offset_of!(ostler_accel::Segment, base)
}
