//! virtio-mem: memory that is plugged in and unplugged in blocks while the guest runs (virtio 1.2, 5.15).
//!
//! The guest has a region of addresses above its RAM, of which nothing is there at first. Management says how much of it the guest is to
//! have; the guest's driver then asks for blocks, or gives them back, until that is so. A block that is not plugged is no memory: CPUs
//! find nothing there, devices refuse it, and the host keeps nothing for it (see [`ostler_memory::Blocks`]).

mod device;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod request;
mod shared;
#[cfg(test)]
mod tests;

pub use device::MemDevice;
pub use shared::{MemControl, MemoryMapper};

/// Least bytes of a block: what Linux can plug at least.
pub const LEAST_BLOCK: u64 = 2 << 20;
/// Most blocks of a region, each of which may be a slot of the accelerator's memory map.
const MOST_BLOCKS: u64 = 1024;

/// Bytes of a block in a region of `size` bytes.
pub fn block_size(size: u64) -> u64 {
    size.div_ceil(MOST_BLOCKS).next_power_of_two().max(LEAST_BLOCK)
}
