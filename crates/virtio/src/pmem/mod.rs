//! virtio-pmem: a file of the host as memory that keeps what is written to it (virtio 1.2, 5.19).
//!
//! The guest reads and writes the file's bytes as memory ([`ostler_memory::FileMemory`]); the device is asked only to make last what was
//! written.

mod device;
mod request;
#[cfg(test)]
mod tests;

pub use device::PmemDevice;

/// What the size of a region is a multiple of, in bytes: Linux manages such memory in pieces of 2 MiB.
pub const SIZE_UNIT: u64 = 2 << 20;
