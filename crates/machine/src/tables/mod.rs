//! What firmware would tell the guest about the machine: ACPI, the MP table, SMBIOS.

pub mod acpi;
mod cpus;
mod dsdt;
mod mp;
pub mod smbios;

pub use cpus::CPU_EVENT;
pub use dsdt::GENERATION_ID_EVENT;

use ostler_bus::Range;
use ostler_memory::GuestRam;
use ostler_pci::Windows;
use vm_memory::{Bytes, GuestAddress};

use crate::layout::{ACPI_TABLES, ACPI_TABLES_END, BIOS_TABLES, BIOS_TABLES_END, RSDP};
use crate::{Error, MachineType};

/// What the tables describe.
#[derive(Debug, Clone, Copy)]
pub struct Description<'a> {
    /// RAM, for SMBIOS.
    pub ram: &'a GuestRam,
    /// Version of the platform.
    pub machine_type: MachineType,
    /// The CPUs that there can be, and whether each is there.
    pub cpus: &'a [bool],
    /// Whether CPUs come and go.
    pub cpu_hotplug: bool,
    /// Windows of the PCI root.
    pub windows: Windows,
    /// The window for configuration space.
    pub ecam: Range,
    /// Whether there is a COM1.
    pub serial: bool,
    /// Whether there is a VM generation ID.
    pub generation_id: bool,
    /// Whether there is the sleep state S3.
    pub suspend: bool,
    /// Whether there is a VGA display.
    pub display: bool,
    /// Whether firmware describes itself.
    pub firmware: bool,
    /// Bytes of memory right above low RAM that are not part of `ram`.
    pub more_memory: u64,
}

impl Description<'_> {
    /// How many CPUs are there.
    pub fn present_cpus(&self) -> u32 {
        self.cpus.iter().filter(|present| **present).count() as u32
    }
}

/// Writes all tables to guest memory.
pub fn install(machine: &Description) -> Result<(), Error> {
    let acpi = acpi::build(machine, ACPI_TABLES)?;
    Area::new(machine.ram, ACPI_TABLES, ACPI_TABLES_END).place(&acpi.bytes, 64)?;
    let mut bios = Area::new(machine.ram, RSDP, BIOS_TABLES);
    bios.place(&acpi::rsdp(acpi.xsdt), 16)?;
    let mut tables = Area::new(machine.ram, BIOS_TABLES, BIOS_TABLES_END);
    mp::install(machine, &mut bios, &mut tables)?;
    smbios::install(machine, &mut bios, &mut tables)
}

/// Where the guest wants to be woken: the FACS' waking vector (ACPI 6.5, 5.2.10) in the tables that [`install`] wrote.
pub fn waking_vector(ram: &GuestRam) -> Result<u32, Error> {
    let at = ACPI_TABLES + acpi::FACS + acpi::FACS_WAKING_VECTOR;
    let vector = ram.read_obj(GuestAddress(at));
    vector.map(u32::from_le).map_err(|_| Error::NoMemory(at))
}

/// A piece of guest memory that is filled from its start.
pub struct Area<'a> {
    ram: &'a GuestRam,
    next: u64,
    end: u64,
}

impl<'a> Area<'a> {
    fn new(ram: &'a GuestRam, start: u64, end: u64) -> Self {
        Self {
            ram,
            next: start,
            end,
        }
    }

    /// Writes `bytes` at the next multiple of `alignment`, and returns their address.
    fn place(&mut self, bytes: &[u8], alignment: u64) -> Result<u64, Error> {
        let at = self.next.next_multiple_of(alignment);
        let end = at + bytes.len() as u64;
        if end > self.end {
            return Err(Error::TablesTooLarge);
        }
        self.ram
            .write_slice(bytes, GuestAddress(at))
            .map_err(|_| Error::NoMemory(at))?;
        self.next = end;
        Ok(at)
    }
}

/// The byte that makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}
