//! Numbers and text that look random and are the same everywhere.

/// A generator of the xorshift family (Marsaglia, 2003).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }
}

/// Lines of words of small letters, about `len` bytes.
pub fn text(len: usize) -> Vec<u8> {
    let mut random = Random::new(7);
    // Few words, as in real text: a compressor is to find something.
    let words: Vec<Vec<u8>> = (0..800)
        .map(|_| {
            (0..random.below(8) + 2)
                .map(|_| b'a' + random.below(26) as u8)
                .collect()
        })
        .collect();
    let mut text = Vec::with_capacity(len + 16);
    while text.len() < len {
        text.extend(&words[random.below(words.len() as u64) as usize]);
        text.push(if random.below(10) == 0 { b'\n' } else { b' ' });
    }
    text
}

/// FNV-1a, for check values.
pub fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
