//! Guest-physical memory as the vCPUs see it.

use std::sync::Arc;

use ostler_memory::vm_memory::MmapRegion;
use ostler_memory::{PAGE_SIZE, PageTracker, RamSlot};

/// One slot.
struct Slot {
    gpa: u64,
    end: u64,
    host: *mut u8,
    writable: bool,
    first_page: usize,
    mapping: Arc<MmapRegion<PageTracker>>,
}

// SAFETY: `host` points into `mapping`, which lives as long as the slot and may be shared between threads.
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Slot {}

/// Every slot, sorted by address.
#[derive(Default)]
pub struct MemoryMap {
    slots: Vec<Slot>,
    /// What vCPUs in system management mode see instead.
    smm: Option<Box<MemoryMap>>,
}

/// One page of RAM or ROM.
#[derive(Clone, Copy)]
pub struct HostPage<'a> {
    /// Host address of the page's first byte.
    pub host: *mut u8,
    /// False for ROM.
    pub writable: bool,
    /// Bookkeeping of the mapping that the page lies in.
    pub tracker: &'a PageTracker,
    /// The page's index in that mapping.
    pub page: usize,
}

impl MemoryMap {
    /// The map of `slots`; they do not overlap.
    pub fn new(slots: Vec<RamSlot>) -> Self {
        let mut slots: Vec<Slot> = slots
            .into_iter()
            .map(|slot| Slot {
                gpa: slot.gpa,
                end: slot.gpa.saturating_add(slot.len),
                host: slot.host_ptr(),
                writable: slot.writable,
                first_page: slot.offset as usize / PAGE_SIZE,
                mapping: slot.mapping,
            })
            .collect();
        slots.sort_by_key(|slot| slot.gpa);
        Self { slots, smm: None }
    }

    /// The map of `normal`, and of `smm` for vCPUs in system management mode.
    pub fn with_smm(normal: Vec<RamSlot>, smm: Vec<RamSlot>) -> Self {
        Self {
            smm: Some(Box::new(Self::new(smm))),
            ..Self::new(normal)
        }
    }

    /// What a vCPU sees in system management mode, or outside of it.
    pub fn view(&self, smm: bool) -> &MemoryMap {
        match &self.smm {
            Some(map) if smm => map,
            _ => self,
        }
    }

    /// The page that holds `gpa`, if it is RAM or ROM.
    pub fn page(&self, gpa: u64) -> Option<HostPage<'_>> {
        let at = self
            .slots
            .partition_point(|slot| slot.gpa <= gpa)
            .checked_sub(1)?;
        let slot = &self.slots[at];
        if gpa >= slot.end {
            return None;
        }
        let index = ((gpa - slot.gpa) / PAGE_SIZE as u64) as usize;
        Some(HostPage {
            host: slot.host.wrapping_add(index * PAGE_SIZE),
            writable: slot.writable,
            tracker: slot.mapping.bitmap(),
            page: slot.first_page + index,
        })
    }

    /// The trackers of all slots.
    pub fn trackers(&self) -> impl Iterator<Item = &PageTracker> {
        let others = self.smm.iter().flat_map(|map| &map.slots);
        self.slots.iter().chain(others).map(|slot| slot.mapping.bitmap())
    }
}
