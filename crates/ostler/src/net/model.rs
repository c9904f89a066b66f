//! What networks look like, whichever back end has them. These names are what scripts rely on; what a back end does not have is null.

use std::collections::BTreeMap;
use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::vlans::Vlans;

/// Which back end has a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A switch of ours, in user space.
    Switch,
    /// A bridge of the kernel's.
    Bridge,
    /// A bridge of Open vSwitch.
    Ovs,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Switch, Kind::Bridge, Kind::Ovs];

    /// As it is written on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Switch => "switch",
            Kind::Bridge => "bridge",
            Kind::Ovs => "ovs",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Switch => "a switch of ours",
            Kind::Bridge => "a bridge of the kernel",
            Kind::Ovs => "a bridge of Open vSwitch",
        })
    }
}

/// A network in a list.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Summary {
    pub name: String,
    pub kind: Kind,
    pub up: bool,
    /// How many.
    pub ports: usize,
    /// `rstp`, `stp` or `off`.
    pub protocol: String,
    /// The root's identifier.
    pub root: Option<String>,
    /// Whom its stations reach.
    pub forward: Option<Forward>,
}

/// A network.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Network {
    pub name: String,
    pub kind: Kind,
    /// Whether it moves frames.
    pub up: bool,
    pub mac: Option<String>,
    /// Of the bridge's own interface; a switch of ours has one for each port.
    pub mtu: Option<u32>,
    /// Whether ports have VLANs; null where the kernel cannot.
    pub vlan_filtering: Option<bool>,
    /// Seconds that a learned station is kept.
    pub ageing: Option<u32>,
    /// How many are known; null in lists of networks.
    pub stations: Option<u64>,
    pub stp: Stp,
    pub forward: Option<Forward>,
    pub ports: Vec<Port>,
    /// Only of a switch of ours, from here on.
    pub pid: Option<u32>,
    /// Seconds.
    pub uptime: Option<u64>,
    pub fdb_entries: Option<u64>,
    pub fdb_evictions: Option<u64>,
    pub routers: Vec<Value>,
}

impl Network {
    pub fn summary(&self) -> Summary {
        Summary {
            name: self.name.clone(),
            kind: self.kind,
            up: self.up,
            ports: self.ports.len(),
            protocol: self.stp.protocol.clone(),
            root: self.stp.root.clone(),
            forward: self.forward.clone(),
        }
    }

    pub fn port(&self, name: &str) -> Option<&Port> {
        self.ports.iter().find(|port| port.name == name)
    }
}

/// The bridge's part in the spanning tree; all but the protocol is null while there is none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Stp {
    /// `rstp`, `stp` or `off`.
    pub protocol: String,
    pub priority: Option<u16>,
    /// Priority and address, such as `8000.52:54:00:12:34:56`.
    pub id: Option<String>,
    pub root: Option<String>,
    pub is_root: Option<bool>,
    pub root_port: Option<String>,
    pub root_path_cost: Option<u32>,
    /// In seconds, as configured.
    pub max_age: Option<u32>,
    pub hello: Option<u32>,
    pub forward_delay: Option<u32>,
    /// Whether one is being told; only the kernel says it.
    pub topology_change: Option<bool>,
    /// How many there were; only a switch of ours counts them.
    pub topology_changes: Option<u64>,
}

/// Whom stations reach beside each other.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Forward {
    /// `nat`, `route`, `open` or `isolated`.
    pub mode: String,
    /// The host's, or the router's, with the bits of the network's part.
    pub address: String,
    /// Only of a bridge with nat: the host's ports that TCP and UDP leave by.
    pub ports: Option<String>,
    /// The only interface by which packets leave.
    pub out: Option<String>,
}

/// A port.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Port {
    pub name: String,
    /// `tap`, `interface`, or a kind of our switch's: `packet`, `listen`, `connect`, `vhost-user`, `vhost-user-connect`, `guest`, `router`.
    pub kind: String,
    /// The interface's name, the socket's path, the router's address.
    pub place: Option<String>,
    pub up: bool,
    pub forwarding: bool,
    pub why_down: Option<String>,
    #[serde(default)]
    pub mac: Option<String>,
    pub mtu: Option<u32>,
    pub flags: Vec<String>,
    /// Null where the network does not filter VLANs, and at a port that passes all as they are.
    pub vlans: Option<Vlans>,
    /// Null without a spanning tree.
    pub stp: Option<PortStp>,
    pub counters: Option<Counters>,
    /// Only in `ostler net show`.
    #[serde(default)]
    pub rates: Option<Rates>,
    /// What a tap of a bridge was made with.
    #[serde(default)]
    pub tap: Option<Value>,
    /// Only of a switch of ours, from here on.
    #[serde(default)]
    pub number: Option<u64>,
    #[serde(default)]
    pub temporary: Option<bool>,
    #[serde(default)]
    pub lost: Option<Value>,
    #[serde(default)]
    pub queue_pairs: Option<Value>,
}

/// A port's part in the spanning tree.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PortStp {
    /// `root`, `designated`, `alternate`, `backup` or `disabled`.
    pub role: Option<String>,
    /// `discarding`, `learning` or `forwarding`.
    pub state: String,
    pub path_cost: Option<u32>,
    /// In the back end's own scale.
    pub priority: Option<u16>,
    pub designated_bridge: Option<String>,
    /// Only of a switch of ours, from here on.
    pub edge: Option<bool>,
    pub rapid: Option<bool>,
    pub guarded: Option<bool>,
}

/// What passed a port: received is what came in by it. Of the reasons for drops only those that happened.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Counters {
    pub received: u64,
    pub received_bytes: u64,
    pub dropped: BTreeMap<String, u64>,
    pub sent: u64,
    pub sent_bytes: u64,
    pub egress_dropped: BTreeMap<String, u64>,
    /// Only of a switch of ours, from here on.
    pub forwarded: Option<u64>,
    pub consumed: Option<u64>,
    pub offered: Option<u64>,
    pub originated: Option<u64>,
    pub mirrored: Option<u64>,
    pub moves: Option<u64>,
    pub static_conflicts: Option<u64>,
}

/// How much passed in a second.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Rates {
    /// Frames.
    pub received: f64,
    pub received_bits: f64,
    pub sent: f64,
    pub sent_bits: f64,
}

/// Stations that are known.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Stations {
    /// How many are not listed, because there are too many.
    pub left_out: u64,
    pub stations: Vec<Station>,
}

/// An entry of a forwarding table.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Station {
    pub mac: String,
    /// Null where the network does not filter VLANs.
    pub vlan: Option<u16>,
    pub port: String,
    /// `learned`, `static`, or `own`: an address of the bridge or of a port.
    pub source: String,
    /// Seconds since it was heard.
    pub age: Option<f64>,
}
