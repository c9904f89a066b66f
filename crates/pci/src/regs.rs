//! Offsets and bits of configuration space (PCI 3.0, 6.1 and 6.2; PCIe 4.0, 7.5).

/// Vendor id, 16 bits.
pub const VENDOR_ID: u16 = 0x00;
/// Device id, 16 bits.
pub const DEVICE_ID: u16 = 0x02;
/// Command register, 16 bits.
pub const COMMAND: u16 = 0x04;
/// Status register, 16 bits.
pub const STATUS: u16 = 0x06;
/// Revision id, 8 bits; the class code follows in 24 bits.
pub const REVISION: u16 = 0x08;
/// Header type, 8 bits; bit 7 marks a device of several functions.
pub const HEADER_TYPE: u16 = 0x0e;
/// In the header type: the device has several functions.
pub const HEADER_MULTIFUNCTION: u8 = 0x80;
/// First base address register.
pub const BAR0: u16 = 0x10;
/// Subsystem vendor id of a type 0 header, 16 bits; the subsystem id follows.
pub const SUBSYSTEM_VENDOR_ID: u16 = 0x2c;
/// Pointer to the first capability, 8 bits.
pub const CAPABILITIES: u16 = 0x34;
/// Interrupt line, 8 bits of scratch for software.
pub const INTERRUPT_LINE: u16 = 0x3c;
/// Interrupt pin, 8 bits: 0 for none, 1 for INTA.
pub const INTERRUPT_PIN: u16 = 0x3d;
/// Where extended capabilities start.
pub const EXTENDED: u16 = 0x100;
/// Bytes of a PCI Express configuration space.
pub const CONFIG_SIZE: usize = 4096;

/// Command: answer I/O space accesses.
pub const COMMAND_IO: u16 = 1 << 0;
/// Command: answer memory space accesses.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command: may act as bus master.
pub const COMMAND_BUS_MASTER: u16 = 1 << 2;
/// Command: INTx is disabled.
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// Command bits that software can change.
pub const COMMAND_WRITABLE: u16 = 0x0547;

/// Status: INTx is wanted, whether or not it is disabled.
pub const STATUS_INTX: u16 = 1 << 3;
/// Status: there is a capability list.
pub const STATUS_CAPABILITIES: u16 = 1 << 4;
/// Status bits that software clears by writing ones.
pub const STATUS_W1C: u16 = 0xf900;

/// Type 1: primary bus number; secondary and subordinate follow, 8 bits each.
pub const PRIMARY_BUS: u16 = 0x18;
/// Type 1: secondary bus number.
pub const SECONDARY_BUS: u16 = 0x19;
/// Type 1: subordinate bus number.
pub const SUBORDINATE_BUS: u16 = 0x1a;
/// Type 1: I/O base, 8 bits; the limit follows.
pub const IO_BASE: u16 = 0x1c;
/// Type 1: secondary status, 16 bits.
pub const SECONDARY_STATUS: u16 = 0x1e;
/// Type 1: memory base, 16 bits; the limit follows.
pub const MEMORY_BASE: u16 = 0x20;
/// Type 1: prefetchable memory base, 16 bits; the limit follows.
pub const PREFETCH_BASE: u16 = 0x24;
/// Type 1: upper 32 bits of the prefetchable base; those of the limit follow.
pub const PREFETCH_BASE_UPPER: u16 = 0x28;
/// Type 1: upper 16 bits of the I/O base; those of the limit follow.
pub const IO_BASE_UPPER: u16 = 0x30;
/// Type 1: bridge control, 16 bits.
pub const BRIDGE_CONTROL: u16 = 0x3e;

/// Capability id: message-signalled interrupts.
pub const CAP_MSI: u8 = 0x05;
/// Capability id: vendor specific.
pub const CAP_VENDOR: u8 = 0x09;
/// Capability id: PCI Express.
pub const CAP_EXPRESS: u8 = 0x10;
/// Capability id: MSI-X.
pub const CAP_MSIX: u8 = 0x11;
