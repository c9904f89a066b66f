//! Display memory: the frame buffer, whose first 256 KiB are the four planes of VGA.

use std::sync::Arc;

use ostler_memory::{PageTracker, RamSlot};
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use crate::Error;

/// Bytes of display memory.
pub const MEMORY_SIZE: u64 = 16 << 20;
/// Bytes that VGA's registers reach: four planes of 64 KiB, byte by byte in turn.
pub(crate) const PLANE_BYTES: u32 = 256 << 10;

/// Display memory, which the guest writes while others read.
#[derive(Debug, Clone)]
pub struct VideoMemory(Arc<MmapRegion<PageTracker>>);

impl VideoMemory {
    /// Memory full of zeroes.
    pub fn new() -> Result<Self, Error> {
        let mapping = MmapRegion::new(MEMORY_SIZE as usize);
        let mapping = mapping.map_err(|error| Error::Memory(MEMORY_SIZE, error.to_string()))?;
        Ok(Self(Arc::new(mapping)))
    }

    /// Fills `data` from `offset` on; what lies past the end is zeroes.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let room = MEMORY_SIZE.saturating_sub(offset).min(data.len() as u64) as usize;
        // The range was clipped to the memory.
        let _ = self
            .0
            .as_volatile_slice()
            .read_slice(&mut data[..room], offset as usize);
    }

    /// Changes what is at `offset`; what lies past the end is dropped.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let room = MEMORY_SIZE.saturating_sub(offset).min(data.len() as u64) as usize;
        // As above.
        let _ = self
            .0
            .as_volatile_slice()
            .write_slice(&data[..room], offset as usize);
    }

    /// One byte.
    pub(crate) fn byte(&self, offset: u32) -> u8 {
        let mut byte = [0];
        self.read(offset.into(), &mut byte);
        byte[0]
    }

    /// The four planes at a place, as a number with plane 0 lowest.
    pub(crate) fn planes(&self, place: u32) -> u32 {
        let mut bytes = [0; 4];
        self.read(u64::from(place & 0xffff) * 4, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Makes `len` bytes from the start zeroes.
    pub(crate) fn clear(&self, len: u64) {
        let zeroes = [0; 4096];
        let len = len.min(MEMORY_SIZE);
        for start in (0..len).step_by(zeroes.len()) {
            let part = zeroes.len().min((len - start) as usize);
            self.write(start, &zeroes[..part]);
        }
    }

    /// All of it, at `gpa` of a guest.
    pub(crate) fn slot(&self, gpa: u64) -> RamSlot {
        RamSlot {
            gpa,
            len: MEMORY_SIZE,
            mapping: self.0.clone(),
            offset: 0,
            writable: true,
        }
    }
}
