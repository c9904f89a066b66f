//! The queue pair, as the card's worker drives it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use ostler_memory::IoBuf;
use ostler_netio::{
    Error, Header, NetQueue, QueueCounters, Received, Sent, SlotGuard, admit, finish, fit_frame, give_frame,
    take_frame,
};

use super::Shared;
use super::rings::{Came, Rings};
use crate::front::BackEndError;

pub(super) struct CardQueue {
    shared: Arc<Shared>,
    counters: QueueCounters,
    /// A frame on its way from one memory to the other.
    frame: Vec<u8>,
    /// Headers of the segments that it is cut into.
    scratch: Vec<u8>,
    _slot: SlotGuard,
}

impl CardQueue {
    pub fn new(shared: Arc<Shared>, slot: SlotGuard) -> Self {
        shared.wish(|wish| wish.open = true);
        Self {
            shared,
            counters: QueueCounters::default(),
            frame: Vec::new(),
            scratch: Vec::new(),
            _slot: slot,
        }
    }

    /// What came next. After [`Came::Nothing`] the back end's signals tell of more.
    fn pop(&mut self) -> Came {
        let mut seen = false;
        loop {
            let mut state = self.shared.lock();
            let came = match &mut state.rings {
                None => Ok(Came::Nothing),
                Some(rings) => rings.take(&mut self.frame),
            };
            match came {
                // What came before it was seen that something happened may not be told of again.
                Ok(Came::Nothing) if !seen => {
                    drop(state);
                    self.shared.harvest();
                    seen = true;
                }
                Ok(Came::Nothing) => {
                    if let Some(Err(error)) = state.rings.as_mut().map(Rings::rest) {
                        self.shared.lose(&mut state, error);
                    }
                    return Came::Nothing;
                }
                Ok(came) => return came,
                Err(error) => {
                    self.shared.lose(&mut state, error);
                    return Came::Nothing;
                }
            }
        }
    }

    /// Passes on the frame that was taken out of the guest's buffers.
    fn push(&mut self, header: Header) -> Sent {
        let mut state = self.shared.lock();
        let Some(rings) = &mut state.rings else {
            return Sent::Dropped;
        };
        let put = if header.is_plain() {
            rings.put(&Header::default(), &[&self.frame])
        } else if header.needs().within(rings.accepts) {
            rings.put(&header, &[&self.frame])
        } else {
            put_finished(rings, header, &mut self.frame, &mut self.scratch)
        };
        match put {
            Ok(true) => Sent::Sent,
            Ok(false) => Sent::Dropped,
            Err(error) => {
                self.shared.lose(&mut state, error);
                Sent::Dropped
            }
        }
    }
}

/// Does what is left to be done to a frame for a back end that takes no such frames.
fn put_finished(
    rings: &mut Rings,
    header: Header,
    frame: &mut [u8],
    scratch: &mut Vec<u8>,
) -> Result<bool, BackEndError> {
    let Some(admitted) = admit(header, frame) else {
        return Ok(false);
    };
    let mut broken = None;
    let all = finish(&admitted.header, frame, scratch, &mut |parts| {
        let put = rings.put(&Header::default(), parts);
        put.unwrap_or_else(|error| {
            broken = Some(error);
            false
        })
    });
    broken.map_or(Ok(all), Err)
}

impl Drop for CardQueue {
    fn drop(&mut self) {
        self.shared.wish(|wish| wish.open = false);
    }
}

impl NetQueue for CardQueue {
    unsafe fn read_frame(&mut self, buffers: &[IoBuf]) -> Result<Received, Error> {
        let header = match self.pop() {
            Came::Frame(header) => Some(header),
            Came::Junk => None,
            Came::Nothing => return Ok(Received::Empty),
        };
        let takes = self.shared.lock().wish.takes;
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
