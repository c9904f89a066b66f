//! Ports of a network: the cards of guests that are connected to it, as clients see them.

use ostler_libvirt::types::Uuid;
use ostler_libvirt_xml::domain::{Bandwidth, Interface, InterfaceSource, Vlan};
use ostler_libvirt_xml::tree::{Element, write};

use super::Networks;
use super::definition::{Definition, Way};
use super::network::Network;
use crate::uuid;

/// A card of a guest that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// The guest's name.
    pub guest: String,
    /// Its UUID.
    pub guest_uuid: Uuid,
    /// The card.
    pub card: Interface,
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// What identifies it: the same as long as the guest has the card.
    pub uuid: Uuid,
    /// Its limits.
    pub bandwidth: Bandwidth,
    connected: Connected,
    group: Option<String>,
    vlan: Option<Vlan>,
    isolated: bool,
    plug: &'static str,
    bridge: String,
}

impl Networks {
    /// The ports of a network that these cards are at; none of one that does not run.
    pub fn ports(&self, network: &Network, cards: &[Connected]) -> Vec<Port> {
        match network.live() {
            Ok(live) => cards
                .iter()
                .map(|card| Port::new(&live.definition, card))
                .collect(),
            Err(_) => Vec::new(),
        }
    }
}

impl Port {
    /// The port of a card; what its definition leaves open is the group's or the network's.
    fn new(definition: &Definition, connected: &Connected) -> Self {
        let (network, card) = (&definition.network, &connected.card);
        let named = match &card.source {
            InterfaceSource::Network { portgroup, .. } => portgroup.clone(),
            _ => None,
        };
        let mut groups = network.port_groups.iter();
        let found = groups.find(|group| match &named {
            Some(name) => group.name == *name,
            None => group.default,
        });
        let group = found.unwrap_or(&network.port);
        Self {
            uuid: identity(&connected.guest_uuid, card),
            bandwidth: Bandwidth {
                inbound: card.bandwidth.inbound.or(group.bandwidth.inbound),
                outbound: card.bandwidth.outbound.or(group.bandwidth.outbound),
            },
            group: found.map(|group| group.name.clone()),
            vlan: card
                .vlan
                .clone()
                .or(group.vlan.clone())
                .or(network.port.vlan.clone()),
            isolated: card.isolated || group.isolated || network.port.isolated,
            plug: match definition.way {
                Way::Switch(_) | Way::Kernel(_) => "network",
                Way::Bridge(_) | Way::OpenVSwitch(_) => "bridge",
            },
            bridge: definition.bridge().unwrap_or_default().to_owned(),
            connected: connected.clone(),
        }
    }

    /// `<networkport>`.
    pub fn xml(&self) -> String {
        let text = |name: &str, text: &str| Element::new(name).with_text(text);
        let owner = Element::new("owner")
            .with_child(text("name", &self.connected.guest))
            .with_child(text("uuid", &uuid::format(&self.connected.guest_uuid)));
        let mut port = Element::new("networkport")
            .with_child(text("uuid", &uuid::format(&self.uuid)))
            .with_child(owner);
        if let Some(group) = &self.group {
            port = port.with_child(text("group", group));
        }
        let mac = self.connected.card.mac.to_string();
        port = port.with_child(Element::new("mac").with("address", mac));
        if let Some(bandwidth) = bandwidth(&self.bandwidth) {
            port = port.with_child(bandwidth);
        }
        if let Some(vlan) = &self.vlan {
            port = port.with_child(vlan_element(vlan));
        }
        if self.isolated {
            port = port.with_child(Element::new("port").with("isolated", "yes"));
        }
        let plug = Element::new("plug").with("type", self.plug);
        write(&port.with_child(plug.with("bridge", &*self.bridge)))
    }
}

/// The guest's UUID and the card's address, put together (RFC 9562, version 8).
fn identity(guest: &Uuid, card: &Interface) -> Uuid {
    let mut uuid = *guest;
    let mac = card.mac.to_string();
    let octets = mac
        .split(':')
        .filter_map(|octet| u8::from_str_radix(octet, 16).ok());
    for (byte, octet) in uuid[10..].iter_mut().zip(octets) {
        *byte ^= octet;
    }
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

fn bandwidth(bandwidth: &Bandwidth) -> Option<Element> {
    let mut element = Element::new("bandwidth");
    for (name, rate) in [("inbound", bandwidth.inbound), ("outbound", bandwidth.outbound)] {
        let Some(rate) = rate else { continue };
        let mut way = Element::new(name).with("average", rate.average.to_string());
        for (name, number) in [("peak", rate.peak), ("burst", rate.burst)] {
            if let Some(number) = number {
                way.set(name, number.to_string());
            }
        }
        element = element.with_child(way);
    }
    element.elements().next()?;
    Some(element)
}

fn vlan_element(vlan: &Vlan) -> Element {
    let mut element = Element::new("vlan");
    if vlan.trunk {
        element.set("trunk", "yes");
    }
    let native = vlan.native;
    let tag = |tag: u16| {
        let element = Element::new("tag").with("id", tag.to_string());
        match native {
            Some((native, tagged)) if native == tag => {
                element.with("nativeMode", if tagged { "tagged" } else { "untagged" })
            }
            _ => element,
        }
    };
    vlan.tags
        .iter()
        .fold(element, |element, number| element.with_child(tag(*number)))
}
