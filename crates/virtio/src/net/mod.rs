//! The network device (virtio 1.2, 5.1): mergeable buffers, checksum and segmentation offload both ways, several queue
//! pairs, the control queue.
//!
//! Each queue pair has a worker of its own, which drives one queue of the back end. The first pair's worker serves the
//! control queue too. Where the host has vhost-net, the kernel serves the pair instead.

mod config;
mod control;
mod device;
mod receive;
mod shared;
#[cfg(test)]
mod tests;
mod transmit;
mod vhost;
mod worker;

pub use device::{NetDevice, NetOptions};
pub use shared::NetControl;
