//! The whole platform, most of it over a virtual machine without CPUs.

mod acpi;
mod bench;
mod boot;
mod card;
mod clock;
mod cpu_hotplug;
mod display;
mod entries;
mod firmware;
mod flash_peer;
mod hotplug;
mod machine;
mod places;
mod plugged_memory;
mod routing;
mod sleep;
mod smm;
mod tables;
mod version;
mod watchdog;
