//! The states that boot protocols start the first CPU in, and the tables in memory that they need.

use ostler_accel::{CpuState, DescriptorTable, Msr, Segment, reset_state};
use ostler_memory::GuestRam;
use vm_memory::{Bytes, GuestAddress};

use crate::Error;
use crate::layout::{BOOT_GDT, BOOT_PAGE_TABLES};

const CODE64: u16 = 0xa09b;
const CODE32: u16 = 0xc09b;
const DATA: u16 = 0xc093;
/// A busy 32-bit TSS; in long mode the same type is the 64-bit one.
const TSS: u16 = 0x008b;

const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TSS_SELECTOR: u16 = 0x20;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs on, everything write-back.
const MTRR_WRITE_BACK: u64 = 0x806;

const PTE_PRESENT_WRITABLE: u64 = 0x3;
const PTE_LARGE: u64 = 0x80;

/// RESET, then what firmware would have done: MTRRs on, and on the first CPU the LAPIC as a virtual wire for the 8259
/// (MP specification 1.4, 3.6.2.2).
pub fn firmware_state(cpu: u32) -> CpuState {
    let mut state = reset_state(cpu);
    state.msrs.push(Msr {
        index: MSR_MTRR_DEF_TYPE,
        value: MTRR_WRITE_BACK,
    });
    if cpu == 0 {
        let mut set = |register: usize, value: u32| {
            state.lapic.registers[register..register + 4].copy_from_slice(&value.to_le_bytes());
        };
        set(0x0f0, 0x1ff);
        set(0x350, 0x700);
        set(0x360, 0x400);
    }
    state
}

/// Real mode at the waking vector, a physical address below 1 MiB (ACPI 6.5, 5.2.10).
pub fn waking_state(vector: u32) -> CpuState {
    const CS: usize = 1;
    let mut state = firmware_state(0);
    let code = &mut state.segments[CS];
    code.selector = (vector >> 4) as u16;
    code.base = u64::from(code.selector) << 4;
    state.rip = u64::from(vector & 0xf);
    state
}

/// 64-bit mode at `entry`, the first 4 GiB mapped one to one.
pub fn long_mode(ram: &GuestRam, entry: u64) -> Result<CpuState, Error> {
    write_page_tables(ram)?;
    let mut state = flat(ram, CODE64)?;
    state.rip = entry;
    state.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG;
    state.cr3 = BOOT_PAGE_TABLES;
    state.cr4 = CR4_PAE;
    state.efer = EFER_LME | EFER_LMA;
    Ok(state)
}

/// 32-bit protected mode at `entry`, flat, without paging.
pub fn protected_mode(ram: &GuestRam, entry: u32) -> Result<CpuState, Error> {
    let mut state = flat(ram, CODE32)?;
    state.rip = u64::from(entry);
    state.cr0 = CR0_PE | CR0_ET;
    Ok(state)
}

fn flat(ram: &GuestRam, code: u16) -> Result<CpuState, Error> {
    let mut state = firmware_state(0);
    let segment = |selector, rights| Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        rights,
    };
    state.segments = [segment(DATA_SELECTOR, DATA); 6];
    state.segments[1] = segment(CODE_SELECTOR, code);
    state.tr = Segment {
        selector: TSS_SELECTOR,
        base: 0,
        limit: 0x67,
        rights: TSS,
    };
    let gdt = [
        0,
        0,
        descriptor(u32::MAX, code),
        descriptor(u32::MAX, DATA),
        descriptor(0x67, TSS),
        0,
    ];
    let bytes: Vec<u8> = gdt.iter().flat_map(|entry: &u64| entry.to_le_bytes()).collect();
    write(ram, BOOT_GDT, &bytes)?;
    state.gdtr = DescriptorTable {
        base: BOOT_GDT,
        limit: bytes.len() as u16 - 1,
    };
    state.idtr = DescriptorTable { base: 0, limit: 0 };
    Ok(state)
}

/// A descriptor with base 0 (SDM vol. 3, 3.4.5); a limit above 1 MiB is given in pages, as `rights` then say.
fn descriptor(limit: u32, rights: u16) -> u64 {
    let limit = u64::from(if rights & 0x8000 != 0 { limit >> 12 } else { limit });
    limit & 0xffff | (limit >> 16 & 0xf) << 48 | u64::from(rights) << 40
}

fn write_page_tables(ram: &GuestRam) -> Result<(), Error> {
    let pdpt = BOOT_PAGE_TABLES + 0x1000;
    let directories = pdpt + 0x1000;
    write(ram, BOOT_PAGE_TABLES, &[0; 0x2000])?;
    write(
        ram,
        BOOT_PAGE_TABLES,
        &(pdpt | PTE_PRESENT_WRITABLE).to_le_bytes(),
    )?;
    for gigabyte in 0..4u64 {
        let directory = directories + gigabyte * 0x1000;
        write(
            ram,
            pdpt + gigabyte * 8,
            &(directory | PTE_PRESENT_WRITABLE).to_le_bytes(),
        )?;
        let entries: Vec<u8> = (0..512u64)
            .flat_map(|i| (gigabyte << 30 | i << 21 | PTE_LARGE | PTE_PRESENT_WRITABLE).to_le_bytes())
            .collect();
        write(ram, directory, &entries)?;
    }
    Ok(())
}

/// Writes boot data to guest memory.
pub fn write(ram: &GuestRam, gpa: u64, bytes: &[u8]) -> Result<(), Error> {
    ram.write_slice(bytes, GuestAddress(gpa))
        .map_err(|_| Error::NoMemory(gpa))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_the_well_known_flat_ones() {
        assert_eq!(descriptor(u32::MAX, CODE64), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(u32::MAX, CODE32), 0x00cf_9b00_0000_ffff);
        assert_eq!(descriptor(u32::MAX, DATA), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(0x67, TSS), 0x0000_8b00_0000_0067);
    }

    #[test]
    fn page_tables_map_each_address_to_itself() {
        let ram = ostler_memory::allocate(2 << 20, Default::default()).unwrap();
        let state = long_mode(&ram, 0x100_0200).unwrap();
        let entry = |table: u64, index: u64| ram.read_obj::<u64>(GuestAddress(table + index * 8)).unwrap();
        for gva in [0, 0x7000, 0x100_0200, 0xbfff_ffff, 0xffff_fff0u64] {
            let pdpt = entry(state.cr3, gva >> 39) & !0xfff;
            let directory = entry(pdpt, gva >> 30 & 0x1ff) & !0xfff;
            let page = entry(directory, gva >> 21 & 0x1ff);
            assert_eq!(page & 0xff, 0x83);
            assert_eq!(page & !0x1f_ffff | gva & 0x1f_ffff, gva);
        }
    }
}
