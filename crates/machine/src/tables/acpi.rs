//! ACPI's tables but the DSDT (ACPI 6.5, 5.2).

use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::mcfg::MCFG;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

use ostler_bus::Range;

use super::{Description, dsdt};
use crate::Error;
use crate::bridges::PIRQ_ISA;
use crate::chips::pm_bus::{ACPI_DISABLE, ACPI_ENABLE};
use crate::chips::rtc::CENTURY;
use crate::chips::signals::RESET_VALUE;
use crate::layout::{IOAPIC_BASE, PM_BASE, RESET_CONTROL, SCI, SMI_COMMAND};

const OEM: [u8; 6] = *b"OSTLER";
const TABLE: [u8; 8] = *b"OSTLERPC";
const REVISION: u32 = 1;

const LAPIC_BASE: u32 = 0xfee0_0000;
/// There are 8259s, to be disabled when the IOAPIC is used.
const MADT_PCAT_COMPAT: u32 = 1;
const ACTIVE_HIGH_EDGE: u16 = 0x5;
const ACTIVE_HIGH_LEVEL: u16 = 0xd;

/// FADT boot architecture: ISA devices, an 8042, no ASPM; and that there is no VGA.
const BOOT_ARCHITECTURE: u16 = 1 | 1 << 1 | 1 << 4;
const NO_VGA: u16 = 1 << 2;
/// Latencies that say "no C2, no C3".
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;

/// WAET: the PM timer needs to be read once only, and the RTC no extra access.
const WAET_FLAGS: u32 = 1 | 1 << 1;

/// Where the FADT points to the FACS and to the DSDT, and with how many bytes.
const FADT_POINTERS: [(usize, u8); 3] = [(36, 4), (40, 4), (140, 8)];
/// Where the XSDT's entries start.
const XSDT_ENTRIES: usize = 36;

/// Where among the tables the FACS is: it is the first of them.
pub const FACS: u64 = 0;
/// Where in it the guest leaves the address at which it wants to be woken.
pub const FACS_WAKING_VECTOR: u64 = 12;

/// Bytes of the RSDP.
pub const RSDP_LEN: usize = 36;
/// Where it points to the XSDT.
pub const RSDP_XSDT: usize = 24;
/// Its checksum over what ACPI 1.0 had of it, and how much that is.
pub const RSDP_CHECKSUM: usize = 8;
/// See [`RSDP_CHECKSUM`].
pub const RSDP_CHECKSUM_LEN: usize = 20;
/// Its checksum over all of it.
pub const RSDP_EXTENDED_CHECKSUM: usize = 32;

/// All tables but the RSDP, one after the other.
pub struct Built {
    /// Their bytes.
    pub bytes: Vec<u8>,
    /// Address of the first of them.
    base: u64,
    /// Address of the XSDT.
    pub xsdt: u64,
    /// Where in the bytes there are addresses of other tables.
    pub pointers: Vec<Pointer>,
    /// The tables that have a header, with a checksum at byte 9, in the order in which their checksums can be computed.
    pub tables: Vec<Place>,
}

/// An address in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pointer {
    /// Where in the bytes it is.
    pub at: usize,
    /// Bytes that it has.
    pub size: u8,
}

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Where in the bytes it starts.
    pub at: usize,
    /// Bytes that it has.
    pub len: usize,
}

impl Built {
    /// Adds `bytes` at the next multiple of `alignment`, and returns their place.
    fn place(&mut self, bytes: &[u8], alignment: usize) -> Place {
        let at = self.bytes.len().next_multiple_of(alignment);
        self.bytes.resize(at, 0);
        self.bytes.extend(bytes);
        Place { at, len: bytes.len() }
    }

    /// Adds a table, and returns its address.
    fn table(&mut self, bytes: &[u8]) -> u64 {
        let place = self.place(bytes, 16);
        self.tables.push(place);
        self.base + place.at as u64
    }
}

/// Builds all tables for the address `base`, a multiple of 64.
pub fn build(machine: &Description, base: u64) -> Result<Built, Error> {
    let mut built = Built {
        bytes: Vec::new(),
        base,
        xsdt: 0,
        pointers: Vec::new(),
        tables: Vec::new(),
    };
    let facs = base + built.place(&bytes(&acpi_tables::facs::FACS::new()), 64).at as u64;
    let dsdt = built.table(table(*b"DSDT", 2, &dsdt::body(machine)).as_slice());
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    let mut entries = 0;
    for table in [
        fadt(facs, dsdt, machine),
        madt(machine.cpus),
        mcfg(machine.ecam),
        waet(),
    ] {
        xsdt.add_entry(built.table(&table));
        entries += 1;
    }
    built.xsdt = built.table(&bytes(&xsdt));
    let at = |address: u64| (address - base) as usize;
    let fadt = built.tables[1].at;
    let pointers = FADT_POINTERS.map(|(offset, size)| Pointer {
        at: fadt + offset,
        size,
    });
    built.pointers.extend(pointers);
    let first = at(built.xsdt) + XSDT_ENTRIES;
    let entries = (0..entries).map(|entry| Pointer {
        at: first + 8 * entry,
        size: 8,
    });
    built.pointers.extend(entries);
    Ok(built)
}

/// The pointer by which a guest finds the XSDT.
pub fn rsdp(xsdt: u64) -> Vec<u8> {
    bytes(&acpi_tables::rsdp::Rsdp::new(OEM, xsdt))
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

fn fadt(facs: u64, dsdt: u64, machine: &Description) -> Vec<u8> {
    let register =
        |bits: u8, size: AccessSize, port: u64| GAS::new(AddressSpace::SystemIo, bits, 0, size, port);
    let mut fadt = FADTBuilder::new(OEM, TABLE, REVISION)
        .firmware_ctrl_32(facs as u32)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // The power button is the fixed one; there is no sleep button, and nothing for an alarm to wake without a sleep.
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .gpe_info(PM_BASE as u32 + 0x20, 0, 16, 0, 0);
    if !machine.suspend {
        fadt = fadt.flag(Flags::FixRtc);
    }
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
    let no_vga = if machine.display { 0 } else { NO_VGA };
    fadt.iapc_boot_arch = (BOOT_ARCHITECTURE | no_vga).into();
    fadt.reset_reg = register(8, AccessSize::ByteAccess, RESET_CONTROL);
    fadt.reset_value = RESET_VALUE;
    fadt.x_pm1a_evt_blk = register(32, AccessSize::WordAccess, PM_BASE);
    fadt.x_pm1a_cnt_blk = register(16, AccessSize::WordAccess, PM_BASE + 4);
    fadt.x_pm_tmr_blk = register(32, AccessSize::DwordAccess, PM_BASE + 8);
    fadt.x_gpe0_blk = register(128, AccessSize::ByteAccess, PM_BASE + 0x20);
    bytes(&fadt.finalize())
}

/// A processor local APIC (ACPI 6.5, 5.2.12.2). One that is not there can come later.
pub fn local_apic(cpu: usize, present: bool) -> [u8; 8] {
    const ENABLED: u8 = 1;
    const ONLINE_CAPABLE: u8 = 1 << 1;
    let flags = if present { ENABLED } else { ONLINE_CAPABLE };
    [0, 8, cpu as u8, cpu as u8, flags, 0, 0, 0]
}

fn madt(cpus: &[bool]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(LAPIC_BASE.to_le_bytes());
    body.extend(MADT_PCAT_COMPAT.to_le_bytes());
    for (cpu, &present) in cpus.iter().enumerate() {
        body.extend(local_apic(cpu, present));
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

fn mcfg(ecam: Range) -> Vec<u8> {
    let mut mcfg = MCFG::new(OEM, TABLE, REVISION);
    // A mebibyte a bus.
    mcfg.add_ecam(ecam.base, 0, 0, ((ecam.len >> 20).saturating_sub(1)) as u8);
    bytes(&mcfg)
}

fn waet() -> Vec<u8> {
    table(*b"WAET", 1, &WAET_FLAGS.to_le_bytes()).as_slice().to_vec()
}
