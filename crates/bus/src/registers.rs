//! Register access of any width and alignment, reduced once to what a chip understands.

use std::sync::{Mutex, MutexGuard};

/// Reads an 8-bit device: an access of n bytes is n accesses to consecutive registers, as on the ISA bus.
pub fn read_bytes(offset: u64, data: &mut [u8], mut read: impl FnMut(u64) -> u8) {
    for (at, byte) in (offset..).zip(data) {
        *byte = read(at);
    }
}

/// Writes an 8-bit device, byte by byte.
pub fn write_bytes(offset: u64, data: &[u8], mut write: impl FnMut(u64, u8)) {
    for (at, byte) in (offset..).zip(data) {
        write(at, *byte);
    }
}

/// Reads from a device of 32-bit registers at offsets 0, 4, 8 ...; each register is read once.
pub fn read_dwords(offset: u64, data: &mut [u8], mut read: impl FnMut(u64) -> u32) {
    let mut current: Option<(u64, [u8; 4])> = None;
    for (at, byte) in (offset..).zip(data) {
        let register = at & !3;
        let bytes = match current {
            Some((known, bytes)) if known == register => bytes,
            _ => read(register).to_le_bytes(),
        };
        current = Some((register, bytes));
        *byte = bytes[(at & 3) as usize];
    }
}

/// The bytes of one 32-bit register that a write touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Masked {
    /// The bytes written, in place.
    pub value: u32,
    /// Ones where a byte was written.
    pub mask: u32,
}

impl Masked {
    /// `old` with the written bytes replaced.
    pub fn over(self, old: u32) -> u32 {
        old & !self.mask | self.value
    }
}

/// Writes to a device of 32-bit registers; each register is written once, with a mask of the bytes that were given.
pub fn write_dwords(offset: u64, data: &[u8], mut write: impl FnMut(u64, Masked)) {
    let mut pending: Option<(u64, Masked)> = None;
    for (at, byte) in (offset..).zip(data) {
        let shift = 8 * (at & 3) as u32;
        let register = at & !3;
        let mut masked = match pending.take() {
            Some((known, masked)) if known == register => masked,
            Some((known, masked)) => {
                write(known, masked);
                Masked { value: 0, mask: 0 }
            }
            None => Masked { value: 0, mask: 0 },
        };
        masked.value |= u32::from(*byte) << shift;
        masked.mask |= 0xff << shift;
        pending = Some((register, masked));
    }
    if let Some((register, masked)) = pending {
        write(register, masked);
    }
}

/// The little-endian number in up to eight bytes of an access.
pub fn number(data: &[u8]) -> u64 {
    data.iter()
        .take(8)
        .rev()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Fills an access with a little-endian number; bytes past the eighth are zero.
pub fn fill(data: &mut [u8], value: u64) {
    let bytes = value.to_le_bytes();
    for (i, byte) in data.iter_mut().enumerate() {
        *byte = bytes.get(i).copied().unwrap_or(0);
    }
}

/// Locks a chip. A panic elsewhere leaves registers that are as good as any.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_across_two_registers_takes_bytes_of_both() {
        let mut seen = Vec::new();
        let mut data = [0; 4];
        read_dwords(2, &mut data, |register| {
            seen.push(register);
            if register == 0 { 0x4433_2211 } else { 0x8877_6655 }
        });
        assert_eq!(data, [0x33, 0x44, 0x55, 0x66]);
        assert_eq!(seen, [0, 4]);
    }

    #[test]
    fn a_partial_write_says_which_bytes_it_has() {
        let mut seen = Vec::new();
        write_dwords(3, &[1, 2], |register, masked| seen.push((register, masked)));
        assert_eq!(
            seen,
            [
                (
                    0,
                    Masked {
                        value: 0x0100_0000,
                        mask: 0xff00_0000
                    }
                ),
                (4, Masked { value: 2, mask: 0xff }),
            ]
        );
        assert_eq!(seen[1].1.over(0xdead_beef), 0xdead_be02);
    }

    #[test]
    fn numbers_are_little_endian() {
        assert_eq!(number(&[1, 2]), 0x201);
        let mut data = [9; 3];
        fill(&mut data, 0x0504_0302);
        assert_eq!(data, [2, 3, 4]);
    }
}
