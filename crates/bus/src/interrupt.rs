//! How devices ask for attention: level lines and message-signalled interrupts.

use std::io;

use vmm_sys_util::eventfd::EventFd;

/// One interrupt input of the platform (a GSI, or an INTx pin routed to one).
///
/// Lines are levels: a device raises its line while it wants attention. Where several share one pin, the pin is the OR.
pub trait InterruptLine: Send + Sync {
    /// Sets the level that this device drives.
    fn set(&self, level: bool);

    /// A rising edge followed by a falling one, for edge-triggered inputs.
    fn pulse(&self) {
        self.set(true);
        self.set(false);
    }
}

/// A message-signalled interrupt: the write that a device would put on the bus (PCI 3.0, 6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Msi {
    /// Address, in the LAPIC's window at 0xfee00000 (bits 12-19 the destination id).
    pub address: u64,
    /// Data: vector, delivery mode, trigger mode, level.
    pub data: u32,
}

/// Where messages go: the accelerator's interrupt fabric.
pub trait MsiSink: Send + Sync {
    /// Delivers `msi` now. A message with a destination that does not exist is dropped, as on hardware.
    fn signal(&self, msi: Msi);

    /// Connects `event` so that each write to it delivers `msi`, without a thread of ours (KVM's irqfd).
    ///
    /// Connecting an event again replaces its message; `None` disconnects it. An accelerator without this answers
    /// `Unsupported`, and the caller's worker waits on the event itself and calls [`MsiSink::signal`].
    fn connect(&self, event: &EventFd, msi: Option<Msi>) -> io::Result<()>;
}
