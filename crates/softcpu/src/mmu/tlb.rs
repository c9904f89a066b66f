//! The TLB: direct-mapped arrays, one a privilege class and address space.
//!
//! A hit is one compare: `(linear ^ tag) <= 4096 - size` holds only if the page matches and the access does not cross it. Whatever
//! is special about a page (a device, decoded code, the dirty log) is a tag that does not match.

/// Entries of an array.
pub const ENTRIES: usize = 1024;

/// Flags in [`Entry::info`], below the guest-physical page address.
pub mod info {
    /// Survives a switch of the address space.
    pub const GLOBAL: u64 = 1;
    /// Part of a page larger than 4 KiB.
    pub const LARGE: u64 = 1 << 1;
    /// Instructions may be fetched from it.
    pub const FETCH: u64 = 1 << 2;
    /// The address bits.
    pub const GPA: u64 = !0xfff;
}

/// One translation.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub struct Entry {
    /// Linear page address if data reads may go straight to memory.
    pub read: u64,
    /// Linear page address if writes may.
    pub write: u64,
    /// Host address minus linear address.
    pub addend: u64,
    /// Guest-physical page address and [`info`] flags; meaningful while `read` matches.
    pub info: u64,
}

/// A tag that no address matches whose index is `index`.
const fn invalid_tag(index: usize) -> u64 {
    ((index ^ 1) as u64) << 12
}

/// One array, and which of its entries may be in use.
pub struct Array {
    /// The entries, by bits 12 to 21 of the linear address.
    pub entries: Box<[Entry; ENTRIES]>,
    /// Indices that hold entries which are not global; may have duplicates.
    local: Vec<u16>,
    /// One bit for each (hashed) 2 MiB and 1 GiB region in which a part of a large page was entered.
    large: [u64; 8],
}

impl Default for Array {
    fn default() -> Self {
        let entry = |index| Entry {
            read: invalid_tag(index),
            write: invalid_tag(index),
            addend: 0,
            info: 0,
        };
        let entries: Vec<Entry> = (0..ENTRIES).map(entry).collect();
        let entries = entries
            .into_boxed_slice()
            .try_into()
            .unwrap_or_else(|_| unreachable!("length is ENTRIES"));
        Self {
            entries,
            local: Vec::new(),
            large: [0; 8],
        }
    }
}

/// Index of a linear address.
#[inline(always)]
pub const fn index(linear: u64) -> usize {
    (linear >> 12) as usize & (ENTRIES - 1)
}

fn region_bits(linear: u64) -> [usize; 2] {
    let hash = |n: u64| (n ^ (n >> 9) ^ (n >> 18)) as usize;
    [hash(linear >> 21) & 255, 256 + (hash(linear >> 30) & 255)]
}

impl Array {
    /// Enters a translation.
    pub fn fill(&mut self, linear: u64, read: bool, write: bool, addend: u64, info: u64) {
        let at = index(linear);
        let page = linear & !0xfff;
        let invalid = invalid_tag(at);
        self.entries[at] = Entry {
            read: if read { page } else { invalid },
            write: if write { page } else { invalid },
            addend,
            info,
        };
        if info & info::GLOBAL == 0 {
            if self.local.len() >= 4 * ENTRIES {
                self.flush_local();
                return;
            }
            self.local.push(at as u16);
        }
        if info & info::LARGE != 0 {
            for bit in region_bits(linear) {
                self.large[bit / 64] |= 1 << (bit % 64);
            }
        }
    }

    fn drop_entry(&mut self, at: usize) {
        let entry = &mut self.entries[at];
        entry.read = invalid_tag(at);
        entry.write = invalid_tag(at);
    }

    /// Drops what is not global. Costs no more than the fills since the last time.
    pub fn flush_local(&mut self) {
        while let Some(at) = self.local.pop() {
            if self.entries[usize::from(at)].info & info::GLOBAL == 0 {
                self.drop_entry(usize::from(at));
            }
        }
    }

    /// Drops everything.
    pub fn flush(&mut self) {
        for at in 0..ENTRIES {
            self.drop_entry(at);
        }
        self.local.clear();
        self.large = [0; 8];
    }

    /// Drops the translation of `linear`, and all of the large page that it may be part of. Returns true if there may have been
    /// a large page.
    pub fn flush_page(&mut self, linear: u64) -> bool {
        let at = index(linear);
        if (self.entries[at].read ^ linear) < 4096 || (self.entries[at].write ^ linear) < 4096 {
            self.drop_entry(at);
        }
        let large = region_bits(linear)
            .iter()
            .any(|bit| self.large[bit / 64] & (1 << (bit % 64)) != 0);
        if large {
            for at in 0..ENTRIES {
                let entry = &self.entries[at];
                if entry.info & info::LARGE != 0
                    && ((entry.read ^ linear) >> 30 == 0 || (entry.write ^ linear) >> 30 == 0)
                {
                    self.drop_entry(at);
                }
            }
        }
        large
    }

    /// Drops every write tag.
    pub fn drop_writes(&mut self) {
        for (at, entry) in self.entries.iter_mut().enumerate() {
            entry.write = invalid_tag(at);
        }
    }

    /// Drops the write tags that lead to the host page at `host`.
    pub fn drop_writes_to(&mut self, host: u64) {
        for (at, entry) in self.entries.iter_mut().enumerate() {
            if entry.write.wrapping_add(entry.addend) == host {
                entry.write = invalid_tag(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(array: &Array, linear: u64, size: u64) -> bool {
        (array.entries[index(linear)].read ^ linear) <= 4096 - size
    }

    #[test]
    fn an_empty_array_matches_nothing_not_even_odd_addresses() {
        let array = Array::default();
        for at in 0..ENTRIES as u64 {
            for high in [0, 1 << 62, u64::MAX << 22, 0xffff_8000_0000_0000] {
                assert!(!hits(&array, high | at << 12, 1));
            }
        }
    }

    #[test]
    fn a_hit_needs_the_page_and_room_for_the_access() {
        let mut array = Array::default();
        array.fill(0x1234_5000, true, false, 0, 0);
        assert!(hits(&array, 0x1234_5ff8, 8));
        assert!(!hits(&array, 0x1234_5ff9, 8));
        assert!(!hits(&array, 0x1234_5000 | 1 << 40, 1));
        array.flush_page(0x1234_5800);
        assert!(!hits(&array, 0x1234_5000, 1));
    }

    #[test]
    fn global_entries_survive_a_local_flush_and_large_pages_go_as_a_whole() {
        let mut array = Array::default();
        array.fill(0x20_0000, true, true, 0, info::GLOBAL | info::LARGE);
        array.fill(0x20_1000, true, true, 0, info::GLOBAL | info::LARGE);
        array.fill(0x7000, true, true, 0, 0);
        array.flush_local();
        assert!(hits(&array, 0x20_0000, 1) && !hits(&array, 0x7000, 1));
        array.flush_page(0x3f_f000);
        assert!(!hits(&array, 0x20_0000, 1) && !hits(&array, 0x20_1000, 1));
    }
}
