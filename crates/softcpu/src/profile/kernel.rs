//! The symbols of the kernel that a guest runs.
//!
//! 64-bit Linux lets SYSCALL lead to `entry_SYSCALL_64`. From that address the page tables tell where the kernel's image is in
//! guest-physical memory, wherever it was put; its tables lie behind its code. They are believed if they have that symbol at that
//! address, which also settles where the kernel was moved to.

use std::time::{Duration, Instant};

use super::kallsyms::{self, Source, Symbols};
use crate::host::Int;
use crate::mmu::memory_map::MemoryMap;

/// What SYSCALL leads to in Linux.
const ENTRY: &str = "entry_SYSCALL_64";
/// How far behind the entry its tables are looked for, in bytes.
const REACH: u64 = 64 << 20;
/// How long a search that found nothing is not made again.
const PATIENCE: Duration = Duration::from_secs(10);

/// What identifies the kernel that a vCPU runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// Where SYSCALL leads to.
    pub entry: u64,
    /// Page tables, four levels of them, that have it.
    pub cr3: u64,
}

/// The symbols that were found, as long as the guest runs that kernel.
#[derive(Debug, Default)]
pub struct KnownSymbols {
    /// Where the entry was, and when it was looked for.
    looked: Option<(u64, Instant)>,
    symbols: Option<Symbols>,
}

impl KnownSymbols {
    /// The symbols of `kernel` in `memory`, if it has any. They are looked for again when the kernel is another one.
    pub fn of(&mut self, kernel: Kernel, memory: &MemoryMap) -> Option<&Symbols> {
        let known = self.looked.is_some_and(|(entry, when)| {
            entry == kernel.entry
                && match &self.symbols {
                    Some(symbols) => symbols.are_still_in(memory),
                    None => when.elapsed() < PATIENCE,
                }
        });
        if !known {
            self.looked = None;
            self.symbols = None;
            let place = physical(memory, kernel)?;
            self.symbols = kallsyms::find(memory, place..place.saturating_add(REACH), |symbols| {
                symbols.has(ENTRY, kernel.entry)
            });
            self.looked = Some((kernel.entry, Instant::now()));
        }
        self.symbols.as_ref()
    }
}

/// Guest-physical page of the kernel's entry. Nothing in the tables is changed.
fn physical(memory: &dyn Source, kernel: Kernel) -> Option<u64> {
    const PRESENT: u64 = 1;
    const LARGE: u64 = 1 << 7;
    const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    let mut table = kernel.cr3 & ADDRESS;
    for shift in [39, 30, 21, 12] {
        let mut entry = [0; 8];
        if !memory.read(table + 8 * (kernel.entry >> shift & 511), &mut entry) {
            return None;
        }
        let entry = u64::from_le_bytes(entry);
        if entry & PRESENT == 0 {
            return None;
        }
        if shift == 12 || shift < 39 && entry & LARGE != 0 {
            let offset = (1u64 << shift) - 1;
            return Some(((entry & ADDRESS & !offset) | kernel.entry & offset) & !0xfff);
        }
        table = entry & ADDRESS;
    }
    None
}

impl Source for MemoryMap {
    fn read(&self, mut address: u64, mut bytes: &mut [u8]) -> bool {
        while !bytes.is_empty() {
            let Some(page) = self.page(address) else {
                return false;
            };
            let offset = (address & 0xfff) as usize;
            let (here, rest) = bytes.split_at_mut(bytes.len().min(4096 - offset));
            copy(page.host.wrapping_add(offset), here);
            bytes = rest;
            address = (address | 0xfff).wrapping_add(1);
        }
        true
    }
}

/// Copies from guest memory, which vCPUs may change meanwhile. `from` is mapped for that many bytes.
fn copy(from: *const u8, to: &mut [u8]) {
    let (words, rest) = to.as_chunks_mut::<8>();
    let behind = from.wrapping_add(8 * words.len());
    for (index, word) in words.iter_mut().enumerate() {
        // SAFETY: the caller's page is mapped guest RAM as far as `to` reaches.
        *word = unsafe { u64::load(from.wrapping_add(8 * index)) }.to_le_bytes();
    }
    for (index, byte) in rest.iter_mut().enumerate() {
        // SAFETY: as above.
        *byte = unsafe { u8::load(behind.wrapping_add(index)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::kallsyms::tests::{Image, Layout};
    use ostler_memory::vm_memory::{Bytes, GuestAddress};
    use ostler_memory::{GuestRam, RamOptions, RamSlot, allocate};

    const TABLES: u64 = 0x1000;
    const CODE: u64 = 0x20_0000;
    const ENTRY_AT: u64 = 0xffff_ffff_9a20_0040;

    /// 8 MiB with a 2 MiB page for the entry.
    fn ram() -> std::sync::Arc<GuestRam> {
        let ram = allocate(8 << 20, RamOptions::default()).unwrap();
        let put = |table: u64, shift: u32, entry: u64| {
            let at = TABLES + 0x1000 * table + 8 * (ENTRY_AT >> shift & 511);
            ram.write_obj(entry, GuestAddress(at)).unwrap();
        };
        put(0, 39, TABLES + 0x1000 + 3);
        put(1, 30, TABLES + 0x2000 + 3);
        put(2, 21, CODE + 0x83);
        ram
    }

    fn kernel() -> Kernel {
        Kernel {
            entry: ENTRY_AT,
            cr3: TABLES,
        }
    }

    fn image(function: &str) -> Vec<u8> {
        let symbols = [
            ("Tentry_SYSCALL_64", ENTRY_AT),
            (function, ENTRY_AT + 0x100),
            ("Tend", ENTRY_AT + 0x200),
        ];
        Image::of(&symbols).laid_out(Layout::Old)
    }

    #[test]
    fn the_kernel_in_force_names_addresses() {
        let ram = ram();
        let map = MemoryMap::new(RamSlot::all_of(&ram));
        let mut known = KnownSymbols::default();
        assert_eq!(physical(&map, kernel()), Some(CODE));
        assert!(known.of(kernel(), &map).is_none());
        // It is not looked for at each look; another kernel is.
        ram.write_slice(&image("tschedule"), GuestAddress(CODE + 0x4_0000))
            .unwrap();
        assert!(known.of(kernel(), &map).is_none());
        known.looked = None;
        let found = known
            .of(kernel(), &map)
            .unwrap()
            .function_at(ENTRY_AT + 0x108)
            .unwrap();
        assert_eq!((found.name.as_str(), found.offset), ("schedule", 8));

        // The guest starts again with another kernel that has its entry at the same place.
        ram.write_slice(&image("tQuite_another"), GuestAddress(CODE + 0x4_0000))
            .unwrap();
        let found = known.of(kernel(), &map).unwrap();
        assert_eq!(found.function_at(ENTRY_AT + 0x108).unwrap().name, "Quite_another");
    }

    #[test]
    fn a_table_that_lacks_the_entry_is_not_believed() {
        let ram = ram();
        let map = MemoryMap::new(RamSlot::all_of(&ram));
        let moved = [
            ("Tentry_SYSCALL_64", ENTRY_AT + 0x20_0000),
            ("Tend", ENTRY_AT + 0x30_0000),
        ];
        let image = Image::of(&moved).laid_out(Layout::Old);
        ram.write_slice(&image, GuestAddress(CODE + 0x4_0000)).unwrap();
        assert!(KnownSymbols::default().of(kernel(), &map).is_none());
    }

    #[test]
    fn absurd_page_tables_lead_nowhere() {
        let ram = ram();
        let map = MemoryMap::new(RamSlot::all_of(&ram));
        for cr3 in [0, u64::MAX, 0x0007_ffff_ffff_f000] {
            assert_eq!(physical(&map, Kernel { entry: ENTRY_AT, cr3 }), None);
        }
        // A table that is its own next one ends with the last level.
        ram.write_slice(&(TABLES + 3).to_le_bytes().repeat(512), GuestAddress(TABLES))
            .unwrap();
        assert_eq!(physical(&map, kernel()), Some(TABLES));
        // A kernel at the end of memory.
        ram.write_slice(
            &0x60_0083u64.to_le_bytes().repeat(512),
            GuestAddress(TABLES + 0x2000),
        )
        .unwrap();
        ram.write_slice(&(TABLES + 0x1003).to_le_bytes().repeat(512), GuestAddress(TABLES))
            .unwrap();
        assert_eq!(physical(&map, kernel()), Some(0x60_0000));
        assert!(KnownSymbols::default().of(kernel(), &map).is_none());
    }
}
