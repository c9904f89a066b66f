//! A guest's process: from a validated specification and a set of open descriptors to a machine that runs.
//!
//! [`spec`] says what a guest is, [`handoff`] brings it into the process, [`link`] connects the process with the one
//! that started it; [`process`] is its life. [`driver`] owns the guest's state; `gdb` is a debugger's way in; [`console`] and [`control`] are what users and tools see of it.

mod accelerator;
mod bell;
pub mod console;
pub mod control;
mod devices;
pub mod driver;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod gdb;
mod guest;
pub mod handoff;
pub mod link;
mod manager;
pub mod process;
mod registers;
pub mod spec;
mod stats;
#[cfg(test)]
mod testing;
mod vcpu;

pub use accelerator::{has_system_management, supported_cpuid};
pub use error::Error;
