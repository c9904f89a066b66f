//! The core of the switch: frames and a clock in, frames out. It owns no socket and no thread, and nothing on the path of a
//! frame allocates.
//!
//! A [`Switch`] has ports by number. Whoever drives it hands it what a port received, with the time, and an [`Output`] that is
//! told which port sends the frame and what becomes of its tag; the frame itself is never copied. [`Switch::poll`] does what is
//! due by the clock. One file of `switch/` is one step on a frame's way; `fdb` knows where stations are, `groups` who
//! wants which multicast, `rstp` which ports may forward. `docs/switch.md` describes the behaviour.

mod bucket;
mod config;
mod counters;
mod error;
mod fdb;
mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod groups;
mod mac;
mod packet;
mod port_set;
mod protect;
pub mod rstp;
mod switch;
mod time;
mod vlan;

pub use bucket::Rate;
pub use config::{Admit, Flood, MAX_FDB, PortConfig, PortVlans, Storm, SwitchConfig};
pub use counters::{Drop, EgressDrop, PortCounters, Reasons};
pub use error::Error;
pub use fdb::{Fdb, Station};
pub use frame::{Frame, RxFrame, Tci};
pub use groups::{Family, MAX_GROUPS, Member, PortGroups, RouterPort, SnoopConfig};
pub use mac::Mac;
pub use port_set::{MAX_PORTS, PortIndex, PortSet};
pub use protect::Protection;
pub use switch::{Mirror, Output, Switch};
pub use time::Time;
pub use vlan::{TagAction, TagType, VlanId, VlanSet};
