//! A machine that starts with firmware instead of a kernel: its ROM or flash, shadow RAM, and what fw_cfg tells it.

mod board;
mod items;
mod layout;
mod pam;
mod rom;
mod table_loader;

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

pub use board::Board;
pub use layout::{MemoryLayout, ShadowWindow};
pub use rom::Rom;

/// Bytes of memory that a machine with system management mode adds to the RAM that it is given: no device reaches them. Leave as much
/// room below [`ostler_memory::MMIO_GAP_START`].
pub const SMM_MEMORY: u64 = crate::chips::smram::MOST_TSEG;

use crate::{Blob, PciAddress, Places, SerialBackend};

/// What firmware a machine starts with, and what it is told.
pub struct Firmware {
    /// The image whose last 16 bytes hold the reset vector.
    pub code: Blob,
    /// What kind of memory the image is in.
    pub chip: FirmwareChip,
    /// It needs system management mode: then there is some, the flash takes writes from there only, and
    /// [`SMM_MEMORY`] bytes of memory right above low RAM are added for it.
    pub smm: bool,
    /// Bits of a guest-physical address that the CPUs have (CPUID leaf 0x8000_0008): firmware puts PCI devices below their end.
    pub physical_bits: u8,
    /// OpenFirmware paths of the devices to boot from, the first one first, as [`disk_path`] gives them.
    pub boot_order: Vec<String>,
    /// For how long a boot menu is offered; without, there is none.
    pub boot_menu: Option<Duration>,
    /// Where its debug output (ports 0x402 and 0xe9) goes; without one the ports have no device.
    pub debug: Option<Arc<dyn SerialBackend>>,
}

/// What kind of memory firmware is in.
pub enum FirmwareChip {
    /// Memory that cannot be changed: a PC's BIOS.
    Rom,
    /// Flash that cannot be written, and below it the flash of the variables: UEFI.
    Flash(Variables),
}

/// The contents of the variables' flash.
pub struct Variables {
    /// What they are at the start.
    pub contents: Blob,
    /// The file that keeps what the guest changes; without one the changes end with the guest.
    pub file: Option<File>,
}

/// The OpenFirmware path of a disk that is at `place`.
pub fn disk_path(places: &Places, place: PciAddress) -> String {
    format!("{}/disk@0,0", places.path(place, "scsi"))
}

/// The same of the drive at `port` of the SATA controller.
pub fn sata_path(port: usize) -> String {
    format!("/pci@i0cf8/pci8086,2922@1f,2/drive@{port:x}/disk@0")
}
