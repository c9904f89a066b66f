//! Where a descriptor ring is and what of it is the card's (82574 datasheet, 7.1.8 and 7.2.5).

use ostler_memory::GuestRam;
use vm_memory::{Bytes, GuestAddress};

/// Bytes that head and tail count.
pub const UNIT: usize = 16;

/// A ring at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ring {
    /// Guest-physical address.
    pub base: u64,
    /// Descriptors of [`UNIT`] bytes.
    pub count: u32,
    /// The first that is the card's.
    pub head: u32,
    /// The first that is not.
    pub tail: u32,
}

/// A ring that is not in RAM.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault;

impl Ring {
    /// Descriptors that are the card's. None in a ring whose registers make no sense.
    pub fn available(&self) -> u32 {
        if self.head >= self.count || self.tail >= self.count {
            return 0;
        }
        (self.tail + self.count - self.head) % self.count
    }

    /// The index that is `steps` behind `at`; there are fewer steps than descriptors.
    pub fn after(&self, at: u32, steps: u32) -> u32 {
        match self.count {
            0 => 0,
            count => (at + steps) % count,
        }
    }

    /// The address of a descriptor.
    pub fn address(&self, at: u32) -> Option<u64> {
        self.base.checked_add(u64::from(at) * UNIT as u64)
    }

    /// Reads a descriptor of `N` bytes.
    pub fn fetch<const N: usize>(&self, ram: &GuestRam, at: u32) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        let address = self.address(at).ok_or(Fault)?;
        ram.read_slice(&mut bytes, GuestAddress(address))
            .map_err(|_| Fault)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_empty() {
        let ring = |count, head, tail| Ring {
            base: 0,
            count,
            head,
            tail,
        };
        assert_eq!(ring(8, 6, 2).available(), 4);
        assert_eq!(ring(8, 2, 2).available(), 0);
        for (count, head, tail) in [(0, 0, 0), (8, 8, 0), (8, 0, 8), (8, 0xffff, 0xffff)] {
            assert_eq!(ring(count, head, tail).available(), 0);
        }
        assert_eq!(ring(8, 6, 2).after(6, 4), 2);
        let wild = Ring {
            base: u64::MAX,
            ..ring(8, 0, 1)
        };
        assert_eq!(wild.address(1), None);
    }
}
