//! The VM generation ID (Microsoft, "Virtual Machine Generation ID"): 16 bytes in a page of their own that tell a guest whether
//! it still is the one that it was. A copy of a guest, or one that goes back to an older state, gets another ID.

use std::sync::Mutex;

use ostler_bus::Device;

use crate::registers::{lock, read_bytes};

/// The page that nobody but the host writes.
pub struct GenerationId(Mutex<[u8; 16]>);

impl GenerationId {
    /// A page with this ID at its start.
    pub fn new(id: [u8; 16]) -> Self {
        Self(Mutex::new(id))
    }

    /// From now on the ID is another one. True if it was not this one before.
    pub fn set(&self, id: [u8; 16]) -> bool {
        std::mem::replace(&mut *lock(&self.0), id) != id
    }
}

impl Device for GenerationId {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let id = *lock(&self.0);
        read_bytes(offset, data, |at| {
            usize::try_from(at)
                .ok()
                .and_then(|at| id.get(at))
                .copied()
                .unwrap_or(0)
        });
    }

    fn write(&self, _: u64, _: &[u8]) {}
}
