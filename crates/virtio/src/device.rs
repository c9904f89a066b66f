//! The contract between a device and its transport.

use std::io;
use std::sync::Arc;

use ostler_memory::GuestRam;
use vmm_sys_util::eventfd::EventFd;

use crate::error::{Error, GuestError};
use crate::metrics::DeviceMetrics;
use crate::vring::Vring;

/// Device types (virtio 1.2, 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// Network card.
    Net,
    /// Block device.
    Block,
    /// Console.
    Console,
    /// Entropy source.
    Rng,
    /// Memory balloon.
    Balloon,
    /// Sockets between guest and host.
    Vsock,
    /// Folder of the host.
    Fs,
    /// Memory that comes and goes.
    Mem,
    /// Memory that keeps what is written to it.
    Pmem,
}

impl DeviceKind {
    /// The device id of the specification.
    pub fn id(self) -> u16 {
        match self {
            DeviceKind::Net => 1,
            DeviceKind::Block => 2,
            DeviceKind::Console => 3,
            DeviceKind::Rng => 4,
            DeviceKind::Balloon => 5,
            DeviceKind::Vsock => 19,
            DeviceKind::Fs => 26,
            DeviceKind::Mem => 24,
            DeviceKind::Pmem => 27,
        }
    }

    /// Class, subclass and programming interface that the PCI function shows.
    pub fn pci_class(self) -> u32 {
        match self {
            DeviceKind::Net => 0x02_0000,
            DeviceKind::Block => 0x01_0000,
            DeviceKind::Fs => 0x01_8000,
            DeviceKind::Console | DeviceKind::Vsock => 0x07_8000,
            DeviceKind::Rng | DeviceKind::Balloon | DeviceKind::Mem | DeviceKind::Pmem => 0x00_ff00,
        }
    }

    /// A short name, for thread names and metrics.
    pub fn name(self) -> &'static str {
        match self {
            DeviceKind::Net => "net",
            DeviceKind::Block => "block",
            DeviceKind::Console => "console",
            DeviceKind::Rng => "rng",
            DeviceKind::Balloon => "balloon",
            DeviceKind::Vsock => "vsock",
            DeviceKind::Fs => "fs",
            DeviceKind::Mem => "mem",
            DeviceKind::Pmem => "pmem",
        }
    }
}

/// A queue that the driver enabled, with the event that its kicks signal.
pub struct ActiveQueue {
    /// Its number.
    pub index: u16,
    /// The rings.
    pub vring: Vring,
    /// Signalled at each kick.
    pub kick: Arc<EventFd>,
}

/// What a device gets when the driver says DRIVER_OK.
pub struct Activation {
    /// The features that both sides agreed on.
    pub features: u64,
    /// The queues that the driver enabled, in order of their numbers.
    pub queues: Vec<ActiveQueue>,
    /// Guest RAM.
    pub ram: Arc<GuestRam>,
    /// The way to the driver.
    pub notify: Arc<dyn Notify>,
}

impl Activation {
    /// True if feature `bit` was negotiated.
    pub fn has(&self, bit: u32) -> bool {
        self.features & (1 << bit) != 0
    }

    /// Takes queue `index` out, if the driver enabled it.
    pub fn take(&mut self, index: u16) -> Option<ActiveQueue> {
        let at = self.queues.iter().position(|queue| queue.index == index)?;
        Some(self.queues.remove(at))
    }
}

/// How a device gets its driver's attention. Any thread.
pub trait Notify: Send + Sync {
    /// Buffers of `queue` were used. Call it only if [`Vring::publish`] says that the driver wants to know.
    fn queue(&self, queue: u16);

    /// The configuration space changed.
    fn config_changed(&self);

    /// The driver broke the rules: sets DEVICE_NEEDS_RESET and tells the driver (2.1.2).
    fn needs_reset(&self, error: GuestError);

    /// Lets each write to `event` stand for [`Notify::queue`], without a thread of ours; `None` ends that.
    ///
    /// # Errors
    /// `Unsupported` where the accelerator or the driver's choice of interrupts does not allow it: the caller then
    /// waits on the event itself and calls [`Notify::queue`].
    fn connect(&self, queue: u16, event: Option<&EventFd>) -> io::Result<()>;
}

/// One virtio device, apart from its transport.
///
/// The transport calls `activate` and `stop` in turns and never twice in a row; the other methods at any time. None
/// but `stop` may block: they run on vCPU threads.
pub trait VirtioDevice: Send {
    /// Which kind it is.
    fn kind(&self) -> DeviceKind;

    /// The features that it offers, without those of the transport (VERSION_1, event index, indirect descriptors).
    fn features(&self) -> u64;

    /// The largest size of each queue; as many queues as entries. Powers of two.
    fn queue_max_sizes(&self) -> Vec<u16>;

    /// Reads device-specific configuration. Bytes past its end read as zeroes.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes device-specific configuration. What cannot be written is dropped.
    fn write_config(&mut self, offset: u64, data: &[u8]);

    /// The driver is ready: takes the queues and starts working on them.
    fn activate(&mut self, activation: Activation) -> Result<(), Error>;

    /// Ends all work: when it returns, no worker runs, nothing is in flight, and guest RAM is not touched again.
    /// The queues come back, in order of their numbers.
    fn stop(&mut self) -> Vec<ActiveQueue>;

    /// The device's counters.
    fn metrics(&self) -> Arc<DeviceMetrics>;
}

/// Reads bytes of a configuration structure; past its end they are zeroes.
pub fn read_structure(structure: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(structure.len());
    let rest = &structure[start..];
    let len = rest.len().min(data.len());
    data[..len].copy_from_slice(&rest[..len]);
}
