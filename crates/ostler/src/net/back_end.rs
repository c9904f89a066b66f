//! What every back end does.

use ostler_hostnet::{BridgeSettings, Mac, Ports, Subnet};
use serde_json::{Map, Value};

use super::model::{Kind, Network, Stations};
use super::port::Place;
use super::vlans::Vlans;
use crate::failure::Failure;

/// What a network is to be; what is `None` stays, or is as usual.
#[derive(Default)]
pub struct Wish {
    pub settings: BridgeSettings,
    /// BPDUs that a port sends in a second, 1 to 10.
    pub transmit_hold: Option<u8>,
    pub forward: Option<ForwardWish>,
    /// Of Open vSwitch: `system` or `netdev`.
    pub datapath: Option<String>,
}

/// Whom a network's stations are to reach.
pub struct ForwardWish {
    pub mode: ostler_hostnet::Forward,
    pub address: Option<Subnet>,
    pub ports: Option<Ports>,
    pub out: Option<String>,
}

/// What a port is to be.
#[derive(Default)]
pub struct PortWish {
    /// All of its VLANs.
    pub vlans: Option<Vlans>,
    /// Others, by their names in a switch's configuration file.
    pub settings: Map<String, Value>,
}

/// Some stations.
#[derive(Default)]
pub struct Which {
    pub port: Option<String>,
    pub vlan: Option<u16>,
}

/// Who has networks. A change is made whole or not at all; what cannot be done is an error that says so.
pub trait BackEnd {
    fn kind(&self) -> Kind;

    /// All of them, without counting their stations.
    fn networks(&mut self) -> Result<Vec<Network>, Failure>;

    /// Whether there is one of that name.
    fn has(&mut self, name: &str) -> Result<bool, Failure>;

    fn network(&mut self, name: &str) -> Result<Network, Failure>;

    fn create(&mut self, name: &str, wish: Wish) -> Result<(), Failure>;

    fn set(&mut self, name: &str, wish: Wish) -> Result<(), Failure>;

    fn delete(&mut self, name: &str) -> Result<(), Failure>;

    fn add_port(&mut self, network: &str, port: &str, place: Place, wish: PortWish) -> Result<(), Failure>;

    fn set_port(&mut self, network: &str, port: &str, wish: PortWish) -> Result<(), Failure>;

    fn remove_port(&mut self, network: &str, port: &str) -> Result<(), Failure>;

    fn stations(&mut self, network: &str, which: &Which) -> Result<Stations, Failure>;

    fn add_station(&mut self, network: &str, port: &str, mac: Mac, vlan: Option<u16>) -> Result<(), Failure>;

    /// Takes a station out, however it came in.
    fn remove_station(&mut self, network: &str, mac: Mac, which: &Which) -> Result<(), Failure>;

    /// Forgets what was learned.
    fn flush(&mut self, network: &str, which: &Which) -> Result<(), Failure>;

    /// A command that only a switch of ours has, and its answer.
    fn execute(&mut self, network: &str, command: &str, _arguments: Value) -> Result<Value, Failure> {
        Err(Failure::bad_input(format!(
            "`{network}` is {}, and only switches of ours have `{command}`",
            self.kind()
        )))
    }

    /// Its capture, until it ends.
    fn capture(&mut self, network: &str, args: super::capture::CaptureArgs) -> Result<(), Failure>;
}
