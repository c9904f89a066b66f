//! The switch as the other end of a card's queue pair.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::Shared;
use crate::copied::{Came, FrameSink, OtherEnd, put_frame};
use crate::frame::Header;
use crate::ring::{FrameRings, RingBroken};
use crate::{Offloads, Sent};

pub(super) struct SwitchEnd(pub Arc<Shared>);

impl FrameSink for FrameRings {
    type Broken = RingBroken;

    fn accepts(&self) -> Offloads {
        self.peer_takes()
    }

    fn put(&mut self, header: &Header, parts: &[&[u8]]) -> Result<bool, RingBroken> {
        if header.is_plain() {
            self.push(parts)
        } else {
            self.push_headed(header, parts)
        }
    }
}

impl OtherEnd for SwitchEnd {
    /// After [`Came::Nothing`], the switch is to wake us for the next.
    fn pop(&mut self, frame: &mut Vec<u8>) -> Came {
        let mut ends = self.0.lock();
        if ends.link.is_none() {
            self.0.look_for_link(&mut ends);
        }
        while let Some(here) = &mut ends.link {
            frame.clear();
            match here.rings.pop_headed(frame) {
                Ok(Some((header, _))) => return Came::Frame(header),
                // A byte that woke us is taken before the switch is asked for the next.
                Ok(None) if here.clear() => {
                    if !here.rings.sleep() {
                        break;
                    }
                }
                _ => self.0.lose(&mut ends),
            }
        }
        Came::Nothing
    }

    fn takes(&self) -> Offloads {
        self.0.delivered()
    }

    fn push(&mut self, header: Header, frame: &mut [u8], scratch: &mut Vec<u8>) -> Sent {
        let mut ends = self.0.lock();
        let Some(here) = &mut ends.link else {
            return Sent::Dropped;
        };
        let pushed = put_frame(&mut here.rings, header, frame, scratch);
        if pushed.is_err() || !here.wake() {
            self.0.lose(&mut ends);
        }
        match pushed {
            Ok(true) => Sent::Sent,
            _ => Sent::Dropped,
        }
    }

    fn readable(&self) -> BorrowedFd<'_> {
        self.0.events.as_fd()
    }
}
