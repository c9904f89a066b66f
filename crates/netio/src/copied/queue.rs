//! The queue pair of a card whose frames are copied, whoever is at the other end.

use std::os::fd::BorrowedFd;

use ostler_memory::IoBuf;

use super::{fit_frame, give_frame, take_frame};
use crate::frame::Header;
use crate::slots::SlotGuard;
use crate::{Error, NetQueue, Offloads, QueueCounters, Received, Sent};

/// What came next from the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// Nothing is there, and [`OtherEnd::readable`] will tell of more.
    Nothing,
    /// A frame, which replaced what was in the buffer, and what is left to be done to it.
    Frame(Header),
    /// Something that is no frame; it is gone.
    Junk,
}

/// The other end of a card: memory that somebody else shares. No call ever blocks.
pub trait OtherEnd: Send {
    /// Copies the next frame into `frame`.
    fn pop(&mut self, frame: &mut Vec<u8>) -> Came;

    /// What the guest takes over of the frames that come.
    fn takes(&self) -> Offloads;

    /// Passes on `frame`, to which `header` is left to be done; it may be changed by that. `scratch` is room for the headers of
    /// its segments.
    fn push(&mut self, header: Header, frame: &mut [u8], scratch: &mut Vec<u8>) -> Sent;

    /// As [`NetQueue::readable`].
    fn readable(&self) -> BorrowedFd<'_>;
}

/// A queue pair between a guest and an [`OtherEnd`].
#[derive(Debug)]
pub struct CopiedQueue<E> {
    end: E,
    counters: QueueCounters,
    /// A frame on its way from one memory to the other.
    frame: Vec<u8>,
    /// Headers of the segments that it is cut into.
    scratch: Vec<u8>,
    /// Given back after the other end was closed.
    _slot: SlotGuard,
}

impl<E: OtherEnd> CopiedQueue<E> {
    /// The queue pair that took `slot`.
    pub fn new(end: E, slot: SlotGuard) -> Self {
        Self {
            end,
            counters: QueueCounters::default(),
            frame: Vec::new(),
            scratch: Vec::new(),
            _slot: slot,
        }
    }
}

impl<E: OtherEnd> NetQueue for CopiedQueue<E> {
    unsafe fn read_frame(&mut self, buffers: &[IoBuf]) -> Result<Received, Error> {
        let header = match self.end.pop(&mut self.frame) {
            Came::Frame(header) => Some(header),
            Came::Junk => None,
            Came::Nothing => return Ok(Received::Empty),
        };
        let takes = self.end.takes();
        let fitted = header.and_then(|header| fit_frame(header, &mut self.frame, takes, &mut self.scratch));
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
            Some(header) => self.end.push(header, &mut self.frame, &mut self.scratch),
            None => Sent::Dropped,
        };
        match sent {
            Sent::Sent => self.counters.sent += 1,
            Sent::Dropped => self.counters.send_drops += 1,
        }
        Ok(sent)
    }

    fn readable(&self) -> Option<BorrowedFd<'_>> {
        Some(self.end.readable())
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
