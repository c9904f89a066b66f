//! The block device (virtio 1.2, 5.2): several queues over a disk that works asynchronously.

mod config;
mod device;
mod request;
#[cfg(test)]
mod tests;
mod worker;

pub use device::{BlockControl, BlockDevice, BlockOptions};
