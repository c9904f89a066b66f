//! Synthetic interrupts of Hyper-V's interface that come from outside of a guest's CPUs (Hypervisor Top Level Functional
//! Specification 6.0b, chapters 10 and 11).

use crate::Error;

/// One of the sixteen sources (SINT0 to SINT15) of a vCPU's synthetic interrupt controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SyntheticSource {
    /// vCPU id, which is its virtual processor's index, too.
    pub vcpu: u32,
    /// Number of the source.
    pub sint: u8,
}

/// What a guest names in a hypercall, by a number of 24 bits. Numbers of the two kinds have nothing to do with one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SyntheticConnection {
    /// HvPostMessage sends a message by it, which comes to the source's slot in the destination's page of messages.
    Messages(u32),
    /// HvSignalEvent sets, by it, the flag with the connection's number in the destination's page of event flags.
    Events(u32),
}

/// A virtual machine's synthetic interrupts. How many sources and connections there can be is bounded.
pub trait SyntheticInterrupts: Send + Sync {
    /// From now on, [`SyntheticInterrupts::raise`] reaches `source`.
    fn open(&self, source: SyntheticSource) -> Result<(), Error>;

    /// Ends what [`SyntheticInterrupts::open`] began.
    fn close(&self, source: SyntheticSource);

    /// Raises a source that is open; another is left alone.
    fn raise(&self, source: SyntheticSource);

    /// Makes a connection to `to`. One that was there by the same number is replaced, and a message lost that waited in it.
    fn connect(&self, connection: SyntheticConnection, to: SyntheticSource) -> Result<(), Error>;

    /// Ends a connection, if it is there.
    fn disconnect(&self, connection: SyntheticConnection);
}
