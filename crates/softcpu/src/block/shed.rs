//! Forms that are not worth their memory: most code is executed a few times, and never again.
//!
//! Each time that so many bytes of blocks were decoded, blocks that nobody entered meanwhile lose the interpreter's form. They stay
//! known, may not be entered, and get a form again when somebody comes. Host code stays: it is dear.

use super::Block;
use super::section::Sections;

/// Bytes that are decoded between two looks, at least and at most.
const OFTEN: usize = 2 << 20;
const SELDOM: usize = 48 << 20;

/// When to look, and what that gave.
pub(super) struct Shedding {
    /// Bytes decoded between two looks.
    interval: usize,
    /// Bytes decoded since the last look, and how many of them had been shed.
    decoded: usize,
    restored: usize,
}

impl Shedding {
    pub(super) fn new() -> Self {
        Self {
            interval: OFTEN,
            decoded: 0,
            restored: 0,
        }
    }

    /// Notes that a block of `bytes` was decoded, or `restored`. True if it is time to look.
    pub(super) fn note(&mut self, bytes: usize, restored: bool) -> bool {
        self.decoded += bytes;
        if restored {
            self.restored += bytes;
        }
        self.decoded >= self.interval
    }

    /// Sheds the forms of blocks that were not entered since the last look. Returns the bytes that were freed. No op of a block may be
    /// executing.
    pub(super) fn look(&mut self, sections: &mut Sections) -> usize {
        // A guest that goes round in more code than is decoded between two looks would decode all of it in each round.
        self.interval = if self.restored > self.decoded / 2 {
            (2 * self.interval).min(SELDOM)
        } else {
            (self.interval / 2).max(OFTEN)
        };
        self.decoded = 0;
        self.restored = 0;
        let mut freed = 0;
        for section in sections.iter_mut() {
            let of_section: usize = section.blocks().map(Block::shed_if_unused).sum();
            section.bytes -= of_section;
            freed += of_section;
        }
        freed
    }
}

impl Block {
    /// Frees the form if the block was not entered since this was asked last. Returns its bytes.
    fn shed_if_unused(&self) -> usize {
        let heat = self.heat.get();
        let seen = self.heat_seen.replace(heat as u16);
        // One that is not counted may be in use all the time. Special ones have more to them than their page's version.
        if seen != heat as u16 || heat == u32::MAX || self.special.get() {
            return 0;
        }
        self.special.set(true);
        self.drop_form()
    }

    /// True if the form was shed.
    pub(super) fn is_shed(&self) -> bool {
        self.ops_are_gone() && self.code().is_null()
    }

    /// Takes the form of `fresh`, the same code decoded again. False, with both as they were, if it is not known to be the same.
    pub(super) fn restore(&self, fresh: &Block) -> bool {
        let same = self.is_shed()
            && self.is_current()
            && self.version() == fresh.version()
            && self.second().is_none()
            && !fresh.special.get();
        if same {
            self.entry.set(fresh.entry());
            self.form.set(fresh.form.take());
            self.special.set(false);
            // Whoever restores it is about to enter it.
            self.heat_seen.set((self.heat.get() as u16).wrapping_sub(1));
        }
        same
    }
}
