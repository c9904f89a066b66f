//! The 512 bytes in which a drive says what it is.

/// Firmware revision.
pub const FIRMWARE: &str = "1.0";

/// 512 bytes that are addressed as 16-bit words.
pub struct Words([u16; 256]);

impl Default for Words {
    fn default() -> Self {
        Self([0; 256])
    }
}

impl Words {
    /// Sets a word.
    pub fn put(&mut self, at: usize, value: u16) {
        self.0[at] = value;
    }

    /// Sets words from `at` on, the least significant first.
    pub fn put_long(&mut self, at: usize, value: u64, words: usize) {
        for word in 0..words {
            self.0[at + word] = (value >> (16 * word)) as u16;
        }
    }

    /// Sets `words` words to a text that is filled up with spaces; of each word the first character is the higher byte.
    pub fn put_text(&mut self, at: usize, words: usize, text: &str) {
        let mut bytes = text.bytes().chain(std::iter::repeat(b' '));
        for word in &mut self.0[at..at + words] {
            let mut next = || {
                bytes
                    .next()
                    .filter(|byte| matches!(byte, b' '..=b'~'))
                    .unwrap_or(b' ')
            };
            *word = u16::from_be_bytes([next(), next()]);
        }
    }

    /// The bytes, with a checksum in the last word.
    pub fn finish(mut self) -> Vec<u8> {
        self.0[255] = 0xa5;
        let mut bytes: Vec<u8> = self.0.iter().flat_map(|word| word.to_le_bytes()).collect();
        set_checksum(&mut bytes);
        bytes
    }
}

/// Sets the last of `bytes` so that all of them add up to zero.
pub fn set_checksum(bytes: &mut [u8]) {
    if let Some((last, rest)) = bytes.split_last_mut() {
        let sum = rest.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        *last = sum.wrapping_neg();
    }
}

/// Word 88: ultra DMA modes 0 to 5, and which is chosen; word 63 likewise.
pub fn put_dma_modes(words: &mut Words, mode: u8) {
    let chosen = |first: u8| {
        if mode & 0xf8 == first {
            1 << (8 + (mode & 7))
        } else {
            0
        }
    };
    words.put(63, 0x0007 | chosen(0x20));
    words.put(88, 0x003f | chosen(0x40));
}
