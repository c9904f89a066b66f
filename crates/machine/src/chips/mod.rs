//! The chips of the south bridge and of the ISA bus: pure state machines, and beside each its glue to the bus.

pub mod serial_port;
mod uart;
