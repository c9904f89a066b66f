//! Where things are in the tiny guests' world. The images hold the same numbers.

/// Bytes of RAM, from address 0.
pub const RAM_SIZE: u64 = 2 << 20;
/// Where an image is loaded and entered.
pub const IMAGE: u64 = 0x8000;
/// Stack of a guest that starts in 64-bit mode (grows down).
pub const STACK: u64 = 0x7000;
/// Descriptor table: null, 64-bit code (0x08), data (0x10).
pub const GDT: u64 = 0x500;
/// Page tables, six pages.
pub const TABLES: u64 = 0x10000;
/// A word through which guest and script talk.
pub const MAILBOX: u64 = 0x7008;
/// 1 if every CPU that the guest meets offers AVX; it is then enabled.
pub const HAS_AVX: u64 = 0x7010;
/// What interrupt handlers count.
pub const COUNTED: u64 = 0x7100;
/// What the handler of an 8259's interrupts counts where timer interrupts are counted too.
pub const EXTERNAL_COUNTED: u64 = 0x7108;

/// Transmit register and line status of a serial port that is always ready.
pub const SERIAL_DATA: u16 = 0x3f8;
pub const SERIAL_STATUS: u16 = 0x3fd;
/// Line status: transmitter empty and idle.
pub const SERIAL_READY: u8 = 0x60;
/// A byte written here ends the guest; 0 is success.
pub const EXIT: u16 = 0xf4;
/// A byte written here is a step of the script.
pub const STEP: u16 = 0xf8;
/// A latch of 32 bits: reads give back what was written.
pub const LATCH: u16 = 0x100;
/// Reads count up from 1, a byte at a time.
pub const COUNTER: u16 = 0x108;
/// A doorbell among the ports, two bytes wide.
pub const BELL_PORT: u16 = 0x510;

/// A device of 64 bytes of registers that keep what is written.
pub const DEVICE: u64 = 0xd000_0000;
pub const DEVICE_SIZE: u64 = 64;
/// A doorbell that rings for the value 1 in four bytes; other writes leave.
pub const BELL_FOR_ONE: u64 = 0xd000_1000;
/// A doorbell that rings for everything.
pub const BELL_FOR_ALL: u64 = 0xd000_1010;
