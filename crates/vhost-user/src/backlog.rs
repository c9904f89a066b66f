//! Frames that wait for the guest's buffers.

use std::collections::VecDeque;

use ostler_netio::Header;

/// Bytes that may wait: as much as the ring of a guest of ours holds.
const MOST: usize = 1 << 20;

#[derive(Default)]
pub(crate) struct Backlog {
    frames: VecDeque<(Header, Vec<u8>)>,
    bytes: usize,
}

impl Backlog {
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Adds a frame; false if there is no room.
    pub fn push(&mut self, header: &Header, parts: &[&[u8]]) -> bool {
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        if self.bytes + len > MOST {
            return false;
        }
        self.bytes += len;
        self.frames.push_back((*header, parts.concat()));
        true
    }

    pub fn pop(&mut self) -> Option<(Header, Vec<u8>)> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.1.len();
        Some(frame)
    }

    /// Puts back what was popped last.
    pub fn put_back(&mut self, frame: (Header, Vec<u8>)) {
        self.bytes += frame.1.len();
        self.frames.push_front(frame);
    }

    /// Forgets all; says how many there were.
    pub fn clear(&mut self) -> usize {
        let count = self.frames.len();
        self.frames.clear();
        self.bytes = 0;
        count
    }
}
