//! The Internet checksum (RFC 1071).

/// A sum of 16-bit words, in the order of the host: the checksum does not mind (RFC 1071, 1.2).
#[derive(Clone, Copy, Default)]
pub(super) struct Sum(u64);

impl Sum {
    /// The sum of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::default().add(bytes)
    }

    /// Adds `bytes`. What was added before has to have an even length.
    #[must_use]
    pub fn add(self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<4>();
        let sum: u64 = words
            .iter()
            .map(|word| u64::from(u32::from_ne_bytes(*word)))
            .sum();
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        // A frame has less than 2^17 words of 32 bits, so nothing overflows.
        Self(self.0 + sum + u64::from(u32::from_ne_bytes(last)))
    }

    /// The checksum: the complement of the sum in one's complement.
    pub fn finished(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_be()
    }
}

/// Completes a checksum whose place holds the sum of the pseudo header. `None` if it is not within the frame.
pub(super) fn complete(frame: &mut [u8], start: usize, offset: usize) -> Option<()> {
    let at = start.checked_add(offset)?;
    let sum = Sum::of(frame.get(start..)?).finished();
    let place = frame.get_mut(at..at.checked_add(2)?)?;
    // 0 says that there is none (RFC 768); to all others both mean the same.
    let sum = if sum == 0 { 0xffff } else { sum };
    place.copy_from_slice(&sum.to_be_bytes());
    Some(())
}
