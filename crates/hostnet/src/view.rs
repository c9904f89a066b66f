//! What bridges look like, whoever makes them. The words are those of our own switch (`docs/switch.md`). How they are written as JSON is for
//! `ostler net`, whose model is that of our switch too; only words and taps are written from here.

use std::fmt;

use serde::Serialize;

use crate::{Error, Mac};

/// Who makes the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Linux.
    Kernel,
    /// Open vSwitch.
    OpenVSwitch,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Kernel => "the kernel's bridge",
            Kind::OpenVSwitch => "Open vSwitch",
        })
    }
}

/// A bridge.
#[derive(Clone, Debug, PartialEq)]
pub struct Bridge {
    /// Its name, which is that of its own interface, too.
    pub name: String,
    /// Who makes it.
    pub kind: Kind,
    /// Its own interface's address.
    pub mac: Option<Mac>,
    /// Bytes of a frame without its Ethernet header.
    pub mtu: Option<u32>,
    /// Whether its own interface is up.
    pub up: bool,
    /// Whether ports have VLANs. `None`: this back end cannot do it here.
    pub vlan_filtering: Option<bool>,
    /// Seconds that a learned station is kept.
    pub ageing: Option<u32>,
    /// The spanning tree.
    pub stp: Stp,
    /// In the order of their numbers.
    pub ports: Vec<Port>,
}

impl Bridge {
    /// The port of that name.
    pub fn port(&self, name: &str) -> Result<&Port, Error> {
        self.ports
            .iter()
            .find(|port| port.name == name)
            .ok_or_else(|| Error::NoPort {
                bridge: self.name.clone(),
                port: name.into(),
            })
    }
}

/// Which protocol keeps loops out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// None.
    #[default]
    Off,
    /// 802.1D-1998.
    Stp,
    /// 802.1D-2004.
    Rstp,
}

/// A bridge's spanning tree. What the back end does not tell, or has no use for while the protocol is off, is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stp {
    /// Which protocol.
    pub protocol: Protocol,
    /// 0 to 65535; the lowest becomes root.
    pub priority: Option<u16>,
    /// Priority and address, such as `8000.52:54:00:12:34:56`.
    pub bridge_id: Option<String>,
    /// The root's.
    pub root_id: Option<String>,
    /// The port that leads to the root.
    pub root_port: Option<String>,
    /// What the way there costs.
    pub root_path_cost: Option<u32>,
    /// In seconds, as configured.
    pub max_age: Option<u32>,
    /// In seconds, as configured.
    pub hello: Option<u32>,
    /// In seconds, as configured.
    pub forward_delay: Option<u32>,
    /// Whether a topology change is being told.
    pub topology_change: Option<bool>,
}

/// A port.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// The interface's name.
    pub name: String,
    /// Whether it is up and has a link.
    pub up: bool,
    /// The interface's address.
    pub mac: Option<Mac>,
    /// Bytes of a frame without its Ethernet header.
    pub mtu: Option<u32>,
    /// In the spanning tree.
    pub role: Option<Role>,
    /// What it does with frames.
    pub state: State,
    /// For the spanning tree.
    pub path_cost: Option<u32>,
    /// For the spanning tree, in the back end's own scale.
    pub priority: Option<u16>,
    /// `None` where the bridge does not filter VLANs.
    pub vlans: Option<PortVlans>,
    /// What it may do.
    pub flags: Vec<Flag>,
    /// If it is a tap.
    pub tap: Option<Tap>,
    /// The bridge that is designated on the port's segment, where the back end tells it.
    pub designated_bridge: Option<String>,
    /// What passed. `None` where neither the kernel nor the back end counts.
    pub counters: Option<PortCounters>,
}

/// What passed a port, seen from the bridge: received is what came in by the port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct PortCounters {
    pub received: u64,
    pub received_bytes: u64,
    pub received_errors: u64,
    pub received_dropped: u64,
    pub sent: u64,
    pub sent_bytes: u64,
    pub sent_errors: u64,
    pub sent_dropped: u64,
}

/// A port's role in the spanning tree (802.1D-2004, 17.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names are the standard's")]
pub enum Role {
    Disabled,
    Root,
    Designated,
    Alternate,
    Backup,
}

/// What a port does with frames (802.1D-2004, 17.3.3). STP's blocking and listening are discarding here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names are the standard's")]
pub enum State {
    Discarding,
    Learning,
    Forwarding,
}

/// What can be switched on and off at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flag {
    /// No frames to or from other isolated ports.
    Isolated,
    /// A BPDU shuts the port.
    BpduGuard,
    /// The port never leads to the root.
    RootGuard,
    /// Stations are learned.
    Learning,
    /// Frames for unknown stations go out.
    Flood,
    /// Frames may leave where they came in.
    Hairpin,
    /// Only stations that are in the forwarding table may send.
    Locked,
}

impl Flag {
    /// All of them.
    pub const ALL: [Flag; 7] = [
        Flag::Isolated,
        Flag::BpduGuard,
        Flag::RootGuard,
        Flag::Learning,
        Flag::Flood,
        Flag::Hairpin,
        Flag::Locked,
    ];
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Flag::Isolated => "isolated",
            Flag::BpduGuard => "bpdu-guard",
            Flag::RootGuard => "root-guard",
            Flag::Learning => "learning",
            Flag::Flood => "flood",
            Flag::Hairpin => "hairpin",
            Flag::Locked => "locked",
        })
    }
}

/// A port's VLANs, in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortVlans {
    /// Where untagged frames belong; without one they are dropped.
    pub pvid: Option<u16>,
    /// Sent with a tag.
    pub tagged: Vec<u16>,
    /// Sent without.
    pub untagged: Vec<u16>,
}

impl PortVlans {
    /// A port of one VLAN, for a station that knows nothing of VLANs.
    pub fn access(vlan: u16) -> Self {
        Self {
            pvid: Some(vlan),
            tagged: Vec::new(),
            untagged: vec![vlan],
        }
    }

    /// A port of many, the native one without a tag.
    pub fn trunk(native: Option<u16>, tagged: impl IntoIterator<Item = u16>) -> Self {
        let mut tagged: Vec<u16> = tagged.into_iter().filter(|v| Some(*v) != native).collect();
        tagged.sort_unstable();
        tagged.dedup();
        Self {
            pvid: native,
            tagged,
            untagged: native.into_iter().collect(),
        }
    }

    /// VLANs are numbered 1 to 4094, and the PVID is one of them.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let all = self.pvid.iter().chain(&self.tagged).chain(&self.untagged);
        for &vlan in all {
            if !(1..=4094).contains(&vlan) {
                return Err(Error::Range {
                    what: "a VLAN",
                    value: vlan.into(),
                    range: "1 to 4094",
                });
            }
        }
        Ok(())
    }
}

/// What a tap was made with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Tap {
    /// The interface's name.
    pub name: String,
    /// Who may open it beside root.
    pub owner: Option<u32>,
    /// Which group may.
    pub group: Option<u32>,
    /// Several queue pairs.
    pub multi_queue: bool,
    /// Frames come with a virtio-net header.
    pub vnet_hdr: bool,
}

/// An entry of the forwarding table.
#[derive(Clone, Debug, PartialEq)]
pub struct Station {
    /// Its address.
    pub mac: Mac,
    /// Its VLAN, where the bridge filters them.
    pub vlan: Option<u16>,
    /// Where it is.
    pub port: String,
    /// How the bridge knows.
    pub source: Source,
    /// Seconds since it was heard.
    pub age: Option<f64>,
}

/// How a bridge knows a station.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// From its frames.
    Learned,
    /// Somebody entered it.
    Static,
    /// It is an address of the bridge or of a port.
    Own,
}

/// Settings of a bridge; `None` leaves a setting as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BridgeSettings {
    /// Which protocol.
    pub protocol: Option<Protocol>,
    /// 0 to 65535, of which 802.1D allows the multiples of 4096.
    pub priority: Option<u16>,
    /// In seconds, 6 to 40.
    pub max_age: Option<u32>,
    /// In seconds, 1 to 10.
    pub hello: Option<u32>,
    /// In seconds, 4 to 30.
    pub forward_delay: Option<u32>,
    /// In seconds, 10 to 1,000,000.
    pub ageing: Option<u32>,
    /// In bytes, 68 to 65,535.
    pub mtu: Option<u32>,
    /// Whether ports have VLANs.
    pub vlan_filtering: Option<bool>,
}

impl BridgeSettings {
    pub(crate) fn check(&self) -> Result<(), Error> {
        within("max age", self.max_age, 6, 40, "6 to 40 s")?;
        within("the hello time", self.hello, 1, 10, "1 to 10 s")?;
        within("the forward delay", self.forward_delay, 4, 30, "4 to 30 s")?;
        within("the ageing time", self.ageing, 10, 1_000_000, "10 to 1,000,000 s")?;
        within("the MTU", self.mtu, 68, 65_535, "68 to 65,535")
    }
}

/// Settings of a port; `None` leaves a setting as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSettings {
    /// In bytes, 68 to 65,535.
    pub mtu: Option<u32>,
    /// 1 to 65,535 at the kernel's bridge, to 200,000,000 at Open vSwitch.
    pub path_cost: Option<u32>,
    /// 0 to 63 at the kernel's bridge; 0 to 240 in steps of 16 at Open vSwitch.
    pub priority: Option<u16>,
    /// What is to be switched on and off.
    pub flags: Vec<(Flag, bool)>,
    /// All of the port's VLANs from now on.
    pub vlans: Option<PortVlans>,
}

impl PortSettings {
    pub(crate) fn check(&self) -> Result<(), Error> {
        within("the MTU", self.mtu, 68, 65_535, "68 to 65,535")?;
        within(
            "the path cost",
            self.path_cost,
            1,
            200_000_000,
            "1 to 200,000,000",
        )?;
        self.vlans.as_ref().map_or(Ok(()), PortVlans::check)
    }
}

fn within(
    what: &'static str,
    value: Option<u32>,
    least: u32,
    most: u32,
    range: &'static str,
) -> Result<(), Error> {
    match value {
        Some(value) if !(least..=most).contains(&value) => Err(Error::Range {
            what,
            value: value.into(),
            range,
        }),
        _ => Ok(()),
    }
}
