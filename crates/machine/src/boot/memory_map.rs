//! The memory map that a kernel is given (E820 types; ACPI 6.5, 15).

use ostler_memory::{GuestRam, boot_regions};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use crate::layout::{ACPI_TABLES, ECAM_BASE, ECAM_SIZE, HIGH_RAM_START, LOW_RAM_END, RESERVED_TOP};

/// What a range is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Use {
    /// RAM.
    Ram = 1,
    /// Not for the kernel's use.
    Reserved = 2,
}

/// One range of the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapEntry {
    /// First address.
    pub base: u64,
    /// Bytes.
    pub len: u64,
    /// What it is for.
    pub usage: Use,
}

/// Most entries that a map has here.
pub const MAX_ENTRIES: usize = 16;

/// End of the RAM that starts at address 0.
pub fn low_ram_end(ram: &GuestRam) -> u64 {
    ram.iter()
        .find(|region| region.start_addr().0 == 0)
        .map_or(0, |region| region.len())
}

/// The map of a machine with this RAM, sorted by address.
pub fn memory_map(ram: &GuestRam) -> Vec<MapEntry> {
    let range = |base: u64, end: u64, usage| MapEntry {
        base,
        len: end - base,
        usage,
    };
    let low_end = low_ram_end(ram);
    let mut map = vec![
        range(0, LOW_RAM_END, Use::Ram),
        range(LOW_RAM_END, 0xa_0000, Use::Reserved),
        range(ACPI_TABLES, HIGH_RAM_START, Use::Reserved),
    ];
    if low_end > HIGH_RAM_START {
        map.push(range(HIGH_RAM_START, low_end, Use::Ram));
    }
    map.push(range(ECAM_BASE, ECAM_BASE + ECAM_SIZE, Use::Reserved));
    map.push(range(RESERVED_TOP, 1 << 32, Use::Reserved));
    let high = boot_regions(ram).filter(|region| region.start_addr().0 != 0);
    map.extend(high.map(|region| MapEntry {
        base: region.start_addr().0,
        len: region.len(),
        usage: Use::Ram,
    }));
    map.truncate(MAX_ENTRIES);
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_sorted_and_do_not_overlap() {
        for size in [2 << 20, 512 << 20, 5 << 30] {
            let ram = ostler_memory::allocate(size, Default::default()).unwrap();
            let map = memory_map(&ram);
            for pair in map.windows(2) {
                assert!(pair[0].base + pair[0].len <= pair[1].base, "{pair:x?}");
            }
            let usable: u64 = map.iter().filter(|e| e.usage == Use::Ram).map(|e| e.len).sum();
            assert_eq!(usable, size - (HIGH_RAM_START - LOW_RAM_END));
        }
    }
}
