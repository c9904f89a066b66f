//! Guest RAM: how it is laid out, backed and tracked.
//!
//! RAM is a `vm-memory` collection of anonymous mappings. Each region carries a [`PageTracker`], so every write
//! that goes through `vm-memory` (devices, loaders, restore) feeds the one dirty log and invalidates the software
//! CPU's decoded code without the writer knowing of either. Writers that bypass `vm-memory` (an `io_uring` read into
//! a guest page, a tap) call [`mark_written`] afterwards.
//!
//! One region may be plugged in blocks ([`Blocks`]); a guest has as much of it as is plugged.

mod iobuf;
mod pluggable;
mod ram;
mod tracker;

pub use iobuf::IoBuf;
pub use pluggable::{Blocks, boot_regions, pluggable, plugged_slots};
pub use ram::{
    Error, GuestRam, MMIO_GAP_END, MMIO_GAP_START, Pluggable, RamOptions, RamRegion, RamSlot, allocate,
    allocate_with, discard, host_range, mark_written, total_size,
};
pub use tracker::{CODE_LINE_SIZE, PAGE_SIZE, PageTracker};
pub use vm_memory;
