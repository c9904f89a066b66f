//! The platform: a versioned subset of Q35, the same on both accelerators.
//!
//! [`Machine::build`] is the recipe. It takes RAM, a virtual machine without vCPUs, what to boot and what to plug in, and
//! gives back the two address maps that exits are looked up in, the CPUs' first states, and the machine's life cycle.
//!
//! A chip is a pure state machine (`chips/pit.rs`, `interrupts/pic.rs`, ...) that knows registers and time given as
//! arguments; its glue to the bus, to interrupt lines and to timers is in a file of its own (`chips/pit_bus.rs`, ...).
//!
//! Lock order: the clock's lock, then power management's, which its alarm wakes; a chip's lock, then the interrupt router's, then the timers'. The router calls the accelerator for
//! deliveries after it has let its lock go, and no one calls a chip while holding the router's or the timers' lock.

mod boot;
mod bridges;
mod chips;
mod config;
mod error;
mod firmware;
// What fuzzers share with the tests in `tests` calls the crate by its name.
#[cfg(any(test, fuzzing))]
extern crate self as ostler_machine;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod interrupts;
mod layout;
mod machine;
mod memory_map;
mod recipe;
mod tables;
mod timers;

use ostler_bus::registers;

pub use boot::{Blob, BootSource};
pub use bridges::{PciAddress, PlaceError, Places, Port, standard_ports};
pub use chips::cpu_hotplug::{OstReport, Outcome as CpuOutcome};
pub use chips::keys::Key;
pub use chips::rtc::RtcTime;
pub use config::{Boot, Display, MachineConfig, MachineEvent, MachineEvents, MachineType, SerialBackend};
pub use error::Error;
pub use firmware::{Firmware, FirmwareChip, SMM_MEMORY, Variables, disk_path, sata_path};
pub use layout::MAX_CPUS;
pub use machine::Machine;
