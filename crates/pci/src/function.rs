//! What a device implements to be a PCI function.

use std::sync::Arc;

use ostler_bus::{Device, InterruptLine};

use crate::config::ConfigSpace;

/// An INTx pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pin {
    /// INTA#.
    A,
    /// INTB#.
    B,
    /// INTC#.
    C,
    /// INTD#.
    D,
}

impl Pin {
    /// As the interrupt pin register has it: 1 to 4.
    pub fn number(self) -> u8 {
        match self {
            Pin::A => 1,
            Pin::B => 2,
            Pin::C => 3,
            Pin::D => 4,
        }
    }

    /// From the interrupt pin register; `None` for "uses no pin".
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Pin::A),
            2 => Some(Pin::B),
            3 => Some(Pin::C),
            4 => Some(Pin::D),
            _ => None,
        }
    }
}

/// A place on bus 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

impl Location {
    /// Function 0 of `device`.
    pub const fn device(device: u8) -> Self {
        Self { device, function: 0 }
    }
}

/// One function of a PCI device.
///
/// All methods may be called from any vCPU thread, several at a time; none may block or panic whatever the guest
/// does. The [`crate::Root`] calls [`PciFunction::config_read`] and [`PciFunction::config_write`] for the guest's
/// accesses and afterwards looks at [`PciFunction::config`] to see where the BARs are decoded.
pub trait PciFunction: Send + Sync {
    /// The function's configuration space.
    fn config(&self) -> &ConfigSpace;

    /// A guest's read of `data.len()` bytes at `offset`. Override it where reading has side effects.
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.config().read(offset, data);
    }

    /// A guest's write. Override it where writing has side effects; the space itself must still be written.
    fn config_write(&self, offset: u16, data: &[u8]) {
        self.config().write(offset, data);
    }

    /// The registers behind BAR `index`; asked for once, when the function is placed.
    fn bar(&self, index: usize) -> Option<Arc<dyn Device>>;

    /// BAR `index` answers at `base` from now on, or nowhere. Doorbells move with it.
    fn bar_moved(&self, index: usize, base: Option<u64>);

    /// The line that the function's INTx pin drives; called once, when the function is placed.
    fn connect_intx(&self, line: Arc<dyn InterruptLine>);

    /// Back to the state after power-on, configuration space included. The root maps the BARs again afterwards.
    fn reset(&self);
}
