//! Network cards.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ostler_hostnet::MacvtapMode;
use ostler_libvirt_xml::domain as xml;
use ostler_usernet::{Forward, Transport};
use ostler_vmm::spec::{MacAddress, NetModel};

use super::Lacks;

/// Most ports of the host that lead to a guest.
const MAX_FORWARDS: usize = 64;

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// The name of the device of a guest that runs.
    pub alias: String,
    /// What it is to the guest.
    pub model: NetModel,
    /// Its address.
    pub mac: MacAddress,
    /// Whether its cable is in when it starts.
    pub link: bool,
    /// Queue pairs that its owner wishes for.
    pub queues: Option<u16>,
    /// What it is connected to.
    pub source: CardSource,
}

/// What a card is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CardSource {
    /// NAT in user mode.
    User {
        /// Ports of the host that lead to the guest.
        forwards: Vec<Forward>,
    },
    /// A bridge of the kernel.
    Bridge {
        /// Its name.
        bridge: String,
        /// What the host's interface is to be called.
        target: Option<String>,
    },
    /// A tap.
    Ethernet {
        /// Its name.
        target: Option<String>,
        /// Whether it is there already.
        unmanaged: bool,
    },
    /// A back end of vhost-user.
    VhostUser {
        /// Where it listens, or connects to.
        path: PathBuf,
        /// Whether it connects to us.
        listens: bool,
    },
    /// A macvtap on an interface of the host.
    Direct {
        /// The interface's name.
        over: String,
        /// How it is on it.
        mode: MacvtapMode,
        /// What the macvtap is to be called.
        target: Option<String>,
    },
    /// A network that somebody else connects it to.
    Network(NetworkPort),
}

/// What a card wishes of its network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkPort {
    /// The network's name.
    pub network: String,
    /// The group of its ports; without, its default group.
    pub portgroup: Option<String>,
    /// The VLANs of the card's port; without, those of the group or network.
    pub vlan: Option<xml::Vlan>,
    /// Whether its port is isolated from others that are.
    pub isolated: bool,
    /// Limits of what the card may send and receive; without, those of the group.
    pub bandwidth: xml::Bandwidth,
    /// What the host's interface is to be called, if there is one.
    pub target: Option<String>,
}

impl NetworkPort {
    /// What `card` wishes of `network`.
    pub fn of(card: &xml::Interface, network: &str, portgroup: Option<&str>) -> Self {
        Self {
            network: network.into(),
            portgroup: portgroup.map(str::to_owned),
            vlan: card.vlan.clone(),
            isolated: card.isolated,
            bandwidth: card.bandwidth,
            target: card.target.clone(),
        }
    }
}

pub(super) fn read(devices: &xml::Devices) -> Result<Vec<Card>, Lacks> {
    devices.interfaces.iter().map(card).collect()
}

fn card(card: &xml::Interface) -> Result<Card, Lacks> {
    let lacks = |what: &str| format!("the <interface> '{}' cannot be: {what}", card.mac);
    let at_network = matches!(card.source, xml::InterfaceSource::Network { .. });
    let absent = [
        (card.mtu.is_some(), "the <mtu> is that of the host's interface"),
        (
            card.vlan.is_some() && !at_network,
            "there are no <vlan>s of ports of the kernel's bridge here",
        ),
        (card.isolated && !at_network, "its <port> cannot be isolated"),
        (
            card.bandwidth != xml::Bandwidth::default() && !at_network,
            "its <bandwidth> cannot be limited",
        ),
        (card.openvswitch.is_some(), "it cannot be a port of Open vSwitch"),
    ];
    if let Some((_, what)) = absent.iter().find(|(asked, _)| *asked) {
        return Err(lacks(what));
    }
    if let xml::InterfaceSource::VhostUser { .. } = &card.source
        && card.queues.is_some_and(|queues| queues > 1)
    {
        return Err(lacks("a card with a vhost-user back end has one queue pair"));
    }
    if !card.forwards.is_empty() && card.source != xml::InterfaceSource::User {
        return Err(lacks("a <portForward> belongs to type='user'"));
    }
    let target = card.target.clone();
    let source = match &card.source {
        xml::InterfaceSource::User => CardSource::User {
            forwards: forwards(card).map_err(|what| lacks(&what))?,
        },
        xml::InterfaceSource::Bridge(bridge) => CardSource::Bridge {
            bridge: bridge.clone(),
            target,
        },
        xml::InterfaceSource::Ethernet => CardSource::Ethernet {
            target,
            unmanaged: card.unmanaged,
        },
        xml::InterfaceSource::Network { network, portgroup } => {
            CardSource::Network(NetworkPort::of(card, network, portgroup.as_deref()))
        }
        xml::InterfaceSource::VhostUser { path, server } => CardSource::VhostUser {
            path: path.into(),
            listens: *server,
        },
        xml::InterfaceSource::Direct { dev, mode } => CardSource::Direct {
            over: dev.clone(),
            mode: mode
                .parse()
                .map_err(|why: ostler_hostnet::Error| lacks(&why.to_string()))?,
            target,
        },
    };
    let mac = card.mac.to_string().parse().map_err(|why: String| lacks(&why))?;
    Ok(Card {
        alias: card.common.alias.clone().unwrap_or_default(),
        model: match card.model {
            xml::InterfaceModel::E1000e => NetModel::E1000e,
            xml::InterfaceModel::Virtio => NetModel::Virtio,
        },
        mac,
        link: card.link,
        queues: card.queues,
        source,
    })
}

fn forwards(card: &xml::Interface) -> Result<Vec<Forward>, Lacks> {
    let mut all = Vec::new();
    for range in &card.forwards {
        let address = match &range.address {
            // Only this host reaches a guest, unless its owner wants it otherwise.
            None => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Some(address) => address
                .parse()
                .map_err(|_| format!("'{address}' of a <portForward> is no address"))?,
        };
        let count = range.end - range.start;
        let Some(last) = range.to.checked_add(count).filter(|_| range.to > 0) else {
            return Err("the ports of a <portForward> end at 65535".into());
        };
        for (from, to) in (range.start..=range.end).zip(range.to..=last) {
            if all.len() >= MAX_FORWARDS {
                return Err(format!("more than {MAX_FORWARDS} ports are forwarded"));
            }
            all.push(Forward {
                transport: if range.udp { Transport::Udp } else { Transport::Tcp },
                listen: SocketAddr::new(address, from),
                guest: None,
                port: to,
            });
        }
    }
    Ok(all)
}
