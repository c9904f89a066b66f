//! The block device (virtio 1.2, 5.2): several queues over a disk that works asynchronously.

mod config;
mod device;
#[cfg(test)]
mod flush_tests;
#[cfg(test)]
mod recording;
mod request;
#[cfg(test)]
mod tests;
mod worker;

pub use device::{BlockControl, BlockDevice, BlockOptions};
