//! What the guest tells of its memory (virtio 1.2, 5.5.6.3).

use std::time::SystemTime;

/// Bytes of one value in a buffer: its tag (2), the value (8).
const ENTRY: usize = 10;

/// The names of the values by their tags, as QEMU has them.
pub const NAMES: [&str; 10] = [
    "stat-swap-in",
    "stat-swap-out",
    "stat-major-faults",
    "stat-minor-faults",
    "stat-free-memory",
    "stat-total-memory",
    "stat-available-memory",
    "stat-disk-caches",
    "stat-htlb-pgalloc",
    "stat-htlb-pgfail",
];

/// Most bytes of a buffer that are looked at.
pub(crate) const MAX_BYTES: usize = 64 * ENTRY;

/// The guest's latest word.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statistics {
    /// The values in the order of [`NAMES`]; amounts are bytes.
    pub values: [Option<u64>; NAMES.len()],
    /// When it came.
    pub updated: Option<SystemTime>,
}

impl Statistics {
    /// Reads a buffer; unknown tags and a part of a value at its end are left out.
    pub(crate) fn parse(bytes: &[u8], now: SystemTime) -> Self {
        let mut values = [None; NAMES.len()];
        for entry in bytes.chunks_exact(ENTRY) {
            let (tag, value) = entry.split_at(2);
            let tag = u16::from_le_bytes([tag[0], tag[1]]);
            let mut wide = [0; 8];
            wide.copy_from_slice(value);
            if let Some(slot) = values.get_mut(usize::from(tag)) {
                *slot = Some(u64::from_le_bytes(wide));
            }
        }
        Self {
            values,
            updated: Some(now),
        }
    }
}
