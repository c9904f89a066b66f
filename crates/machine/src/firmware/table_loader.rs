//! The linker script by which firmware puts ACPI's tables into memory of its own choice (QEMU's
//! BIOS linker/loader, as EDK II and SeaBIOS read it).
//!
//! A command has 128 bytes. The files hold pointers that count from the start of the file that they point into; the
//! script has firmware place the files, then add their addresses to the pointers, then fill in checksums.

use ostler_memory::PAGE_SIZE;

use crate::tables::acpi::{
    Built, RSDP_CHECKSUM, RSDP_CHECKSUM_LEN, RSDP_EXTENDED_CHECKSUM, RSDP_LEN, RSDP_XSDT,
};

/// The file of the script.
pub const SCRIPT: &str = "etc/table-loader";
/// The file of all tables but the RSDP.
pub const TABLES: &str = "etc/acpi/tables";
/// The file of the RSDP.
pub const POINTER: &str = "etc/acpi/rsdp";

const COMMAND_SIZE: usize = 128;
const NAME_SIZE: usize = 56;

const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;

/// Anywhere below 4 GiB.
const ZONE_HIGH: u8 = 1;
/// Where a PC's operating system looks for the RSDP.
const ZONE_F_SEGMENT: u8 = 2;

/// The script that loads `tables` and the RSDP.
pub fn script(tables: &Built) -> Vec<u8> {
    let mut script = Script::default();
    script.allocate(POINTER, 16, ZONE_F_SEGMENT);
    script.allocate(TABLES, 64, ZONE_HIGH);
    for pointer in &tables.pointers {
        script.add_pointer(TABLES, pointer.at, pointer.size);
    }
    for table in &tables.tables {
        script.add_checksum(TABLES, table.at + 9, table.at, table.len);
    }
    script.add_pointer(POINTER, RSDP_XSDT, 8);
    script.add_checksum(POINTER, RSDP_CHECKSUM, 0, RSDP_CHECKSUM_LEN);
    script.add_checksum(POINTER, RSDP_EXTENDED_CHECKSUM, 0, RSDP_LEN);
    script.0
}

/// The files as firmware is given them, with checksums that it is to fill in.
pub fn files(tables: &Built, rsdp: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut all, mut pointer) = (tables.bytes.clone(), rsdp.to_vec());
    // Firmware may have noted the size before the tables change a little.
    all.resize(all.len().next_multiple_of(PAGE_SIZE), 0);
    for table in &tables.tables {
        all[table.at + 9] = 0;
    }
    pointer[RSDP_CHECKSUM] = 0;
    pointer[RSDP_EXTENDED_CHECKSUM] = 0;
    (all, pointer)
}

#[derive(Default)]
struct Script(Vec<u8>);

impl Script {
    fn command(&mut self, number: u32, parts: &[&[u8]]) {
        let start = self.0.len();
        self.0.extend(number.to_le_bytes());
        self.0.extend(parts.concat());
        self.0.resize(start + COMMAND_SIZE, 0);
    }

    fn allocate(&mut self, file: &str, alignment: u32, zone: u8) {
        self.command(ALLOCATE, &[&name(file), &alignment.to_le_bytes(), &[zone]]);
    }

    /// A pointer into the tables.
    fn add_pointer(&mut self, file: &str, at: usize, size: u8) {
        let at = (at as u32).to_le_bytes();
        self.command(ADD_POINTER, &[&name(file), &name(TABLES), &at, &[size]]);
    }

    fn add_checksum(&mut self, file: &str, at: usize, start: usize, len: usize) {
        let [at, start, len] = [at, start, len].map(|number| (number as u32).to_le_bytes());
        self.command(ADD_CHECKSUM, &[&name(file), &at, &start, &len]);
    }
}

fn name(file: &str) -> [u8; NAME_SIZE] {
    let mut name = [0; NAME_SIZE];
    name[..file.len()].copy_from_slice(file.as_bytes());
    name
}
