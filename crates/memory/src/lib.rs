//! Guest RAM: how it is laid out, backed and tracked.
//!
//! RAM is a `vm-memory` collection of anonymous mappings. Each region carries a [`PageTracker`], so every write
//! that goes through `vm-memory` (devices, loaders, restore) feeds the one dirty log and invalidates the software
//! CPU's decoded code without the writer knowing of either. Writers that bypass `vm-memory` (an `io_uring` read into
//! a guest page, a tap) call [`mark_written`] afterwards.
//!
//! One region may be plugged in blocks ([`Blocks`]); a guest has as much of it as is plugged. Others may be files ([`FileMemory`]).

mod huge;
mod iobuf;
mod persistent;
mod pluggable;
mod ram;
mod tracker;

pub use iobuf::IoBuf;
pub use persistent::{FileMemory, persistent_slots};
pub use pluggable::{Blocks, boot_regions, pluggable, plugged_slots};
pub use ram::{
    Error, Extras, GuestRam, MMIO_GAP_END, MMIO_GAP_START, Pluggable, RamOptions, RamRegion, RamSlot,
    allocate, allocate_all, allocate_with, discard, end_of_extras, host_range, mark_written, total_size,
};
pub use tracker::{CODE_LINE_SIZE, PAGE_SIZE, PageTracker};
pub use vm_memory;
