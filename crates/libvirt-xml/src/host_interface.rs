//! Network interfaces of the host, for clients to look at: `<interface>` as a document of its own. They are only written.

use crate::tree::{Element, write};
use crate::value::Mac;

/// A network interface of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostInterface {
    /// Its name.
    pub name: String,
    /// Its Ethernet address.
    pub mac: Option<Mac>,
    /// The largest IP packet that fits a frame, in bytes.
    pub mtu: u32,
    /// Whether frames pass.
    pub up: bool,
    /// Mbit/s, where it says so.
    pub speed: Option<u32>,
    /// What it is.
    pub kind: InterfaceKind,
}

/// What an interface of the host is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InterfaceKind {
    /// Any that is none of the others.
    Ethernet,
    /// A bridge of the kernel.
    Bridge {
        /// Whether it does STP.
        stp: bool,
        /// Its forward delay in milliseconds.
        delay: u32,
        /// Its ports, by name.
        ports: Vec<String>,
    },
    /// One VLAN of another interface.
    Vlan {
        /// Its number.
        tag: u16,
        /// The other interface.
        on: String,
    },
}

impl HostInterface {
    /// The document.
    pub fn xml(&self) -> String {
        let kind = match &self.kind {
            InterfaceKind::Ethernet => "ethernet",
            InterfaceKind::Bridge { .. } => "bridge",
            InterfaceKind::Vlan { .. } => "vlan",
        };
        let mut interface = Element::new("interface")
            .with("type", kind)
            .with("name", &self.name);
        let is_bridge = matches!(self.kind, InterfaceKind::Bridge { .. });
        if let Some(mac) = self.mac.filter(|_| !is_bridge) {
            interface = interface.with_child(Element::new("mac").with("address", mac.to_string()));
        }
        interface = interface.with_child(Element::new("mtu").with("size", self.mtu.to_string()));
        // The schema has no link of a bridge or VLAN.
        if self.kind == InterfaceKind::Ethernet {
            let mut link = Element::new("link");
            if let Some(speed) = self.speed {
                link.set("speed", speed.to_string());
            }
            interface = interface.with_child(link.with("state", if self.up { "up" } else { "down" }));
        }
        write(&match &self.kind {
            InterfaceKind::Ethernet => interface,
            InterfaceKind::Bridge { stp, delay, ports } => {
                let mut bridge = Element::new("bridge")
                    .with("stp", if *stp { "on" } else { "off" })
                    .with("delay", format!("{}.{:03}", delay / 1000, delay % 1000));
                for port in ports {
                    bridge = bridge.with_child(
                        Element::new("interface")
                            .with("type", "ethernet")
                            .with("name", port),
                    );
                }
                interface.with_child(bridge)
            }
            InterfaceKind::Vlan { tag, on } => {
                let vlan = Element::new("vlan").with("tag", tag.to_string());
                interface.with_child(vlan.with_child(Element::new("interface").with("name", on)))
            }
        })
    }
}
