//! The virtual machine.

pub mod doorbell;
