//! Page walks (SDM vol. 3, chapter 4).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ostler_memory::PAGE_SIZE;

use super::memory_map::{HostPage, MemoryMap};
use crate::state::{cr0, cr4, efer};

/// Bits of a paging-structure entry.
mod entry {
    pub const P: u64 = 1;
    pub const W: u64 = 1 << 1;
    pub const U: u64 = 1 << 2;
    pub const A: u64 = 1 << 5;
    pub const D: u64 = 1 << 6;
    pub const PS: u64 = 1 << 7;
    pub const G: u64 = 1 << 8;
    pub const NX: u64 = 1 << 63;
}

/// Bits of a page fault's error code.
pub mod code {
    /// The page is present: a right is missing.
    pub const PRESENT: u32 = 1;
    /// A write.
    pub const WRITE: u32 = 1 << 1;
    /// With user privilege.
    pub const USER: u32 = 1 << 2;
    /// A reserved bit is set.
    pub const RESERVED: u32 = 1 << 3;
    /// An instruction fetch.
    pub const FETCH: u32 = 1 << 4;
}

/// What a walk depends on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Paging {
    /// CR0, of which PG and WP matter.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
    /// MAXPHYADDR.
    pub physical_bits: u32,
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Linear address.
    pub linear: u64,
    /// A write.
    pub write: bool,
    /// An instruction fetch.
    pub fetch: bool,
    /// User privilege.
    pub user: bool,
    /// A supervisor's data access to user pages is allowed although SMAP is on (explicit, RFLAGS.AC set).
    pub smap_override: bool,
}

/// What a page allows to the class that asked.
#[derive(Debug, Clone, Copy)]
pub struct Translation {
    /// Guest-physical address.
    pub gpa: u64,
    /// The page may be read as data.
    pub read: bool,
    /// The page may be written, and its dirty bit is set.
    pub write: bool,
    /// Instructions may be fetched.
    pub fetch: bool,
    /// Global.
    pub global: bool,
    /// Larger than 4 KiB.
    pub large: bool,
    /// Part of a 1 GiB page.
    pub huge: bool,
}

/// One level of the walk.
struct Level {
    shift: u32,
    /// A page can end here.
    leaf: bool,
    /// Bits of rights are meaningful (not in a PAE directory pointer).
    rights: bool,
}

const LONG: &[Level] = &[
    Level {
        shift: 39,
        leaf: false,
        rights: true,
    },
    Level {
        shift: 30,
        leaf: true,
        rights: true,
    },
    Level {
        shift: 21,
        leaf: true,
        rights: true,
    },
    Level {
        shift: 12,
        leaf: true,
        rights: true,
    },
];
const PAE: &[Level] = &[
    Level {
        shift: 30,
        leaf: false,
        rights: false,
    },
    Level {
        shift: 21,
        leaf: true,
        rights: true,
    },
    Level {
        shift: 12,
        leaf: true,
        rights: true,
    },
];
const LEGACY: &[Level] = &[
    Level {
        shift: 22,
        leaf: true,
        rights: true,
    },
    Level {
        shift: 12,
        leaf: true,
        rights: true,
    },
];

/// A paging-structure entry in guest memory.
struct Cell<'a> {
    word: Word<'a>,
    page: HostPage<'a>,
    /// Offset in the page.
    offset: usize,
}

/// The entry itself.
enum Word<'a> {
    Wide(&'a AtomicU64),
    Narrow(&'a AtomicU32),
}

impl Cell<'_> {
    fn load(&self) -> u64 {
        match self.word {
            Word::Wide(word) => word.load(Ordering::Acquire),
            Word::Narrow(word) => u64::from(word.load(Ordering::Acquire)),
        }
    }

    /// Sets accessed and dirty bits if the entry still is `old`. Bits in ROM stay as they are, like those of any other write there.
    fn set(&self, old: u64, bits: u64) -> bool {
        if !self.page.writable {
            return true;
        }
        let (done, len) = match self.word {
            Word::Wide(word) => {
                let result = word.compare_exchange(old, old | bits, Ordering::AcqRel, Ordering::Relaxed);
                (result.is_ok(), 8)
            }
            Word::Narrow(word) => {
                let (old, new) = (old as u32, (old | bits) as u32);
                let result = word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed);
                (result.is_ok(), 4)
            }
        };
        if done {
            let start = self.page.page * PAGE_SIZE + self.offset;
            self.page.tracker.note_write(start, len);
        }
        done
    }
}

/// Finds the page of `request`, setting accessed and dirty bits, or the error code of the page fault.
pub fn walk(map: &MemoryMap, paging: &Paging, request: &Request) -> Result<Translation, u32> {
    if paging.cr0 & cr0::PG == 0 {
        let gpa = request.linear & 0xffff_ffff;
        return Ok(Translation {
            gpa,
            read: true,
            write: true,
            fetch: true,
            global: false,
            large: false,
            huge: false,
        });
    }
    // An entry that another CPU changed under us makes the walk start again.
    loop {
        if let Some(result) = try_walk(map, paging, request) {
            return result;
        }
    }
}

/// Rights gathered on the way down.
struct Rights {
    writable: bool,
    user: bool,
    executable: bool,
}

fn try_walk(map: &MemoryMap, paging: &Paging, request: &Request) -> Option<Result<Translation, u32>> {
    let long = paging.efer & efer::LMA != 0;
    let wide = long || paging.cr4 & cr4::PAE != 0;
    let (levels, mut table, index_bits) = match (long, wide) {
        (true, _) => (LONG, paging.cr3 & 0x000f_ffff_ffff_f000, 9),
        (_, true) => (PAE, paging.cr3 & 0xffff_ffe0, 9),
        _ => (LEGACY, paging.cr3 & 0xffff_f000, 10),
    };
    let nxe = wide && paging.efer & efer::NXE != 0;
    let base_code = fault_code(paging, request, nxe);
    let mut rights = Rights {
        writable: true,
        user: true,
        executable: true,
    };
    for level in levels {
        let index = (request.linear >> level.shift) & ((1 << index_bits) - 1);
        let address = table + index * if wide { 8 } else { 4 };
        let Some(cell) = cell(map, address, wide) else {
            return Some(Err(base_code));
        };
        let entry = cell.load();
        if entry & entry::P == 0 {
            return Some(Err(base_code));
        }
        let ends = level.leaf
            && (level.shift == 12 || (entry & entry::PS != 0 && (wide || paging.cr4 & cr4::PSE != 0)));
        if entry & reserved_bits(paging, level, long, wide, nxe, ends) != 0 {
            return Some(Err(base_code | code::PRESENT | code::RESERVED));
        }
        if level.rights {
            rights.writable &= entry & entry::W != 0;
            rights.user &= entry & entry::U != 0;
            rights.executable &= !(nxe && entry & entry::NX != 0);
        }
        if ends {
            return finish(
                paging,
                request,
                Leaf {
                    shift: level.shift,
                    wide,
                    cell,
                    entry,
                },
                &rights,
                base_code,
            );
        }
        if level.rights && entry & entry::A == 0 && !cell.set(entry, entry::A) {
            return None;
        }
        table = entry & if wide { 0x000f_ffff_ffff_f000 } else { 0xffff_f000 };
    }
    Some(Err(base_code))
}

fn fault_code(paging: &Paging, request: &Request, nxe: bool) -> u32 {
    let mut bits = 0;
    if request.write {
        bits |= code::WRITE;
    }
    if request.user {
        bits |= code::USER;
    }
    if request.fetch && (nxe || paging.cr4 & cr4::SMEP != 0) {
        bits |= code::FETCH;
    }
    bits
}

fn reserved_bits(paging: &Paging, level: &Level, long: bool, wide: bool, nxe: bool, ends: bool) -> u64 {
    if !wide {
        // PSE-36: bits 13 to 20 of a 4 MiB entry are address bits 32 to 39, as far as there are so many; the rest up to bit 21 is
        // reserved.
        if ends && level.shift == 22 {
            let first = paging.physical_bits.clamp(32, 40) - 19;
            return (1 << 22) - (1 << first);
        }
        return 0;
    }
    let mut bits = 0x000f_ffff_ffff_ffff & !((1 << paging.physical_bits) - 1);
    if !level.rights {
        return bits | 0x1e6 | 0xfff0_0000_0000_0000;
    }
    if !long {
        bits |= 0x7ff0_0000_0000_0000;
    }
    if !nxe {
        bits |= entry::NX;
    }
    if ends && level.shift > 12 {
        bits |= ((1 << level.shift) - 1) & !0x1fff;
    } else if !level.leaf {
        bits |= entry::PS;
    }
    bits
}

/// The last entry of a walk.
struct Leaf<'a> {
    shift: u32,
    wide: bool,
    cell: Cell<'a>,
    entry: u64,
}

fn finish(
    paging: &Paging,
    request: &Request,
    leaf: Leaf<'_>,
    rights: &Rights,
    base_code: u32,
) -> Option<Result<Translation, u32>> {
    let Leaf {
        shift,
        wide,
        cell,
        entry,
    } = leaf;
    let smap = paging.cr4 & cr4::SMAP != 0 && !request.smap_override;
    let smep = paging.cr4 & cr4::SMEP != 0;
    let (read, writable, fetch) = if request.user {
        (
            rights.user,
            rights.user && rights.writable,
            rights.user && rights.executable,
        )
    } else {
        let data = !(smap && rights.user);
        let write = data && (rights.writable || paging.cr0 & cr0::WP == 0);
        (data, write, rights.executable && !(smep && rights.user))
    };
    let allowed = if request.fetch {
        fetch
    } else if request.write {
        writable
    } else {
        read
    };
    if !allowed {
        return Some(Err(base_code | code::PRESENT));
    }
    let wanted = entry::A | if request.write { entry::D } else { 0 };
    if entry & wanted != wanted && !cell.set(entry, wanted) {
        return None;
    }
    let mask = (1u64 << shift) - 1;
    let frame = if wide {
        entry & 0x000f_ffff_ffff_f000 & !mask
    } else {
        let high = if shift == 22 {
            (entry >> 13 & 0xff) << 32
        } else {
            0
        };
        (entry & 0xffff_f000 & !mask) | high
    };
    Some(Ok(Translation {
        gpa: frame | (request.linear & mask),
        read,
        write: writable && (entry | wanted) & entry::D != 0,
        fetch,
        global: entry & entry::G != 0 && paging.cr4 & cr4::PGE != 0,
        large: shift > 12,
        huge: shift == 30,
    }))
}

/// The entry at `address`. A table outside RAM reads as not present.
fn cell<'a>(map: &'a MemoryMap, address: u64, wide: bool) -> Option<Cell<'a>> {
    let page = map.page(address)?;
    let offset = (address & 0xfff) as usize;
    let ptr = page.host.wrapping_add(offset);
    // SAFETY: the entry is naturally aligned (tables are page aligned, PAE pointers 32-byte aligned), lies in a mapping that lives
    // as long as the map, and is only ever accessed as memory shared with the guest.
    let word = unsafe {
        if wide {
            Word::Wide(AtomicU64::from_ptr(ptr.cast()))
        } else {
            Word::Narrow(AtomicU32::from_ptr(ptr.cast()))
        }
    };
    Some(Cell { word, page, offset })
}

#[cfg(test)]
mod tests;
