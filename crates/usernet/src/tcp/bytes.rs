//! A queue of bytes in a ring, with room behind its end: for bytes that came before those ahead of them, and for a socket to read
//! into.

/// The ring; it grows when it has to.
#[derive(Debug, Default)]
pub struct Bytes {
    /// A power of two long, or empty.
    ring: Vec<u8>,
    start: usize,
    len: usize,
}

/// The smallest ring.
const SMALLEST: usize = 4096;

impl Bytes {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that the ring takes of memory.
    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        self.ring.len()
    }

    /// Makes the ring at least `len` bytes long. All that is in it keeps its place, seen from the front.
    fn reserve(&mut self, len: usize) {
        if len <= self.ring.len() {
            return;
        }
        let mut larger = vec![0; len.next_power_of_two().max(SMALLEST)];
        let (behind, front) = self.ring.split_at(self.start);
        larger[..front.len()].copy_from_slice(front);
        larger[front.len()..self.ring.len()].copy_from_slice(behind);
        self.ring = larger;
        self.start = 0;
    }

    /// Two ranges of the ring: `len` bytes from `at` on, seen from the front. They have to be inside.
    fn places(&self, at: usize, len: usize) -> [std::ops::Range<usize>; 2] {
        if len == 0 {
            return [0..0, 0..0];
        }
        let from = (self.start + at) & (self.ring.len() - 1);
        let first = len.min(self.ring.len() - from);
        [from..from + first, 0..len - first]
    }

    /// `len` bytes from `at` on, in two pieces; less if there are less.
    pub fn pieces(&self, at: usize, len: usize) -> [&[u8]; 2] {
        let at = at.min(self.len);
        self.places(at, len.min(self.len - at))
            .map(|place| &self.ring[place])
    }

    /// Puts `bytes` at `at`, seen from the front, which may be behind the end. They are in the queue as soon as [`Bytes::lengthen`] says so.
    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        self.reserve(at + bytes.len());
        let [first, second] = self.places(at, bytes.len());
        let (head, tail) = bytes.split_at(first.len());
        self.ring[first].copy_from_slice(head);
        self.ring[second].copy_from_slice(tail);
    }

    /// `len` bytes behind the end, to be filled.
    pub fn spare(&mut self, len: usize) -> [&mut [u8]; 2] {
        self.reserve(self.len + len);
        let [first, second] = self.places(self.len, len);
        let (low, high) = self.ring.split_at_mut(first.start);
        [&mut high[..first.len()], &mut low[second]]
    }

    /// The `len` bytes behind the end are in the queue now.
    pub fn lengthen(&mut self, len: usize) {
        self.len = (self.len + len).min(self.ring.len());
    }

    /// Adds bytes at the end.
    #[cfg(any(test, fuzzing))]
    pub fn push(&mut self, bytes: &[u8]) {
        self.put(self.len, bytes);
        self.lengthen(bytes.len());
    }

    /// Takes `len` bytes away from the front.
    pub fn consume(&mut self, len: usize) {
        let len = len.min(self.len);
        self.len -= len;
        if !self.ring.is_empty() {
            self.start = (self.start + len) & (self.ring.len() - 1);
        }
    }

    /// Nothing is put behind the end: an empty ring starts anew, and one larger than `most` bytes is given back.
    pub fn settle(&mut self, most: usize) {
        if self.len == 0 {
            self.start = 0;
            if self.ring.len() > most {
                self.ring = Vec::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn all(bytes: &Bytes) -> Vec<u8> {
        bytes.pieces(0, usize::MAX).concat()
    }

    #[test]
    fn what_came_early_is_there_when_the_gap_is_filled() {
        let mut bytes = Bytes::default();
        bytes.push(b"ab");
        bytes.put(4, b"ef");
        bytes.put(2, b"cd");
        assert_eq!(all(&bytes), b"ab");
        bytes.lengthen(4);
        assert_eq!(all(&bytes), b"abcdef");
        // Also if the ring grows in between.
        bytes.consume(5);
        bytes.put(3000, b"z");
        bytes.put(9000, b"y");
        bytes.lengthen(9000);
        assert_eq!(bytes.pieces(3000, 1).concat(), b"z");
        assert_eq!(bytes.pieces(9000, 9).concat(), b"y");
        bytes.consume(9001);
        bytes.settle(4096);
        assert_eq!(bytes.capacity(), 0);
    }

    proptest! {
        /// As a queue of the standard library.
        #[test]
        fn it_is_a_queue(steps in prop::collection::vec((0u8..3, 0usize..6000), 1..40)) {
            let (mut ours, mut model) = (Bytes::default(), VecDeque::new());
            for (count, (step, len)) in steps.into_iter().enumerate() {
                match step {
                    0 => {
                        let new = vec![count as u8; len];
                        ours.push(&new);
                        model.extend(new);
                    }
                    1 => {
                        for place in ours.spare(len) {
                            place.fill(count as u8 | 0x80);
                        }
                        ours.lengthen(len);
                        model.resize(model.len() + len, count as u8 | 0x80);
                    }
                    _ => {
                        ours.consume(len);
                        model.drain(..len.min(model.len()));
                        ours.settle(usize::MAX);
                    }
                }
                prop_assert_eq!(ours.len(), model.len());
                let middle = model.len() / 2;
                let expected: Vec<u8> = model.iter().copied().skip(middle).take(len).collect();
                prop_assert_eq!(ours.pieces(middle, len).concat(), expected);
            }
            prop_assert_eq!(all(&ours), Vec::from(model));
        }
    }
}
