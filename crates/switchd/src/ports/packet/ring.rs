//! The ring of received frames that the kernel fills (TPACKET_V2).
//!
//! Each frame has a place of its own there and is seen at once. (In TPACKET_V3 frames share blocks, which are handed over when they
//! are full or after a millisecond: a peer that waits for each answer would wait as long.) What is longer than a place waits at the
//! socket; the place says so.

use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{MapFlags, ProtFlags};

use super::HEADER_LEN;
use super::socket::PacketSocket;

/// Bytes of a place: the kernel's header, and a frame of the usual size.
const PLACE: usize = 2048;
/// Bytes that the kernel allocates at once: a whole number of places and of pages.
const BLOCK: usize = 256 << 10;
const BLOCKS: usize = 16;
const PLACES: usize = BLOCKS * BLOCK / PLACE;

/// What a place holds.
pub(super) enum Filled<'a> {
    /// A frame behind its virtio-net header, and the tag that the kernel took out of it.
    Whole { bytes: &'a [u8], tag: Option<[u8; 4]> },
    /// The frame waits at the socket.
    Aside { tag: Option<[u8; 4]> },
    /// A part of a frame of which the rest is lost.
    Cut,
}

pub(super) struct Ring {
    base: NonNull<u8>,
    /// The place that is filled next.
    next: usize,
}

impl Ring {
    /// The ring of a socket that is not bound yet.
    pub fn new(socket: &PacketSocket) -> io::Result<Self> {
        let wish = libc::tpacket_req {
            tp_block_size: BLOCK as u32,
            tp_block_nr: BLOCKS as u32,
            tp_frame_size: PLACE as u32,
            tp_frame_nr: PLACES as u32,
        };
        socket.set(libc::SOL_PACKET, libc::PACKET_RX_RING, &wish)?;
        // SAFETY: the kernel chooses a place that nothing else uses.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                PLACES * PLACE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                socket.as_fd(),
                0,
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, next: 0 })
    }

    /// The status of the next place, which says whose it is.
    fn status(&self) -> &AtomicU32 {
        // SAFETY: `next` is below PLACES, so the word lies in the mapping, which lives as long as `self`; places are aligned. The kernel
        // writes it as one word.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(self.next * PLACE).cast()) }
    }

    /// Whether there is a frame.
    pub fn has_frames(&self) -> bool {
        self.status().load(Ordering::Acquire) & libc::TP_STATUS_USER != 0
    }

    /// Shows the next frame to `look`, and gives its place back to the kernel. `None` if there is no frame.
    pub fn take<T>(&mut self, look: impl FnOnce(Filled<'_>) -> T) -> Option<T> {
        let status = self.status().load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 {
            return None;
        }
        // SAFETY: the place is ours until its status is given back, so nobody writes there; it lies in the mapping.
        let place = unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(self.next * PLACE), PLACE) };
        let seen = look(filled(place, status));
        self.status().store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next = (self.next + 1) % PLACES;
        Some(seen)
    }
}

/// Reads the header of a place (`struct tpacket2_hdr`).
fn filled(place: &[u8], status: u32) -> Filled<'_> {
    let word = |at: usize| u32::from_ne_bytes([place[at], place[at + 1], place[at + 2], place[at + 3]]);
    let half = |at: usize| u16::from_ne_bytes([place[at], place[at + 1]]);
    let (len, here, start) = (word(4), word(8), usize::from(half(12)));
    let tag = (status & libc::TP_STATUS_VLAN_VALID != 0).then(|| {
        let kind = if status & libc::TP_STATUS_VLAN_TPID_VALID == 0 {
            0x8100
        } else {
            half(26)
        };
        let ([a, b], [c, d]) = (kind.to_be_bytes(), half(24).to_be_bytes());
        [a, b, c, d]
    });
    if status & libc::TP_STATUS_COPY != 0 {
        return Filled::Aside { tag };
    }
    let bytes = start
        .checked_sub(HEADER_LEN)
        .and_then(|from| place.get(from..start + here as usize));
    match bytes {
        Some(bytes) if here == len => Filled::Whole { bytes, tag },
        _ => Filled::Cut,
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody has a reference into it any more.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), PLACES * PLACE) };
    }
}
