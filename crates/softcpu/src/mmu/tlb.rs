//! The TLB: direct-mapped tables for reads, writes and fetches, one set a privilege class and address space.
//!
//! A hit is one compare: `(linear ^ tag) <= 4096 - size` holds only if the page matches and the access does not cross it. Whatever
//! is special about a page (a device, decoded code, the dirty log) is a tag that does not match. Reads and writes have tables of
//! their own, so that a copy between two places a power of two apart does not fight with itself.

/// Entries of a table.
pub const ENTRIES: usize = 4096;

/// Flags in [`Fetch::info`], below the guest-physical page address.
pub mod info {
    /// Survives a switch of the address space.
    pub const GLOBAL: u64 = 1;
    /// Part of a page larger than 4 KiB.
    pub const LARGE: u64 = 1 << 1;
    /// Part of a 1 GiB page, and so [`LARGE`] too.
    pub const HUGE: u64 = 1 << 2;
    /// The address bits.
    pub const GPA: u64 = !0xfff;
}

/// Where plain reads or writes of a page go.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub struct Entry {
    /// Linear page address.
    pub tag: u64,
    /// Host address minus linear address.
    pub addend: u64,
}

/// Where instructions of a page are fetched from.
#[derive(Clone, Copy)]
pub struct Fetch {
    /// Linear page address.
    pub tag: u64,
    /// Guest-physical page address and [`info`] flags.
    pub info: u64,
}

/// The tables of an array, as translated code knows them.
#[repr(C, align(64))]
pub struct Tables {
    /// For reads, by the lower bits of the linear page number.
    pub read: [Entry; ENTRIES],
    /// For writes.
    pub write: [Entry; ENTRIES],
    /// For fetches.
    pub fetch: [Fetch; ENTRIES],
}

/// A tag that no address matches whose index is `index`. Zero for nearly all, so that a table which is not used takes no memory. The
/// difference to an address leaves room for 4096 more before it overflows: string instructions rely on that.
const fn invalid_tag(index: usize) -> u64 {
    if index == 0 || index == ENTRIES - 1 {
        ((index ^ 1) as u64) << 12
    } else {
        0
    }
}

/// One array, and what it takes to drop entries of it.
pub struct Array {
    /// The entries.
    pub tables: Box<Tables>,
    /// [`info`] flags of the read, write and fetch entries at an index.
    flags: Box<[[u8; 3]; ENTRIES]>,
    /// Indices that hold entries which are not global; may have duplicates.
    local: Vec<u16>,
    /// The same of those that are global.
    global: Vec<u16>,
    /// Indices that hold entries for writes; likewise.
    writes: Vec<u16>,
    /// Where parts of 2 MiB and 4 MiB pages were entered.
    large: Regions<22>,
    /// Where parts of 1 GiB pages were.
    huge: Regions<30>,
    /// Whether any of those pages is global.
    large_is_global: bool,
}

/// A set of regions of `1 << SHIFT` bytes, by a hash: it may have one more. The upper half of the address space, where kernels map
/// all of memory in large pages, has bits of its own.
struct Regions<const SHIFT: u32>([u64; 64]);

impl<const SHIFT: u32> Regions<SHIFT> {
    fn bit(linear: u64) -> (usize, u64) {
        let region = linear >> SHIFT;
        let at = (region ^ region >> 11) & 0x7ff | linear >> 63 << 11;
        ((at / 64) as usize, 1 << (at % 64))
    }

    fn add(&mut self, linear: u64) {
        let (word, bit) = Self::bit(linear);
        self.0[word] |= bit;
    }

    fn may_have(&self, linear: u64) -> bool {
        let (word, bit) = Self::bit(linear);
        self.0[word] & bit != 0
    }
}

/// Places in [`Array::flags`].
const READ: usize = 0;
const WRITE: usize = 1;
const FETCH: usize = 2;

impl Default for Array {
    fn default() -> Self {
        // SAFETY: tables hold integers only. Not written to here: most of them is never used.
        let tables = unsafe { Box::<Tables>::new_zeroed().assume_init() };
        let mut array = Self {
            tables,
            flags: Box::new([[0; 3]; ENTRIES]),
            local: Vec::new(),
            global: Vec::new(),
            writes: Vec::new(),
            large: Regions([0; 64]),
            huge: Regions([0; 64]),
            large_is_global: false,
        };
        array.begin();
        array
    }
}

/// What a page may be used for.
#[derive(Debug, Clone, Copy)]
pub struct Uses {
    /// Plain reads.
    pub read: bool,
    /// Plain writes.
    pub write: bool,
    /// It is a write that asks.
    pub wanted_for_write: bool,
    /// Fetches.
    pub fetch: bool,
}

/// Index of a linear address.
#[inline(always)]
pub const fn index(linear: u64) -> usize {
    (linear >> 12) as usize & (ENTRIES - 1)
}

impl Array {
    /// Enters a translation for `uses`. `info` is as in [`Fetch::info`].
    pub fn fill(&mut self, linear: u64, uses: Uses, addend: u64, info: u64) {
        let at = index(linear);
        let tag = linear & !0xfff;
        let flags = (info & 0xff) as u8;
        if uses.read {
            self.tables.read[at] = Entry { tag, addend };
            self.flags[at][READ] = flags;
        }
        let write = &mut self.tables.write[at];
        // A read does not drive out another page's entry for writes: a copy would fight with itself after all.
        let free = write.tag == tag || write.tag == invalid_tag(at);
        if uses.write && (uses.wanted_for_write || free) {
            *write = Entry { tag, addend };
            self.flags[at][WRITE] = flags;
            self.note_write(at);
        } else if write.tag == tag {
            write.tag = invalid_tag(at);
        }
        if uses.fetch {
            self.tables.fetch[at] = Fetch { tag, info };
            self.flags[at][FETCH] = flags;
        }
        if info & info::GLOBAL != 0 {
            self.note_global(at);
        } else {
            if self.local.len() >= 4 * ENTRIES {
                self.flush_local();
                return;
            }
            self.local.push(at as u16);
        }
        self.large_is_global |= info & info::LARGE != 0 && info & info::GLOBAL != 0;
        if info & info::HUGE != 0 {
            self.huge.add(linear);
        } else if info & info::LARGE != 0 {
            self.large.add(linear);
        }
    }

    fn note_write(&mut self, at: usize) {
        if self.writes.len() >= 2 * ENTRIES {
            let table = &self.tables.write;
            let valid = |&at: &u16| table[usize::from(at)].tag != invalid_tag(at.into());
            self.writes.clear();
            self.writes.extend((0..ENTRIES as u16).filter(valid));
        }
        self.writes.push(at as u16);
    }

    fn note_global(&mut self, at: usize) {
        if self.global.len() >= 2 * ENTRIES {
            self.global.clear();
            self.global.extend(0..ENTRIES as u16);
        }
        self.global.push(at as u16);
    }

    /// Drops the entries at `at` that `picked` says by use, linear page address and flags.
    fn drop_entries(&mut self, at: usize, picked: impl Fn(u64, u64) -> bool) {
        let flags = self.flags[at];
        let tables = &mut *self.tables;
        for (tag, flags) in [
            (&mut tables.read[at].tag, flags[READ]),
            (&mut tables.write[at].tag, flags[WRITE]),
            (&mut tables.fetch[at].tag, flags[FETCH]),
        ] {
            // Not written to if it is invalid: then its memory may not be there yet.
            if *tag != invalid_tag(at) && picked(*tag, u64::from(flags)) {
                *tag = invalid_tag(at);
            }
        }
    }

    /// Drops what is not global. Costs no more than the fills since the last time.
    pub fn flush_local(&mut self) {
        while let Some(at) = self.local.pop() {
            self.drop_entries(at.into(), |_, flags| flags & info::GLOBAL == 0);
        }
        if !self.large_is_global {
            self.large = Regions([0; 64]);
            self.huge = Regions([0; 64]);
        }
    }

    /// Drops everything. Costs no more than the fills since the last time.
    pub fn flush(&mut self) {
        for list in [&mut self.local, &mut self.global] {
            for at in list.drain(..).map(usize::from) {
                self.tables.read[at].tag = invalid_tag(at);
                self.tables.write[at].tag = invalid_tag(at);
                self.tables.fetch[at].tag = invalid_tag(at);
            }
        }
        self.writes.clear();
        self.large = Regions([0; 64]);
        self.huge = Regions([0; 64]);
        self.large_is_global = false;
    }

    /// Nothing is entered yet.
    fn begin(&mut self) {
        for at in [0, ENTRIES - 1] {
            self.tables.read[at].tag = invalid_tag(at);
            self.tables.write[at].tag = invalid_tag(at);
            self.tables.fetch[at].tag = invalid_tag(at);
        }
    }

    /// True if there may be an entry that is global.
    pub fn has_global(&self) -> bool {
        !self.global.is_empty()
    }

    /// Drops the translation of `linear`, and all of the large page that it may be part of. Returns true if there may have been
    /// a large page.
    pub fn flush_page(&mut self, linear: u64) -> bool {
        self.drop_entries(index(linear), |tag, _| tag ^ linear < 4096);
        let shift = if self.huge.may_have(linear) {
            30
        } else if self.large.may_have(linear) {
            22
        } else {
            return false;
        };
        for at in 0..ENTRIES {
            self.drop_entries(at, |tag, flags| {
                flags & info::LARGE != 0 && (tag ^ linear) >> shift == 0
            });
        }
        true
    }

    /// Drops every write tag. Costs no more than the fills since the last time.
    pub fn drop_writes(&mut self) {
        for at in self.writes.drain(..) {
            self.tables.write[usize::from(at)].tag = invalid_tag(at.into());
        }
    }

    /// Drops the write tags that lead to the host page at `host`.
    pub fn drop_writes_to(&mut self, host: u64) {
        let table = &mut self.tables.write;
        self.writes.retain(|&at| {
            let entry = &mut table[usize::from(at)];
            let valid = entry.tag != invalid_tag(at.into());
            let dropped = valid && entry.tag.wrapping_add(entry.addend) == host;
            if dropped {
                entry.tag = invalid_tag(at.into());
            }
            valid && !dropped
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READABLE: Uses = Uses {
        read: true,
        write: false,
        wanted_for_write: false,
        fetch: false,
    };
    const PLAIN: Uses = Uses {
        read: true,
        write: true,
        wanted_for_write: true,
        fetch: true,
    };

    fn hits(array: &Array, linear: u64, size: u64) -> bool {
        (array.tables.read[index(linear)].tag ^ linear) <= 4096 - size
    }

    #[test]
    fn an_empty_array_matches_nothing_not_even_odd_addresses() {
        let array = Array::default();
        for at in 0..ENTRIES as u64 {
            for high in [0, 1 << 62, u64::MAX << 24, 0xffff_8000_0000_0000] {
                assert!(!hits(&array, high | at << 12, 1));
                let difference = array.tables.read[at as usize].tag ^ (high | at << 12 | 0xfff);
                assert!(difference.checked_add(4096).is_some_and(|sum| sum > 4096));
            }
        }
    }

    #[test]
    fn a_hit_needs_the_page_and_room_for_the_access() {
        let mut array = Array::default();
        array.fill(0x1234_5000, READABLE, 0, 0);
        assert!(hits(&array, 0x1234_5ff8, 8));
        assert!(!hits(&array, 0x1234_5ff9, 8));
        assert!(!hits(&array, 0x1234_5000 | 1 << 40, 1));
        array.flush_page(0x1234_5800);
        assert!(!hits(&array, 0x1234_5000, 1));
    }

    #[test]
    fn global_entries_survive_a_local_flush_and_large_pages_go_as_a_whole() {
        let mut array = Array::default();
        array.fill(0x20_0000, PLAIN, 0, info::GLOBAL | info::LARGE);
        array.fill(0x20_1000, PLAIN, 0, info::GLOBAL | info::LARGE);
        array.fill(0x7000, PLAIN, 0, 0);
        array.flush_local();
        assert!(hits(&array, 0x20_0000, 1) && !hits(&array, 0x7000, 1));
        array.flush_page(0x3f_f000);
        assert!(!hits(&array, 0x20_0000, 1) && !hits(&array, 0x20_1000, 1));
    }

    #[test]
    fn tags_for_writes_go_all_at_once_or_by_their_host_page_however_many_were_entered() {
        let writes = |array: &Array| -> Vec<u64> {
            let valid = |at: &usize| array.tables.write[*at].tag != invalid_tag(*at);
            (0..ENTRIES)
                .filter(valid)
                .map(|at| array.tables.write[at].tag)
                .collect()
        };
        let mut array = Array::default();
        assert!(writes(&array).is_empty());
        // Each entry several times.
        for round in 0..5u64 {
            for page in 0..ENTRIES as u64 {
                array.fill((round << 40 | page) << 12, PLAIN, 0x7000_0000_0000, info::GLOBAL);
            }
        }
        assert_eq!(writes(&array).len(), ENTRIES);
        assert!(array.writes.len() <= 2 * ENTRIES);
        let page = (4 << 40 | 77) << 12;
        array.drop_writes_to(page + 0x7000_0000_0000);
        assert_eq!(writes(&array).len(), ENTRIES - 1);
        assert!(!writes(&array).contains(&page));
        assert!(hits(&array, page, 8), "it may still be read");
        array.drop_writes();
        assert!(writes(&array).is_empty());
        array.fill(page, PLAIN, 0, 0);
        assert_eq!(writes(&array), [page]);
        array.flush();
        assert!(writes(&array).is_empty());
        for page in 0..ENTRIES as u64 {
            for round in 0..5u64 {
                let address = (round << 40 | page) << 12;
                assert!(!hits(&array, address, 1), "{address:#x}");
            }
        }
    }

    #[test]
    fn a_small_page_is_not_mistaken_for_a_part_of_a_large_one() {
        let mut array = Array::default();
        let kernel = 0xffff_8880_0000_0000;
        for region in 0..256 {
            array.fill(kernel + (region << 22), PLAIN, 0, info::GLOBAL | info::LARGE);
        }
        array.fill(0x7f12_3456_7000, PLAIN, 0, 0);
        assert!(!array.flush_page(0x7f12_3456_7000));
        assert!(!hits(&array, 0x7f12_3456_7000, 1));
        // Of 2 MiB pages nothing goes but the one, or its neighbour.
        array.fill(kernel + 0x20_1000, PLAIN, 0, info::GLOBAL | info::LARGE);
        array.fill(kernel + 0x40_2000, PLAIN, 0, info::GLOBAL | info::LARGE);
        assert!(array.flush_page(kernel + 0x3f_f000));
        assert!(!hits(&array, kernel + 0x20_1000, 1) && hits(&array, kernel + 0x40_2000, 1));
    }

    #[test]
    fn a_part_of_a_huge_page_takes_the_others_with_it() {
        let mut array = Array::default();
        array.fill(0x4000_1000, PLAIN, 0, info::LARGE | info::HUGE);
        array.fill(0x8000_2000, PLAIN, 0, info::LARGE | info::HUGE);
        assert!(array.flush_page(0x7fff_f000));
        assert!(!hits(&array, 0x4000_1000, 1) && hits(&array, 0x8000_2000, 1));
        // What is not global is remembered for no longer than its entries.
        array.flush_local();
        assert!(!array.flush_page(0x8000_2000));
    }

    #[test]
    fn a_read_and_a_write_a_power_of_two_apart_have_entries_of_their_own() {
        let mut array = Array::default();
        let (from, to) = (0x4000_0000, 0x4200_0000);
        assert_eq!(index(from), index(to));
        array.fill(to, Uses { read: false, ..PLAIN }, 0, 0);
        // The page that is read could be written too.
        array.fill(
            from,
            Uses {
                wanted_for_write: false,
                ..PLAIN
            },
            0,
            0,
        );
        assert!(hits(&array, from, 8));
        assert_eq!(array.tables.write[index(to)].tag, to);
    }
}
