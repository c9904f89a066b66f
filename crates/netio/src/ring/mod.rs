//! A pair of rings of frames in memory that two processes share, one ring for each direction.
//!
//! Each ring is a run of bytes with one producer and one consumer. A frame is a record: its length in four bytes (in the order of the
//! host), its bytes, and padding up to a multiple of eight. A consumer may say that it takes frames of which something is left to
//! be done; such a frame has bit 31 of its length set, and its virtio-net header behind the length. Whoever says nothing gets none. Positions count bytes for ever, modulo 2³²; the ring holds those
//! between the consumer's and the producer's.
//!
//! ```text
//! 0      ring 0: +0 the producer's position, +64 the consumer's, +128 whether the consumer sleeps,
//!                +192 what it takes: bit 31 if headers at all, bits 0 to 4 the offloads
//! 1024   ring 1, likewise
//! 4096   the bytes of ring 0, then those of ring 1
//! ```
//!
//! Neither side trusts the other. Each keeps its own position to itself and only publishes it; what the other publishes is read when
//! what was read before does not do any more (a processor waits each time for what another one has just written), and checked
//! against the size of the ring whenever it is read; a length is copied out once and checked before it is used; a frame is copied
//! out before anyone looks at it. The memory is sealed, so that nobody can take pages away under the other's feet.
//!
//! A consumer that found nothing says that it sleeps and looks once more. A producer that added something and sees the sleeper wakes it
//! by a byte on the socket that came with the memory. (Not by an eventfd: whoever shares one can make the other block on it, by
//! filling it and clearing `O_NONBLOCK`, which belongs to the open file and not to a descriptor.)

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod memory;
#[cfg(test)]
mod tests;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering, fence};

use memory::SharedMemory;

use crate::frame::{ETHERNET_LEN, Header};
use crate::{Error, HEADER_LEN, MAX_FRAME, Offloads};

/// Bytes of one ring: a power of two, with room for a window of large TCP segments. Pages that nobody writes cost nothing.
const RING_BYTES: u32 = 1 << 20;
/// In a length: the frame's header is behind it.
const HEADED: u32 = 1 << 31;
/// Among the offloads: headers are understood.
const HEADERS: u32 = 1 << 31;
/// Bytes of the length in front of a frame.
const LENGTH_BYTES: u32 = 4;
/// Where the rings' bytes start.
const DATA_AT: usize = 4096;
/// Between the words of ring 0 and those of ring 1.
const WORDS_STEP: usize = 1024;
const PRODUCED: usize = 0;
const CONSUMED: usize = 64;
const SLEEPS: usize = 128;
const TAKES: usize = 192;
/// Bytes of the shared memory.
const TOTAL: usize = DATA_AT + 2 * RING_BYTES as usize;

/// Which end of the pair this process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The switch: it produces into ring 0.
    Switch,
    /// The guest: it produces into ring 1.
    Guest,
}

/// The peer published what cannot be: the rings are not to be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingBroken;

/// One end of a pair of rings.
#[derive(Debug)]
pub struct FrameRings {
    memory: SharedMemory,
    out: usize,
    into: usize,
    /// How far we produced.
    produced: u32,
    /// How far we consumed.
    consumed: u32,
    /// How far the peer had consumed when we looked last.
    peer_consumed: u32,
    /// How far the peer had produced when we looked last.
    peer_produced: u32,
}

impl FrameRings {
    /// Makes the memory and takes the switch's end. The descriptor is for the guest.
    pub fn create() -> Result<(Self, OwnedFd), Error> {
        let (memory, descriptor) = SharedMemory::create(TOTAL)?;
        Ok((Self::on(memory, End::Switch), descriptor))
    }

    /// Takes the guest's end of what [`FrameRings::create`] made.
    pub fn join(descriptor: BorrowedFd<'_>) -> Result<Self, Error> {
        Ok(Self::on(SharedMemory::join(descriptor, TOTAL)?, End::Guest))
    }

    fn on(memory: SharedMemory, end: End) -> Self {
        let (out, into) = match end {
            End::Switch => (0, 1),
            End::Guest => (1, 0),
        };
        Self {
            memory,
            out,
            into,
            produced: 0,
            consumed: 0,
            peer_consumed: 0,
            peer_produced: 0,
        }
    }

    fn word(&self, ring: usize, word: usize) -> &AtomicU32 {
        self.memory.word(ring * WORDS_STEP + word)
    }

    /// Says which frames the peer may leave something undone of.
    pub fn announce(&self, offloads: Offloads) {
        let bits = [
            offloads.checksum,
            offloads.tso4,
            offloads.tso6,
            offloads.ecn,
            offloads.uso,
        ];
        let bits = bits.iter().rev().fold(0, |all, &bit| all << 1 | u32::from(bit));
        self.word(self.into, TAKES)
            .store(bits | HEADERS, Ordering::Release);
    }

    /// What the peer takes over.
    pub fn peer_takes(&self) -> Offloads {
        let bits = self.word(self.out, TAKES).load(Ordering::Acquire);
        let bit = |number: u32| bits & HEADERS != 0 && bits >> number & 1 != 0;
        Offloads {
            checksum: bit(0),
            tso4: bit(1),
            tso6: bit(2),
            ecn: bit(3),
            uso: bit(4),
        }
    }

    /// Adds a frame, given in parts, for the peer. `Ok(false)` if it does not fit now, or is none.
    pub fn push(&mut self, parts: &[&[u8]]) -> Result<bool, RingBroken> {
        self.add(&[], parts)
    }

    /// The same with a header, of which the peer takes everything.
    pub fn push_headed(&mut self, header: &Header, parts: &[&[u8]]) -> Result<bool, RingBroken> {
        self.add(header.bytes(), parts)
    }

    fn add(&mut self, header: &[u8], parts: &[&[u8]]) -> Result<bool, RingBroken> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if !(ETHERNET_LEN..=MAX_FRAME).contains(&len) {
            return Ok(false);
        }
        let record = record_bytes((header.len() + len) as u32);
        if record > self.room() {
            self.look_for_room()?;
            if record > self.room() {
                return Ok(false);
            }
        }
        let length = len as u32 | if header.is_empty() { 0 } else { HEADED };
        self.store(self.produced, &length.to_ne_bytes());
        let mut at = self.produced.wrapping_add(LENGTH_BYTES);
        for part in [header].iter().chain(parts).filter(|part| !part.is_empty()) {
            self.store(at, part);
            at = at.wrapping_add(part.len() as u32);
        }
        self.produced = self.produced.wrapping_add(record);
        self.word(self.out, PRODUCED)
            .store(self.produced, Ordering::Release);
        Ok(true)
    }

    /// Bytes that are free at least.
    fn room(&self) -> u32 {
        RING_BYTES - self.produced.wrapping_sub(self.peer_consumed)
    }

    fn look_for_room(&mut self) -> Result<(), RingBroken> {
        let consumed = self.word(self.out, CONSUMED).load(Ordering::Acquire);
        if self.produced.wrapping_sub(consumed) > RING_BYTES {
            return Err(RingBroken);
        }
        self.peer_consumed = consumed;
        Ok(())
    }

    /// Appends the next frame of the peer to `frames`. `Ok(None)` if there is none, else how long it is. For who announced nothing: a
    /// header breaks the rules.
    pub fn pop(&mut self, frames: &mut Vec<u8>) -> Result<Option<usize>, RingBroken> {
        match self.pop_headed(frames)? {
            Some((header, len)) if header.is_plain() => Ok(Some(len)),
            Some(_) => Err(RingBroken),
            None => Ok(None),
        }
    }

    /// The same with what is left to be done to it, as the peer says.
    pub fn pop_headed(&mut self, frames: &mut Vec<u8>) -> Result<Option<(Header, usize)>, RingBroken> {
        if self.peer_produced == self.consumed {
            self.peer_produced = self.consumed.wrapping_add(self.available()?);
        }
        let available = self.peer_produced.wrapping_sub(self.consumed);
        if available == 0 {
            return Ok(None);
        }
        let mut length = [0; LENGTH_BYTES as usize];
        if available < LENGTH_BYTES {
            return Err(RingBroken);
        }
        self.load(self.consumed, &mut length);
        let length = u32::from_ne_bytes(length);
        let len = (length & !HEADED) as usize;
        let header_len = if length & HEADED == 0 { 0 } else { HEADER_LEN };
        if !(ETHERNET_LEN..=MAX_FRAME).contains(&len) {
            return Err(RingBroken);
        }
        let record = record_bytes((header_len + len) as u32);
        if record > available {
            return Err(RingBroken);
        }
        let at = self.consumed.wrapping_add(LENGTH_BYTES);
        let mut header = Header::default();
        if header_len > 0 {
            self.load(at, &mut header.0[..header_len]);
        }
        self.append(at.wrapping_add(header_len as u32), len, frames);
        self.consumed = self.consumed.wrapping_add(record);
        self.word(self.into, CONSUMED)
            .store(self.consumed, Ordering::Release);
        Ok(Some((header, len)))
    }

    /// Whether the peer has produced something, or something that cannot be.
    pub fn has_frames(&self) -> bool {
        self.available() != Ok(0)
    }

    fn available(&self) -> Result<u32, RingBroken> {
        let produced = self.word(self.into, PRODUCED).load(Ordering::Acquire);
        let available = produced.wrapping_sub(self.consumed);
        // Whole records only are ever published.
        if available > RING_BYTES || !available.is_multiple_of(8) {
            return Err(RingBroken);
        }
        Ok(available)
    }

    /// Says that this side is about to sleep. True if frames came meanwhile: then it is awake, and has to take them.
    pub fn sleep(&self) -> bool {
        self.word(self.into, SLEEPS).store(1, Ordering::Relaxed);
        // Either the peer sees the word, or we see what it produced before it looked.
        fence(Ordering::SeqCst);
        let frames = self.has_frames();
        if frames {
            self.stay_awake();
        }
        frames
    }

    /// Says that this side looks for frames by itself.
    pub fn stay_awake(&self) {
        self.word(self.into, SLEEPS).store(0, Ordering::Relaxed);
    }

    /// To be called after frames were added: true if the peer slept, and is to be woken.
    pub fn must_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        let sleeps = self.word(self.out, SLEEPS);
        sleeps.load(Ordering::Relaxed) != 0 && sleeps.swap(0, Ordering::Relaxed) != 0
    }

    /// Stores `bytes` at the position `at` of the outgoing ring.
    #[inline]
    fn store(&self, at: u32, bytes: &[u8]) {
        let (place, first) = split(at, bytes.len());
        let base = DATA_AT + self.out * RING_BYTES as usize;
        if first == bytes.len() {
            return self.memory.store(base + place, bytes);
        }
        self.memory.store(base + place, &bytes[..first]);
        self.memory.store(base, &bytes[first..]);
    }

    /// Appends what is at the position `at` of the incoming ring to `frames`.
    fn append(&self, at: u32, len: usize, frames: &mut Vec<u8>) {
        let (place, first) = split(at, len);
        let base = DATA_AT + self.into * RING_BYTES as usize;
        self.memory.append(base + place, first, frames);
        if first < len {
            self.memory.append(base, len - first, frames);
        }
    }

    /// Copies out what is at the position `at` of the incoming ring.
    #[inline]
    fn load(&self, at: u32, bytes: &mut [u8]) {
        let (place, first) = split(at, bytes.len());
        let base = DATA_AT + self.into * RING_BYTES as usize;
        if first == bytes.len() {
            return self.memory.load(base + place, bytes);
        }
        self.memory.load(base + place, &mut bytes[..first]);
        self.memory.load(base, &mut bytes[first..]);
    }
}

/// Bytes of the record of a frame, and its header if it has one. A frame is at most [`MAX_FRAME`] long.
fn record_bytes(len: u32) -> u32 {
    (LENGTH_BYTES + len).next_multiple_of(8)
}

/// Where a position is in its ring, and how many of `len` bytes fit before its end.
fn split(at: u32, len: usize) -> (usize, usize) {
    let place = (at % RING_BYTES) as usize;
    (place, len.min(RING_BYTES as usize - place))
}
