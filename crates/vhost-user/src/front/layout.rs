//! Where the buffers of a request lie in the arena.
//!
//! Buffers follow each other without gaps where that keeps what matters: a buffer that starts at a page does so in the arena too, so
//! that a back end can pass it to direct I/O; and the short ones at the beginning stay apart, as back ends look for headers there.

use ostler_memory::{IoBuf, PAGE_SIZE};
use ostler_virtio::Chain;

/// Descriptors of one request at most; what is more is joined, whatever its alignment.
pub(crate) const MAX_PIECES: usize = 16;
/// Buffers that start at no page start at such a multiple.
const ALIGN: u64 = 64;

/// One descriptor's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// From the start of the request's room.
    pub at: u64,
    pub len: u32,
    pub writable: bool,
}

/// A request's place in the arena.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub pieces: Vec<Piece>,
    /// Where each buffer lies: first those that the device reads, then those that it writes.
    pub spots: Vec<u64>,
    /// Bytes of room.
    pub len: u64,
}

impl Layout {
    pub fn of(chain: &Chain) -> Self {
        Self::lay(chain.readable(), chain.writable())
    }

    fn lay(readable: &[IoBuf], writable: &[IoBuf]) -> Self {
        let mut layout = Self::default();
        for buffer in readable {
            layout.add(buffer, false);
        }
        for buffer in writable {
            layout.add(buffer, true);
        }
        layout
    }

    fn add(&mut self, buffer: &IoBuf, writable: bool) {
        let page = PAGE_SIZE as u64;
        let whole = buffer.as_ptr().addr().is_multiple_of(PAGE_SIZE);
        // The last piece of each direction is open for whatever comes.
        let full = match writable {
            false => self.pieces.len() >= MAX_PIECES / 2,
            true => self.pieces.len() >= MAX_PIECES,
        };
        let len = buffer.len() as u32;
        match self.pieces.last_mut().filter(|last| last.writable == writable) {
            Some(last) if full || whole && self.len.is_multiple_of(page) => {
                self.spots.push(self.len);
                // A chain holds less than 4 GiB.
                last.len += len;
            }
            _ => {
                let at = self.len.next_multiple_of(if whole { page } else { ALIGN });
                self.spots.push(at);
                self.pieces.push(Piece { at, len, writable });
                self.len = at;
            }
        }
        self.len += u64::from(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn buffers(list: &[(usize, usize)]) -> Vec<IoBuf> {
        // Nobody looks behind the addresses.
        list.iter()
            .map(|&(at, len)| IoBuf::new(std::ptr::without_provenance_mut(0x10_0000 + at), len))
            .collect()
    }

    #[test]
    fn headers_stay_apart_and_pages_are_joined_at_pages() {
        // A write of 8 KiB as Linux's driver sends it, and a read with its header.
        let layout = Layout::lay(
            &buffers(&[(40, 40), (80, 40), (0x1000, 4096), (0x9000, 4096)]),
            &buffers(&[(16, 16), (0x3000, 4096)]),
        );
        let piece = |at, len, writable| Piece { at, len, writable };
        assert_eq!(
            layout.pieces,
            [
                piece(0, 40, false),
                piece(64, 40, false),
                piece(4096, 8192, false),
                piece(12288, 16, true),
                piece(16384, 4096, true),
            ]
        );
        assert_eq!(layout.spots, [0, 64, 4096, 8192, 12288, 16384]);
        assert_eq!(layout.len, 20480);
    }

    proptest! {
        /// Every buffer has its own bytes, in the order of the pieces, whose number is bounded.
        #[test]
        fn buffers_keep_their_order_and_lengths(
            readable in proptest::collection::vec((0usize..0x3000, 1usize..9000), 0..40),
            writable in proptest::collection::vec((0usize..0x3000, 1usize..9000), 0..40),
        ) {
            let layout = Layout::lay(&buffers(&readable), &buffers(&writable));
            prop_assert!(layout.pieces.len() <= MAX_PIECES);
            let all: Vec<_> = readable.iter().chain(&writable).collect();
            let mut expected = layout.spots.iter().zip(&all);
            let mut end = 0;
            for piece in &layout.pieces {
                prop_assert!(piece.at >= end);
                end = piece.at;
                while end < piece.at + u64::from(piece.len) {
                    let (&spot, (_, len)) = expected.next().unwrap();
                    prop_assert_eq!(spot, end);
                    end += *len as u64;
                }
                prop_assert_eq!(end, piece.at + u64::from(piece.len));
            }
            prop_assert_eq!(expected.next(), None);
            prop_assert_eq!(end, layout.len);
            let bytes = |of: bool| layout.pieces.iter().filter(|p| p.writable == of).map(|p| p.len as usize).sum::<usize>();
            prop_assert_eq!(bytes(false), readable.iter().map(|b| b.1).sum::<usize>());
            prop_assert_eq!(bytes(true), writable.iter().map(|b| b.1).sum::<usize>());
        }
    }
}
