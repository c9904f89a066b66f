//! The checksum of the Internet's protocols (RFC 1071), and the CRC of Ethernet.

/// Folds a sum to 16 bits.
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of `bytes` as 16-bit words of the network's order, not folded.
pub fn sum(bytes: &[u8]) -> u64 {
    let (quads, rest) = bytes.as_chunks::<4>();
    let total: u64 = quads
        .iter()
        .map(|quad| u64::from(u32::from_be_bytes(*quad)))
        .sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    total + u64::from(u32::from_be_bytes(last))
}

/// Reads 16 bits at `at`; 0 past the end.
pub fn word(bytes: &[u8], at: usize) -> u16 {
    match bytes.get(at..at + 2) {
        Some(pair) => u16::from_be_bytes([pair[0], pair[1]]),
        None => 0,
    }
}

/// Stores 16 bits at `at`; nothing happens past the end.
pub fn set_word(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(pair) = bytes.get_mut(at..at + 2) {
        pair.copy_from_slice(&value.to_be_bytes());
    }
}

/// Puts the checksum of `start..end` at `place`, where its first part is already. Places outside of `bytes` are left alone.
/// A sum of zero is written as ones where `no_zero`, as UDP wants it.
pub fn insert(bytes: &mut [u8], start: usize, place: usize, end: usize, no_zero: bool) {
    let end = end.min(bytes.len());
    if start > end || place + 2 > bytes.len() {
        return;
    }
    let value = match !fold(sum(&bytes[start..end])) {
        0 if no_zero => 0xffff,
        value => value,
    };
    set_word(bytes, place, value);
}

/// The frame check sequence (IEEE 802.3, 3.2.9) in the order of the wire.
pub fn crc(bytes: &[u8]) -> [u8; 4] {
    const NIBBLES: [u32; 16] = nibbles();
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        crc = crc >> 4 ^ NIBBLES[(crc & 0xf) as usize];
        crc = crc >> 4 ^ NIBBLES[(crc & 0xf) as usize];
    }
    (!crc).to_le_bytes()
}

const fn nibbles() -> [u32; 16] {
    let mut table = [0; 16];
    let mut at = 0;
    while at < 16 {
        let mut value = at as u32;
        let mut bit = 0;
        while bit < 4 {
            value = if value & 1 != 0 {
                value >> 1 ^ 0xedb8_8320
            } else {
                value >> 1
            };
            bit += 1;
        }
        table[at] = value;
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_rfc() {
        // RFC 1071, 3.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes)), 0xddf2);
        assert_eq!(
            fold(sum(&bytes[..7])),
            fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0]))
        );
        assert_eq!(crc(b"123456789"), 0xcbf4_3926u32.to_le_bytes());
    }

    #[test]
    fn places_outside_are_left_alone() {
        let mut bytes = [1; 8];
        insert(&mut bytes, 9, 0, 8, false);
        insert(&mut bytes, 0, 7, 8, false);
        assert_eq!(bytes, [1; 8]);
        let mut zeroes = [0xff, 0xff, 0, 0];
        insert(&mut zeroes, 0, 2, usize::MAX, true);
        assert_eq!(zeroes[2..], [0xff, 0xff]);
    }
}
