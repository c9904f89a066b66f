//! Files that are memory of the guest.

use ostler_virtio::pmem::SIZE_UNIT;
use serde::{Deserialize, Serialize};

use super::{Slot, format_size};
use crate::Error;

/// Most bytes of one file that are memory.
pub const MAX_PMEM: u64 = 1 << 40;

/// A file that is memory of the guest, and keeps what is written there (virtio-pmem).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PmemSpec {
    /// A file, open for writing unless it is read-only.
    pub file: Slot,
    /// How many of its bytes, from the first; it has so many.
    pub size: u64,
    /// What the guest writes is dropped.
    #[serde(default)]
    pub readonly: bool,
}

/// Linux wants whole pieces of 2 MiB.
pub fn check_pmem_size(bytes: u64) -> Result<(), Error> {
    if bytes > 0 && bytes <= MAX_PMEM && bytes.is_multiple_of(SIZE_UNIT) {
        return Ok(());
    }
    Err(Error::Specification(format!(
        "persistent memory cannot have {}: its size is a multiple of {}, up to {}; give it another with size=",
        format_size(bytes),
        format_size(SIZE_UNIT),
        format_size(MAX_PMEM)
    )))
}
