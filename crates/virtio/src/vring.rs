//! A split virtqueue as the device drives it (virtio 1.2, 2.7).
//!
//! Ring state and notification suppression are `virtio-queue`'s. On top come what a strict and fast device needs: a
//! chain is checked as a whole and every fault is told apart, used elements are published in one step (a frame spread
//! over several buffers must never be seen in parts), and NO_INTERRUPT is honoured where there is no event index.

use std::num::Wrapping;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use ostler_memory::GuestRam;
use virtio_bindings::bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use crate::chain::{Chain, MAX_SEGMENTS};
use crate::error::GuestError;

const DESCRIPTOR_SIZE: u64 = 16;

/// What the driver says about a queue before it enables it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueSettings {
    /// Entries.
    pub size: u16,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest-physical address of the available ring.
    pub available: u64,
    /// Guest-physical address of the used ring.
    pub used: u64,
}

/// The device's end of one queue.
pub struct Vring {
    queue: Queue,
    ram: Arc<GuestRam>,
    /// The driver's available index when it was last read.
    available: Wrapping<u16>,
    /// Used elements written so far, published or not.
    next_used: Wrapping<u16>,
    /// Chains that were taken and not returned.
    outstanding: u16,
    /// The used index at the last decision about an interrupt.
    decided: Wrapping<u16>,
}

impl Vring {
    /// A queue of at most `max_size` entries, as the driver set it up, from its beginning.
    pub fn new(
        ram: Arc<GuestRam>,
        settings: QueueSettings,
        max_size: u16,
        event_idx: bool,
    ) -> Result<Self, GuestError> {
        let bad_size = |_| GuestError::QueueSize(settings.size);
        let mut queue = Queue::new(max_size).map_err(bad_size)?;
        queue.try_set_size(settings.size).map_err(bad_size)?;
        let address = |gpa: u64| (GuestAddress(gpa), GuestError::RingAddress(gpa));
        let (gpa, bad) = address(settings.descriptors);
        queue.try_set_desc_table_address(gpa).map_err(|_| bad)?;
        let (gpa, bad) = address(settings.available);
        queue.try_set_avail_ring_address(gpa).map_err(|_| bad)?;
        let (gpa, bad) = address(settings.used);
        queue.try_set_used_ring_address(gpa).map_err(|_| bad)?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        if !queue.is_valid(&*ram) {
            return Err(GuestError::RingAddress(settings.descriptors));
        }
        let start = Wrapping(0);
        Ok(Self {
            queue,
            ram,
            available: start,
            next_used: start,
            decided: start,
            outstanding: 0,
        })
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// The addresses and size that the driver chose.
    pub fn settings(&self) -> QueueSettings {
        QueueSettings {
            size: self.queue.size(),
            descriptors: self.queue.desc_table(),
            available: self.queue.avail_ring(),
            used: self.queue.used_ring(),
        }
    }

    /// The index in the available ring from which the device goes on.
    pub fn next_available(&self) -> u16 {
        self.queue.next_avail()
    }

    /// Goes on from `index`, for a queue that somebody else (vhost) drove in between.
    pub fn set_next_available(&mut self, index: u16) {
        self.queue.set_next_avail(index);
        self.available = Wrapping(index);
    }

    /// Takes over the used index that is in the ring, for a queue that somebody else drove in between.
    pub fn reload_used(&mut self) -> Result<(), GuestError> {
        self.next_used = self
            .queue
            .used_idx(&*self.ram, Ordering::Acquire)
            .map_err(|_| self.ring_access())?;
        self.queue.set_next_used(self.next_used.0);
        self.decided = self.next_used;
        Ok(())
    }

    /// Takes the next chain that the driver made available. False if there is none.
    pub fn pop(&mut self, chain: &mut Chain) -> Result<bool, GuestError> {
        if !self.has_available()? {
            return Ok(false);
        }
        if self.outstanding >= self.queue.size() {
            return Err(GuestError::TooManyChains);
        }
        let next = self.queue.next_avail();
        let entry = 4 + 2 * u64::from(next % self.queue.size());
        let head = self.load_u16(self.queue.avail_ring().wrapping_add(entry), Ordering::Relaxed)?;
        self.queue.set_next_avail(next.wrapping_add(1));
        self.outstanding += 1;
        self.walk(head, chain)?;
        Ok(true)
    }

    /// Puts the last `count` chains taken back, as if they had not been.
    pub fn undo_pop(&mut self, count: u16) {
        self.outstanding = self.outstanding.saturating_sub(count);
        self.queue
            .set_next_avail(self.queue.next_avail().wrapping_sub(count));
    }

    /// True if the driver made chains available that were not taken yet.
    pub fn has_available(&mut self) -> Result<bool, GuestError> {
        let next = Wrapping(self.queue.next_avail());
        if self.available == next {
            let index = self
                .queue
                .avail_idx(&*self.ram, Ordering::Acquire)
                .map_err(|_| self.ring_access())?;
            if (index - next).0 > self.queue.size() {
                return Err(GuestError::AvailableIndex {
                    next: next.0,
                    index: index.0,
                });
            }
            self.available = index;
        }
        Ok(self.available != next)
    }

    /// Whether the driver seems to have made chains available, without a change here. A ring that cannot be read has some: taking
    /// them tells what is wrong.
    pub fn looks_available(&self) -> bool {
        let next = self.queue.next_avail();
        self.available != Wrapping(next) || self.driver_index() != Some(next)
    }

    /// Follows the descriptors from `head`. Every loop ends, as a chain has at most [`MAX_SEGMENTS`] descriptors.
    fn walk(&self, head: u16, chain: &mut Chain) -> Result<(), GuestError> {
        chain.start(head);
        let (mut table, mut entries) = (self.queue.desc_table(), u32::from(self.queue.size()));
        let mut indirect = false;
        let mut index = head;
        for _ in 0..=MAX_SEGMENTS {
            if u32::from(index) >= entries {
                return Err(GuestError::DescriptorIndex(index));
            }
            let descriptor = self.descriptor(table, index)?;
            if descriptor.refers_to_indirect_table() {
                if indirect || descriptor.has_next() {
                    return Err(GuestError::IndirectNested);
                }
                let len = descriptor.len();
                if len == 0 || !u64::from(len).is_multiple_of(DESCRIPTOR_SIZE) {
                    return Err(GuestError::IndirectLength(len));
                }
                (table, entries) = (descriptor.addr().0, len / DESCRIPTOR_SIZE as u32);
                (indirect, index) = (true, 0);
                continue;
            }
            chain.push(descriptor.addr().0, descriptor.len(), descriptor.is_write_only())?;
            if !descriptor.has_next() {
                return Ok(());
            }
            index = descriptor.next();
        }
        Err(GuestError::ChainTooLong)
    }

    fn descriptor(&self, table: u64, index: u16) -> Result<Descriptor, GuestError> {
        let at = table.checked_add(u64::from(index) * DESCRIPTOR_SIZE);
        let at = at.ok_or(GuestError::RingAddress(table))?;
        self.ram
            .read_obj(GuestAddress(at))
            .map_err(|_| GuestError::RingAddress(at))
    }

    /// Returns a chain with `len` bytes written. The driver sees it at the next [`Vring::publish`].
    pub fn push_used(&mut self, head: u16, len: u32) -> Result<(), GuestError> {
        let slot = u64::from(self.next_used.0 % self.queue.size());
        let at = self.queue.used_ring().wrapping_add(4 + 8 * slot);
        let element = u64::from(head) | u64::from(len) << 32;
        self.ram
            .write_obj(element.to_le(), GuestAddress(at))
            .map_err(|_| self.ring_access())?;
        self.next_used += 1;
        self.outstanding = self.outstanding.saturating_sub(1);
        Ok(())
    }

    /// Takes back the last `count` used elements that were not published yet.
    pub fn undo_used(&mut self, count: u16) {
        self.outstanding = self.outstanding.saturating_add(count);
        self.next_used -= count;
    }

    /// Shows the driver all used elements in one step; true if it wants an interrupt for them.
    pub fn publish(&mut self) -> Result<bool, GuestError> {
        if self.next_used.0 == self.queue.next_used() {
            return Ok(false);
        }
        let at = GuestAddress(self.queue.used_ring().wrapping_add(2));
        self.ram
            .store(self.next_used.0.to_le(), at, Ordering::Release)
            .map_err(|_| self.ring_access())?;
        self.queue.set_next_used(self.next_used.0);
        // The index must be out before the driver's wish is read (2.7.10.1).
        fence(Ordering::SeqCst);
        let before = std::mem::replace(&mut self.decided, self.next_used);
        if !self.queue.event_idx_enabled() {
            let flags = self.load_u16(self.queue.avail_ring(), Ordering::Relaxed)?;
            return Ok(flags & VRING_AVAIL_F_NO_INTERRUPT as u16 == 0);
        }
        let event_at = self
            .queue
            .avail_ring()
            .wrapping_add(4 + 2 * u64::from(self.queue.size()));
        let event = Wrapping(self.load_u16(event_at, Ordering::Relaxed)?);
        Ok(self.next_used - event - Wrapping(1) < self.next_used - before)
    }

    /// Asks the driver to kick; true if chains became available meanwhile, so that there may be no kick for them.
    pub fn enable_kicks(&mut self) -> Result<bool, GuestError> {
        self.queue
            .enable_notification(&*self.ram)
            .map_err(|_| self.ring_access())?;
        self.has_available()
    }

    /// Asks the driver to kick for chains beyond those that it has made available; true if there are such by now. For a device that
    /// left some where they were because they were too few.
    pub fn enable_kicks_for_more(&mut self) -> Result<bool, GuestError> {
        let next = self.queue.next_avail();
        let index = self.driver_index().ok_or(self.ring_access())?;
        self.queue.set_next_avail(index);
        let enabled = self.queue.enable_notification(&*self.ram);
        self.queue.set_next_avail(next);
        enabled.map_err(|_| self.ring_access())
    }

    /// The driver's available index as it is now.
    pub fn driver_index(&self) -> Option<u16> {
        let index = self.queue.avail_idx(&*self.ram, Ordering::Acquire);
        index.ok().map(|index| index.0)
    }

    /// Tells the driver that it need not kick.
    pub fn disable_kicks(&mut self) -> Result<(), GuestError> {
        self.queue
            .disable_notification(&*self.ram)
            .map_err(|_| self.ring_access())
    }

    fn load_u16(&self, at: u64, order: Ordering) -> Result<u16, GuestError> {
        let value = self.ram.load::<u16>(GuestAddress(at), order);
        value.map(u16::from_le).map_err(|_| GuestError::RingAccess(at))
    }

    fn ring_access(&self) -> GuestError {
        GuestError::RingAccess(self.queue.used_ring())
    }
}

#[cfg(test)]
#[path = "vring_tests.rs"]
mod tests;
