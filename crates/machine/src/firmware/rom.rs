//! Memory that a guest reads and executes, but writes only through a device, if at all.

use std::sync::Arc;

use ostler_memory::{PageTracker, RamSlot};
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use crate::{Blob, Error};

/// Host memory with its place in the guest-physical address space.
#[derive(Debug, Clone)]
pub struct Rom {
    /// First address.
    pub base: u64,
    mapping: Arc<MmapRegion<PageTracker>>,
}

impl Rom {
    /// A copy of `image`, named `what` in errors, that ends at `end`. Its length is a number of whole pages.
    pub fn below(end: u64, what: &'static str, image: &Blob) -> Result<Self, Error> {
        let len = image.len(what)?;
        let host = |source: std::io::Error| Error::Host {
            what: "memory for the firmware",
            source,
        };
        let bytes = usize::try_from(len).map_err(|e| host(std::io::Error::other(e)))?;
        let mapping = MmapRegion::new(bytes).map_err(|e| host(std::io::Error::other(e)))?;
        let mut contents = vec![0; bytes];
        image.read_at(what, 0, &mut contents)?;
        let rom = Self {
            base: end - len,
            mapping: Arc::new(mapping),
        };
        rom.write(0, &contents);
        Ok(rom)
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.mapping.size() as u64
    }

    /// Fills `data` from `offset`; what lies past the end is ones.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((at, len)) = self.clip(offset, data.len()) {
            let part = self.mapping.as_volatile_slice();
            // The range was clipped to the memory.
            let _ = part.read_slice(&mut data[..len], at);
        }
    }

    /// Changes the contents at `offset`; what lies past the end is dropped. Decoded code there is forgotten.
    pub fn write(&self, offset: u64, data: &[u8]) {
        if let Some((at, len)) = self.clip(offset, data.len()) {
            let part = self.mapping.as_volatile_slice();
            // As above.
            let _ = part.write_slice(&data[..len], at);
        }
    }

    fn clip(&self, offset: u64, len: usize) -> Option<(usize, usize)> {
        let room = self.len().checked_sub(offset)?;
        Some((offset as usize, room.min(len as u64) as usize))
    }

    /// The part of it from `offset` on, mapped at `gpa` for reads.
    pub fn slot(&self, gpa: u64, offset: u64, len: u64) -> RamSlot {
        RamSlot {
            gpa,
            len,
            mapping: self.mapping.clone(),
            offset,
            writable: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_are_clipped_to_the_contents() {
        let rom = Rom::below(1 << 32, "firmware", &Blob::Bytes(vec![7; 8192])).unwrap();
        assert_eq!((rom.base, rom.len()), (0xffff_e000, 8192));
        rom.write(8190, &[1, 2, 3, 4]);
        rom.write(u64::MAX, &[1]);
        let mut data = [0; 4];
        rom.read(8189, &mut data);
        assert_eq!(data, [7, 1, 2, 0xff]);
        rom.read(u64::MAX, &mut data);
        assert_eq!(data, [0xff; 4]);
    }
}
