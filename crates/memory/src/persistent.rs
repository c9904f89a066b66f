//! Memory whose bytes are those of a file (virtio-pmem): what is written there is in the file, at the latest when it is synchronized.
//!
//! A file that may only be read is mapped as a copy of its own: CPUs cannot write there, and what a device writes there all the same is
//! dropped at once, so that the guest finds the file's bytes again and the host keeps none of it.

use std::fs::File;

use rustix::mm::{Advice, MapFlags, ProtFlags};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MmapRegion};

use crate::tracker::PageTracker;
use crate::{Error, GuestRam, PAGE_SIZE, RamRegion, RamSlot};

/// A file that is to be memory.
#[derive(Debug)]
pub struct FileMemory {
    /// The file, open for writing if the memory is to be writable. It must not become shorter while it is memory.
    pub file: File,
    /// How many of its bytes, from the first: a multiple of a page, and not more than it has.
    pub size: u64,
    /// Whether the guest may write.
    pub writable: bool,
}

/// What the tracker of such a region knows of it.
#[derive(Debug)]
pub(crate) struct Persistent {
    /// Host address of the region.
    base: usize,
    len: usize,
    writable: bool,
}

impl Persistent {
    /// Drops what was written at `[offset, offset + len)` if nothing may be.
    pub fn take_back(&self, offset: usize, len: usize) {
        if self.writable || offset >= self.len {
            return;
        }
        let start = offset / PAGE_SIZE * PAGE_SIZE;
        let end = offset
            .saturating_add(len)
            .min(self.len)
            .next_multiple_of(PAGE_SIZE);
        let address = (self.base + start) as *mut std::ffi::c_void;
        // SAFETY: whole pages of the region's mapping, which is guest memory: nobody has references into it. The tracker that calls
        // this lives in that mapping's owner. The pages are a private copy of the file's, which are there again when they are read.
        let dropped = unsafe { rustix::mm::madvise(address, end - start, Advice::LinuxDontNeed) };
        // Only memory that is locked stays, and what locked it has accounted for it.
        let _ = dropped;
    }
}

/// Maps `memory` for guest-physical address `base`.
pub(crate) fn map(memory: FileMemory, base: GuestAddress) -> Result<RamRegion, Error> {
    let FileMemory { file, size, writable } = memory;
    let len = usize::try_from(size).map_err(|_| Error::Size(size))?;
    if len == 0 || !len.is_multiple_of(PAGE_SIZE) {
        return Err(Error::Size(size));
    }
    let refused = |source: std::io::Error| Error::MapFile { size, source };
    let there = file.metadata().map_err(refused)?.len();
    if there < size {
        // Touching what is past its end would end the process.
        return Err(Error::ShortFile { size, there });
    }
    let sharing = match writable {
        true => MapFlags::SHARED,
        false => MapFlags::PRIVATE,
    };
    let flags = (sharing | MapFlags::NORESERVE).bits();
    let protection = (ProtFlags::READ | ProtFlags::WRITE).bits();
    let mapping = MmapRegion::<PageTracker>::build(
        Some(FileOffset::new(file, 0)),
        len,
        protection.cast_signed(),
        flags.cast_signed(),
    )
    .map_err(|error| refused(std::io::Error::other(error)))?;
    mapping.bitmap().set_persistent(Persistent {
        base: mapping.as_ptr() as usize,
        len,
        writable,
    });
    RamRegion::new(mapping, base).ok_or_else(|| Error::Layout("address overflow".into()))
}

/// True if the region's bytes are a file's.
pub(crate) fn is_persistent(region: &RamRegion) -> bool {
    region.get_mmap().bitmap().persistent().is_some()
}

/// The slots that map persistent memory, in the order in which it was asked for.
pub fn persistent_slots(ram: &GuestRam) -> Vec<RamSlot> {
    let slot = |region: &RamRegion| {
        let persistent = region.get_mmap();
        let writable = persistent.bitmap().persistent()?.writable;
        Some(RamSlot {
            gpa: region.start_addr().0,
            len: region.len(),
            mapping: persistent,
            offset: 0,
            writable,
        })
    };
    ram.iter().filter_map(slot).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Extras, Pluggable, RamOptions, allocate_all, boot_regions, discard, end_of_extras, host_range,
        mark_written, plugged_slots, total_size,
    };
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;
    use vm_memory::Bytes;

    const SIZE: u64 = 2 << 20;

    fn file() -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![0xaa; SIZE as usize], 0).unwrap();
        file
    }

    fn ram(file: &File, writable: bool) -> Arc<GuestRam> {
        let memory = FileMemory {
            file: file.try_clone().unwrap(),
            size: SIZE,
            writable,
        };
        let extras = Extras {
            pluggable: Some(Pluggable {
                size: SIZE,
                block_size: SIZE,
            }),
            files: vec![memory],
        };
        allocate_all(1 << 20, extras, RamOptions::default()).unwrap()
    }

    fn bytes_of(file: &File, at: u64) -> [u8; 4] {
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_in_the_file() {
        let file = file();
        let ram = ram(&file, true);
        let slots = persistent_slots(&ram);
        assert_eq!(slots.len(), 1);
        let base = slots[0].gpa;
        assert!(slots[0].writable && base.is_multiple_of(1 << 30) && base > 4 << 30);
        assert_eq!(end_of_extras(&ram), Some(base + SIZE));
        // It is no RAM that the guest starts with, and none that is plugged.
        assert_eq!((total_size(&ram), boot_regions(&ram).count()), (1 << 20, 1));
        assert!(plugged_slots(&ram).is_empty());
        assert_eq!(RamSlot::all_of(&ram).len(), 1);
        // Devices find it.
        assert!(host_range(&ram, base, SIZE as usize).is_some());
        assert!(host_range(&ram, base + 1, SIZE as usize).is_none());
        ram.write_slice(b"news", GuestAddress(base + 0x1ffe)).unwrap();
        assert_eq!(&bytes_of(&file, 0x1ffe), b"news");
        // A balloon cannot punch holes into it.
        assert_eq!(discard(&ram, base, SIZE).unwrap(), 0);
        assert_eq!(&bytes_of(&file, 0x1ffe), b"news");
    }

    #[test]
    fn what_must_not_be_written_is_dropped() {
        let file = file();
        let ram = ram(&file, false);
        let slot = &persistent_slots(&ram)[0];
        assert!(!slot.writable);
        let at = GuestAddress(slot.gpa + 0x2ffe);
        ram.write_slice(b"news", at).unwrap();
        assert_eq!(ram.read_obj::<[u8; 4]>(at).unwrap(), [0xaa; 4]);
        // A writer that bypasses vm-memory.
        let host = host_range(&ram, slot.gpa + SIZE - 4, 4).unwrap();
        // SAFETY: four bytes of the mapping.
        unsafe { std::ptr::copy_nonoverlapping(b"last".as_ptr(), host, 4) };
        mark_written(&ram, slot.gpa + SIZE - 4, usize::MAX);
        let last = GuestAddress(slot.gpa + SIZE - 4);
        assert_eq!(ram.read_obj::<[u8; 4]>(last).unwrap(), [0xaa; 4]);
        for at in [0x2ffe, SIZE - 4] {
            assert_eq!(bytes_of(&file, at), [0xaa; 4]);
        }
    }

    #[test]
    fn a_file_that_is_too_short_is_no_memory() {
        for (len, size) in [(SIZE - 1, SIZE), (0, 0), (SIZE, 4097)] {
            let file = tempfile::tempfile().unwrap();
            file.set_len(len).unwrap();
            let memory = FileMemory {
                file,
                size,
                writable: true,
            };
            map(memory, GuestAddress(1 << 32)).unwrap_err();
        }
    }
}
