//! The queue pair of a card at the switch.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use ostler_memory::IoBuf;

use super::Shared;
use crate::copied::{fit_frame, give_frame, take_frame};
use crate::frame::Header;
use crate::offload::{admit, finish};
use crate::ring::{FrameRings, RingBroken};
use crate::slots::SlotGuard;
use crate::{Error, NetQueue, QueueCounters, Received, Sent};

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

    /// Passes on the frame that was taken out of the guest's buffers.
    fn push(&mut self, header: Header) -> Sent {
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
        let takes = self.shared.delivered();
        let fitted = fit_frame(header, &mut self.frame, takes, &mut self.scratch);
        // SAFETY: promised by the caller.
        let given = fitted.and_then(|header| unsafe { give_frame(buffers, header, &self.frame) });
        Ok(match given {
            Some(count) => {
                self.counters.received += 1;
                Received::Frame(count)
            }
            None => {
                self.counters.receive_drops += 1;
                Received::Dropped
            }
        })
    }

    unsafe fn write_frame(&mut self, buffers: &[IoBuf]) -> Result<Sent, Error> {
        // SAFETY: promised by the caller.
        let sent = match unsafe { take_frame(buffers, &mut self.frame) } {
            Some(header) => self.push(header),
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
