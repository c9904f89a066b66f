//! Memory slots: which host memory KVM maps where, and the dirty log per slot.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use ostler_accel::Error;
use ostler_memory::{PAGE_SIZE, RamSlot};

use crate::kvm::VmFeatures;

/// The slots of one VM.
///
/// The table owns a reference to every mapping that KVM knows, so that none is unmapped under a running guest.
pub struct Slots {
    table: Mutex<Table>,
}

/// What vCPUs see outside system management mode and, where there is that, in it. The value is KVM's number of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    Normal = 0,
    Smm = 1,
}

impl Space {
    /// KVM's name of slot `number` of this address space.
    fn slot(self, number: usize) -> u32 {
        (self as u32) << 16 | number as u32
    }
}

#[derive(Default)]
struct Table {
    /// By address space and KVM's slot number; `None` is a free number.
    entries: [Vec<Option<RamSlot>>; 2],
    /// Dirty pages are logged.
    logging: bool,
}

impl Table {
    /// Every slot with its name.
    fn all(&self) -> impl Iterator<Item = (u32, &RamSlot)> {
        [Space::Normal, Space::Smm].into_iter().flat_map(|space| {
            let entries = self.entries[space as usize].iter().enumerate();
            entries.filter_map(move |(number, slot)| Some((space.slot(number), slot.as_ref()?)))
        })
    }
}

impl Slots {
    /// No slots.
    pub fn new() -> Self {
        Self {
            table: Mutex::new(Table::default()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the map of an address space: slots that stay the same are not touched.
    pub fn replace(
        &self,
        vm: &VmFd,
        features: &VmFeatures,
        space: Space,
        slots: Vec<RamSlot>,
    ) -> Result<(), Error> {
        check(&slots, features)?;
        let Table { entries, logging } = &mut *self.lock();
        let entries = &mut entries[space as usize];
        let mut wanted: Vec<Option<RamSlot>> = slots.into_iter().map(Some).collect();
        // Old slots go first: KVM refuses two that overlap.
        for (number, entry) in entries.iter_mut().enumerate() {
            let Some(old) = entry else {
                continue;
            };
            let kept = wanted
                .iter_mut()
                .find(|new| new.as_ref().is_some_and(|new| same(new, old)));
            if let Some(kept) = kept {
                *kept = None;
                continue;
            }
            if *logging {
                collect_dirty(vm, space.slot(number), old)?;
            }
            register(vm, space.slot(number), old, Presence::Gone)?;
            *entry = None;
        }
        let presence = if *logging {
            Presence::Logged
        } else {
            Presence::There
        };
        for slot in wanted.into_iter().flatten() {
            let number = match entries.iter().position(Option::is_none) {
                Some(free) => free,
                None => {
                    entries.push(None);
                    entries.len() - 1
                }
            };
            register(vm, space.slot(number), &slot, presence)?;
            entries[number] = Some(slot);
        }
        Ok(())
    }

    /// The writable slot outside system management mode that has all of `[gpa, gpa + len)`, and where in its mapping that begins.
    pub fn find(&self, gpa: u64, len: usize) -> Option<(RamSlot, usize)> {
        let table = self.lock();
        let mut slots = table.entries[Space::Normal as usize].iter().flatten();
        slots.find_map(|slot| {
            let start = gpa.checked_sub(slot.gpa)?;
            let inside = start.checked_add(len as u64)? <= slot.len;
            (inside && slot.writable).then(|| (slot.clone(), (slot.offset + start) as usize))
        })
    }

    /// Turns the dirty log on or off for every slot.
    pub fn set_logging(&self, vm: &VmFd, on: bool) -> Result<(), Error> {
        let mut table = self.lock();
        if table.logging == on {
            return Ok(());
        }
        let presence = if on { Presence::Logged } else { Presence::There };
        for (name, slot) in table.all() {
            if !on {
                collect_dirty(vm, name, slot)?;
            }
            register(vm, name, slot, presence)?;
        }
        table.logging = on;
        Ok(())
    }

    /// Moves KVM's dirty log into the page trackers.
    pub fn sync_dirty(&self, vm: &VmFd) -> Result<(), Error> {
        let table = self.lock();
        if !table.logging {
            return Ok(());
        }
        table
            .all()
            .try_for_each(|(name, slot)| collect_dirty(vm, name, slot))
    }
}

/// How a slot is to be known to KVM.
#[derive(Clone, Copy, PartialEq)]
enum Presence {
    There,
    Logged,
    Gone,
}

fn check(slots: &[RamSlot], features: &VmFeatures) -> Result<(), Error> {
    if slots.len() > features.max_slots {
        return Err(Error::Unsupported(format!(
            "a memory map of {} pieces; KVM on this host takes at most {}",
            slots.len(),
            features.max_slots
        )));
    }
    for slot in slots {
        let page = PAGE_SIZE as u64;
        let aligned =
            slot.gpa % page == 0 && slot.len % page == 0 && slot.offset % page == 0 && slot.len != 0;
        let inside = slot
            .offset
            .checked_add(slot.len)
            .is_some_and(|end| end <= slot.mapping.size() as u64);
        if !aligned || !inside {
            return Err(Error::Unsupported(format!(
                "a memory slot of {:#x} bytes at {:#x} that is not made of whole pages of its mapping",
                slot.len, slot.gpa
            )));
        }
        if !slot.writable && !features.read_only_slots {
            return Err(Error::Unsupported(
                "the host's KVM has no read-only memory for ROMs".into(),
            ));
        }
    }
    Ok(())
}

fn same(a: &RamSlot, b: &RamSlot) -> bool {
    a.gpa == b.gpa && a.len == b.len && a.host_ptr() == b.host_ptr() && a.writable == b.writable
}

fn register(vm: &VmFd, name: u32, slot: &RamSlot, presence: Presence) -> Result<(), Error> {
    let read_only = if slot.writable { 0 } else { KVM_MEM_READONLY };
    let logged = if presence == Presence::Logged && slot.writable {
        KVM_MEM_LOG_DIRTY_PAGES
    } else {
        0
    };
    let region = kvm_userspace_memory_region {
        slot: name,
        flags: read_only | logged,
        guest_phys_addr: slot.gpa,
        memory_size: if presence == Presence::Gone { 0 } else { slot.len },
        userspace_addr: slot.host_ptr() as u64,
    };
    // SAFETY: `check` saw the range inside the slot's mapping, and the table keeps the mapping alive until KVM has
    // forgotten the slot; guest memory is only ever accessed as memory that others may change.
    unsafe { vm.set_user_memory_region(region) }.map_err(|e| Error::host("map guest memory", e))
}

fn collect_dirty(vm: &VmFd, name: u32, slot: &RamSlot) -> Result<(), Error> {
    if !slot.writable {
        return Ok(());
    }
    let bitmap = vm
        .get_dirty_log(name, slot.len as usize)
        .map_err(|e| Error::host("read the dirty log of guest memory", e))?;
    let first_page = slot.offset as usize / PAGE_SIZE;
    let tracker = slot.mapping.bitmap();
    for (index, word) in bitmap.into_iter().enumerate() {
        let mut left = word;
        while left != 0 {
            tracker.set_dirty(first_page + index * 64 + left.trailing_zeros() as usize);
            left &= left - 1;
        }
    }
    Ok(())
}
