//! What the guest sends: put in order, acknowledged, and kept for the host's socket.
//!
//! A Linux host whose processors share the work of an interface passes on segments in another order than they were sent, so what comes
//! early is kept (RFC 9293, 3.10.7.4), and the guest is told of it at once (RFC 5681, 4.2; RFC 2018). It lies in the buffer where it
//! will be, so it takes no memory that the window did not promise.

use super::after;
use super::bytes::Bytes;
use super::ranges::{Range, Ranges};
use crate::wire::{MAX_SACK_BLOCKS, Tcp, flags};

/// Whether a segment is to be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    No,
    /// With the next that is sent.
    Soon,
    /// By itself, before anything else of the guest is looked at.
    Now,
}

/// The way from the guest to the host.
#[derive(Debug, Default)]
pub struct Receiver {
    /// The next sequence number that is missing (RCV.NXT), and the end of the window that the guest was told.
    pub expected: u32,
    pub edge: u32,
    /// In order, for the host's socket; behind its end lies what came early.
    bytes: Bytes,
    early: Ranges,
    /// Where the guest's FIN is, once it was seen.
    fin: Option<u32>,
    /// All before the FIN is here.
    pub done: bool,
    /// The guest understands selective acknowledgments.
    pub sack: bool,
    /// What came twice and was not told of yet (RFC 2883).
    twice: Option<Range>,
}

impl Receiver {
    /// The guest's SYN had this sequence number.
    pub fn start(&mut self, syn: u32) {
        self.expected = syn.wrapping_add(1);
        self.edge = self.expected.wrapping_add(u32::from(u16::MAX));
    }

    /// Bytes of the window that the guest was told.
    pub fn told(&self) -> u32 {
        self.edge.wrapping_sub(self.expected)
    }

    /// Bytes that wait for the host.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What the host's socket is to get next.
    pub fn for_host(&self) -> &[u8] {
        self.bytes.pieces(0, usize::MAX)[0]
    }

    /// The host's socket took `count` bytes.
    pub fn consume(&mut self, count: usize, limit: usize) {
        self.bytes.consume(count);
        if self.early.is_empty() {
            self.bytes.settle(limit);
        }
    }

    /// Bytes of memory for what came.
    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Takes in what a segment carries.
    pub fn take(&mut self, segment: &Tcp<'_>) -> Answer {
        let len = segment.payload.len() as u32;
        let has_fin = segment.has(flags::FIN);
        if len == 0 && !has_fin {
            // A probe outside the window is to be answered.
            return if segment.sequence == self.expected {
                Answer::No
            } else {
                Answer::Soon
            };
        }
        // How much of it came before.
        let known = if after(segment.sequence, self.expected) {
            0
        } else {
            self.expected.wrapping_sub(segment.sequence)
        };
        self.twice =
            (known.min(len) > 0).then(|| (segment.sequence, segment.sequence.wrapping_add(known.min(len))));
        let start = segment.sequence.wrapping_add(known);
        let ahead = start.wrapping_sub(self.expected);
        if self.done || known > len || ahead > self.told() {
            return Answer::Now;
        }
        let fresh = &segment.payload[known as usize..];
        let mut taken = fresh.len().min((self.told() - ahead) as usize);
        let end = start.wrapping_add(taken as u32);
        if has_fin && taken == fresh.len() && self.fin.is_none() {
            // Nothing is behind it.
            self.early.cut(end);
            self.fin = Some(end);
        }
        if let Some(fin) = self.fin {
            let room = if after(fin, start) {
                fin.wrapping_sub(start)
            } else {
                0
            };
            taken = taken.min(room as usize);
        }
        self.keep(start, &fresh[..taken], known > 0)
    }

    /// Keeps `bytes` of the window that start at a sequence number.
    fn keep(&mut self, start: u32, bytes: &[u8], partly_known: bool) -> Answer {
        let range = (start, start.wrapping_add(bytes.len() as u32));
        let had_early = !self.early.is_empty();
        let place = self.bytes.len() + start.wrapping_sub(self.expected) as usize;
        if start == self.expected {
            self.bytes.put(place, bytes);
            self.advance(range.1);
            while let Some(end) = self.early.take_reached(self.expected) {
                self.advance(end);
            }
            if self.fin == Some(self.expected) {
                self.done = true;
                self.expected = self.expected.wrapping_add(1);
            }
            return if had_early || partly_known {
                Answer::Now
            } else {
                Answer::Soon
            };
        }
        if !bytes.is_empty() {
            if self.early.holds(range) {
                self.twice = Some(range);
            }
            if self.early.add(range) {
                self.bytes.put(place, bytes);
            }
        }
        Answer::Now
    }

    /// Everything before `end` is there.
    fn advance(&mut self, end: u32) {
        if after(end, self.expected) {
            self.bytes.lengthen(end.wrapping_sub(self.expected) as usize);
            self.expected = end;
        }
    }

    /// The option of a selective acknowledgment, if there is something to tell: what came twice first (RFC 2883, 4), then what came
    /// early, the latest first (RFC 2018, 4). It is padded to a multiple of four bytes.
    pub fn sack_option(&mut self) -> Vec<u8> {
        let twice = self.twice.take();
        let blocks = || twice.into_iter().chain(self.early.iter()).take(MAX_SACK_BLOCKS);
        let count = blocks().count();
        if !self.sack || count == 0 {
            return Vec::new();
        }
        let mut option = vec![1, 1, 5, (2 + 8 * count) as u8];
        for (start, end) in blocks() {
            option.extend(start.to_be_bytes());
            option.extend(end.to_be_bytes());
        }
        option
    }
}
