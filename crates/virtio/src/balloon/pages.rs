//! Giving pages back to the host.

use ostler_memory::{GuestRam, discard};

use super::PAGE_SIZE;
use crate::chain::Chain;
use crate::error::GuestError;

/// Most page numbers in one request: drivers send a page of them at most, 1024.
const MAX_PAGES: usize = 16 << 10;

/// What came of a request.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Given {
    /// Bytes that the host has again.
    pub bytes: u64,
    /// Ranges and pages that are no RAM, or that the host did not take.
    pub refused: u64,
}

impl Given {
    fn add(&mut self, ram: &GuestRam, gpa: u64, len: u64) {
        match discard(ram, gpa, len) {
            Ok(bytes) => {
                self.bytes += bytes;
                self.refused += u64::from(bytes < len);
            }
            Err(error) => {
                tracing::debug!("the host does not take back {len:#x} bytes of RAM at {gpa:#x}: {error}");
                self.refused += 1;
            }
        }
    }
}

/// The page numbers of a request, sorted, each once (5.5.6: 32 bits each, little-endian, in units of 4096 bytes).
pub(crate) fn numbers(chain: &Chain) -> Result<Vec<u32>, GuestError> {
    let count = chain.readable_bytes() / 4;
    if count > MAX_PAGES {
        return Err(GuestError::Request("a balloon request names too many pages"));
    }
    let mut bytes = vec![0; 4 * count];
    let read = chain.read_at(0, &mut bytes);
    let mut numbers: Vec<u32> = bytes[..read]
        .chunks_exact(4)
        .map(|number| u32::from_le_bytes([number[0], number[1], number[2], number[3]]))
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

/// Gives back the pages with these numbers, which are sorted: neighbours in one go.
pub(crate) fn give_back(ram: &GuestRam, numbers: &[u32]) -> Given {
    let mut given = Given::default();
    for run in numbers.chunk_by(|one, next| one.checked_add(1) == Some(*next)) {
        let gpa = u64::from(run[0]) * PAGE_SIZE;
        given.add(ram, gpa, run.len() as u64 * PAGE_SIZE);
    }
    given
}

/// Gives back what the driver reports as free: the buffers of the request (5.5.6.7).
pub(crate) fn give_back_reported(ram: &GuestRam, chain: &Chain) -> Given {
    let mut given = Given::default();
    for segment in chain.writable_segments() {
        given.add(ram, segment.gpa, segment.len.into());
    }
    given
}
