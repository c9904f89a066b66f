//! Interrupt controllers and the routes between devices, controllers and the accelerator.

mod bus;
mod ioapic;
mod pic;
mod router;

pub use bus::{ElcrPorts, IoapicWindow, PicPorts};
pub use router::{FIRST_PIRQ_GSI, Input, PIRQS, Router, TimerListener};
