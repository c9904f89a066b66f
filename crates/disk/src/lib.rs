//! Disk images for guests, as sets of small capabilities.
//!
//! A [`Disk`] is the control handle: how large, what it can do, resize, a synchronous flush. A [`DiskQueue`] is one
//! stream of requests with its own completions; each queue of a block device opens one and drives it from its worker.
//! Nothing here opens a file: [`open`] does that for whoever starts the guest, and the guest's process makes a disk
//! from the descriptor it was handed.

mod capability;
mod engine;
mod error;
#[cfg(feature = "testing")]
pub mod memory;
pub mod open;
mod raw;
#[cfg(feature = "testing")]
pub mod recording;
mod request;

pub use capability::{Capacity, Describe, Disk, DiskQueue, Features, Flush, OpenQueue, Resize, Topology};
pub use engine::Engine;
pub use error::{Error, RequestError};
pub use ostler_memory::IoBuf;
pub use raw::RawDisk;
pub use request::{Completion, Op, SECTOR_SIZE};
