//! A shadow ring: a ring in the arena, and the requests of the guest that are in it.
//!
//! Nothing that a back end can write is believed: descriptors that are free, requests and their places are kept in this process.

use std::ptr;

use ostler_virtio::Chain;
use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};

use super::BackEndError;
use super::arena::{Arena, ROOM};
use super::driver::{DriverRing, SIZE};
use super::layout::Layout;

/// Room that one request may take; those of FUSE have about 1 MiB.
pub(crate) const MAX_REQUEST: u64 = ROOM / 4;

/// A request that the back end has.
struct Flight {
    chain: Chain,
    layout: Layout,
    room: u64,
    descriptors: Vec<u16>,
}

/// What became of a request that was to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is in the ring.
    Yes,
    /// There is no room until others are answered.
    Later,
    /// There never is room for one of this size.
    Never,
}

/// What became of a request that was sent if it may pass.
pub(crate) enum Passed {
    /// It is in the ring.
    Sent,
    /// There is no room for it.
    NoRoom(Chain),
    /// It may not pass.
    Refused(Chain),
}

/// How much of a request is looked at before it passes: FUSE's header, and the first words of its arguments.
pub(crate) const HEAD: usize = 48;

pub(crate) struct ShadowRing {
    ring: DriverRing,
    free: Vec<u16>,
    /// By the first descriptor.
    flights: Vec<Option<Flight>>,
}

impl ShadowRing {
    /// Ring `number` of an arena.
    pub fn new(number: usize) -> Result<Self, BackEndError> {
        Ok(Self {
            ring: DriverRing::new(number)?,
            free: (0..SIZE).rev().collect(),
            flights: (0..SIZE).map(|_| None).collect(),
        })
    }

    /// The ring as the back end knows it.
    pub fn driver(&self) -> &DriverRing {
        &self.ring
    }

    /// What would become of `chain` now.
    pub fn fits(&self, arena: &Arena, chain: &Chain) -> Sent {
        let layout = Layout::of(chain);
        if layout.len > MAX_REQUEST || layout.pieces.is_empty() {
            return Sent::Never;
        }
        match self.free.len() >= layout.pieces.len() && arena.has_room(layout.len) {
            true => Sent::Yes,
            false => Sent::Later,
        }
    }

    /// Copies a request of the guest into the ring, or gives it back if it does not fit.
    #[cfg(any(test, fuzzing))]
    pub fn send(&mut self, arena: &mut Arena, chain: Chain) -> Result<(), Chain> {
        match self.send_if(arena, chain, |_| true) {
            Passed::Sent => Ok(()),
            Passed::NoRoom(chain) | Passed::Refused(chain) => Err(chain),
        }
    }

    /// Copies a request of the guest into the ring, if `may_pass` lets it. That looks at the first [`HEAD`] bytes of the copy, or at
    /// all of a shorter one: the guest may change its own meanwhile.
    pub fn send_if(&mut self, arena: &mut Arena, chain: Chain, may_pass: impl Fn(&[u8]) -> bool) -> Passed {
        let layout = Layout::of(&chain);
        if layout.pieces.is_empty() || layout.len > MAX_REQUEST || self.free.len() < layout.pieces.len() {
            return Passed::NoRoom(chain);
        }
        let Some(room) = arena.take(layout.len) else {
            return Passed::NoRoom(chain);
        };
        for (buffer, spot) in chain.readable().iter().zip(&layout.spots) {
            let target = arena.bytes(room + spot, buffer.len());
            // SAFETY: the buffer is in guest RAM, which `chain` keeps mapped; the target is as long and in the arena's mapping. Both
            // are plain memory that others may change meanwhile, and no reference to either exists.
            unsafe { ptr::copy_nonoverlapping(buffer.as_ptr(), target.as_ptr(), target.len()) };
        }
        let mut head = [0; HEAD];
        let len = copy_head(arena, &chain, room, &layout, &mut head);
        if !may_pass(&head[..len]) {
            arena.give_back(room);
            return Passed::Refused(chain);
        }
        let first = self.free.len() - layout.pieces.len();
        let descriptors = self.free.split_off(first);
        for (at, (piece, index)) in layout.pieces.iter().zip(&descriptors).enumerate() {
            let next = descriptors.get(at + 1);
            let flags = if piece.writable { VRING_DESC_F_WRITE } else { 0 }
                | if next.is_some() { VRING_DESC_F_NEXT } else { 0 };
            let place = (room + piece.at, piece.len);
            let next = next.copied().unwrap_or(0);
            self.ring.describe(arena, *index, place, (flags as u16, next));
        }
        let head = descriptors[0];
        self.ring.offer(arena, head);
        self.flights[usize::from(head)] = Some(Flight {
            chain,
            layout,
            room,
            descriptors,
        });
        Passed::Sent
    }

    /// Wakes the back end, if it wants that.
    pub fn wake(&mut self, arena: &Arena) -> Result<(), BackEndError> {
        self.ring.wake(arena)
    }

    /// Whether the back end seems to have answered something.
    pub fn looks_used(&self, arena: &Arena) -> bool {
        self.ring.looks_used(arena)
    }

    /// The next request that the back end has answered, with the answer in the guest's memory and its length. The guest does not know
    /// of it yet.
    pub fn answered(&mut self, arena: &mut Arena) -> Result<Option<(Chain, u32)>, BackEndError> {
        let Some((head, len)) = self.ring.next_used(arena)? else {
            return Ok(None);
        };
        let flight = self.flights.get_mut(head as usize).and_then(Option::take);
        let Some(flight) = flight else {
            return Err(self.ring.broken("it answered what it was not asked"));
        };
        if len as usize > flight.chain.writable_bytes() {
            // It goes with the others, unanswered.
            self.flights[head as usize] = Some(flight);
            return Err(self.ring.broken("its answer is longer than there is room"));
        }
        copy_answer(arena, &flight, len as usize);
        let (chain, _) = self.retire(arena, flight);
        Ok(Some((chain, len)))
    }

    fn retire(&mut self, arena: &mut Arena, flight: Flight) -> (Chain, Layout) {
        arena.give_back(flight.room);
        self.free.extend(flight.descriptors);
        (flight.chain, flight.layout)
    }

    /// All requests that were not answered; the ring is not used again.
    pub fn into_unanswered(self) -> Vec<Chain> {
        self.flights
            .into_iter()
            .flatten()
            .map(|flight| flight.chain)
            .collect()
    }
}

/// Copies the beginning of a request that is in the arena. Returns its bytes.
fn copy_head(arena: &Arena, chain: &Chain, room: u64, layout: &Layout, head: &mut [u8]) -> usize {
    let mut done = 0;
    for (buffer, spot) in chain.readable().iter().zip(&layout.spots) {
        let rest = &mut head[done..];
        let source = arena.bytes(room + spot, buffer.len().min(rest.len()));
        // SAFETY: as in `ShadowRing::send_if`; `rest` has at least as many bytes, and nobody else has it.
        unsafe { ptr::copy_nonoverlapping(source.as_ptr(), rest.as_mut_ptr(), source.len()) };
        done += source.len();
    }
    done
}

/// Copies the first `len` bytes of an answer to the guest, and reports them as written.
fn copy_answer(arena: &Arena, flight: &Flight, len: usize) {
    let spots = &flight.layout.spots[flight.chain.readable().len()..];
    let mut left = len;
    for (buffer, spot) in flight.chain.writable().iter().zip(spots) {
        let source = arena.bytes(flight.room + spot, buffer.len().min(left));
        // SAFETY: as in `ShadowRing::send_if`, the other way.
        unsafe { ptr::copy_nonoverlapping(source.as_ptr(), buffer.as_ptr(), source.len()) };
        left -= source.len();
        if left == 0 {
            break;
        }
    }
    flight.chain.mark_written(len);
}
