//! The chips of the south bridge and of the ISA bus: pure state machines, and beside each its glue to the bus.

pub mod cpu_hotplug;
pub mod cpu_hotplug_bus;
pub mod debug_console;
pub mod fw_cfg;
pub mod fw_cfg_bus;
pub mod generation_id;
mod i6300esb;
pub mod i6300esb_bus;
mod i8042;
pub mod i8042_bus;
mod keyboard;
pub mod keys;
pub mod pflash;
pub mod pflash_bus;
mod pit;
pub mod pit_bus;
pub mod pm;
pub mod pm_bus;
pub mod rtc;
pub mod rtc_bus;
pub mod serial_port;
pub mod signals;
pub mod smi;
pub mod smram;
pub mod synthetic_test;
mod uart;
