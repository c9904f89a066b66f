//! The whole platform over a virtual machine without CPUs.

mod acpi;
mod bench;
mod boot;
mod machine;
