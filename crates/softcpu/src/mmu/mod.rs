//! Memory as the guest addresses it.

pub mod access;
pub mod memory_map;

/// TLB and walker state of one vCPU.
#[derive(Default)]
pub struct Mmu {}

/// Device accesses of the current instruction that are done already.
#[derive(Default)]
pub struct Replay {}
