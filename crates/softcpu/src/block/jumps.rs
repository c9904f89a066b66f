//! Where the block at an instruction pointer is: the jump cache, which translated code looks into too.

use super::Block;
use crate::mmu::code_pages::CodePages;
use crate::state::Cpu;
use crate::translate::{context, salt};

/// Entries of the cache.
pub(crate) const JUMPS: usize = 16384;

/// Low bits of an address that do not count for its place: a neighbour that near is rare, and entries that are used together lie together.
pub(crate) const GRAIN: u32 = 3;

/// Filled entries that are known one by one.
const FEW: usize = 16;

/// Entries that one page may have: all in a row, so that they are dropped together.
const OF_PAGE: usize = 4096 >> GRAIN;

/// What was found for an instruction pointer.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct Jump {
    pub(super) linear: u64,
    /// Mode and key of the address space, see [`crate::translate::context`].
    pub(super) context: u64,
    pub(super) block: *const Block,
    /// Where translated code goes on.
    pub(crate) code: *const u8,
}

impl Jump {
    pub(crate) const LINEAR: usize = std::mem::offset_of!(Jump, linear);
    pub(crate) const CONTEXT: usize = std::mem::offset_of!(Jump, context);
}

const NO_JUMP: Jump = Jump {
    linear: 0,
    context: u64::MAX,
    block: std::ptr::null(),
    code: std::ptr::null(),
};

/// The entries. In which pages there may be some the MMU knows, which is asked more often.
pub(super) struct Jumps {
    entries: Box<[Jump]>,
    /// Which were filled since all were empty; where there is one more than [`FEW`], it may be any.
    filled: Vec<u16>,
    /// Searches in vain since [`CodePages`] was made anew.
    vain: u32,
}

impl Jumps {
    pub(super) fn new() -> Self {
        Self {
            entries: vec![NO_JUMP; JUMPS].into_boxed_slice(),
            filled: Vec::with_capacity(FEW + 1),
            vain: 0,
        }
    }

    /// The place of a linear address, where [`salt`] is `salt`. Translated code computes the same.
    #[inline(always)]
    pub(super) fn slot(linear: u64, salt: u64) -> usize {
        ((linear ^ linear >> (12 - GRAIN) ^ salt) >> GRAIN) as usize & (JUMPS - 1)
    }

    #[inline(always)]
    pub(super) fn entry(&mut self, slot: usize) -> &mut Jump {
        &mut self.entries[slot & (JUMPS - 1)]
    }

    pub(super) fn set(&mut self, pages: &mut CodePages, slot: usize, jump: Jump) {
        pages.add(jump.linear >> 12, reaches_next(&jump));
        if self.filled.len() <= FEW {
            self.filled.push((slot & (JUMPS - 1)) as u16);
        }
        *self.entry(slot) = jump;
    }

    /// True if there are none.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.entries
            .iter()
            .all(|jump| jump.context == u64::MAX && jump.block.is_null())
    }

    pub(super) fn as_ptr(&self) -> *const Jump {
        self.entries.as_ptr()
    }

    /// Drops all entries. Where there are few, that costs little.
    pub(super) fn clear(&mut self) {
        if self.filled.len() <= FEW {
            for &slot in &self.filled {
                self.entries[usize::from(slot)] = NO_JUMP;
            }
        } else {
            self.drop_all(|_| true);
        }
        self.filled.clear();
    }

    /// Drops the entries that `picked` says; those that hold something are asked about.
    pub(super) fn drop_all(&mut self, picked: impl Fn(&Block) -> bool) {
        for entry in &mut self.entries {
            // SAFETY: entries lead to blocks of the cache, which drops them before it frees those.
            if unsafe { entry.block.as_ref() }.is_some_and(&picked) {
                *entry = NO_JUMP;
            }
        }
    }

    /// Drops what depends on the translation of linear page `page`, one of `pages`.
    pub(super) fn drop_page(&mut self, pages: &mut CodePages, page: u64) {
        // Outside 64-bit mode the page before page 0 is the last of 4 GiB.
        if page == 0 {
            return self.clear();
        }
        let mut found = self.drop_entries(page, |_| true);
        found |= self.drop_entries(page - 1, reaches_next);
        if !found {
            self.vain += 1;
            if self.vain == 64 {
                self.note_all(pages);
            }
        }
    }

    /// Drops the entries of `page` that `picked` says. True if there was one.
    fn drop_entries(&mut self, page: u64, picked: impl Fn(&Jump) -> bool) -> bool {
        let first = Self::slot(page << 12, 0) & !(OF_PAGE - 1);
        let mut found = false;
        for entry in &mut self.entries[first..first + OF_PAGE] {
            if entry.linear >> 12 == page && !entry.block.is_null() && picked(entry) {
                *entry = NO_JUMP;
                found = true;
            }
        }
        found
    }

    /// Makes `pages` anew from the entries.
    fn note_all(&mut self, pages: &mut CodePages) {
        pages.clear();
        self.vain = 0;
        for jump in self.entries.iter().filter(|jump| !jump.block.is_null()) {
            pages.add(jump.linear >> 12, reaches_next(jump));
        }
    }
}

/// Where translated code goes on at `cpu.rip`, if `jumps` has that.
pub(crate) fn code_at_rip(cpu: &Cpu, jumps: *const Jump) -> Option<*const u8> {
    if cpu.mmu.has_flushed() {
        return None;
    }
    let linear = cpu.rip;
    let slot = Jumps::slot(linear, salt(cpu.mode, cpu.mmu.local_key));
    // SAFETY: the cache is there while its translated code executes, and the slot is one of its entries.
    let jump = unsafe { &*jumps.wrapping_add(slot) };
    let fits = jump.linear == linear
        && (jump.context == context(cpu.mode, cpu.mmu.global_key)
            || jump.context == context(cpu.mode, cpu.mmu.local_key));
    (fits && !jump.code.is_null()).then_some(jump.code)
}

/// True if the block of an entry that holds one reaches into the next page.
fn reaches_next(jump: &Jump) -> bool {
    // SAFETY: as for `drop_all`.
    unsafe { jump.block.as_ref() }.is_some_and(|block| block.second().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::mode;

    #[test]
    fn all_entries_of_a_page_are_in_one_row() {
        for page in [0, 1, 0x401, 0xf_ffff, 0x7f_1234_5678, 0xf_ffff_ffff_ffff] {
            let row = Jumps::slot(page << 12, 0) / OF_PAGE;
            for offset in 0..4096 {
                for key in [0, 1, 2, 77, u32::MAX] {
                    let salt = salt(mode::USER, key);
                    assert_eq!(Jumps::slot(page << 12 | offset, salt) / OF_PAGE, row);
                }
            }
        }
    }
}
