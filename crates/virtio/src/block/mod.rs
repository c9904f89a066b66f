//! The block device (virtio 1.2, 5.2): several queues over a disk that works asynchronously.

mod account;
mod config;
mod device;
#[cfg(test)]
mod flush_tests;
mod request;
#[cfg(test)]
mod tests;
mod worker;

pub use account::{BlockAccount, BlockRequest, KindCounters};
pub use device::{BlockControl, BlockDevice, BlockOptions};
