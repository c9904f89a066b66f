//! The driver's side of a ring in the arena (virtio 1.2, 2.7), whatever goes through it.
//!
//! Nothing that a back end can write is believed: where the ring is, and how far it got, are kept in this process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{Ordering, fence};

use rustix::event::{EventfdFlags, eventfd};
use virtio_bindings::virtio_ring::{VRING_AVAIL_F_NO_INTERRUPT, VRING_USED_F_NO_NOTIFY};

use super::BackEndError;
use super::arena::{Arena, BASE, RING_BYTES};
use crate::event::Call;
use crate::message::RingAddress;

/// Entries: what every back end takes.
pub(crate) const SIZE: u16 = 1024;
/// Where the parts of a ring are.
const AVAILABLE: u64 = 0x4000;
const USED: u64 = 0x6000;

/// A ring that chains are given to, and come back from.
pub(crate) struct DriverRing {
    number: usize,
    base: u64,
    available: u16,
    used: u16,
    in_flight: usize,
    kick: OwnedFd,
    kicker: Call,
    call: OwnedFd,
}

impl DriverRing {
    /// Ring `number` of an arena.
    pub fn new(number: usize) -> Result<Self, BackEndError> {
        let event = || {
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(BackEndError::host("an event"))
        };
        let (kick, call) = (event()?, event()?);
        // The back end could fill an event, at which a write would wait for ever.
        let kicker = kick.try_clone().map_err(BackEndError::host("a descriptor"))?;
        let kicker = Call::new(kicker).map_err(|error| BackEndError::Host {
            what: "io_uring, by which a back end's event is signalled safely",
            source: std::io::Error::other(error),
        })?;
        Ok(Self {
            number,
            base: number as u64 * RING_BYTES,
            available: 0,
            used: 0,
            in_flight: 0,
            kick,
            kicker,
            call,
        })
    }

    /// Where its parts are, as the back end knows them.
    pub fn address(&self) -> RingAddress {
        let base = BASE + self.base;
        RingAddress {
            descriptors: base,
            available: base + AVAILABLE,
            used: base + USED,
        }
    }

    /// Where the back end writes its flags, its index and its elements.
    #[cfg(any(test, fuzzing))]
    pub fn used_place(&self) -> u64 {
        self.base + USED
    }

    /// What the back end is woken by.
    pub fn kick(&self) -> BorrowedFd<'_> {
        self.kick.as_fd()
    }

    /// What the back end signals. The back end has it too, and could make a read of it wait: listen for its edge, and do not read.
    pub fn call(&self) -> &OwnedFd {
        &self.call
    }

    /// The back end broke it.
    pub fn broken(&self, what: &'static str) -> BackEndError {
        BackEndError::Ring {
            ring: self.number,
            what,
        }
    }

    /// Asks the back end not to signal what it used.
    pub fn stay_quiet(&self, arena: &Arena) {
        let flags = (VRING_AVAIL_F_NO_INTERRUPT as u16).to_le();
        arena.u16(self.base + AVAILABLE).store(flags, Ordering::Relaxed);
    }

    /// Fills in descriptor `index` with `len` bytes at `at` of the arena.
    pub fn describe(&self, arena: &Arena, index: u16, (at, len): (u64, u32), (flags, next): (u16, u16)) {
        let place = self.base + 16 * u64::from(index);
        arena.set_u64(place, BASE + at);
        let words = u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48;
        arena.set_u64(place + 8, words);
    }

    /// Gives the back end the chain that starts at descriptor `head`. There are never more of them than entries.
    pub fn offer(&mut self, arena: &Arena, head: u16) {
        let slot = self.base + AVAILABLE + 4 + 2 * u64::from(self.available % SIZE);
        arena.u16(slot).store(head.to_le(), Ordering::Relaxed);
        self.available = self.available.wrapping_add(1);
        let index = arena.u16(self.base + AVAILABLE + 2);
        index.store(self.available.to_le(), Ordering::Release);
        self.in_flight += 1;
    }

    /// Wakes the back end, if it wants that.
    pub fn wake(&mut self, arena: &Arena) -> Result<(), BackEndError> {
        fence(Ordering::SeqCst);
        let flags = u16::from_le(arena.u16(self.base + USED).load(Ordering::Relaxed));
        if flags & VRING_USED_F_NO_NOTIFY as u16 != 0 {
            return Ok(());
        }
        self.kicker.signal().map_err(|error| BackEndError::Host {
            what: "a signal to the back end",
            source: std::io::Error::other(error),
        })
    }

    /// Whether the back end seems to have used something.
    pub fn looks_used(&self, arena: &Arena) -> bool {
        self.in_flight > 0 && self.used_index(arena) != self.used
    }

    fn used_index(&self, arena: &Arena) -> u16 {
        u16::from_le(arena.u16(self.base + USED + 2).load(Ordering::Acquire))
    }

    /// The next element that the back end used: what it says is the first descriptor of a chain, and how many bytes it wrote.
    pub fn next_used(&mut self, arena: &Arena) -> Result<Option<(u32, u32)>, BackEndError> {
        let index = self.used_index(arena);
        if index == self.used {
            return Ok(None);
        }
        if usize::from(index.wrapping_sub(self.used)) > self.in_flight {
            return Err(self.broken("it answered more than it was asked"));
        }
        let slot = self.base + USED + 4 + 8 * u64::from(self.used % SIZE);
        let head = u32::from_le(arena.u32(slot).load(Ordering::Relaxed));
        let len = u32::from_le(arena.u32(slot + 4).load(Ordering::Relaxed));
        self.used = self.used.wrapping_add(1);
        self.in_flight -= 1;
        Ok(Some((head, len)))
    }
}
