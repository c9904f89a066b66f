//! A back end as the other end of a card's queue pair.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use ostler_netio::{Came, FrameSink, Header, Offloads, OtherEnd, Sent, put_frame};

use super::Shared;
use super::rings::Rings;
use crate::front::BackEndError;

/// Rings are wished as long as it lives.
pub(super) struct CardEnd(Arc<Shared>);

impl CardEnd {
    pub fn new(shared: Arc<Shared>) -> Self {
        shared.wish(|wish| wish.open = true);
        Self(shared)
    }
}

impl Drop for CardEnd {
    fn drop(&mut self) {
        self.0.wish(|wish| wish.open = false);
    }
}

impl FrameSink for Rings {
    type Broken = BackEndError;

    fn accepts(&self) -> Offloads {
        self.accepts
    }

    fn put(&mut self, header: &Header, parts: &[&[u8]]) -> Result<bool, BackEndError> {
        Rings::put(self, header, parts)
    }
}

impl OtherEnd for CardEnd {
    /// After [`Came::Nothing`], the back end's signals tell of more.
    fn pop(&mut self, frame: &mut Vec<u8>) -> Came {
        let mut seen = false;
        loop {
            let mut state = self.0.lock();
            let came = match &mut state.rings {
                None => Ok(Came::Nothing),
                Some(rings) => rings.take(frame),
            };
            match came {
                // What came before it was seen that something happened may not be told of again.
                Ok(Came::Nothing) if !seen => {
                    drop(state);
                    self.0.harvest();
                    seen = true;
                }
                Ok(Came::Nothing) => {
                    if let Some(Err(error)) = state.rings.as_mut().map(Rings::rest) {
                        self.0.lose(&mut state, error);
                    }
                    return Came::Nothing;
                }
                Ok(came) => return came,
                Err(error) => {
                    self.0.lose(&mut state, error);
                    return Came::Nothing;
                }
            }
        }
    }

    fn takes(&self) -> Offloads {
        self.0.lock().wish.takes
    }

    fn push(&mut self, header: Header, frame: &mut [u8], scratch: &mut Vec<u8>) -> Sent {
        let mut state = self.0.lock();
        let Some(rings) = &mut state.rings else {
            return Sent::Dropped;
        };
        match put_frame(rings, header, frame, scratch) {
            Ok(true) => Sent::Sent,
            Ok(false) => Sent::Dropped,
            Err(error) => {
                self.0.lose(&mut state, error);
                Sent::Dropped
            }
        }
    }

    fn readable(&self) -> BorrowedFd<'_> {
        self.0.events.as_fd()
    }
}
