//! Networks: `<network>`.

mod update;

use std::net::IpAddr;
use std::sync::LazyLock;

pub use update::{Command, Section, Update, UpdateError};

use crate::Error;
use crate::domain::{Bandwidth, Vlan};
use crate::error::shorten;
use crate::object::{parse, sorted};
use crate::table::{Family, Row, Schema, honoured, kept, refused};
use crate::tree::{Element, write};
use crate::value::{Mac, Random, Uuid, attribute, fill_uuid, is_yes, object_name};

const ROWS: &[Row] = &[
    kept("@connections", "", "of a network that runs"),
    honoured(
        "@ipv6",
        "yes|no",
        "whether guests reach each other by IPv6 without an address of the bridge",
    ),
    kept(
        "@trustGuestRxFilters",
        "yes|no",
        "the host's filters do not follow the guest's",
    ),
    honoured("name", "", ""),
    honoured("uuid", "", "made at random if it is missing"),
    honoured("title", "", "a line for people"),
    honoured("description", "", "a text for people"),
    honoured(
        "metadata",
        "",
        "given back as it came; a `<backend>` of ours in it says who moves the frames",
    )
    .whole(),
    honoured("forward@dev", "", "the host's interface that packets leave by"),
    honoured(
        "forward@mode",
        "nat|route|open|bridge|private|vepa|passthrough",
        "",
    ),
    refused("forward@mode", "hostdev", "devices of the host are not passed on"),
    kept("forward@managed", "", "of devices of the host"),
    honoured("forward/interface@dev", "", "interfaces for `direct` guests"),
    kept("forward/interface@connections", "", "of a network that runs"),
    honoured("forward/nat@ipv6", "yes|no", ""),
    honoured(
        "forward/nat/address@{start,end}",
        "",
        "addresses that packets leave with",
    ),
    honoured("forward/nat/port@{start,end}", "", "ports that they leave with"),
    refused(
        "forward/{address,pf,driver}",
        "",
        "devices of the host are not passed on",
    ),
    honoured("bridge@name", "", "given by the caller if it is missing"),
    kept("bridge@zone", "", "there is no firewalld to tell"),
    honoured("bridge@stp", "on|off", "spanning tree"),
    honoured("bridge@delay", "", "forward delay in seconds"),
    kept("bridge@macTableManager", "kernel|libvirt", ""),
    honoured("mtu@size", "", ""),
    honoured(
        "mac@address",
        "",
        "of the bridge; made at random if it is missing",
    ),
    honoured("domain@name", "", "the DNS domain"),
    honoured("domain@localOnly", "yes|no", "whether it is asked nowhere else"),
    honoured("dns@enable", "yes|no", ""),
    honoured("dns@forwardPlainNames", "yes|no", ""),
    honoured("dns/forwarder@{addr,domain}", "", ""),
    honoured("dns/txt@{name,value}", "", ""),
    honoured(
        "dns/srv@{service,protocol,domain,target,port,priority,weight}",
        "",
        "",
    ),
    honoured("dns/host@ip", "", ""),
    honoured("dns/host/hostname", "", ""),
    honoured(
        "bandwidth/{inbound,outbound}@{average,peak,burst}",
        "",
        "of the bridge",
    ),
    kept("bandwidth/inbound@floor", "", ""),
    kept("bandwidth@classID", "", ""),
    honoured("vlan@trunk", "yes", "of every port"),
    honoured("vlan/tag@{id,nativeMode}", "", ""),
    honoured("port@isolated", "yes|no", ""),
    honoured("ip@{address,netmask,prefix}", "", "of the bridge"),
    honoured("ip@family", "ipv4|ipv6", ""),
    kept("ip@localPtr", "yes|no", ""),
    refused("ip/tftp", "", "there is no TFTP server"),
    honoured("ip/dhcp/range@{start,end}", "", ""),
    honoured("ip/dhcp/{range,host}/lease@{expiry,unit}", "", ""),
    honoured("ip/dhcp/host@{mac,id,name,ip}", "", ""),
    kept(
        "ip/dhcp/bootp@{file,server}",
        "",
        "told to guests only where the DHCP server can",
    ),
    honoured("route@{family,address,netmask,prefix,gateway,metric}", "", ""),
    honoured(
        "virtualport@type",
        "openvswitch",
        "the bridge is one of Open vSwitch",
    ),
    refused("virtualport@type", "", "the host's switches do not speak it"),
    kept("virtualport/parameters", "", "").whole(),
    honoured("portgroup@name", "", ""),
    honoured("portgroup@default", "yes|no", ""),
    kept("portgroup@trustGuestRxFilters", "yes|no", ""),
    honoured("portgroup/virtualport@type", "openvswitch", ""),
    refused(
        "portgroup/virtualport@type",
        "",
        "the host's switches do not speak it",
    ),
    kept("portgroup/virtualport/parameters", "", "").whole(),
    honoured(
        "portgroup/bandwidth/{inbound,outbound}@{average,peak,burst}",
        "",
        "of its ports",
    ),
    kept("portgroup/bandwidth/inbound@floor", "", ""),
    honoured("portgroup/vlan@trunk", "yes", ""),
    honoured("portgroup/vlan/tag@{id,nativeMode}", "", ""),
    honoured("portgroup/port@isolated", "yes|no", ""),
    refused("dnsmasq:options", "", "there is no dnsmasq"),
];

const FAMILY: Family = Family::root("All", ROWS);

pub(crate) static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::new("network", vec![&FAMILY]));

/// A network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    tree: Element,
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// The bridge; none where guests share an interface of the host (`Forward::Direct`).
    pub bridge: Option<Bridge>,
    /// How packets leave it.
    pub forward: Forward,
    /// MTU.
    pub mtu: Option<u16>,
    /// Its addresses.
    pub ips: Vec<Ip>,
    /// The DNS domain, and whether it is asked nowhere else.
    pub domain: Option<(String, bool)>,
    /// Whether there is a DNS server.
    pub dns: bool,
    /// Names that the DNS server knows.
    pub dns_hosts: Vec<(IpAddr, Vec<String>)>,
    /// Groups of ports.
    pub port_groups: Vec<PortGroup>,
    /// What ports without a group are like.
    pub port: PortGroup,
}

/// A network's bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Its name.
    pub name: String,
    /// Its address; none for a bridge that someone else made.
    pub mac: Option<Mac>,
    /// Spanning tree.
    pub stp: bool,
    /// Forward delay in seconds.
    pub delay: u32,
    /// Whether it is one of Open vSwitch.
    pub openvswitch: bool,
}

/// How packets leave a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forward {
    /// Not at all.
    Isolated,
    /// With the host's address.
    Nat {
        /// By this interface only.
        dev: Option<String>,
        /// With these ports.
        ports: (u16, u16),
    },
    /// As they are.
    Route {
        /// By this interface only.
        dev: Option<String>,
    },
    /// As they are, and no firewall rule is made.
    Open,
    /// The bridge is there already.
    Bridge,
    /// Guests share interfaces of the host: `bridge`, `private`, `vepa` or `passthrough`.
    Direct {
        /// How.
        mode: String,
        /// Names of the interfaces.
        devs: Vec<String>,
    },
}

/// An address of the bridge, and who gets one from there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ip {
    /// The address.
    pub address: IpAddr,
    /// Bits of the network's part.
    pub prefix: u8,
    /// Ranges of DHCP.
    pub ranges: Vec<(IpAddr, IpAddr)>,
    /// Guests with an address of their own.
    pub hosts: Vec<DhcpHost>,
}

/// A guest with an address of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhcpHost {
    /// Address of its card.
    pub mac: Option<Mac>,
    /// Its DHCPv6 identifier.
    pub id: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// Its address.
    pub ip: IpAddr,
}

/// What ports are like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortGroup {
    /// Name of the group; empty for ports without one.
    pub name: String,
    /// Whether it is for ports that name none.
    pub default: bool,
    /// VLANs.
    pub vlan: Option<Vlan>,
    /// Limits.
    pub bandwidth: Bandwidth,
    /// Whether they are isolated from each other.
    pub isolated: bool,
}

impl Network {
    /// Reads a definition and fills in what it does not say; `bridge` is the name of a bridge that there is not yet (`virbr0`).
    pub fn define(xml: &str, bridge: &str, random: Random<'_>) -> Result<Self, Error> {
        let mut tree = parse(&SCHEMA, xml)?;
        tree.unset("connections");
        object_name(&tree)?;
        fill_uuid(&mut tree, random)?;
        fill(&mut tree, bridge, random);
        Self::read(sorted(&SCHEMA, tree))
    }

    /// The definition.
    pub fn xml(&self) -> String {
        write(&self.tree)
    }

    /// The definition while `count` cards are connected to the network.
    pub fn live_xml(&self, count: usize) -> String {
        let mut tree = self.tree.clone();
        if count > 0 {
            tree.attributes
                .insert(0, ("connections".into(), count.to_string()));
        }
        write(&tree)
    }

    /// The document as a tree.
    pub fn tree(&self) -> &Element {
        &self.tree
    }

    fn read(tree: Element) -> Result<Self, Error> {
        let mtu = tree
            .child("mtu")
            .map(|mtu| attribute(mtu, "size"))
            .transpose()?
            .flatten();
        let domain = tree
            .child("domain")
            .and_then(|domain| Some((domain.get("name")?.to_owned(), is_yes(domain.get("localOnly")))));
        let mut port = PortGroup::read(&tree)?;
        port.name.clear();
        let dns = tree.child("dns");
        let dns_hosts = dns
            .into_iter()
            .flat_map(|dns| dns.all("host"))
            .map(|host| Ok((ip(host, "ip")?, host.all("hostname").map(Element::text).collect())));
        let network = Self {
            name: object_name(&tree)?,
            uuid: tree
                .child_text("uuid")
                .and_then(|uuid| uuid.parse().ok())
                .unwrap_or(Uuid([0; 16])),
            bridge: tree
                .child("bridge")
                .map(|bridge| Bridge::read(&tree, bridge))
                .transpose()?,
            forward: Forward::read(&tree)?,
            mtu,
            ips: tree.all("ip").map(Ip::read).collect::<Result<_, _>>()?,
            domain,
            dns: dns.and_then(|dns| dns.get("enable")) != Some("no"),
            dns_hosts: dns_hosts.collect::<Result<_, Error>>()?,
            port_groups: tree
                .all("portgroup")
                .map(PortGroup::read)
                .collect::<Result<_, _>>()?,
            port,
            tree,
        };
        if network.port_groups.iter().filter(|group| group.default).count() > 1 {
            return Err(Error::Xml(format!(
                "multiple default <portgroup> elements in network '{}'",
                network.name
            )));
        }
        Ok(network)
    }
}

/// A bridge of its own, where the network has one.
fn fill(tree: &mut Element, bridge: &str, random: Random<'_>) {
    if let Some(forward) = tree.child_mut("forward") {
        forward.set_default("mode", "nat");
        if forward.get("mode") == Some("nat") {
            let nat = forward.child_or_new("nat");
            if nat.child("port").is_none() {
                *nat.child_or_new("port") = Element::new("port").with("start", "1024").with("end", "65535");
            }
        }
    }
    let own = matches!(
        tree.child_get("forward", "mode"),
        None | Some("nat" | "route" | "open")
    );
    if own {
        let element = tree.child_or_new("bridge");
        element.set_default("name", bridge);
        element.set_default("stp", "on");
        element.set_default("delay", "0");
        if tree.child("mac").is_none() {
            tree.child_or_new("mac")
                .set("address", Mac::random(random).to_string());
        }
    }
}

impl Bridge {
    fn read(tree: &Element, bridge: &Element) -> Result<Self, Error> {
        let name = bridge.get("name").unwrap_or_default();
        if !(1..16).contains(&name.len())
            || name.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control())
        {
            return Err(Error::attribute(bridge.line, "bridge", "name", name));
        }
        let mac = tree.child_get("mac", "address").map(|mac| {
            mac.parse()
                .map_err(|()| Error::Xml(format!("Invalid bridge mac address '{}'", shorten(mac))))
        });
        Ok(Self {
            name: name.to_owned(),
            mac: mac.transpose()?,
            stp: bridge.get("stp") != Some("off"),
            delay: attribute(bridge, "delay")?.unwrap_or(0),
            openvswitch: tree.child_get("virtualport", "type") == Some("openvswitch"),
        })
    }
}

impl Forward {
    fn read(tree: &Element) -> Result<Self, Error> {
        let Some(forward) = tree.child("forward") else {
            return Ok(Self::Isolated);
        };
        let dev = forward.get("dev").map(str::to_owned);
        let devs = forward
            .all("interface")
            .filter_map(|interface| interface.get("dev"))
            .map(str::to_owned);
        Ok(match forward.get("mode") {
            Some("route") => Self::Route { dev },
            Some("open") => Self::Open,
            Some("bridge") if tree.child("bridge").is_some() => Self::Bridge,
            Some(mode @ ("bridge" | "private" | "vepa" | "passthrough")) => Self::Direct {
                mode: mode.to_owned(),
                devs: dev.into_iter().chain(devs).collect(),
            },
            _ => {
                let port = forward.at("nat/port");
                let bound = |name| {
                    port.map(|port| attribute(port, name))
                        .transpose()
                        .map(Option::flatten)
                };
                Self::Nat {
                    dev,
                    ports: (bound("start")?.unwrap_or(1024), bound("end")?.unwrap_or(65535)),
                }
            }
        })
    }
}

/// The IP address of an attribute.
fn ip(element: &Element, name: &str) -> Result<IpAddr, Error> {
    let text = element
        .get(name)
        .ok_or_else(|| Error::missing(element.line, &element.name, name))?;
    text.parse()
        .map_err(|_| Error::attribute(element.line, &element.name, name, text))
}

impl Ip {
    fn read(element: &Element) -> Result<Self, Error> {
        let address = ip(element, "address")?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let said = element.get("family").unwrap_or("ipv4");
        if address.is_ipv6() != (said == "ipv6") {
            return Err(Error::Xml(format!(
                "{address} is no address of the family '{said}' (line {})",
                element.line
            )));
        }
        let prefix = match (attribute::<u8>(element, "prefix")?, element.get("netmask")) {
            (Some(prefix), _) => Some(prefix),
            (None, Some(mask)) => match mask.parse::<std::net::Ipv4Addr>() {
                Ok(mask) => Some(u32::from(mask))
                    .filter(|m| m.leading_ones() + m.trailing_zeros() == 32 || *m == u32::MAX)
                    .map(|m| m.leading_ones() as u8),
                Err(_) => None,
            },
            (None, None) => Some(class(&address)),
        };
        let prefix = prefix.filter(|&prefix| prefix <= bits).ok_or_else(|| {
            Error::attribute(
                element.line,
                "ip",
                "netmask",
                element.get("netmask").or(element.get("prefix")).unwrap_or(""),
            )
        })?;
        let dhcp = element.child("dhcp");
        let ranges = dhcp.into_iter().flat_map(|dhcp| dhcp.all("range")).map(|range| {
            let (start, end) = (ip(range, "start")?, ip(range, "end")?);
            let inside = |ip: &IpAddr| network(ip, prefix) == network(&address, prefix);
            if start > end || !inside(&start) || !inside(&end) {
                return Err(Error::Xml(format!(
                    "range {start} - {end} is not within network {address}/{prefix} (line {})",
                    range.line
                )));
            }
            Ok((start, end))
        });
        let hosts = dhcp
            .into_iter()
            .flat_map(|dhcp| dhcp.all("host"))
            .map(DhcpHost::read);
        Ok(Self {
            address,
            prefix,
            ranges: ranges.collect::<Result<_, _>>()?,
            hosts: hosts.collect::<Result<_, _>>()?,
        })
    }
}

/// The bits of the network's part where nobody says them: by the classes of old, as libvirt has it.
fn class(address: &IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) => match address.octets()[0] {
            0..128 => 8,
            128..192 => 16,
            _ => 24,
        },
        IpAddr::V6(_) => 64,
    }
}

/// The network's part of an address, and its kind.
fn network(ip: &IpAddr, prefix: u8) -> (bool, u128) {
    let (bits, value) = match ip {
        IpAddr::V4(ip) => (32, u128::from(u32::from(*ip))),
        IpAddr::V6(ip) => (128, u128::from(*ip)),
    };
    (
        ip.is_ipv4(),
        value.checked_shr(bits - u32::from(prefix)).unwrap_or(0),
    )
}

impl DhcpHost {
    fn read(host: &Element) -> Result<Self, Error> {
        let mac = host.get("mac").map(|mac| {
            mac.parse().map_err(|()| {
                Error::Xml(format!(
                    "Cannot parse MAC address '{}' (line {})",
                    shorten(mac),
                    host.line
                ))
            })
        });
        Ok(Self {
            mac: mac.transpose()?,
            id: host.get("id").map(str::to_owned),
            name: host.get("name").map(str::to_owned),
            ip: ip(host, "ip")?,
        })
    }
}

impl PortGroup {
    fn read(element: &Element) -> Result<Self, Error> {
        Ok(Self {
            name: element.get("name").unwrap_or_default().to_owned(),
            default: is_yes(element.get("default")),
            vlan: element.child("vlan").map(Vlan::read).transpose()?,
            bandwidth: Bandwidth::read(element)?,
            isolated: is_yes(element.child_get("port", "isolated")),
        })
    }
}
