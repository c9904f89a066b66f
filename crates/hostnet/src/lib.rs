//! The host's own bridges: the kernel's by netlink, Open vSwitch's by its database protocol (RFC 7047), and one view of both.
//!
//! A [`BackEnd`] lists, makes and changes [`Bridge`]s, their ports, forwarding tables, spanning trees and VLANs. A change is made whole or
//! not at all: each has its undo steps, and what a host cannot do is found by asking it and said as [`Error::Unsupported`]. Nothing here
//! forwards a frame. All calls block; a back end belongs to the network namespace in which it was opened.

mod error;
mod firewall;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod kernel;
mod name;
mod netlink;
mod ovs;
mod view;

pub use error::Error;
pub use kernel::{
    Forward, Kernel, Macvtap, MacvtapMode, MacvtapSpec, Network, Ports, Subnet, Subnet6, TapSpec, Uplink,
    make_numbered,
};
pub use name::{Mac, check_name};
pub use ovs::OpenVSwitch;
pub use view::{
    Bridge, BridgeSettings, Flag, Kind, Port, PortCounters, PortSettings, PortVlans, Protocol, Role, Source,
    State, Station, Stp, Tap,
};

/// What makes bridges.
pub trait BackEnd {
    /// Which one it is.
    fn kind(&self) -> Kind;

    /// All bridges, by name.
    fn bridges(&mut self) -> Result<Vec<Bridge>, Error>;

    /// Makes a bridge and switches it on.
    fn create(&mut self, name: &str, settings: &BridgeSettings) -> Result<(), Error>;

    /// Ends a bridge; its ports are left to the host.
    fn delete(&mut self, name: &str) -> Result<(), Error>;

    /// Changes a bridge.
    fn set_bridge(&mut self, name: &str, settings: &BridgeSettings) -> Result<(), Error>;

    /// Makes an interface that exists a port, and switches it on.
    fn add_port(&mut self, bridge: &str, port: &str, settings: &PortSettings) -> Result<(), Error>;

    /// Takes a port out.
    fn remove_port(&mut self, bridge: &str, port: &str) -> Result<(), Error>;

    /// Changes a port.
    fn set_port(&mut self, bridge: &str, port: &str, settings: &PortSettings) -> Result<(), Error>;

    /// The forwarding table.
    fn stations(&mut self, bridge: &str) -> Result<Vec<Station>, Error>;

    /// Enters a station that does not age.
    fn add_station(&mut self, bridge: &str, port: &str, mac: Mac, vlan: Option<u16>) -> Result<(), Error>;

    /// Takes a station out, however it came in.
    fn remove_station(&mut self, bridge: &str, port: &str, mac: Mac, vlan: Option<u16>) -> Result<(), Error>;

    /// Forgets what was learned, on one port or all.
    fn flush(&mut self, bridge: &str, port: Option<&str>) -> Result<(), Error>;

    /// The bridge of that name.
    fn bridge(&mut self, name: &str) -> Result<Bridge, Error> {
        let kind = self.kind();
        let mut all = self.bridges()?.into_iter();
        all.find(|bridge| bridge.name == name)
            .ok_or_else(|| Error::NoBridge(kind, name.into()))
    }
}
