//! The EEPROM (82574 datasheet, chapter 6 and 10.2.2): 64 words of 16 bits, with the address and a checksum.

/// Words.
const WORDS: usize = 64;
/// What all words sum up to (6.1.1.38).
const CHECKSUM: u16 = 0xbaba;

const EERD_START: u32 = 1 << 0;
const EERD_DONE: u32 = 1 << 1;

/// The EEPROM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nvm([u16; WORDS]);

impl Nvm {
    /// One with this address.
    pub fn new(mac: [u8; 6]) -> Self {
        let mut words = [0xffff; WORDS];
        for (word, pair) in words.iter_mut().zip(mac.as_chunks::<2>().0) {
            *word = u16::from_le_bytes(*pair);
        }
        let known = [
            (0x03, 0x0420), // compatibility
            (0x05, 0x1071), // version of the image
            (0x0a, 0x026b), // initialization control 1
            (0x0b, crate::function::SUBSYSTEM),
            (0x0c, crate::function::VENDOR),
            (0x0d, crate::function::DEVICE),
            (0x0e, crate::function::VENDOR),
            (0x0f, 0x0080), // initialization control 2: no flow control by default
            (0x24, 0x0000), // initialization control 3: no wake-up
        ];
        for (at, value) in known {
            words[at] = value;
        }
        let sum = words[..WORDS - 1]
            .iter()
            .fold(0u16, |sum, word| sum.wrapping_add(*word));
        words[WORDS - 1] = CHECKSUM.wrapping_sub(sum);
        Self(words)
    }

    /// The address in it, which a reset puts into the first receive address.
    pub fn mac(&self) -> [u8; 6] {
        let [a, b, c, ..] = self.0.map(u16::to_le_bytes);
        [a[0], a[1], b[0], b[1], c[0], c[1]]
    }

    /// EERD after `value` was written there.
    pub fn read(&self, value: u32) -> u32 {
        let at = value >> 2 & 0x3fff;
        match self.0.get(at as usize) {
            Some(word) if value & EERD_START != 0 => u32::from(*word) << 16 | at << 2 | EERD_DONE,
            _ => at << 2 | EERD_DONE,
        }
    }

    /// EEWR after `value` was written there. What software writes lasts as long as the card.
    pub fn write(&mut self, value: u32) -> u32 {
        let at = value >> 2 & 0x3fff;
        if value & EERD_START != 0
            && let Some(word) = self.0.get_mut(at as usize)
        {
            *word = (value >> 16) as u16;
        }
        at << 2 | EERD_DONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_sum_up_and_hold_the_address() {
        let mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
        let mut nvm = Nvm::new(mac);
        assert_eq!(nvm.mac(), mac);
        let word = |nvm: &Nvm, at: u32| {
            let read = nvm.read(at << 2 | EERD_START);
            assert_eq!(read & EERD_DONE, EERD_DONE);
            (read >> 16) as u16
        };
        let sum = (0..64).fold(0u16, |sum, at| sum.wrapping_add(word(&nvm, at)));
        assert_eq!(sum, 0xbaba);
        assert_eq!(word(&nvm, 0), 0x5452);
        nvm.write(0x1234 << 16 | 5 << 2 | EERD_START);
        assert_eq!(word(&nvm, 5), 0x1234);
        assert_eq!(word(&nvm, 0x3fff), 0);
    }
}
