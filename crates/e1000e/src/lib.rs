//! A network card for guests without virtio: Intel's 82574L, which drivers know as e1000e.
//!
//! The pure part knows neither memory nor threads: the registers (`registers`, `card`), the EEPROM (`nvm`), the PHY
//! (`phy`), interrupts, the filters, and what a driver leaves to the card (`offload`, `inspect`). Beside it stand how frames
//! go through descriptors (`receive`, `transmit`), the worker, which moves them, and the PCI function ([`E1000e`]).
//!
//! A write to a tail register changes the register and wakes the worker. A write after which the guest may use the memory
//! of its rings for something else (a reset, a queue that is switched off) waits until the worker is done with the frames it
//! is at: it never holds memory longer than for one of them, or for one batch of descriptors.
//!
//! Left out: RSS and the second receive queue, header split (frames in the format for it come unsplit), throttling of
//! interrupts, time stamps, wake-up, management, flow control.

mod card;
mod checksum;
mod error;
mod filter;
mod function;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
#[cfg(test)]
mod hostile_tests;
mod inspect;
mod interrupts;
mod nvm;
mod offload;
mod phy;
mod receive;
mod registers;
mod ring;
mod shared;
#[cfg(any(test, fuzzing))]
#[cfg_attr(not(test), allow(dead_code, reason = "fuzzers use a part of it"))]
mod testing;
#[cfg(test)]
mod tests;
mod transmit;
mod worker;

pub use error::Error;
pub use function::{CardControl, CardOptions, E1000e};
