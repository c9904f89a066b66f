//! SATA for guests without virtio: an AHCI 1.3.1 controller with ATA disks and ATAPI CD-ROM drives.
//!
//! The pure part knows neither memory nor threads: the registers (`hba`, `port`), what the drives make of commands
//! (`ata`, `atapi`), what is sent over the wire (`fis`). Beside it stand how a command is found in guest memory
//! (`prdt`), the worker of a port, which has the disk do the work, and the PCI function ([`Ahci`]).
//!
//! A write to a port's command register or to its list of issued commands changes the registers and wakes the port's worker.
//! What takes time is the worker's: an engine that is stopped runs (PxCMD.CR) until nothing is in flight any more, and a reset
//! of the controller lasts (GHC.HR) until every worker has done its part.

mod ata;
mod atapi;
mod command;
mod controller;
mod drive;
mod error;
mod fis;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod hba;
#[cfg(test)]
mod hostile_tests;
mod port;
mod prdt;
mod shared;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tray;
#[cfg(test)]
mod tray_tests;
mod words;
mod worker;

pub use controller::{Ahci, DriveOptions};
pub use error::Error;
pub use hba::PORTS;
pub use port::DriveKind;
pub use tray::{Order, TrayControl, TrayError, TrayState};
