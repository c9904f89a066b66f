//! Frames in rings of the arena: ring 0 brings what the back end sends, ring 1 takes what the guest sends.
//!
//! Each frame has a slot of the arena with room for the longest one, and its header before it; only slots that were used take memory
//! of the host. Which slots the back end has is kept in this process. A frame is copied once, and then looked at.

use std::os::fd::OwnedFd;

use ostler_netio::{Came, HEADER_LEN, Header, MAX_FRAME, Offloads};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_USO,
};
use virtio_bindings::virtio_ring::VRING_DESC_F_WRITE;

use crate::front::{Arena, BackEndError, DriverRing, Session};

/// Slots of each ring, which has more entries.
pub(super) const SLOTS: u16 = 224;
/// Bytes of a slot: header and frame, and up to the next 2 KiB.
const SLOT: u64 = (HEADER_LEN + MAX_FRAME).next_multiple_of(2 << 10) as u64;
/// Bytes of the shortest frame: its Ethernet header.
const SHORTEST: usize = 14;

/// Features by which a back end takes what a guest leaves undone.
const ACCEPTS: [u32; 5] = [
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_HOST_USO,
];

/// What a session is asked for, for a guest that takes these.
pub(super) fn features(takes: Offloads) -> u64 {
    let delivers = [
        (takes.checksum, VIRTIO_NET_F_GUEST_CSUM),
        (takes.tso4, VIRTIO_NET_F_GUEST_TSO4),
        (takes.tso6, VIRTIO_NET_F_GUEST_TSO6),
        (takes.ecn, VIRTIO_NET_F_GUEST_ECN),
        (takes.uso, VIRTIO_NET_F_GUEST_USO4),
        (takes.uso, VIRTIO_NET_F_GUEST_USO6),
    ];
    let taken = delivers.iter().filter(|(takes, _)| *takes).map(|(_, bit)| *bit);
    ACCEPTS
        .into_iter()
        .chain(taken)
        .fold(0, |all, bit| all | 1 << bit)
}

/// What the back end of a session takes over.
pub(super) fn accepts(session: &Session) -> Offloads {
    let checksum = session.offers(VIRTIO_NET_F_CSUM);
    Offloads {
        checksum,
        tso4: checksum && session.offers(VIRTIO_NET_F_HOST_TSO4),
        tso6: checksum && session.offers(VIRTIO_NET_F_HOST_TSO6),
        ecn: checksum && session.offers(VIRTIO_NET_F_HOST_ECN),
        uso: checksum && session.offers(VIRTIO_NET_F_HOST_USO),
    }
}

/// Both rings of a start, and the memory that they are in.
pub(super) struct Rings {
    arena: Arena,
    receive: Slots,
    send: Slots,
    /// What the back end takes over.
    pub accepts: Offloads,
    /// Slots that the back end got back and was not woken for.
    returned: bool,
}

/// A ring with its slots.
struct Slots {
    ring: DriverRing,
    /// Where the slots are in the arena.
    room: u64,
    /// Those that the back end has.
    away: Vec<bool>,
    /// The others, the one that was used last at the end.
    free: Vec<u16>,
}

impl Slots {
    fn new(number: usize, arena: &mut Arena) -> Result<Self, BackEndError> {
        let room = arena.take(u64::from(SLOTS) * SLOT);
        let full = || BackEndError::host("room in the memory to share")(std::io::ErrorKind::OutOfMemory);
        Ok(Self {
            ring: DriverRing::new(number)?,
            room: room.ok_or_else(full)?,
            away: vec![false; SLOTS.into()],
            free: (0..SLOTS).rev().collect(),
        })
    }

    fn place(&self, slot: u16) -> u64 {
        self.room + u64::from(slot) * SLOT
    }

    fn offer(&mut self, arena: &Arena, slot: u16, len: usize, flags: u16) {
        // No slot is longer than 4 GiB.
        let place = (self.place(slot), len as u32);
        self.ring.describe(arena, slot, place, (flags, 0));
        self.away[usize::from(slot)] = true;
        self.ring.offer(arena, slot);
    }

    /// The next slot that came back, and how many bytes the back end wrote into it.
    fn next_used(&mut self, arena: &Arena) -> Result<Option<(u16, usize)>, BackEndError> {
        let Some((slot, len)) = self.ring.next_used(arena)? else {
            return Ok(None);
        };
        let away = self.away.get_mut(slot as usize);
        if !away.is_some_and(|away| std::mem::replace(away, false)) {
            return Err(self.ring.broken("it returned a frame that it does not have"));
        }
        Ok(Some((slot as u16, len as usize)))
    }
}

impl Rings {
    /// New rings in new memory; the back end has all room for frames already.
    pub fn new(accepts: Offloads) -> Result<Self, BackEndError> {
        let mut arena = Arena::new()?;
        let (mut receive, send) = (Slots::new(0, &mut arena)?, Slots::new(1, &mut arena)?);
        while let Some(slot) = receive.free.pop() {
            receive.offer(&arena, slot, SLOT as usize, VRING_DESC_F_WRITE as u16);
        }
        // Its slots are taken back when others are needed.
        send.ring.stay_quiet(&arena);
        Ok(Self {
            arena,
            receive,
            send,
            accepts,
            returned: false,
        })
    }

    /// Has a back end serve them.
    pub fn start(
        &self,
        session: &mut Session,
        takes: Offloads,
        stop: std::os::fd::BorrowedFd<'_>,
    ) -> Result<(), BackEndError> {
        let rings = [&self.receive.ring, &self.send.ring];
        session.start(&self.arena, &rings, features(takes), stop)
    }

    /// Where ring `number` has what the back end writes.
    #[cfg(any(test, fuzzing))]
    pub fn used_of(&self, number: usize) -> (&Arena, u64) {
        let slots = if number == 0 { &self.receive } else { &self.send };
        (&self.arena, slots.ring.used_place())
    }

    /// Writes into the first slots of the back end.
    #[cfg(any(test, fuzzing))]
    pub fn scribble(&self, bytes: &[u8]) {
        for slot in 0..4 {
            let room = self.arena.bytes(self.receive.place(slot), SLOT as usize);
            // SAFETY: the slot is in the arena's mapping, which lives as long as `self`.
            unsafe { room.copy_from(bytes) };
        }
    }

    /// What the back end signals when it has sent frames.
    pub fn call(&self) -> &OwnedFd {
        self.receive.ring.call()
    }

    /// Takes the next frame that the back end sent.
    pub fn take(&mut self, frame: &mut Vec<u8>) -> Result<Came, BackEndError> {
        let Some((slot, len)) = self.receive.next_used(&self.arena)? else {
            return Ok(Came::Nothing);
        };
        if len as u64 > SLOT {
            return Err(self.receive.ring.broken("its frame is longer than there is room"));
        }
        let came = match len.checked_sub(HEADER_LEN) {
            Some(behind) if (SHORTEST..=MAX_FRAME).contains(&behind) => {
                let bytes = self.arena.bytes(self.receive.place(slot), len);
                let mut header = [0; HEADER_LEN];
                frame.clear();
                frame.resize(behind, 0);
                // SAFETY: the slot is in the arena's mapping, which lives as long as `self`.
                unsafe {
                    bytes.copy_to(&mut header);
                    bytes.advanced(HEADER_LEN).copy_to(frame);
                }
                Header::read(&header).map_or(Came::Junk, Came::Frame)
            }
            _ => Came::Junk,
        };
        self.receive
            .offer(&self.arena, slot, SLOT as usize, VRING_DESC_F_WRITE as u16);
        self.returned = true;
        Ok(came)
    }

    /// Nothing more is taken for now: the back end is woken if it waits for room.
    pub fn rest(&mut self) -> Result<(), BackEndError> {
        match std::mem::replace(&mut self.returned, false) {
            true => self.receive.ring.wake(&self.arena),
            false => Ok(()),
        }
    }

    /// Gives the back end a frame in parts. False if it has not taken enough of those before, or it is too long.
    pub fn put(&mut self, header: &Header, parts: &[&[u8]]) -> Result<bool, BackEndError> {
        while let Some((slot, _)) = self.send.next_used(&self.arena)? {
            self.send.free.push(slot);
        }
        let len = HEADER_LEN + parts.iter().map(|part| part.len()).sum::<usize>();
        if len as u64 > SLOT {
            return Ok(false);
        }
        let Some(slot) = self.send.free.pop() else {
            return Ok(false);
        };
        let mut room = self.arena.bytes(self.send.place(slot), len);
        for part in [&header.bytes()[..]].into_iter().chain(parts.iter().copied()) {
            // SAFETY: the slot is in the arena's mapping, which lives as long as `self`.
            let copied = unsafe { room.copy_from(part) };
            room = room.advanced(copied);
        }
        self.send.offer(&self.arena, slot, len, 0);
        self.send.ring.wake(&self.arena)?;
        Ok(true)
    }
}
