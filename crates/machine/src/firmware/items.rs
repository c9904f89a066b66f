//! What fw_cfg tells firmware beyond what it tells everyone.

use ostler_memory::{boot_regions, end_of_extras};
use vm_memory::GuestMemoryRegion;

use super::Firmware;
use super::table_loader::{POINTER, SCRIPT, TABLES, files, script};
use crate::Error;
use crate::chips::fw_cfg::{Content, Items, item};
use crate::chips::pm::SLEEP_TYPE_MEMORY;
use crate::layout::COM1;
use crate::tables::{self, Description};

/// Where KVM keeps a page table and the task state of its real mode on some hosts.
const ACCELERATOR_PAGES: (u64, u64) = (0xfeff_c000, 0x4000);
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
/// A state of [`system_states`] that the machine has.
const HAS_STATE: u8 = 0x80;

/// For each sleep state whether the machine has it, with its sleep type in the low bits: QEMU's. S4 is off.
fn system_states(suspend: bool) -> [u8; 6] {
    let memory = SLEEP_TYPE_MEMORY | if suspend { HAS_STATE } else { 0 };
    [HAS_STATE, 0, 0, memory, 0x02, HAS_STATE]
}

/// Adds everything that does not change while the machine runs.
pub fn add(items: &mut Items, firmware: &Firmware, machine: &Description) {
    let menu = firmware.boot_menu.map(|time| time.as_millis().min(0xffff) as u16);
    items.add(
        item::BOOT_MENU,
        Content::Bytes(u16::from(menu.is_some()).to_le_bytes().to_vec()),
    );
    if let Some(milliseconds) = menu {
        items.add_file("etc/boot-menu-wait", milliseconds.to_le_bytes().to_vec());
    }
    if !firmware.boot_order.is_empty() {
        let mut order = firmware.boot_order.join("\n").into_bytes();
        order.push(0);
        items.add_file("bootorder", order);
    }
    if machine.serial {
        // Without a display the BIOS shows its text there.
        items.add_file("etc/sercon-port", (COM1 as u16).to_le_bytes().to_vec());
    }
    items.add_file("etc/system-states", system_states(machine.suspend).to_vec());
    items.add_file("etc/e820", e820(machine));
    if machine.more_memory > 0 {
        let size = ostler_memory::total_size(machine.ram) + machine.more_memory;
        items.add(item::RAM_SIZE, Content::Bytes(size.to_le_bytes().to_vec()));
    }
    if let Some(end) = end_of_extras(machine.ram) {
        // Firmware places its 64-bit PCI window behind it.
        items.add_file("etc/reserved-memory-end", end.to_le_bytes().to_vec());
    }
    let (anchor, structures) = tables::smbios::files(machine);
    items.add_file("etc/smbios/smbios-anchor", anchor);
    items.add_file("etc/smbios/smbios-tables", structures);
}

/// Describes the machine by ACPI as it is now, in the place of an older description.
pub fn describe(items: &mut Items, machine: &Description) -> Result<(), Error> {
    let tables = tables::acpi::build(machine, 0)?;
    let (all, rsdp) = files(&tables, &tables::acpi::rsdp(tables.xsdt));
    items.set_file(SCRIPT, script(&tables));
    items.set_file(TABLES, all);
    items.set_file(POINTER, rsdp);
    Ok(())
}

/// RAM, and what is no one's. Firmware finds its own regions itself.
fn e820(machine: &Description) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut entry = |base: u64, len: u64, usage: u32| {
        bytes.extend(base.to_le_bytes());
        bytes.extend(len.to_le_bytes());
        bytes.extend(usage.to_le_bytes());
    };
    let (base, len) = ACCELERATOR_PAGES;
    entry(base, len, E820_RESERVED);
    for region in boot_regions(machine.ram) {
        let base = region.start_addr().0;
        let more = if base == 0 { machine.more_memory } else { 0 };
        entry(base, region.len() + more, E820_RAM);
    }
    bytes
}
