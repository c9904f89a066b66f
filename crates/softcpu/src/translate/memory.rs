//! Memory operands: an address, a look into the TLB, and what happens if that is not enough.

use std::mem::offset_of;

use iced_x86::{Instruction, Register};

use super::assembler::{Assembler, Label, Memory, S0, S1, S2, condition};
use super::gpr_at;
use super::lower::Lowering;
use super::registers::{HOME, number};
use super::stack::SLOT;
use crate::mmu::Mmu;
use crate::mmu::tlb::{ENTRIES, Entry, Tables};
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
        if on_stack && size <= SLOT as usize && size.is_power_of_two() {
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
pub fn add_addend(code: &mut Assembler, access: Access) {
    code.add(S0, host_minus_linear(access));
}

/// The addend of the entry that [`find`] found.
pub fn host_minus_linear(access: Access) -> Memory {
    Memory::at(S1, table_at(access) + offset_of!(Entry, addend) as i32)
}

/// Offset of the table for `access`.
pub fn table_at(access: Access) -> i32 {
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
