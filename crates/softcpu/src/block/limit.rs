//! How much the code cache may hold: more for a guest that comes round again and again to what was evicted.

use super::index::hash;

/// Words of the set of evicted blocks.
const WORDS: usize = 4096;

/// The limit, and what tells whether it is too low.
pub(super) struct Limit {
    now: usize,
    most: usize,
    /// Evicted blocks, by a hash.
    evicted: Box<[u64; WORDS]>,
    /// Blocks decoded since the limit was reached, and how many of them had been evicted.
    decoded: u32,
    missed: u32,
}

fn bit(gpa: u64) -> (usize, u64) {
    let hash = hash(gpa);
    ((hash / 64) as usize % WORDS, 1 << (hash % 64))
}

impl Limit {
    /// A limit of `least` bytes, which rises to `most` at most.
    pub(super) fn new(least: usize, most: usize) -> Self {
        Self {
            now: least.min(most),
            most,
            evicted: Box::new([0; WORDS]),
            decoded: 0,
            missed: 0,
        }
    }

    /// The limit in bytes.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        self.now
    }

    /// The block at `gpa` is evicted.
    pub(super) fn note_evicted(&mut self, gpa: u64) {
        let (word, bit) = bit(gpa);
        self.evicted[word] |= bit;
    }

    /// The block at `gpa` was decoded.
    pub(super) fn note_decoded(&mut self, gpa: u64) {
        let (word, bit) = bit(gpa);
        self.decoded += 1;
        self.missed += u32::from(self.evicted[word] & bit != 0);
        self.evicted[word] &= !bit;
    }

    /// The limit is reached: raises it by a quarter if half of what came since the last time had been there before. False if it stays.
    pub(super) fn raise(&mut self) -> bool {
        let missed = std::mem::take(&mut self.missed);
        let decoded = std::mem::take(&mut self.decoded);
        if missed < decoded / 2 || missed == 0 || self.now == self.most {
            return false;
        }
        self.now = (self.now + self.now / 4).min(self.most);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_stays_for_what_is_new_and_rises_for_what_was_evicted() {
        let mut limit = Limit::new(100, 150);
        for gpa in 0..1000 {
            limit.note_decoded(gpa);
        }
        assert!(!limit.raise());
        for gpa in 0..600 {
            limit.note_evicted(gpa);
        }
        for gpa in 0..1000 {
            limit.note_decoded(gpa);
        }
        assert!(limit.raise());
        assert_eq!(limit.bytes(), 125);
        // Each was missed once.
        for gpa in 0..1000 {
            limit.note_decoded(gpa);
        }
        assert!(!limit.raise());
    }

    #[test]
    fn the_limit_has_a_limit() {
        let mut limit = Limit::new(100, 150);
        for bytes in [125, 150] {
            limit.note_evicted(7);
            limit.note_decoded(7);
            assert!(limit.raise());
            assert_eq!(limit.bytes(), bytes);
        }
        limit.note_evicted(7);
        limit.note_decoded(7);
        assert!(!limit.raise());
    }
}
