//! What a console said lately: a bounded ring that any number of readers follow at their own pace.

/// The last bytes of an endless stream. Positions count from the stream's first byte and never wrap.
#[derive(Debug)]
pub struct History {
    ring: Vec<u8>,
    capacity: usize,
    /// Position after the newest byte.
    end: u64,
}

impl History {
    /// An empty history that keeps at most `capacity` bytes, which it takes as they are needed.
    ///
    /// # Panics
    /// If `capacity` is zero.
    pub fn new(capacity: usize) -> Self {
        assert!(capacity > 0, "a history keeps at least one byte");
        Self {
            ring: Vec::new(),
            capacity,
            end: 0,
        }
    }

    /// Position of the oldest byte that is kept.
    pub fn start(&self) -> u64 {
        self.end - self.ring.len() as u64
    }

    /// Position after the newest byte.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Adds bytes; the oldest ones give way.
    pub fn append(&mut self, bytes: &[u8]) {
        let skipped = bytes.len().saturating_sub(self.capacity);
        self.end += skipped as u64;
        let mut bytes = &bytes[skipped..];
        if self.ring.len() < self.capacity {
            // The ring is written from its front until it is full, so position modulo capacity is the index.
            let fits = bytes.len().min(self.capacity - self.ring.len());
            if skipped == 0 {
                self.ring.extend_from_slice(&bytes[..fits]);
                self.end += fits as u64;
                bytes = &bytes[fits..];
            } else {
                self.ring.resize(self.capacity, 0);
            }
        }
        while !bytes.is_empty() {
            let at = (self.end % self.capacity as u64) as usize;
            let fits = bytes.len().min(self.capacity - at);
            self.ring[at..at + fits].copy_from_slice(&bytes[..fits]);
            self.end += fits as u64;
            bytes = &bytes[fits..];
        }
    }

    /// The longest contiguous piece from `position` on, and where it starts: later than `position` if bytes there are
    /// gone. Empty at the end.
    pub fn read(&self, position: u64) -> (u64, &[u8]) {
        let from = position.clamp(self.start(), self.end);
        if from == self.end {
            return (from, &[]);
        }
        let at = (from % self.capacity as u64) as usize;
        let len = ((self.end - from) as usize).min(self.ring.len() - at);
        (from, &self.ring[at..at + len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(history: &History, mut position: u64) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let (from, piece) = history.read(position);
            if piece.is_empty() {
                return all;
            }
            all.extend_from_slice(piece);
            position = from + piece.len() as u64;
        }
    }

    proptest::proptest! {
        #[test]
        fn the_newest_bytes_are_kept_in_order(
            capacity in 1usize..50,
            pieces in proptest::collection::vec(proptest::collection::vec(0u8..=255, 0..120), 0..12),
            position in 0u64..600,
        ) {
            let mut history = History::new(capacity);
            let mut all = Vec::new();
            for piece in pieces {
                history.append(&piece);
                all.extend(piece);
                let kept = all.len().min(capacity);
                proptest::prop_assert_eq!(history.end(), all.len() as u64);
                proptest::prop_assert_eq!(rest(&history, 0), &all[all.len() - kept..]);
            }
            let from = (position as usize).max(all.len() - all.len().min(capacity)).min(all.len());
            proptest::prop_assert_eq!(rest(&history, position), &all[from..]);
        }
    }
}
