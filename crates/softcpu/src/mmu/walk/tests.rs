//! Tables of walks in every form of paging, with what the manual says of each (SDM vol. 3, 4.3 to 4.9).

use std::sync::Arc;

use ostler_memory::vm_memory::{Bytes, GuestAddress};
use ostler_memory::{GuestRam, RamOptions, RamSlot, allocate};

use super::entry::{A, D, G, NX, P, PS, U, W};
use super::{Paging, Request, Translation, walk};
use crate::mmu::memory_map::MemoryMap;
use crate::state::{cr0, cr4, efer};

/// Where the tables are, the highest level first.
const TABLES: [u64; 4] = [0x1000, 0x2000, 0x3000, 0x4000];
/// Bytes of RAM.
const RAM: u64 = 1 << 20;
/// The address that is translated: other indices at all levels, and an offset in all page sizes.
const LINEAR: u64 = 0x0000_1234_c060_5678;

/// The forms of paging and where the walk ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Legacy,
    Legacy4M,
    Pae,
    Pae2M,
    Long,
    Long2M,
    Long1G,
}

use Form::*;

impl Form {
    /// Shifts of the levels, the highest first.
    fn shifts(self) -> &'static [u32] {
        match self {
            Legacy => &[22, 12],
            Legacy4M => &[22],
            Pae => &[30, 21, 12],
            Pae2M => &[30, 21],
            Long => &[39, 30, 21, 12],
            Long2M => &[39, 30, 21],
            Long1G => &[39, 30],
        }
    }

    fn is_legacy(self) -> bool {
        matches!(self, Legacy | Legacy4M)
    }

    fn is_large(self) -> bool {
        matches!(self, Legacy4M | Pae2M | Long2M | Long1G)
    }

    /// [`LINEAR`] in the width of the form.
    fn linear(self) -> u64 {
        match self {
            Long | Long2M | Long1G => LINEAR,
            _ => LINEAR & 0xffff_ffff,
        }
    }

    /// The frame that the last entry leads to.
    fn frame(self) -> u64 {
        0x00c0_0000_0000 & if self.is_legacy() { 0xffff_ffff } else { u64::MAX } | 0x4000_0000
    }
}

/// Page tables with a setting.
struct Case {
    form: Form,
    paging: Paging,
    /// Entries, the highest level first.
    entries: Vec<u64>,
    smap_override: bool,
}

impl Case {
    /// A page that everyone may read, write and execute, with no accessed or dirty bit set.
    fn new(form: Form) -> Self {
        let levels = form.shifts().len();
        let mut entries: Vec<u64> = (1..levels).map(|next| TABLES[next] | P | W | U).collect();
        let large = if form.is_large() { PS } else { 0 };
        entries.push(form.frame() | P | W | U | large);
        let mut paging = Paging {
            cr0: cr0::PE | cr0::PG | cr0::WP,
            cr3: TABLES[0],
            physical_bits: 40,
            ..Paging::default()
        };
        match form {
            Legacy | Legacy4M => paging.cr4 = cr4::PSE,
            Pae | Pae2M => {
                paging.cr4 = cr4::PAE;
                paging.efer = efer::NXE;
                // Directory pointers have no rights.
                entries[0] &= !(W | U);
            }
            Long | Long2M | Long1G => {
                paging.cr4 = cr4::PAE;
                paging.efer = efer::LME | efer::LMA | efer::NXE;
            }
        }
        Self {
            form,
            paging,
            entries,
            smap_override: false,
        }
    }

    /// Sets bits of the entry `up` levels above the last.
    fn set(mut self, up: usize, bits: u64) -> Self {
        let at = self.entries.len() - 1 - up;
        self.entries[at] |= bits;
        self
    }

    fn clear(mut self, up: usize, bits: u64) -> Self {
        let at = self.entries.len() - 1 - up;
        self.entries[at] &= !bits;
        self
    }

    fn cr4(mut self, bits: u64) -> Self {
        self.paging.cr4 |= bits;
        self
    }

    fn without(mut self, cr0: u64, cr4: u64, efer: u64) -> Self {
        self.paging.cr0 &= !cr0;
        self.paging.cr4 &= !cr4;
        self.paging.efer &= !efer;
        self
    }

    fn bits(mut self, physical: u32) -> Self {
        self.paging.physical_bits = physical;
        self
    }

    /// RFLAGS.AC is set.
    fn ac(mut self) -> Self {
        self.smap_override = true;
        self
    }

    /// Where the entries are.
    fn places(&self) -> Vec<u64> {
        let index_bits = if self.form.is_legacy() { 10 } else { 9 };
        let width = if self.form.is_legacy() { 4 } else { 8 };
        let index = |shift: &u32| self.form.linear() >> shift & ((1 << index_bits) - 1);
        self.form
            .shifts()
            .iter()
            .zip(TABLES)
            .map(|(shift, table)| table + index(shift) * width)
            .collect()
    }

    fn write(&self, ram: &GuestRam) {
        for (place, entry) in self.places().into_iter().zip(&self.entries) {
            if self.form.is_legacy() {
                ram.write_obj(*entry as u32, GuestAddress(place)).unwrap();
            } else {
                ram.write_obj(*entry, GuestAddress(place)).unwrap();
            }
        }
    }

    /// The entries as they are in memory.
    fn read(&self, ram: &GuestRam) -> Vec<u64> {
        let entry = |place| {
            if self.form.is_legacy() {
                u64::from(ram.read_obj::<u32>(GuestAddress(place)).unwrap())
            } else {
                ram.read_obj::<u64>(GuestAddress(place)).unwrap()
            }
        };
        self.places().into_iter().map(entry).collect()
    }

    /// Walks for an access named by `ask`: `u` or `s`, then `r`, `w` or `x`.
    fn ask(&self, map: &MemoryMap, ask: &str) -> Result<Translation, u32> {
        let request = Request {
            linear: self.form.linear(),
            write: ask.ends_with('w'),
            fetch: ask.ends_with('x'),
            user: ask.starts_with('u'),
            smap_override: self.smap_override,
        };
        walk(map, &self.paging, &request)
    }

    /// Writes the tables into fresh RAM and walks.
    fn walk(&self, ask: &str) -> Result<Translation, u32> {
        let ram = ram();
        self.write(&ram);
        self.ask(&MemoryMap::new(RamSlot::all_of(&ram)), ask)
    }
}

fn ram() -> Arc<GuestRam> {
    allocate(RAM, RamOptions::default()).unwrap()
}

/// What user and supervisor may do, as `rwx` with a dash for what faults.
fn rights(case: &Case) -> String {
    let of = |who: char| -> String {
        "rwx"
            .chars()
            .map(|what| match case.walk(&format!("{who}{what}")) {
                Ok(_) => what,
                Err(code) => {
                    assert_eq!(code & 1, 1, "a missing right is a fault of a present page");
                    '-'
                }
            })
            .collect()
    };
    format!("{} {}", of('u'), of('s'))
}

#[test]
fn rights_are_those_of_all_levels_together() {
    const SMEP: u64 = cr4::SMEP;
    const SMAP: u64 = cr4::SMAP;
    let rows = [
        (Case::new(Legacy), "rwx rwx"),
        (Case::new(Legacy4M), "rwx rwx"),
        (Case::new(Pae), "rwx rwx"),
        (Case::new(Pae2M), "rwx rwx"),
        (Case::new(Long), "rwx rwx"),
        (Case::new(Long2M), "rwx rwx"),
        (Case::new(Long1G), "rwx rwx"),
        // Read-only, with and without CR0.WP.
        (Case::new(Legacy).clear(0, W), "r-x r-x"),
        (Case::new(Legacy).clear(1, W), "r-x r-x"),
        (Case::new(Legacy).clear(1, W).without(cr0::WP, 0, 0), "r-x rwx"),
        (Case::new(Legacy4M).clear(0, W), "r-x r-x"),
        (Case::new(Pae).clear(1, W), "r-x r-x"),
        (Case::new(Pae2M).clear(0, W).without(cr0::WP, 0, 0), "r-x rwx"),
        (Case::new(Long).clear(0, W), "r-x r-x"),
        (Case::new(Long).clear(3, W), "r-x r-x"),
        (Case::new(Long).clear(2, W).without(cr0::WP, 0, 0), "r-x rwx"),
        (Case::new(Long1G).clear(0, W), "r-x r-x"),
        // The supervisor's pages.
        (Case::new(Legacy).clear(0, U), "--- rwx"),
        (Case::new(Legacy).clear(1, U), "--- rwx"),
        (Case::new(Legacy4M).clear(0, U), "--- rwx"),
        (Case::new(Pae).clear(1, U), "--- rwx"),
        (Case::new(Long).clear(3, U), "--- rwx"),
        (Case::new(Long).clear(1, U).clear(0, W), "--- r-x"),
        (
            Case::new(Long1G).clear(0, U | W).without(cr0::WP, 0, 0),
            "--- rwx",
        ),
        // No execution.
        (Case::new(Pae).set(0, NX), "rw- rw-"),
        (Case::new(Pae2M).set(0, NX), "rw- rw-"),
        (Case::new(Long).set(0, NX), "rw- rw-"),
        (Case::new(Long).set(1, NX), "rw- rw-"),
        (Case::new(Long).set(3, NX), "rw- rw-"),
        (Case::new(Long2M).set(0, NX).clear(0, W), "r-- r--"),
        (Case::new(Long1G).set(1, NX).clear(0, U), "--- rw-"),
        // SMEP: the supervisor executes no page of the user.
        (Case::new(Legacy).cr4(SMEP), "rwx rw-"),
        (Case::new(Legacy4M).cr4(SMEP), "rwx rw-"),
        (Case::new(Long).cr4(SMEP), "rwx rw-"),
        (Case::new(Long).cr4(SMEP).ac(), "rwx rw-"),
        (Case::new(Long).cr4(SMEP).clear(2, U), "--- rwx"),
        // SMAP: nor does it touch them as data, unless RFLAGS.AC is set.
        (Case::new(Legacy).cr4(SMAP), "rwx --x"),
        (Case::new(Pae2M).cr4(SMAP), "rwx --x"),
        (Case::new(Long).cr4(SMAP), "rwx --x"),
        (Case::new(Long).cr4(SMAP).without(cr0::WP, 0, 0), "rwx --x"),
        (Case::new(Long).cr4(SMAP).ac(), "rwx rwx"),
        (Case::new(Long).cr4(SMAP).ac().clear(0, W), "r-x r-x"),
        (Case::new(Long).cr4(SMAP).clear(0, U), "--- rwx"),
        (Case::new(Long2M).cr4(SMAP | SMEP), "rwx ---"),
        (Case::new(Long1G).cr4(SMAP | SMEP).clear(1, U), "--- rwx"),
    ];
    for (n, (case, expected)) in rows.iter().enumerate() {
        assert_eq!(rights(case), *expected, "row {n}, {:?}", case.form);
    }
}

#[test]
fn error_codes_say_what_was_asked_and_why_it_failed() {
    let high = |bit: u32| 1u64 << bit;
    let rows = [
        // Absent at each level: not a right.
        (Case::new(Legacy).clear(0, P), "ur", 4),
        (Case::new(Legacy).clear(1, P), "sw", 2),
        (Case::new(Pae).clear(2, P), "uw", 6),
        (Case::new(Long).clear(3, P), "sr", 0),
        (Case::new(Long).clear(2, P), "ux", 0x14),
        (Case::new(Long).clear(1, P), "sx", 0x10),
        (Case::new(Long1G).clear(0, P), "uw", 6),
        // Present, but not allowed.
        (Case::new(Legacy).clear(0, W), "uw", 7),
        (Case::new(Long).clear(0, W), "sw", 3),
        (Case::new(Long).clear(0, U), "ur", 5),
        (Case::new(Long).set(0, NX), "ux", 0x15),
        (Case::new(Long).set(0, NX), "sx", 0x11),
        (Case::new(Long).cr4(cr4::SMAP), "sr", 1),
        (Case::new(Long).cr4(cr4::SMAP), "sw", 3),
        // The bit of fetches is there with NXE or SMEP only.
        (Case::new(Legacy).clear(0, P), "ux", 4),
        (Case::new(Legacy).clear(0, P).cr4(cr4::SMEP), "ux", 0x14),
        (Case::new(Pae).clear(0, P).without(0, 0, efer::NXE), "sx", 0),
        (Case::new(Long).clear(0, P).without(0, 0, efer::NXE), "ux", 4),
        (
            Case::new(Long).without(0, 0, efer::NXE).cr4(cr4::SMEP),
            "sx",
            0x11,
        ),
        // Reserved bits: NX without NXE, addresses beyond MAXPHYADDR, large pages that are not aligned, PS where no page can end.
        (Case::new(Pae).set(0, NX).without(0, 0, efer::NXE), "ur", 0xd),
        (Case::new(Long).set(3, NX).without(0, 0, efer::NXE), "sr", 9),
        (Case::new(Long).set(0, high(40)), "ur", 0xd),
        (Case::new(Long).set(1, high(51)), "uw", 0xf),
        (Case::new(Long).set(3, high(40)), "ux", 0x1d),
        (Case::new(Long).set(3, PS), "sr", 9),
        (Case::new(Long2M).set(0, high(13)), "sr", 9),
        (Case::new(Long2M).set(0, high(20)), "sr", 9),
        (Case::new(Long1G).set(0, high(13)), "sr", 9),
        (Case::new(Long1G).set(0, high(29)), "sw", 0xb),
        (Case::new(Pae).set(0, high(52)), "sr", 9),
        (Case::new(Pae).set(1, high(62)), "sr", 9),
        (Case::new(Pae2M).set(0, high(13)), "sr", 9),
        (Case::new(Pae).set(2, W), "sr", 9),
        (Case::new(Pae).set(2, U), "sr", 9),
        (Case::new(Pae).set(2, PS), "sr", 9),
        (Case::new(Pae).set(2, NX), "sr", 9),
        (Case::new(Legacy4M).set(0, high(21)), "ur", 0xd),
        (Case::new(Legacy4M).set(0, high(17)).bits(36), "ur", 0xd),
        (Case::new(Legacy4M).set(0, high(13)).bits(32), "sr", 9),
        // A reserved bit counts even where the right is missing too, and not where the entry is absent.
        (Case::new(Long).set(0, high(45)).clear(0, U), "ur", 0xd),
        (Case::new(Long).set(0, high(45)).clear(0, P), "ur", 4),
    ];
    for (n, (case, ask, expected)) in rows.iter().enumerate() {
        let found = case.walk(ask).map(|t| t.gpa);
        assert_eq!(found, Err(*expected), "row {n}, {:?} {ask}", case.form);
    }
}

#[test]
fn bits_that_are_not_reserved_are_ignored() {
    let rows = [
        // Bits 52 to 62 in long mode, the software's bits everywhere.
        Case::new(Long).set(0, 0x7ff0_0000_0000_0e00),
        Case::new(Long).set(3, 0x7ff0_0000_0000_0e00),
        Case::new(Long2M).set(0, 0x0e00),
        Case::new(Pae).set(2, 0x0e00),
        // PWT, PCD, and PAT: bit 7 of a last-level entry, bit 12 of a large page's.
        Case::new(Long).set(0, 0x98),
        Case::new(Long1G).set(0, 1 << 12 | 0x18),
        Case::new(Pae2M).set(0, 1 << 12),
        Case::new(Pae).set(2, 0x18),
        Case::new(Legacy).set(0, 0x80),
    ];
    for (n, case) in rows.iter().enumerate() {
        let plain = Case::new(case.form).walk("uw").unwrap().gpa;
        let found = case.walk("uw").map(|t| t.gpa);
        assert_eq!(found, Ok(plain), "row {n}, {:?}", case.form);
    }
}

#[test]
fn addresses_are_put_together_from_frame_and_offset() {
    let rows = [
        (Case::new(Legacy), 0x4000_0678, false),
        (Case::new(Legacy4M), 0x4020_5678, true),
        (Case::new(Pae), 0xc0_4000_0678, false),
        (Case::new(Pae2M), 0xc0_4000_5678, true),
        (Case::new(Long), 0xc0_4000_0678, false),
        (Case::new(Long2M), 0xc0_4000_5678, true),
        (Case::new(Long1G), 0xc0_4060_5678, true),
        // PSE-36: address bits 32 to 39 lie in bits 13 to 20.
        (Case::new(Legacy4M).set(0, 0xa5 << 13), 0xa5_4020_5678, true),
        (
            Case::new(Legacy4M).set(0, 0x5 << 13).bits(36),
            0x5_4020_5678,
            true,
        ),
        // Without PSE bit 7 means nothing in a directory entry: what it leads to is a table.
        (
            Case::new(Legacy).set(1, PS).without(0, cr4::PSE, 0),
            0x4000_0678,
            false,
        ),
        // With PAE or in long mode PSE means nothing.
        (Case::new(Pae2M).cr4(cr4::PSE), 0xc0_4000_5678, true),
    ];
    for (n, (case, gpa, large)) in rows.iter().enumerate() {
        let found = case.walk("ur").unwrap();
        assert_eq!(
            (found.gpa, found.large),
            (*gpa, *large),
            "row {n}, {:?}",
            case.form
        );
    }
}

#[test]
fn without_paging_addresses_are_physical_and_32_bits_wide() {
    let mut case = Case::new(Long);
    case.paging.cr0 = cr0::PE;
    let found = case.walk("uw").unwrap();
    assert_eq!(found.gpa, LINEAR & 0xffff_ffff);
    assert!(found.read && found.write && found.fetch && !found.global);
}

#[test]
fn pages_are_global_by_their_last_entry_and_cr4() {
    for (n, (case, expected)) in [
        (Case::new(Long).set(0, G).cr4(cr4::PGE), true),
        (Case::new(Long).set(0, G), false),
        (Case::new(Long).set(1, G).cr4(cr4::PGE), false),
        (Case::new(Long1G).set(0, G).cr4(cr4::PGE), true),
        (Case::new(Legacy4M).set(0, G).cr4(cr4::PGE), true),
    ]
    .iter()
    .enumerate()
    {
        assert_eq!(case.walk("ur").unwrap().global, *expected, "row {n}");
    }
}

/// Walks once and returns which entries got which bits.
fn marks(case: &Case, ask: &str) -> Vec<u64> {
    let ram = ram();
    case.write(&ram);
    let _ = case.ask(&MemoryMap::new(RamSlot::all_of(&ram)), ask);
    case.read(&ram)
        .iter()
        .zip(&case.entries)
        .map(|(after, before)| after ^ before)
        .collect()
}

#[test]
fn walks_set_accessed_bits_on_the_way_and_the_dirty_bit_of_a_write() {
    let rows = [
        (Case::new(Legacy), "ur", vec![A, A]),
        (Case::new(Legacy), "uw", vec![A, A | D]),
        (Case::new(Legacy4M), "sw", vec![A | D]),
        (Case::new(Legacy4M), "ux", vec![A]),
        // Directory pointers of PAE have no accessed bit.
        (Case::new(Pae), "ur", vec![0, A, A]),
        (Case::new(Pae2M), "uw", vec![0, A | D]),
        (Case::new(Long), "ux", vec![A, A, A, A]),
        (Case::new(Long), "uw", vec![A, A, A, A | D]),
        (Case::new(Long2M), "sw", vec![A, A, A | D]),
        (Case::new(Long1G), "sr", vec![A, A]),
        // What is set stays set.
        (Case::new(Long).set(0, A | D).set(1, A), "uw", vec![A, A, 0, 0]),
        (Case::new(Long).set(0, A), "uw", vec![A, A, A, D]),
        // No bits of a page that may not be accessed.
        (Case::new(Long1G).clear(0, W), "uw", vec![A, 0]),
        (Case::new(Legacy4M).clear(0, U), "ur", vec![0]),
        (Case::new(Legacy4M).clear(0, P), "ur", vec![0]),
    ];
    for (n, (case, ask, expected)) in rows.iter().enumerate() {
        assert_eq!(marks(case, ask), *expected, "row {n}, {:?} {ask}", case.form);
    }
}

#[test]
fn a_page_counts_as_writable_for_the_tlb_only_when_its_dirty_bit_is_set() {
    assert!(!Case::new(Long).walk("ur").unwrap().write);
    assert!(Case::new(Long).walk("uw").unwrap().write);
    assert!(Case::new(Long).set(0, D).walk("ur").unwrap().write);
    assert!(!Case::new(Long).set(0, D).clear(0, W).walk("ur").unwrap().write);
}

#[test]
fn tables_outside_ram_are_not_present() {
    for (up, code) in [(1, 6), (2, 6), (3, 6)] {
        // The entry `up` levels above the last leads to the LAPIC's page, or past the end of RAM.
        for table in [0xfee0_0000, RAM, 0xff_ffff_f000] {
            let case = Case::new(Long).clear(up, 0xf000).set(up, table);
            assert_eq!(case.walk("uw").map(|t| t.gpa), Err(code), "{up} {table:#x}");
        }
    }
    let mut case = Case::new(Legacy);
    case.paging.cr3 = 0xffff_f000;
    assert_eq!(case.walk("sr").map(|t| t.gpa), Err(0));
}

/// Pages of `ram` that its dirty log names.
fn dirty(ram: &GuestRam) -> Vec<u64> {
    let slots = RamSlot::all_of(ram);
    let words = slots[0].mapping.bitmap().take_dirty();
    (0..RAM / 4096)
        .filter(|page| words[(page / 64) as usize] >> (page % 64) & 1 != 0)
        .map(|page| page * 4096)
        .collect()
}

#[test]
fn accessed_and_dirty_bits_are_in_the_dirty_log() {
    for form in [Legacy, Long] {
        let case = Case::new(form);
        let ram = ram();
        case.write(&ram);
        let slots = RamSlot::all_of(&ram);
        slots[0].mapping.bitmap().set_logging(true);
        let map = MemoryMap::new(slots);
        let tables = &TABLES[..form.shifts().len()];
        case.ask(&map, "ur").unwrap();
        assert_eq!(dirty(&ram), tables, "{form:?}: accessed bits");
        case.ask(&map, "ur").unwrap();
        assert_eq!(dirty(&ram), [0; 0], "{form:?}: nothing is left to set");
        case.ask(&map, "uw").unwrap();
        assert_eq!(dirty(&ram), tables[tables.len() - 1..], "{form:?}: the dirty bit");
    }
}

#[test]
fn tables_in_rom_are_walked_and_stay_as_they_are() {
    for form in [Legacy, Pae, Long1G] {
        let case = Case::new(form);
        let ram = ram();
        case.write(&ram);
        let mut slots = RamSlot::all_of(&ram);
        slots[0].mapping.bitmap().set_logging(true);
        slots[0].writable = false;
        let found = case.ask(&MemoryMap::new(slots), "uw").unwrap();
        assert!(found.write, "{form:?}");
        assert_eq!(case.read(&ram), case.entries, "{form:?}");
        assert_eq!(dirty(&ram), [0; 0], "{form:?}");
    }
}
