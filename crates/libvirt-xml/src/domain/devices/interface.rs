//! Network cards: `<interface>`.

use super::Common;
use crate::Error;
use crate::error::shorten;
use crate::table::{Family, Row, honoured, kept, refused};
use crate::tree::Element;
use crate::value::{Mac, Random, attribute, is_yes};

const ROWS: &[Row] = &[
    honoured(
        "@type",
        "network|bridge|vhostuser|user|direct|ethernet",
        "what it is connected to",
    ),
    refused(
        "@type",
        "server|client|mcast|udp|internal|hostdev|vdpa|vds|null",
        "there is no such back end",
    ),
    honoured("@managed", "yes|no", ""),
    kept(
        "@trustGuestRxFilters",
        "yes|no",
        "the host's filters do not follow the guest's",
    ),
    honoured("mac@address", "", "made at random with 52:54:00 if it is missing"),
    kept("mac@{type,check}", "", ""),
    honoured(
        "source@{network,portgroup,bridge,path}",
        "",
        "name of the network or bridge, path of the socket",
    ),
    honoured("source@type", "unix", "of a vhost-user socket"),
    honoured("source@dev", "", "the host's interface that a direct one is on"),
    honoured(
        "source@mode",
        "server|client",
        "which end of a vhost-user socket listens",
    ),
    honoured(
        "source@mode",
        "vepa|bridge|private|passthrough",
        "how a direct one works",
    ),
    kept("source@{portid,macTableManager}", "", ""),
    kept("source/reconnect@{enabled,timeout}", "", ""),
    kept("source/{ip,route}", "", "of containers").whole(),
    honoured("virtualport@type", "openvswitch", "a port of Open vSwitch"),
    refused("virtualport@type", "", "the host's switches do not speak it"),
    honoured(
        "virtualport/parameters@{interfaceid,profileid}",
        "",
        "of a port of Open vSwitch",
    ),
    kept("virtualport/parameters", "", "of other ports").whole(),
    kept(
        "backend@{tap,vhost,type,logFile}",
        "",
        "devices of the host have their usual paths",
    ),
    kept("{ip,route}", "", "of containers, and of user networks").whole(),
    honoured(
        "portForward@{proto,address,dev}",
        "",
        "ports of the host that lead to the guest, with `user`",
    ),
    honoured("portForward/range@{start,end,to,exclude}", "", ""),
    refused(
        "{script,downscript}",
        "",
        "programs of a guest's owner are not started",
    ),
    refused("backenddomain", "", "of another hypervisor"),
    honoured(
        "target@dev",
        "",
        "name of the host's interface; `vnet…` is given anew at each start",
    ),
    honoured(
        "target@managed",
        "yes|no",
        "whether the interface is made for the guest",
    ),
    kept("guest", "", "of containers").whole(),
    honoured("model@type", "virtio|virtio-non-transitional|e1000e", ""),
    refused(
        "model@type",
        "",
        "there is no such card; virtio and e1000e are there",
    ),
    kept("driver@name", "qemu|vhost", "vhost-net is used where it can be"),
    refused("driver@name", "", "there is no such back end"),
    honoured("driver@queues", "", "queue pairs"),
    kept(
        "driver@{rx_queue_size,tx_queue_size,txmode,rss,rss_hash_report}",
        "",
        "tuning of virtio",
    ),
    kept("driver/{host,guest}", "", "offloads are negotiated").whole(),
    refused("filterref", "", "there are no filters"),
    kept("tune", "", "").whole(),
    honoured(
        "bandwidth/{inbound,outbound}@{average,peak,burst}",
        "",
        "kibibytes a second, and kibibytes at once",
    ),
    kept("bandwidth/inbound@floor", "", "no bandwidth is kept free"),
    kept("bandwidth@classID", "", "of the host's traffic control"),
    honoured("vlan@trunk", "yes", ""),
    honoured("vlan/tag@id", "", "1 to 4094"),
    honoured("vlan/tag@nativeMode", "tagged|untagged", ""),
    honoured(
        "port@isolated",
        "yes|no",
        "isolated ports do not reach each other",
    ),
    honoured("link@state", "up|down", "whether the cable is in"),
    honoured("mtu@size", "", "of the guest's card and the host's interface"),
    kept("coalesce", "", "").whole(),
    refused("teaming", "", "there is no failover"),
];

pub(crate) const FAMILY: Family = Family::device("devices/interface", ROWS);

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// What all devices have.
    pub common: Common,
    /// Its address.
    pub mac: Mac,
    /// What it is connected to.
    pub source: InterfaceSource,
    /// What the guest sees.
    pub model: InterfaceModel,
    /// Name of the host's interface, if it was given.
    pub target: Option<String>,
    /// Whether the host's interface is there already (`managed='no'`).
    pub unmanaged: bool,
    /// Queue pairs.
    pub queues: Option<u16>,
    /// MTU.
    pub mtu: Option<u16>,
    /// Whether the cable is in.
    pub link: bool,
    /// VLANs of its port.
    pub vlan: Option<Vlan>,
    /// Whether its port is isolated from others that are.
    pub isolated: bool,
    /// Limits of what it may send and receive.
    pub bandwidth: Bandwidth,
    /// The interface of Open vSwitch that its port is, if the bridge is one of Open vSwitch.
    pub openvswitch: Option<String>,
    /// Ports of the host that lead to the guest, with [`InterfaceSource::User`].
    pub forwards: Vec<PortForward>,
}

/// What a card is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InterfaceSource {
    /// A network of libvirt.
    Network {
        /// Its name.
        network: String,
        /// A group of its ports.
        portgroup: Option<String>,
    },
    /// A bridge of the host.
    Bridge(String),
    /// A switch that speaks vhost-user.
    VhostUser {
        /// Path of the socket.
        path: String,
        /// Whether we listen.
        server: bool,
    },
    /// NAT in user mode.
    User,
    /// An interface of the host, shared.
    Direct {
        /// Its name.
        dev: String,
        /// `vepa`, `bridge`, `private` or `passthrough`.
        mode: String,
    },
    /// A tap and no more.
    Ethernet,
}

/// What the guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterfaceModel {
    /// A virtio card.
    Virtio,
    /// Intel's 82574.
    E1000e,
}

/// Ports of the host that lead to ports of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForward {
    /// UDP, or TCP.
    pub udp: bool,
    /// The host's address; all if none is named.
    pub address: Option<String>,
    /// The host's first port.
    pub start: u16,
    /// Its last one.
    pub end: u16,
    /// The guest's first port.
    pub to: u16,
}

/// VLANs of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vlan {
    /// Whether frames keep their tags.
    pub trunk: bool,
    /// Its VLANs.
    pub tags: Vec<u16>,
    /// The VLAN of frames without a tag, and whether it is sent with one.
    pub native: Option<(u16, bool)>,
}

/// Limits of a card.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// What the guest receives.
    pub inbound: Option<Rate>,
    /// What it sends.
    pub outbound: Option<Rate>,
}

/// A limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// KiB a second.
    pub average: u64,
    /// KiB a second in a burst.
    pub peak: Option<u64>,
    /// KiB of a burst.
    pub burst: Option<u64>,
}

/// An address and a model.
pub(crate) fn fill(interface: &mut Element, random: Random<'_>) {
    if interface.child_get("mac", "address").is_none() {
        interface
            .child_or_new("mac")
            .set("address", Mac::random(random).to_string());
    }
    interface.child_or_new("model").set_default("type", "virtio");
    if interface.get("type") == Some("direct") {
        interface.child_or_new("source").set_default("mode", "vepa");
    }
    if let Some(link) = interface.child_mut("link") {
        link.set_default("state", "up");
    }
}

impl Interface {
    pub(crate) fn read(interface: &Element) -> Result<Self, Error> {
        let text = interface.child_get("mac", "address").unwrap_or_default();
        let mac: Mac = text.parse().map_err(|()| {
            Error::Xml(format!(
                "unable to parse mac address '{}' (line {})",
                shorten(text),
                interface.line
            ))
        })?;
        if mac.0[0] & 1 != 0 {
            return Err(Error::Xml(format!(
                "expected unicast mac address, found multicast '{}'",
                shorten(text)
            )));
        }
        let mtu: Option<u16> = interface
            .child("mtu")
            .map(|mtu| attribute(mtu, "size"))
            .transpose()?
            .flatten();
        let queues = interface
            .child("driver")
            .map(|driver| attribute(driver, "queues"))
            .transpose()?
            .flatten();
        let port = interface
            .child("virtualport")
            .filter(|port| port.get("type") == Some("openvswitch"));
        Ok(Self {
            common: Common::read(interface)?,
            mac,
            source: InterfaceSource::read(interface)?,
            model: match interface.child_get("model", "type") {
                Some("e1000e") => InterfaceModel::E1000e,
                _ => InterfaceModel::Virtio,
            },
            target: interface.child("target").and_then(target).transpose()?,
            unmanaged: interface.child_get("target", "managed") == Some("no"),
            queues,
            mtu,
            link: interface.child_get("link", "state") != Some("down"),
            vlan: interface.child("vlan").map(Vlan::read).transpose()?,
            isolated: is_yes(interface.child_get("port", "isolated")),
            bandwidth: Bandwidth::read(interface)?,
            openvswitch: port.map(|port| {
                port.child_get("parameters", "interfaceid")
                    .unwrap_or_default()
                    .to_owned()
            }),
            forwards: forwards(interface)?,
        })
    }
}

fn forwards(interface: &Element) -> Result<Vec<PortForward>, Error> {
    let mut all = Vec::new();
    for forward in interface.all("portForward") {
        let udp = match forward.get("proto") {
            Some("udp") => true,
            Some("tcp") => false,
            other => {
                let value = other.unwrap_or_default();
                return Err(Error::attribute(forward.line, "portForward", "proto", value));
            }
        };
        for range in forward.all("range") {
            let start: u16 = attribute(range, "start")?
                .filter(|&port| port > 0)
                .ok_or_else(|| Error::missing(range.line, "range", "start"))?;
            if range.get("exclude").is_some() {
                return Err(Error::Unsupported(format!(
                    "forwarded ports cannot be excluded: name the ranges without them (line {})",
                    range.line
                )));
            }
            all.push(PortForward {
                udp,
                address: forward.get("address").map(str::to_owned),
                start,
                end: attribute(range, "end")?
                    .filter(|&end| end >= start)
                    .unwrap_or(start),
                to: attribute(range, "to")?.unwrap_or(start),
            });
        }
    }
    Ok(all)
}

/// A name that the kernel takes.
fn target(target: &Element) -> Option<Result<String, Error>> {
    let name = target.get("dev")?;
    let good = (1..16).contains(&name.len())
        && !name.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control());
    Some(if good {
        Ok(name.to_owned())
    } else {
        Err(Error::attribute(target.line, "target", "dev", name))
    })
}

impl InterfaceSource {
    fn read(interface: &Element) -> Result<Self, Error> {
        let source = interface.child("source");
        let part = |name: &str| {
            source
                .and_then(|s| s.get(name))
                .filter(|v| !v.is_empty())
                .map(str::to_owned)
        };
        let kind = interface.get("type").unwrap_or("ethernet");
        let needed = |name: &str| {
            part(name).ok_or_else(|| {
                Error::Xml(format!(
                    "No <source> '{name}' attribute specified with <interface type='{kind}'/> (line {})",
                    interface.line
                ))
            })
        };
        Ok(match kind {
            "network" => Self::Network {
                network: needed("network")?,
                portgroup: part("portgroup"),
            },
            "bridge" => Self::Bridge(needed("bridge")?),
            "vhostuser" => Self::VhostUser {
                path: needed("path")?,
                server: needed("mode")? == "server",
            },
            "user" => Self::User,
            "direct" => Self::Direct {
                dev: needed("dev")?,
                mode: part("mode").unwrap_or_else(|| "vepa".into()),
            },
            _ => Self::Ethernet,
        })
    }
}

impl Vlan {
    pub(crate) fn read(vlan: &Element) -> Result<Self, Error> {
        let mut tags = Vec::new();
        let mut native = None;
        for tag in vlan.all("tag") {
            let id = attribute(tag, "id")?.filter(|id| (1..4095).contains(id));
            let id =
                id.ok_or_else(|| Error::attribute(tag.line, "tag", "id", tag.get("id").unwrap_or("")))?;
            tags.push(id);
            if let Some(mode) = tag.get("nativeMode") {
                native = Some((id, mode == "tagged"));
            }
        }
        if tags.is_empty() {
            return Err(Error::Xml(format!(
                "missing tag id - each <vlan> must have at least one <tag id='n'/> subelement (line {})",
                vlan.line
            )));
        }
        let trunk = is_yes(vlan.get("trunk")) || tags.len() > 1 || native.is_some();
        Ok(Self { trunk, tags, native })
    }
}

impl Bandwidth {
    pub(crate) fn read(owner: &Element) -> Result<Self, Error> {
        let rate = |name: &str| -> Result<Option<Rate>, Error> {
            let Some(rate) = owner
                .child("bandwidth")
                .and_then(|bandwidth| bandwidth.child(name))
            else {
                return Ok(None);
            };
            let Some(average) = attribute(rate, "average")? else {
                return Ok(None);
            };
            Ok(Some(Rate {
                average,
                peak: attribute(rate, "peak")?,
                burst: attribute(rate, "burst")?,
            }))
        };
        Ok(Self {
            inbound: rate("inbound")?,
            outbound: rate("outbound")?,
        })
    }
}
