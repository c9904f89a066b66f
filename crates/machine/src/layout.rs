//! Where things are in the guest-physical address space and among the ports. Part of the guest's ABI.

/// Most CPUs that a guest can have: xAPIC ids below 255, one of them the IOAPIC's.
pub const MAX_CPUS: u32 = 240;

/// GDT for protocols that start in protected or long mode.
pub const BOOT_GDT: u64 = 0x500;
/// PVH's `hvm_start_info`, Multiboot's information structure.
pub const BOOT_INFO: u64 = 0x6000;
/// Linux' `boot_params`.
pub const ZERO_PAGE: u64 = 0x7000;
/// Page tables for the 64-bit entry: PML4, PDPT, four page directories.
pub const BOOT_PAGE_TABLES: u64 = 0x9000;
/// The kernel's command line.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// Bytes kept for it.
pub const COMMAND_LINE_ROOM: usize = 0x1_0000;
/// End of conventional memory; the kilobyte below 0xa0000 is the extended BIOS data area.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// Start of the ACPI tables.
pub const ACPI_TABLES: u64 = 0xe_0000;
/// End of the ACPI tables (exclusive).
pub const ACPI_TABLES_END: u64 = 0xf_0000;
/// RSDP, where a guest that was not told looks for it.
pub const RSDP: u64 = 0xf_0000;
/// Start of the MP table and the SMBIOS structures.
pub const BIOS_TABLES: u64 = 0xf_1000;
/// Their end (exclusive).
pub const BIOS_TABLES_END: u64 = 0xf_8000;
/// Where a PC's firmware handles the timer's interrupt.
pub const BIOS_TIMER: u64 = 0xf_fea5;
/// Where a PC's firmware has an IRET.
pub const BIOS_IRET: u64 = 0xf_ff53;
/// Start of extended memory.
pub const HIGH_RAM_START: u64 = 0x10_0000;

/// PCIEXBAR after a direct boot: 256 buses of configuration space.
pub const ECAM_BASE: u64 = 0xb000_0000;
/// Its size.
pub const ECAM_SIZE: u64 = 0x1000_0000;
/// IOAPIC registers.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;
/// The page with the VM generation ID.
pub const GENERATION_ID: u64 = 0xfed5_0000;
/// Its size.
pub const GENERATION_ID_SIZE: u64 = 0x1000;
/// Firmware and the accelerator's own pages end the first 4 GiB.
pub const RESERVED_TOP: u64 = 0xfffb_c000;

/// Command ports of the two 8259s.
pub const PIC_PORTS: [u64; 2] = [0x20, 0xa0];
/// Edge/level registers of the 8259s.
pub const ELCR_PORTS: u64 = 0x4d0;
/// First serial port.
pub const COM1: u64 = 0x3f8;
/// Its interrupt.
pub const COM1_IRQ: u8 = 4;
/// Power management block.
pub const PM_BASE: u64 = 0x600;
/// System control interrupt.
pub const SCI: u8 = 9;
/// Command and status of the firmware's SMI handler.
pub const SMI_COMMAND: u64 = 0xb2;
/// Which CPUs there are, where they come and go: QEMU's place for it.
pub const CPU_HOTPLUG: u64 = 0xcd8;
/// Reset control.
pub const RESET_CONTROL: u64 = 0xcf9;
/// Configuration address and data.
pub const PCI_CONFIG_PORTS: u64 = 0xcf8;
/// pvpanic.
pub const PVPANIC: u64 = 0x505;
/// Where firmware writes its log, if someone listens.
pub const DEBUG_CONSOLES: [u64; 2] = [0x402, 0xe9];
/// fw_cfg: selector, data, and DMA address.
pub const FW_CFG: u64 = 0x510;
