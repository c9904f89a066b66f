//! Memory that is plugged in and unplugged in blocks (virtio-mem): the guest has as much of its region as is plugged.
//!
//! A block that is unplugged is no RAM: [`crate::host_range`] does not find it. What writes there all the same (a device that was at it
//! when the block was unplugged, an access by way of `vm-memory`) is given back to the host at once, so that the host's memory is bounded
//! by what is plugged.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::Advice;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use crate::persistent::is_persistent;
use crate::{GuestRam, PAGE_SIZE, RamRegion, RamSlot};

/// Which blocks of a region are plugged.
#[derive(Debug)]
pub struct Blocks {
    block_size: usize,
    count: usize,
    plugged: Box<[AtomicU64]>,
    /// Host address of the region.
    base: usize,
}

impl Blocks {
    pub(crate) fn new(base: *mut u8, len: usize, block_size: usize) -> Self {
        let count = len / block_size;
        Self {
            block_size,
            count,
            plugged: (0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            base: base as usize,
        }
    }

    /// Bytes of a block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Number of blocks.
    pub fn count(&self) -> usize {
        self.count
    }

    /// True if block `index` is plugged.
    pub fn is_plugged(&self, index: usize) -> bool {
        self.plugged
            .get(index / 64)
            .is_some_and(|word| word.load(Ordering::Acquire) & 1 << (index % 64) != 0)
    }

    /// Plugs the blocks, or unplugs them. Those past the end are left out.
    pub fn set(&self, blocks: Range<usize>, plugged: bool) {
        for index in blocks.start..blocks.end.min(self.count) {
            let bit = 1u64 << (index % 64);
            match plugged {
                true => self.plugged[index / 64].fetch_or(bit, Ordering::AcqRel),
                false => self.plugged[index / 64].fetch_and(!bit, Ordering::AcqRel),
            };
        }
    }

    /// The blocks that `len` bytes at `offset` touch.
    fn touched(&self, offset: usize, len: usize) -> Range<usize> {
        let end = offset.saturating_add(len).div_ceil(self.block_size);
        offset / self.block_size..end.min(self.count)
    }

    /// True if all of `[offset, offset + len)` is plugged.
    pub fn are_plugged(&self, offset: usize, len: usize) -> bool {
        let inside = offset
            .checked_add(len)
            .is_some_and(|end| end <= self.count * self.block_size);
        inside && self.touched(offset, len).all(|index| self.is_plugged(index))
    }

    /// What was written at `[offset, offset + len)` is the host's again where it is not plugged.
    pub(crate) fn take_back(&self, offset: usize, len: usize) {
        for index in self.touched(offset, len).filter(|index| !self.is_plugged(*index)) {
            let start = (index * self.block_size).max(offset / PAGE_SIZE * PAGE_SIZE);
            let end = ((index + 1) * self.block_size).min((offset + len).next_multiple_of(PAGE_SIZE));
            let address = (self.base + start) as *mut std::ffi::c_void;
            // SAFETY: whole pages of the region's mapping, which is guest RAM and anonymous: nobody has references into it. The
            // tracker that calls this lives in that mapping's owner.
            let given = unsafe { rustix::mm::madvise(address, end - start, Advice::LinuxDontNeed) };
            // Only memory that is locked stays, and what locked it has accounted for it.
            let _ = given;
        }
    }
}

/// The blocks of a region, if it is plugged in blocks.
pub fn blocks(region: &RamRegion) -> Option<Arc<Blocks>> {
    region.get_mmap().bitmap().blocks().cloned()
}

/// The region that is plugged in blocks, if there is one.
pub fn pluggable(ram: &GuestRam) -> Option<(&RamRegion, Arc<Blocks>)> {
    ram.iter().find_map(|region| Some((region, blocks(region)?)))
}

/// The regions that a guest has from the start to its end.
pub fn boot_regions(ram: &GuestRam) -> impl Iterator<Item = &RamRegion> {
    ram.iter()
        .filter(|region| blocks(region).is_none() && !is_persistent(region))
}

/// The slots that map what is plugged: one for each block, so that a change of one leaves the others alone.
pub fn plugged_slots(ram: &GuestRam) -> Vec<RamSlot> {
    let Some((region, blocks)) = pluggable(ram) else {
        return Vec::new();
    };
    let size = blocks.block_size() as u64;
    let slot = |index: usize| RamSlot {
        gpa: region.start_addr().0 + index as u64 * size,
        len: size,
        mapping: region.get_mmap(),
        offset: index as u64 * size,
        writable: true,
    };
    let plugged = (0..blocks.count()).filter(|index| blocks.is_plugged(*index));
    plugged.map(slot).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Pluggable, RamOptions, allocate_with, host_range, mark_written, total_size};
    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress};

    const BLOCK: usize = 2 << 20;

    fn ram() -> Arc<GuestRam> {
        let more = Pluggable {
            size: 4 * BLOCK as u64,
            block_size: BLOCK as u64,
        };
        allocate_with(1 << 20, Some(more), RamOptions::default()).unwrap()
    }

    /// Bytes of the region that the host keeps.
    fn resident(region: &RamRegion) -> usize {
        let pages = region.len() as usize / PAGE_SIZE;
        let mut there = vec![0u8; pages];
        // SAFETY: the range is the region's mapping, and there is a byte for each of its pages.
        let done = unsafe { libc_mincore(region.as_ptr(), region.len() as usize, there.as_mut_ptr()) };
        assert_eq!(done, 0);
        there.iter().filter(|byte| **byte & 1 != 0).count() * PAGE_SIZE
    }

    unsafe extern "C" {
        #[link_name = "mincore"]
        fn libc_mincore(address: *mut u8, len: usize, pages: *mut u8) -> i32;
    }

    #[test]
    fn what_is_not_plugged_is_no_ram_and_keeps_nothing() {
        let ram = ram();
        let (region, blocks) = pluggable(&ram).unwrap();
        let base = region.start_addr().0;
        assert!(base >= crate::MMIO_GAP_END && base.is_multiple_of(1 << 30));
        assert_eq!(boot_regions(&ram).count(), 1);
        assert_eq!(total_size(&ram), 1 << 20);
        assert_eq!(RamSlot::all_of(&ram).len(), 1);
        assert!(host_range(&ram, base, 1).is_none());
        assert!(plugged_slots(&ram).is_empty());

        blocks.set(1..3, true);
        let block = |index: u64| base + index * BLOCK as u64;
        assert!(host_range(&ram, block(1), 2 * BLOCK).is_some());
        assert!(host_range(&ram, block(1) - 1, 2).is_none());
        assert!(host_range(&ram, block(3) - 1, 2).is_none());
        let slots = plugged_slots(&ram);
        assert_eq!(
            slots.iter().map(|slot| slot.gpa).collect::<Vec<_>>(),
            [block(1), block(2)]
        );
        ram.write_slice(&vec![0xaa; 2 * BLOCK], GuestAddress(block(1)))
            .unwrap();
        assert!(resident(region) >= 2 * BLOCK);

        blocks.set(1..2, false);
        crate::discard(&ram, block(1), BLOCK as u64).unwrap();
        assert_eq!(ram.read_obj::<u8>(GuestAddress(block(2))).unwrap(), 0xaa);
        let before = resident(region);
        assert!(before <= BLOCK, "{before}");
        // Writers that know nothing of blocks, and one that comes too late.
        ram.write_slice(&vec![0xbb; 3 * BLOCK], GuestAddress(base))
            .unwrap();
        mark_written(&ram, block(3), BLOCK);
        assert!(resident(region) <= before, "nothing of what is not plugged stays");
        assert_eq!(ram.read_obj::<u8>(GuestAddress(block(1))).unwrap(), 0);
        assert_eq!(ram.read_obj::<u8>(GuestAddress(block(2))).unwrap(), 0xbb);
    }

    proptest! {
        #[test]
        fn what_is_plugged_is_what_was_plugged_last(changes in proptest::collection::vec((0usize..140, 0usize..140, any::<bool>()), 0..30)) {
            let blocks = Blocks::new(std::ptr::null_mut(), 130 * BLOCK, BLOCK);
            let mut model = [false; 130];
            for (start, end, plugged) in changes {
                blocks.set(start..end, plugged);
                if let Some(blocks) = model.get_mut(start..end.min(130)) {
                    blocks.fill(plugged);
                }
            }
            for (index, plugged) in model.into_iter().enumerate() {
                prop_assert_eq!(blocks.is_plugged(index), plugged);
                prop_assert_eq!(blocks.are_plugged(index * BLOCK + 5, BLOCK - 5), plugged);
                let both = plugged && model.get(index + 1) == Some(&true);
                prop_assert_eq!(blocks.are_plugged(index * BLOCK + 5, BLOCK), both);
            }
        }
    }
}
