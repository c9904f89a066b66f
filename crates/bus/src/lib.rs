//! The ground on which devices stand: address maps, doorbells, interrupt lines.
//!
//! A [`Device`] sees offsets into its own range, never an absolute address. An [`AddressMap`] finds the device for an
//! access without taking a lock; it is replaced as a whole when a device comes or goes. A [`Doorbell`] is a guest write
//! that an accelerator turns into an event without leaving guest mode for user mode.

mod doorbell;
mod interrupt;
mod map;
pub mod registers;
#[cfg(feature = "testing")]
pub mod testing;

pub use doorbell::{Doorbell, DoorbellRegistry, Space};
pub use interrupt::{InterruptLine, Msi, MsiSink};
pub use map::{AddressMap, Device, Error, Range};
