//! PCI: configuration space, BARs, MSI-X, INTx, topology, hotplug.
//!
//! A device implements [`PciFunction`]: it owns a [`ConfigSpace`] and the registers behind its BARs. The [`Root`]
//! places functions on bus 0 or behind [`RootPort`]s, answers configuration accesses (ports 0xcf8/0xcfc and ECAM),
//! and keeps the address maps of the machine in step with what the guest writes into BARs, bridge windows and command
//! registers. Nothing here knows what kind of device a function is.
//!
//! Sections cited are of the PCI Local Bus Specification 3.0 and the PCI Express Base Specification 4.0.

mod access;
mod assign;
mod bar;
mod config;
mod error;
mod function;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod intx;
mod mapper;
mod msi;
mod msix;
pub mod regs;
mod root;
mod root_port;

pub use bar::{BarKind, BarSpec};
pub use config::{ConfigBuilder, ConfigSpace, Identity};
pub use error::Error;
pub use function::{Location, PciFunction, Pin};
pub use intx::Intx;
pub use mapper::Windows;
pub use msi::MsiCapability;
pub use msix::Msix;
pub use root::{Root, RootConfig};
pub use root_port::{PortIdentity, RootPort, SlotEvent, SlotPower};
