//! The memory balloon (virtio 1.2, 5.5): the guest hands pages to the host and takes them back.
//!
//! A page that the guest puts into the balloon, or reports as free, is given back to the host at once. Taking it back needs
//! nothing from us: the page is there again when the guest touches it.

mod device;
mod pages;
mod shared;
mod statistics;
#[cfg(test)]
mod tests;
mod worker;

pub use device::{BalloonDevice, BalloonOptions};
pub use shared::BalloonControl;
pub use statistics::{NAMES, Statistics};

/// Bytes of a page of the balloon, whatever the guest's pages are (5.5.6).
pub const PAGE_SIZE: u64 = 4096;
