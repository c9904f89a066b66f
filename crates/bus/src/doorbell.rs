//! Guest writes that only ring a bell.

use std::io;

use vmm_sys_util::eventfd::EventFd;

/// An address space that a guest can ring in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Space {
    /// I/O ports.
    Port,
    /// Guest-physical memory.
    Memory,
}

/// A write that signals an event instead of leaving for user mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Doorbell {
    /// Which address space.
    pub space: Space,
    /// Absolute address of the write.
    pub address: u64,
    /// Width in bytes (1, 2, 4 or 8), or `None` for any.
    pub width: Option<u8>,
    /// The value that must be written, or `None` for any.
    pub value: Option<u64>,
}

/// An accelerator's table of doorbells: ioeventfds on KVM, a look-up beside the MMIO path on the software CPU.
pub trait DoorbellRegistry: Send + Sync {
    /// Signals `event` at each write that matches `doorbell`. A matching write is swallowed.
    fn add(&self, doorbell: Doorbell, event: &EventFd) -> io::Result<()>;
    /// Takes a doorbell away; writes to it then leave as ordinary exits.
    fn remove(&self, doorbell: Doorbell, event: &EventFd) -> io::Result<()>;
}
