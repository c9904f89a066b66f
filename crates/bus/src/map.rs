//! The map from addresses (ports or guest-physical memory) to devices.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;

/// A device as the bus sees it: registers behind offsets.
///
/// `data` has the width of the access (1, 2, 4 or 8 bytes; ports at most 4), least significant byte first. Whatever the
/// offset or width, a device must neither panic nor block; what it does not know reads as zeroes or ones as the
/// hardware would, and writes to it are dropped.
pub trait Device: Send + Sync {
    /// Fills `data` with the register at `offset` bytes from the device's first address.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Stores `data` into the register at `offset`.
    fn write(&self, offset: u64, data: &[u8]);
}

/// Addresses of one device: `len` of them from `base`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub base: u64,
    /// How many addresses; never zero in a map.
    pub len: u64,
}

impl Range {
    /// The range of `len` addresses at `base`.
    pub const fn new(base: u64, len: u64) -> Self {
        Self { base, len }
    }

    fn last(&self) -> Option<u64> {
        self.base.checked_add(self.len.checked_sub(1)?)
    }
}

/// Why a device could not be put on the bus.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The range is empty or wraps.
    #[error("a bus range of {len:#x} at {base:#x} is empty or wraps around")]
    BadRange {
        /// First address.
        base: u64,
        /// Length asked for.
        len: u64,
    },
    /// Another device is there.
    #[error("bus range {base:#x}+{len:#x} overlaps the device at {other:#x}")]
    Overlap {
        /// First address.
        base: u64,
        /// Length asked for.
        len: u64,
        /// First address of the device that is in the way.
        other: u64,
    },
}

type Entries = BTreeMap<u64, (u64, Arc<dyn Device>)>;

/// An ordered map from addresses to devices. Lookups take no lock.
#[derive(Default)]
pub struct AddressMap {
    entries: ArcSwap<Entries>,
    /// Serializes changes; readers never take it.
    change: Mutex<()>,
}

impl AddressMap {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `device` at `range`. Fails if the range is bad or taken; nothing is changed then.
    pub fn insert(&self, range: Range, device: Arc<dyn Device>) -> Result<(), Error> {
        let last = range.last().ok_or(Error::BadRange {
            base: range.base,
            len: range.len,
        })?;
        let _guard = self
            .change
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut entries = Entries::clone(&self.entries.load());
        if let Some((&other, (len, _))) = entries.range(..=last).next_back()
            && other + (len - 1) >= range.base
        {
            return Err(Error::Overlap {
                base: range.base,
                len: range.len,
                other,
            });
        }
        entries.insert(range.base, (range.len, device));
        self.entries.store(Arc::new(entries));
        Ok(())
    }

    /// Takes away the device whose range starts at `base`, and returns it.
    pub fn remove(&self, base: u64) -> Option<Arc<dyn Device>> {
        let _guard = self
            .change
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut entries = Entries::clone(&self.entries.load());
        let (_, device) = entries.remove(&base)?;
        self.entries.store(Arc::new(entries));
        Some(device)
    }

    /// Where devices are at the moment, in order of their addresses.
    pub fn ranges(&self) -> Vec<Range> {
        let entries = self.entries.load();
        entries
            .iter()
            .map(|(&base, &(len, _))| Range { base, len })
            .collect()
    }

    /// Reads `data.len()` bytes at `address`. An address where no device is reads as ones; returns false then.
    ///
    /// An access that runs past its device's end goes to the device whole, as the first byte decides.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        let entries = self.entries.load();
        match find(&entries, address) {
            Some((offset, device)) => {
                device.read(offset, data);
                true
            }
            None => {
                data.fill(0xff);
                false
            }
        }
    }

    /// Writes `data` at `address`. Returns false, and drops the write, where no device is.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        let entries = self.entries.load();
        match find(&entries, address) {
            Some((offset, device)) => {
                device.write(offset, data);
                true
            }
            None => false,
        }
    }
}

fn find(entries: &Entries, address: u64) -> Option<(u64, &dyn Device)> {
    let (base, (len, device)) = entries.range(..=address).next_back()?;
    let offset = address - base;
    (offset < *len).then_some((offset, &**device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(Default)]
    struct Probe(AtomicU64);

    impl Device for Probe {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&self, offset: u64, data: &[u8]) {
            self.0.store(offset << 8 | u64::from(data[0]), Ordering::Relaxed);
        }
    }

    #[test]
    fn a_device_sees_offsets_only() {
        let map = AddressMap::new();
        let probe = Arc::new(Probe::default());
        map.insert(Range::new(0x3f8, 8), probe.clone()).unwrap();
        let mut byte = [0];
        assert!(map.read(0x3fd, &mut byte));
        assert_eq!(byte, [5]);
        assert!(map.write(0x3f9, &[7]));
        assert_eq!(probe.0.load(Ordering::Relaxed), 0x107);
        assert!(!map.read(0x400, &mut byte));
        assert_eq!(byte, [0xff]);
    }

    #[test]
    fn overlaps_and_wrapping_ranges_are_refused() {
        let map = AddressMap::new();
        let probe = Arc::new(Probe::default());
        map.insert(Range::new(0x10, 0x10), probe.clone()).unwrap();
        for (base, len) in [(0x10, 1), (0xf, 2), (0x1f, 1), (0, 0x100), (0x18, 2)] {
            let refused = map.insert(Range::new(base, len), probe.clone());
            assert_eq!(
                refused,
                Err(Error::Overlap {
                    base,
                    len,
                    other: 0x10
                })
            );
        }
        assert!(map.insert(Range::new(u64::MAX, 2), probe.clone()).is_err());
        assert!(map.insert(Range::new(5, 0), probe.clone()).is_err());
        map.insert(Range::new(0x20, u64::MAX - 0x20), probe.clone())
            .unwrap();
        assert!(map.remove(0x10).is_some());
        assert!(map.remove(0x10).is_none());
        map.insert(Range::new(0x1f, 1), probe).unwrap();
    }

    #[test]
    fn a_device_may_change_the_map_from_within_an_access() {
        struct Mover(Arc<AddressMap>);
        impl Device for Mover {
            fn read(&self, _: u64, _: &mut [u8]) {}
            fn write(&self, _: u64, _: &[u8]) {
                if let Some(me) = self.0.remove(0) {
                    self.0.insert(Range::new(0x100, 1), me).unwrap();
                }
            }
        }
        let map = Arc::new(AddressMap::new());
        map.insert(Range::new(0, 1), Arc::new(Mover(map.clone())))
            .unwrap();
        assert!(map.write(0, &[1]));
        assert!(!map.write(0, &[1]));
        assert!(map.write(0x100, &[1]));
    }
}
