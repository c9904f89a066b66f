//! Allocation of guest RAM and its place in the guest-physical address space.

use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, MemfdFlags};
use rustix::mm::Advice;
use vm_memory::bitmap::Bitmap;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MmapRegion,
};

use crate::huge;
use crate::persistent::{self, FileMemory, is_persistent};
use crate::pluggable::{Blocks, blocks, boot_regions};
use crate::tracker::PageTracker;

/// All RAM of a guest.
pub type GuestRam = GuestMemoryMmap<PageTracker>;
/// One contiguous piece of it.
pub type RamRegion = GuestRegionMmap<PageTracker>;

/// Start of the hole below 4 GiB that holds PCIEXBAR, PCI windows and the interrupt controllers.
pub const MMIO_GAP_START: u64 = 0xb000_0000;
/// End of that hole (exclusive); RAM that does not fit below it continues here.
pub const MMIO_GAP_END: u64 = 0x1_0000_0000;

/// Why RAM could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The size is zero or no multiple of a page.
    #[error("guest memory of {0} bytes is no positive multiple of 4096 bytes; give a size such as 512M")]
    Size(u64),
    /// The host refused the mapping.
    #[error("the host gave no {size} bytes for guest memory: {source}; give the guest less with --memory")]
    Map {
        /// Bytes asked for.
        size: u64,
        /// What the host said.
        source: io::Error,
    },
    /// The host has no huge pages of this size.
    #[error("the host has no huge pages of {}: {source}", shown(.page))]
    NoSuchPages {
        /// Bytes of a page; 0 for the default.
        page: u64,
        /// What the host said.
        source: io::Error,
    },
    /// Memory ends within a huge page.
    #[error("{size} bytes of guest memory are no whole huge pages of {}; change --memory", shown(.page))]
    NotWholePages {
        /// Bytes asked for.
        size: u64,
        /// Bytes of a page.
        page: u64,
    },
    /// Not enough huge pages are free.
    #[error(
        "guest memory takes {wanted} huge pages of {}, and {free} are free; allocate more (virsh allocpages), or leave huge pages out",
        shown(.page)
    )]
    TooFewPages {
        /// Pages asked for.
        wanted: u64,
        /// Bytes of a page.
        page: u64,
        /// Pages that nobody has.
        free: u64,
    },
    /// The host refused to map a file.
    #[error("a file cannot be {size} bytes of the guest's memory: {source}")]
    MapFile {
        /// Bytes asked for.
        size: u64,
        /// What the host said.
        source: io::Error,
    },
    /// A file has fewer bytes.
    #[error("a file of {there} bytes cannot be {size} bytes of the guest's memory; make it longer")]
    ShortFile {
        /// Bytes asked for.
        size: u64,
        /// Bytes of the file.
        there: u64,
    },
    /// The regions overlap or are out of order.
    #[error("guest memory regions do not fit together: {0}")]
    Layout(String),
}

/// How RAM is backed.
#[derive(Debug, Clone, Copy, Default)]
pub struct RamOptions {
    /// Back RAM by a memfd, so that another process (a vhost-user peer) can map it.
    pub shared: bool,
    /// Ask for transparent huge pages.
    pub huge: bool,
    /// Take huge pages of so many bytes that were set aside, 0 for the host's default size. They can be mapped by others, too.
    pub huge_pages: Option<u64>,
    /// Bytes below [`MMIO_GAP_START`] that stay free: the machine has memory of its own right above low RAM. A multiple of a page.
    pub keep_free: u64,
}

/// A size of pages, for people.
fn shown(page: &u64) -> String {
    match *page {
        0 => "its default size".into(),
        size if size.is_multiple_of(1 << 20) => format!("{} MiB", size >> 20),
        size => format!("{} KiB", size >> 10),
    }
}

/// A window of the guest-physical address space onto host memory, as an accelerator maps it.
#[derive(Debug, Clone)]
pub struct RamSlot {
    /// First guest-physical address, page aligned.
    pub gpa: u64,
    /// Bytes, a multiple of the page size.
    pub len: u64,
    /// The memory behind it; ROMs have mappings of their own.
    pub mapping: Arc<MmapRegion<PageTracker>>,
    /// Where in the mapping the window starts, page aligned.
    pub offset: u64,
    /// False for ROM: guest writes leave as MMIO exits.
    pub writable: bool,
}

impl RamSlot {
    /// The slots that map what `ram` has from the start, one to one and writable.
    pub fn all_of(ram: &GuestRam) -> Vec<RamSlot> {
        boot_regions(ram)
            .map(|region| RamSlot {
                gpa: region.start_addr().0,
                len: region.len(),
                mapping: region.get_mmap(),
                offset: 0,
                writable: true,
            })
            .collect()
    }

    /// Host address of the slot's first byte.
    pub fn host_ptr(&self) -> *mut u8 {
        self.mapping.as_ptr().wrapping_add(self.offset as usize)
    }
}

/// A region whose memory is plugged in later, in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pluggable {
    /// Most bytes, a multiple of the block's size.
    pub size: u64,
    /// Bytes of a block, a power of two of at least a page.
    pub block_size: u64,
}

/// What a guest has above the RAM that it starts with.
#[derive(Debug, Default)]
pub struct Extras {
    /// A region that is plugged in blocks, of which none is at first. Its memory is always private to the process, and of ordinary pages.
    pub pluggable: Option<Pluggable>,
    /// Files that are memory, a region each.
    pub files: Vec<FileMemory>,
}

/// Where the regions of [`Extras`] may start: Linux adds memory in pieces of up to 2 GiB, most often of 128 MiB.
const EXTRAS_ALIGNMENT: u64 = 1 << 30;

/// Allocates `size` bytes of RAM: from address 0 up to [`MMIO_GAP_START`], the rest from [`MMIO_GAP_END`].
pub fn allocate(size: u64, options: RamOptions) -> Result<Arc<GuestRam>, Error> {
    allocate_all(size, Extras::default(), options)
}

/// The same with a region above it that is plugged in blocks.
pub fn allocate_with(
    size: u64,
    more: Option<Pluggable>,
    options: RamOptions,
) -> Result<Arc<GuestRam>, Error> {
    let extras = Extras {
        pluggable: more,
        files: Vec::new(),
    };
    allocate_all(size, extras, options)
}

/// The same with `extras` above it, each at a multiple of 1 GiB: first what is plugged in blocks, then the files.
pub fn allocate_all(size: u64, extras: Extras, options: RamOptions) -> Result<Arc<GuestRam>, Error> {
    if size == 0 || !size.is_multiple_of(crate::PAGE_SIZE as u64) {
        return Err(Error::Size(size));
    }
    let low = size.min(MMIO_GAP_START - options.keep_free.min(MMIO_GAP_START - crate::PAGE_SIZE as u64));
    let mut regions = vec![allocate_region(GuestAddress(0), low, options)?];
    if size > low {
        regions.push(allocate_region(GuestAddress(MMIO_GAP_END), size - low, options)?);
    }
    let mut end = MMIO_GAP_END + (size - low);
    let mut place = |len: u64| -> Result<GuestAddress, Error> {
        let base = end.checked_next_multiple_of(EXTRAS_ALIGNMENT);
        let next = base.and_then(|base| base.checked_add(len));
        end = next.ok_or(Error::Size(len))?;
        Ok(GuestAddress(end - len))
    };
    if let Some(more) = extras.pluggable {
        let whole = more.block_size.is_power_of_two()
            && more.block_size >= crate::PAGE_SIZE as u64
            && more.size > 0
            && more.size.is_multiple_of(more.block_size);
        if !whole {
            return Err(Error::Size(more.size));
        }
        let private = RamOptions {
            shared: false,
            huge_pages: None,
            ..options
        };
        let region = allocate_region(place(more.size)?, more.size, private)?;
        let mapping = region.get_mmap();
        let blocks = Blocks::new(mapping.as_ptr(), mapping.size(), more.block_size as usize);
        mapping.bitmap().set_blocks(blocks);
        regions.push(region);
    }
    for file in extras.files {
        let base = place(file.size)?;
        regions.push(Arc::new(persistent::map(file, base)?));
    }
    let ram = GuestRam::from_arc_regions(regions).map_err(|e| Error::Layout(e.to_string()))?;
    Ok(Arc::new(ram))
}

fn allocate_region(base: GuestAddress, len: u64, options: RamOptions) -> Result<Arc<RamRegion>, Error> {
    let refused = |source: io::Error| Error::Map { size: len, source };
    let bytes = usize::try_from(len).map_err(|_| Error::Size(len))?;
    let mapping = if let Some(page) = options.huge_pages {
        Ok(huge::map(len, page)?)
    } else if options.shared {
        let memfd =
            rustix::fs::memfd_create("guest-ram", MemfdFlags::CLOEXEC).map_err(|e| refused(e.into()))?;
        let file = File::from(memfd);
        file.set_len(len).map_err(refused)?;
        MmapRegion::from_file(FileOffset::new(file, 0), bytes)
    } else {
        MmapRegion::new(bytes)
    }
    .map_err(|e| refused(io::Error::other(e)))?;
    if options.huge && options.huge_pages.is_none() {
        // SAFETY: the range is the mapping just made, and advice on huge pages does not change its contents.
        let advised = unsafe { rustix::mm::madvise(mapping.as_ptr().cast(), bytes, Advice::LinuxHugepage) };
        // A kernel without transparent huge pages is no reason to fail.
        let _ = advised;
    }
    RamRegion::new(mapping, base)
        .map(Arc::new)
        .ok_or_else(|| Error::Layout("address overflow".into()))
}

/// Bytes of RAM that the guest has from the start.
pub fn total_size(ram: &GuestRam) -> u64 {
    boot_regions(ram).map(GuestMemoryRegion::len).sum()
}

/// Where [`Extras`] end, if there are any.
pub fn end_of_extras(ram: &GuestRam) -> Option<u64> {
    let extras = ram
        .iter()
        .filter(|region| blocks(region).is_some() || is_persistent(region));
    extras
        .map(|region| region.start_addr().0.saturating_add(region.len()))
        .max()
}

/// Host address of `[gpa, gpa + len)` if one region holds all of it, and all of it is plugged.
pub fn host_range(ram: &GuestRam, gpa: u64, len: usize) -> Option<*mut u8> {
    let (region, offset) = ram.to_region_addr(GuestAddress(gpa))?;
    let end = offset.0.checked_add(len as u64)?;
    // Memory that is plugged in blocks is above all others.
    let is_low = region.start_addr().0 < MMIO_GAP_END;
    let is_plugged = || blocks(region).is_none_or(|blocks| blocks.are_plugged(offset.0 as usize, len));
    let inside = end <= region.len() && (is_low || is_plugged());
    inside.then(|| region.as_ptr().wrapping_add(offset.0 as usize))
}

/// Reports that `len` bytes at `gpa` were written by someone who bypassed `vm-memory`.
pub fn mark_written(ram: &GuestRam, gpa: u64, len: usize) {
    let mut done = 0u64;
    while done < len as u64 {
        let Some((region, offset)) = gpa
            .checked_add(done)
            .and_then(|a| ram.to_region_addr(GuestAddress(a)))
        else {
            return;
        };
        let here = (region.len() - offset.0).min(len as u64 - done);
        region.bitmap().mark_dirty(offset.0 as usize, here as usize);
        done += here;
    }
}

/// Gives the whole pages within `[gpa, gpa + len)` back to the host: they read as zeroes from then on, which counts as a write.
/// Returns how many bytes were given back; the first address that is not RAM ends it, or is persistent memory, whose bytes stay. Huge pages
/// that were set aside stay as they are, because the guest could not be sure to get them again.
///
/// # Errors
/// What the host said; what came before in the range has been given back.
pub fn discard(ram: &GuestRam, gpa: u64, len: u64) -> io::Result<u64> {
    let page = crate::PAGE_SIZE as u64;
    let end = gpa.saturating_add(len) / page * page;
    let Some(mut at) = gpa.checked_next_multiple_of(page) else {
        return Ok(0);
    };
    let start = at;
    while at < end {
        let Some((region, offset)) = ram.to_region_addr(GuestAddress(at)) else {
            break;
        };
        if is_persistent(region) {
            break;
        }
        let here = (region.len() - offset.0).min(end - at);
        let discarded = discard_in(region, offset.0, here);
        // Even after an error some of it may be gone.
        mark_written(ram, at, here as usize);
        discarded?;
        at += here;
    }
    Ok(at.saturating_sub(start))
}

/// Discards whole pages of one region.
fn discard_in(region: &RamRegion, offset: u64, len: u64) -> io::Result<()> {
    if let Some(file) = region.file_offset() {
        if huge::is_huge(file.file()) {
            return Ok(());
        }
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        return Ok(rustix::fs::fallocate(
            file.file(),
            how,
            file.start() + offset,
            len,
        )?);
    }
    let start = region.as_ptr().wrapping_add(offset as usize);
    // SAFETY: the range lies in the region's mapping, which is guest RAM: nobody has references into it, and whoever reads it
    // later finds zeroes as if the guest had written them.
    Ok(unsafe { rustix::mm::madvise(start.cast(), len as usize, Advice::LinuxDontNeed) }?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn large_memory_is_split_around_the_gap() {
        let ram = allocate(MMIO_GAP_START + (1 << 20), RamOptions::default()).unwrap();
        assert_eq!(total_size(&ram), MMIO_GAP_START + (1 << 20));
        assert!(host_range(&ram, MMIO_GAP_START - 8, 8).is_some());
        assert!(host_range(&ram, MMIO_GAP_START - 8, 9).is_none());
        assert!(host_range(&ram, MMIO_GAP_END, 1 << 20).is_some());
        assert!(host_range(&ram, u64::MAX, 2).is_none());
    }

    #[test]
    fn shared_memory_has_a_descriptor() {
        let ram = allocate(
            1 << 20,
            RamOptions {
                shared: true,
                huge: true,
                ..RamOptions::default()
            },
        )
        .unwrap();
        assert!(ram.iter().next().unwrap().file_offset().is_some());
    }

    #[test]
    fn a_device_write_reaches_the_dirty_log() {
        let ram = allocate(1 << 20, RamOptions::default()).unwrap();
        let region = ram.iter().next().unwrap();
        region.get_mmap().bitmap().set_logging(true);
        ram.write_slice(b"abc", GuestAddress(0x2ffe)).unwrap();
        mark_written(&ram, 0x8000, 1);
        assert_eq!(
            region.get_mmap().bitmap().take_dirty()[0],
            (1 << 2) | (1 << 3) | (1 << 8)
        );
        mark_written(&ram, 0xf_ffff, usize::MAX);
    }

    /// Bytes of the region at 0 that the host keeps in memory.
    fn resident(ram: &GuestRam) -> usize {
        let region = ram.iter().next().unwrap();
        let start = region.as_ptr() as usize;
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut in_region = false;
        let mut total = 0;
        for line in smaps.lines() {
            let mut words = line.split_whitespace();
            let first = words.next().unwrap_or("");
            if let Some((from, to)) = first.split_once('-')
                && let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16))
            {
                in_region = from < start + region.len() as usize && to > start;
            } else if in_region && first == "Rss:" {
                total += words.next().unwrap().parse::<usize>().unwrap() << 10;
            }
        }
        total
    }

    #[test]
    fn discarded_pages_are_the_hosts_again_and_count_as_written() {
        for shared in [false, true] {
            let options = RamOptions {
                shared,
                ..RamOptions::default()
            };
            let ram = allocate(8 << 20, options).unwrap();
            ram.write_slice(&vec![0xaa; 8 << 20], GuestAddress(0)).unwrap();
            let region = ram.iter().next().unwrap();
            region.get_mmap().bitmap().set_logging(true);
            let before = resident(&ram);
            assert!(before >= 8 << 20);
            // The pages at both ends are not whole.
            assert_eq!(discard(&ram, 0x10_0001, 4 << 20).unwrap(), (4 << 20) - 0x1000);
            assert!(resident(&ram) <= before - (3 << 20), "shared: {shared}");
            let byte = |gpa| ram.read_obj::<u8>(GuestAddress(gpa)).unwrap();
            assert_eq!(
                [0x10_0fff, 0x10_1000, 0x4f_ffff, 0x50_0000].map(byte),
                [0xaa, 0, 0, 0xaa]
            );
            let dirty: u32 = region
                .get_mmap()
                .bitmap()
                .take_dirty()
                .iter()
                .map(|w| w.count_ones())
                .sum();
            assert_eq!(dirty, 1023);
        }
    }

    #[test]
    fn what_is_not_ram_cannot_be_discarded() {
        let ram = allocate(1 << 20, RamOptions::default()).unwrap();
        for (gpa, len, expected) in [
            (0xf_f000, u64::MAX, 0x1000),
            (0x10_0000, 0x1000, 0),
            (u64::MAX, u64::MAX, 0),
            (0x800, 0x1000, 0),
            (0x1000, 0, 0),
        ] {
            assert_eq!(discard(&ram, gpa, len).unwrap(), expected, "{gpa:#x}");
        }
    }

    #[test]
    fn huge_pages_that_cannot_be_had_are_named() {
        let said = |size: u64, page: u64| {
            let options = RamOptions {
                huge_pages: Some(page),
                ..RamOptions::default()
            };
            allocate(size, options).unwrap_err().to_string()
        };
        let none = said(64 << 20, 3 << 20);
        assert!(none.contains("no huge pages of 3 MiB"), "{none}");
        let none = said(64 << 20, 1 << 13);
        assert!(none.contains("no huge pages of 8 KiB"), "{none}");
        let there = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
        if let Ok(there) = there {
            let odd = said((2 << 20) + 4096, 2 << 20);
            assert!(odd.contains("no whole huge pages of 2 MiB"), "{odd}");
            // Nobody's pages are taken where there are none.
            if there.trim() == "0" {
                let few = said(64 << 20, 2 << 20);
                assert!(
                    few.contains("takes 32 huge pages of 2 MiB, and 0 are free"),
                    "{few}"
                );
            }
        }
    }

    #[test]
    fn odd_sizes_are_refused() {
        for size in [0, 1, 4097] {
            assert!(matches!(
                allocate(size, RamOptions::default()),
                Err(Error::Size(_))
            ));
        }
    }
}
