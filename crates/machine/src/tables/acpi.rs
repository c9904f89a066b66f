//! ACPI's tables but the DSDT (ACPI 6.5, 5.2).

use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

use super::{Area, Description, dsdt};
use crate::Error;
use crate::bridges::PIRQ_ISA;
use crate::chips::pm_bus::{ACPI_DISABLE, ACPI_ENABLE};
use crate::chips::rtc::CENTURY;
use crate::chips::signals::RESET_VALUE;
use crate::layout::{ECAM_BASE, IOAPIC_BASE, PM_BASE, RESET_CONTROL, SCI, SMI_COMMAND};

const OEM: [u8; 6] = *b"OSTLER";
const TABLE: [u8; 8] = *b"OSTLERPC";
const REVISION: u32 = 1;

const LAPIC_BASE: u32 = 0xfee0_0000;
/// There are 8259s, to be disabled when the IOAPIC is used.
const MADT_PCAT_COMPAT: u32 = 1;
const ACTIVE_HIGH_EDGE: u16 = 0x5;
const ACTIVE_HIGH_LEVEL: u16 = 0xd;

/// FADT boot architecture: ISA devices, an 8042, no VGA, no ASPM.
const BOOT_ARCHITECTURE: u16 = 1 | 1 << 1 | 1 << 2 | 1 << 4;
/// Latencies that say "no C2, no C3".
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;

/// WAET: the PM timer needs to be read once only, and the RTC no extra access.
const WAET_FLAGS: u32 = 1 | 1 << 1;

/// Writes all tables and returns the address of the XSDT.
pub fn install(machine: &Description, area: &mut Area) -> Result<u64, Error> {
    let facs = area.place(&bytes(&FACS::new()), 64)?;
    let dsdt = area.place(table(*b"DSDT", 2, &dsdt::body(machine)).as_slice(), 16)?;
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    for table in [fadt(facs, dsdt), madt(machine.cpus), mcfg(), waet()] {
        xsdt.add_entry(area.place(&table, 16)?);
    }
    area.place(&bytes(&xsdt), 16)
}

/// The pointer by which a guest finds the XSDT.
pub fn rsdp(xsdt: u64) -> Vec<u8> {
    bytes(&Rsdp::new(OEM, xsdt))
}

fn bytes(object: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    object.to_aml_bytes(&mut bytes);
    bytes
}

fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Sdt {
    let mut table = Sdt::new(signature, 36, revision, OEM, TABLE, REVISION);
    table.append_slice(body);
    table
}

fn fadt(facs: u64, dsdt: u64) -> Vec<u8> {
    let register =
        |bits: u8, size: AccessSize, port: u64| GAS::new(AddressSpace::SystemIo, bits, 0, size, port);
    let mut fadt = FADTBuilder::new(OEM, TABLE, REVISION)
        .firmware_ctrl_32(facs as u32)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // The power button is the fixed one; there are no sleep button and no RTC wake-up.
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup)
        .gpe_info(PM_BASE as u32 + 0x20, 0, 16, 0, 0);
    fadt.dsdt = (dsdt as u32).into();
    fadt.sci_int = u16::from(SCI).into();
    fadt.smi_cmd = (SMI_COMMAND as u32).into();
    fadt.acpi_enable = ACPI_ENABLE;
    fadt.acpi_disable = ACPI_DISABLE;
    fadt.pm1a_evt_blk = (PM_BASE as u32).into();
    fadt.pm1a_cnt_blk = (PM_BASE as u32 + 4).into();
    fadt.pm_tmr_blk = (PM_BASE as u32 + 8).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1_cnt_len = 2;
    fadt.pm_tmr_len = 4;
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.century = CENTURY as u8;
    fadt.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    fadt.reset_reg = register(8, AccessSize::ByteAccess, RESET_CONTROL);
    fadt.reset_value = RESET_VALUE;
    fadt.x_pm1a_evt_blk = register(32, AccessSize::WordAccess, PM_BASE);
    fadt.x_pm1a_cnt_blk = register(16, AccessSize::WordAccess, PM_BASE + 4);
    fadt.x_pm_tmr_blk = register(32, AccessSize::DwordAccess, PM_BASE + 8);
    fadt.x_gpe0_blk = register(128, AccessSize::ByteAccess, PM_BASE + 0x20);
    bytes(&fadt.finalize())
}

fn madt(cpus: u32) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(LAPIC_BASE.to_le_bytes());
    body.extend(MADT_PCAT_COMPAT.to_le_bytes());
    for cpu in 0..cpus {
        // Processor local APIC: uid, APIC id, enabled.
        body.extend([0, 8, cpu as u8, cpu as u8, 1, 0, 0, 0]);
    }
    // IOAPIC 0 with inputs from GSI 0.
    body.extend([1, 12, 0, 0]);
    body.extend((IOAPIC_BASE as u32).to_le_bytes());
    body.extend([0; 4]);
    let mut source_override = |isa: u8, gsi: u8, flags: u16| {
        body.extend([2, 10, 0, isa]);
        body.extend(u32::from(gsi).to_le_bytes());
        body.extend(flags.to_le_bytes());
    };
    source_override(0, 2, ACTIVE_HIGH_EDGE);
    source_override(SCI, SCI, ACTIVE_HIGH_LEVEL);
    let mut level: Vec<u8> = PIRQ_ISA.to_vec();
    level.sort_unstable();
    level.dedup();
    for isa in level {
        source_override(isa, isa, ACTIVE_HIGH_LEVEL);
    }
    // LINT1 of every LAPIC is NMI.
    body.extend([4, 6, 0xff, 0, 0, 1]);
    table(*b"APIC", 5, &body).as_slice().to_vec()
}

fn mcfg() -> Vec<u8> {
    let mut mcfg = MCFG::new(OEM, TABLE, REVISION);
    mcfg.add_ecam(ECAM_BASE, 0, 0, 255);
    bytes(&mcfg)
}

fn waet() -> Vec<u8> {
    table(*b"WAET", 1, &WAET_FLAGS.to_le_bytes()).as_slice().to_vec()
}
