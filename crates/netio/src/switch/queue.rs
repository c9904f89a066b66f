//! The queue pair of a card at the switch.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use ostler_memory::IoBuf;

use super::Shared;
use crate::frame::{self, Header};
use crate::offload::{admit, finish};
use crate::ring::{FrameRings, RingBroken};
use crate::slots::SlotGuard;
use crate::{Error, HEADER_LEN, NetQueue, Offloads, QueueCounters, Received, Sent};

pub(super) struct SwitchQueue {
    shared: Arc<Shared>,
    counters: QueueCounters,
    /// A frame on its way from one memory to the other.
    frame: Vec<u8>,
    /// Headers of the segments that it is cut into.
    scratch: Vec<u8>,
    _slot: SlotGuard,
}

impl SwitchQueue {
    pub(super) fn new(shared: Arc<Shared>, slot: SlotGuard) -> Self {
        Self {
            shared,
            counters: QueueCounters::default(),
            frame: Vec::new(),
            scratch: Vec::new(),
            _slot: slot,
        }
    }

    /// Copies the next frame out of the ring, and returns its header. None if there is none, and the switch is to wake us for the next.
    fn pop(&mut self) -> Option<Header> {
        let mut ends = self.shared.lock();
        if ends.link.is_none() {
            self.shared.look_for_link(&mut ends);
        }
        loop {
            let here = ends.link.as_mut()?;
            self.frame.clear();
            match here.rings.pop_headed(&mut self.frame) {
                Ok(Some((header, _))) => return Some(header),
                // A byte that woke us is taken before the switch is asked for the next.
                Ok(None) if here.clear() => {
                    if !here.rings.sleep() {
                        return None;
                    }
                }
                _ => self.shared.lose(&mut ends),
            }
        }
    }

    /// # Safety
    /// The buffers are mapped, and hold header and frame.
    unsafe fn push(&mut self, buffers: &[IoBuf], len: usize) -> Sent {
        let mut rest = Vec::with_capacity(buffers.len());
        // SAFETY: promised by the caller.
        let header = unsafe { frame::split_header(buffers, &mut rest) };
        let Some(header) = header.checked(Offloads::ALL, len) else {
            return Sent::Dropped;
        };
        self.frame.clear();
        // SAFETY: promised by the caller.
        unsafe { frame::gather(&rest, &mut self.frame) };
        let mut ends = self.shared.lock();
        let Some(here) = &mut ends.link else {
            return Sent::Dropped;
        };
        let pushed = if header.is_plain() {
            here.rings.push(&[&self.frame])
        } else if header.needs().within(here.rings.peer_takes()) {
            here.rings.push_headed(&header, &[&self.frame])
        } else {
            push_finished(&mut here.rings, header, &mut self.frame, &mut self.scratch)
        };
        if pushed.is_err() || !here.wake() {
            self.shared.lose(&mut ends);
        }
        match pushed {
            Ok(true) => Sent::Sent,
            _ => Sent::Dropped,
        }
    }
}

impl SwitchQueue {
    /// What the guest sees as the header of the frame that came. A frame that was on its way when the guest stopped to take such
    /// frames gets its checksum here; one that would have to be cut is dropped.
    fn fit(&mut self, header: Header) -> Option<Header> {
        if header.is_plain() {
            return Some(Header::default());
        }
        if let Some(header) = header.checked(self.shared.delivered(), self.frame.len()) {
            return Some(header);
        }
        let header = admit(header, &mut self.frame)?.header;
        let only_checksum = header.needs().within(Offloads {
            checksum: true,
            ..Offloads::NONE
        });
        let done = only_checksum && finish(&header, &mut self.frame, &mut self.scratch, &mut |_| true);
        done.then(Header::default)
    }
}

/// Does what is left to be done to a frame for a switch that takes no such frames.
fn push_finished(
    rings: &mut FrameRings,
    header: Header,
    frame: &mut [u8],
    scratch: &mut Vec<u8>,
) -> Result<bool, RingBroken> {
    let Some(admitted) = admit(header, frame) else {
        return Ok(false);
    };
    let mut broken = false;
    let all = finish(&admitted.header, frame, scratch, &mut |parts| {
        let pushed = rings.push(parts);
        broken |= pushed.is_err();
        pushed == Ok(true)
    });
    if broken { Err(RingBroken) } else { Ok(all) }
}

impl NetQueue for SwitchQueue {
    unsafe fn read_frame(&mut self, buffers: &[IoBuf]) -> Result<Received, Error> {
        let Some(header) = self.pop() else {
            return Ok(Received::Empty);
        };
        let Some(mut header) = self.fit(header) else {
            self.counters.receive_drops += 1;
            return Ok(Received::Dropped);
        };
        let count = HEADER_LEN + self.frame.len();
        if IoBuf::total(buffers).is_some_and(|room| room < count) {
            self.counters.receive_drops += 1;
            return Ok(Received::Dropped);
        }
        header.0[frame::NUM_BUFFERS_AT..].copy_from_slice(&frame::ONE_BUFFER);
        // SAFETY: promised by the caller.
        unsafe { frame::scatter(buffers, 0, header.bytes()) };
        // SAFETY: promised by the caller.
        unsafe { frame::scatter(buffers, HEADER_LEN, &self.frame) };
        self.counters.received += 1;
        Ok(Received::Frame(count))
    }

    unsafe fn write_frame(&mut self, buffers: &[IoBuf]) -> Result<Sent, Error> {
        let sent = match frame::sendable_len(buffers) {
            // SAFETY: promised by the caller, and the length was checked.
            Some(len) => unsafe { self.push(buffers, len) },
            None => Sent::Dropped,
        };
        match sent {
            Sent::Sent => self.counters.sent += 1,
            Sent::Dropped => self.counters.send_drops += 1,
        }
        Ok(sent)
    }

    fn readable(&self) -> Option<BorrowedFd<'_>> {
        Some(self.shared.events.as_fd())
    }

    fn writable(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn counters(&self) -> QueueCounters {
        self.counters
    }
}
