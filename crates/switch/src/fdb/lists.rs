//! Doubly linked lists of entries, by their places in the array.

use super::Entry;

/// No entry.
pub const NONE: u32 = u32::MAX;

/// A list: its ends and its length.
#[derive(Clone, Copy)]
pub struct List {
    first: u32,
    last: u32,
    len: u32,
}

impl List {
    pub const EMPTY: Self = Self {
        first: NONE,
        last: NONE,
        len: 0,
    };

    pub fn len(&self) -> u32 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn last(&self) -> Option<u32> {
        (self.last != NONE).then_some(self.last)
    }

    pub fn push_front(&mut self, entries: &mut [Entry], at: u32) {
        entries[at as usize].previous = NONE;
        entries[at as usize].next = self.first;
        match self.first {
            NONE => self.last = at,
            first => entries[first as usize].previous = at,
        }
        self.first = at;
        self.len += 1;
    }

    pub fn unlink(&mut self, entries: &mut [Entry], at: u32) {
        let Entry { previous, next, .. } = entries[at as usize];
        match previous {
            NONE => self.first = next,
            previous => entries[previous as usize].next = next,
        }
        match next {
            NONE => self.last = previous,
            next => entries[next as usize].previous = previous,
        }
        self.len -= 1;
    }

    pub fn pop_front(&mut self, entries: &mut [Entry]) -> Option<u32> {
        let first = (self.first != NONE).then_some(self.first)?;
        self.unlink(entries, first);
        Some(first)
    }

    pub fn move_to_front(&mut self, entries: &mut [Entry], at: u32) {
        if self.first != at {
            self.unlink(entries, at);
            self.push_front(entries, at);
        }
    }

    /// Hangs `other` behind this list.
    pub fn append(&mut self, entries: &mut [Entry], other: Self) {
        if other.first == NONE {
            return;
        }
        match self.last {
            NONE => self.first = other.first,
            last => {
                entries[last as usize].next = other.first;
                entries[other.first as usize].previous = last;
            }
        }
        self.last = other.last;
        self.len += other.len;
    }
}
