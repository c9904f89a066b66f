//! The chipset's own PCI functions and the topology of bus 0.

mod host;
mod lpc;
mod movable;
mod places;
pub mod topology;

pub use host::HostBridge;
pub use lpc::{LpcBridge, PIRQ_ISA};
pub use movable::Movable;
pub use places::{PciAddress, PlaceError, Places, Port, standard_ports};
