//! From a definition to what is started.

use std::net::IpAddr;

use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::network::{DhcpHost, Forward, Ip, Network, UpdateError};
use ostler_libvirt_xml::tree::Element;
use ostler_libvirt_xml::{Error as XmlError, Random};
use ostler_switchd::{HostSpec, NameSpec, RouterSpec};

/// A network that can be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// What its document says.
    pub network: Network,
    /// What it is made of.
    pub way: Way,
}

/// What a network is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// A switch of ours, with a router if the network has an address.
    Switch(Option<Box<RouterSpec>>),
    /// A bridge of the host that is there already.
    Bridge(String),
}

/// Ports of the host that NAT uses where nobody says which.
const ALL_PORTS: (u16, u16) = (1024, 65535);
/// Elements that would change nothing if they were kept, and whose owners wanted something.
const NOT_SERVED: [(&str, &str); 6] = [
    ("route", "there are no routes to other networks"),
    (
        "bandwidth",
        "a network as a whole has no limits; those of a <portgroup> are kept",
    ),
    ("dns/txt", "the name server knows addresses only"),
    ("dns/srv", "the name server knows addresses only"),
    ("forward/nat/address", "packets leave with the host's own address"),
    ("forward/interface", "packets leave as the host's routes say"),
];

/// Fills `bytes` with random bits. The host refuses this at no time after its start.
fn fill(bytes: &mut [u8]) -> Result<(), rustix::io::Errno> {
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Calls `make` with random bits.
pub fn with_random<T>(make: impl FnOnce(Random<'_>) -> Result<T, RemoteError>) -> Result<T, RemoteError> {
    let mut failed = None;
    let made = make(&mut |bytes: &mut [u8]| failed = fill(bytes).err().or(failed));
    match failed {
        Some(error) => Err(RemoteError::network(
            Code::System,
            format!("no random bits: {error}"),
        )),
        None => made,
    }
}

/// An error of a document as clients are told.
pub fn xml_error(error: XmlError) -> RemoteError {
    match error {
        XmlError::Xml(why) => RemoteError::network(Code::Xml, why),
        XmlError::Unsupported(why) => RemoteError::network(Code::ConfigUnsupported, why),
        other => RemoteError::network(Code::Xml, other.to_string()),
    }
}

/// An error of a change as clients are told.
pub fn update_error(error: UpdateError) -> RemoteError {
    match error {
        UpdateError::Xml(error) => xml_error(error),
        UpdateError::Invalid(why) => RemoteError::network(Code::OperationInvalid, why),
        UpdateError::Unsupported(why) => RemoteError::network(Code::OperationUnsupported, why),
    }
}

impl Definition {
    /// Reads a document; `bridge` is the name of a bridge that it does not name.
    pub fn read(xml: &str, bridge: &str) -> Result<Self, RemoteError> {
        let network = with_random(|random| Network::define(xml, bridge, random).map_err(xml_error))?;
        Self::of(network)
    }

    /// What a network is made of; or what it asks for that it cannot have.
    pub fn of(network: Network) -> Result<Self, RemoteError> {
        let unsupported = |why: String| {
            let why = format!("network '{}': {why}", network.name);
            RemoteError::network(Code::ConfigUnsupported, why)
        };
        let way = way(&network).map_err(unsupported)?;
        if let Way::Switch(Some(router)) = &way {
            router.check().map_err(unsupported)?;
        }
        Ok(Self { network, way })
    }

    /// The bridge's name that clients are told.
    pub fn bridge(&self) -> Option<&str> {
        self.network.bridge.as_ref().map(|bridge| bridge.name.as_str())
    }
}

fn way(network: &Network) -> Result<Way, String> {
    let restrict = match &network.forward {
        Forward::Nat { dev: Some(dev), .. } => {
            return Err(format!(
                "packets leave as the host's routes say, not by '{dev}' only; take dev out of <forward>"
            ));
        }
        Forward::Nat { ports, .. } if *ports != ALL_PORTS => {
            return Err(
                "the ports that packets leave with cannot be chosen; take <port> out of <nat>".into(),
            );
        }
        Forward::Nat { .. } => false,
        Forward::Isolated => true,
        Forward::Bridge => return bridge(network),
        Forward::Route { .. } => return Err(no_mode("route")),
        Forward::Open => return Err(no_mode("open")),
        Forward::Direct { mode, .. } => return Err(no_mode(mode)),
    };
    for (path, why) in NOT_SERVED {
        if has(network.tree(), path) {
            return Err(format!("{why}; take <{}> out", path.replace('/', "><")));
        }
    }
    let ip = match &network.ips[..] {
        [] if restrict => return Ok(Way::Switch(None)),
        [] => return Err("a network with NAT needs an <ip>".into()),
        [ip] => ip,
        _ => return Err("a network has one <ip>".into()),
    };
    router(network, ip, restrict).map(|router| Way::Switch(Some(Box::new(router))))
}

fn no_mode(mode: &str) -> String {
    format!(
        "the forward mode '{mode}' is not there; there are nat, bridge (with a <bridge>), and none for an isolated network"
    )
}

/// A network on a bridge that someone else made.
fn bridge(network: &Network) -> Result<Way, String> {
    let bridge = network.bridge.as_ref().ok_or_else(|| no_mode("bridge"))?;
    if bridge.openvswitch {
        return Err("the bridge has to be one of the kernel, not of Open vSwitch".into());
    }
    if !network.ips.is_empty() {
        return Err("a bridge that is there already has its addresses; take <ip> out".into());
    }
    Ok(Way::Bridge(bridge.name.clone()))
}

/// True if there is an element at the end of a path of names.
fn has(element: &Element, path: &str) -> bool {
    match path.split_once('/') {
        Some((first, rest)) => element.all(first).any(|child| has(child, rest)),
        None => element.child(path).is_some(),
    }
}

fn router(network: &Network, ip: &Ip, restrict: bool) -> Result<RouterSpec, String> {
    let v4 = |address: IpAddr| match address {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(address) => Err(format!("{address} is an address of IPv6, which is not served")),
    };
    let host = |host: &DhcpHost| -> Result<HostSpec, String> {
        if host.id.is_some() {
            return Err(String::from(
                "reservations by id belong to DHCPv6, which is not served",
            ));
        }
        Ok(HostSpec {
            mac: host.mac.map(|mac| mac.to_string()),
            duid: None,
            name: host.name.clone(),
            address: v4(host.ip)?.into(),
        })
    };
    let name = |(address, names): &(IpAddr, Vec<String>)| -> Result<NameSpec, String> {
        Ok(NameSpec {
            address: *address,
            names: names.clone(),
        })
    };
    let forwarder = network.tree().at("dns/forwarder");
    let dns = match (network.dns, forwarder) {
        (false, _) => "off".to_owned(),
        (true, _) if restrict => "own".to_owned(),
        (true, Some(forwarder)) if forwarder.get("domain").is_none() => {
            forwarder.get("addr").unwrap_or("host").to_owned()
        }
        (true, Some(_)) => return Err("names of one domain cannot be asked of another server".into()),
        (true, None) => "host".to_owned(),
    };
    Ok(RouterSpec {
        address: format!("{}/{}", v4(ip.address)?, ip.prefix),
        dhcp: Some(!ip.ranges.is_empty() || !ip.hosts.is_empty()),
        lease: lease(network.tree())?,
        domain: network.domain.as_ref().map(|(domain, _)| domain.clone()),
        dns: Some(dns),
        restrict,
        // What listens on the host's loopback only is not for guests.
        loopback: Some(false),
        ranges: ip
            .ranges
            .iter()
            .map(|(first, last)| format!("{first}-{last}"))
            .collect(),
        host: ip.hosts.iter().map(host).collect::<Result<_, _>>()?,
        name: network.dns_hosts.iter().map(name).collect::<Result<_, _>>()?,
        ..RouterSpec::default()
    })
}

/// Seconds of the first `<lease>` of a range, if there is one.
fn lease(tree: &Element) -> Result<Option<u32>, String> {
    let ranges = tree.all("ip").filter_map(|ip| ip.child("dhcp"));
    let mut leases = ranges
        .flat_map(|dhcp| dhcp.all("range"))
        .filter_map(|range| range.child("lease"));
    let Some(lease) = leases.next() else {
        return Ok(None);
    };
    let text = lease.get("expiry").unwrap_or("60");
    let factor = match lease.get("unit") {
        Some("seconds") => 1,
        None | Some("minutes") => 60,
        Some("hours") => 3600,
        Some(unit) => return Err(format!("a lease has no unit '{unit}'")),
    };
    let seconds = text
        .parse::<u32>()
        .ok()
        .and_then(|number| number.checked_mul(factor));
    seconds
        .map(Some)
        .ok_or_else(|| format!("a lease cannot last '{text}'"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(inside: &str) -> Result<Definition, RemoteError> {
        Definition::read(&format!("<network><name>n</name>{inside}</network>"), "virbr3")
    }

    const IP: &str = "<ip address='10.9.0.1' netmask='255.255.0.0'>";

    #[test]
    fn a_network_with_nat_is_a_switch_with_a_router() {
        let definition = network(&format!(
            "<forward/><domain name='lan'/><dns><host ip='10.9.0.9'><hostname>printer</hostname></host></dns>\
             {IP}<dhcp><range start='10.9.0.2' end='10.9.0.99'><lease expiry='2' unit='hours'/></range>\
             <host mac='52:54:00:00:00:01' name='web' ip='10.9.1.1'/></dhcp></ip>"
        ))
        .unwrap();
        let Way::Switch(Some(router)) = &definition.way else {
            panic!("{definition:?}");
        };
        assert_eq!(
            (router.address.as_str(), router.dns.as_deref()),
            ("10.9.0.1/16", Some("host"))
        );
        assert_eq!(router.ranges, ["10.9.0.2-10.9.0.99"]);
        assert_eq!(router.host[0].mac.as_deref(), Some("52:54:00:00:00:01"));
        assert_eq!(router.name[0].names, ["printer"]);
        assert_eq!(
            (router.lease, router.restrict, router.loopback),
            (Some(7200), false, Some(false))
        );
        assert_eq!(definition.bridge(), Some("virbr3"));
    }

    #[test]
    fn isolated_and_bridged_networks() {
        let Way::Switch(Some(router)) = network(&format!("{IP}</ip>")).unwrap().way else {
            panic!();
        };
        assert!(router.restrict);
        assert_eq!((router.dhcp, router.dns.as_deref()), (Some(false), Some("own")));
        assert_eq!(network("").unwrap().way, Way::Switch(None));
        let bridged = network("<forward mode='bridge'/><bridge name='br0'/>").unwrap();
        assert_eq!(bridged.way, Way::Bridge("br0".into()));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (inside, says) in [
            (format!("<forward mode='route'/>{IP}</ip>"), "'route'"),
            (format!("<forward mode='open'/>{IP}</ip>"), "'open'"),
            (
                "<forward mode='bridge'><interface dev='eth0'/></forward>".into(),
                "'bridge'",
            ),
            ("<forward mode='private' dev='eth0'/>".into(), "'private'"),
            (format!("<forward dev='eth0'/>{IP}</ip>"), "'eth0'"),
            ("<forward mode='nat'/>".into(), "needs an <ip>"),
            (
                format!("{IP}</ip><ip address='10.8.0.1' prefix='24'/>"),
                "one <ip>",
            ),
            ("<ip family='ipv6' address='fd00::1' prefix='64'/>".into(), "IPv6"),
            (
                format!("<dns><txt name='a' value='b'/></dns>{IP}</ip>"),
                "<dns><txt>",
            ),
            (
                format!("<bandwidth><inbound average='1'/></bandwidth>{IP}</ip>"),
                "<bandwidth>",
            ),
            (
                "<ip address='10.9.0.255' prefix='24'/>".into(),
                "no address of a router",
            ),
            (
                "<forward mode='bridge'/><bridge name='br0'/><ip address='10.9.0.1' prefix='24'/>".into(),
                "take <ip> out",
            ),
        ] {
            let error = network(&inside).unwrap_err();
            assert!(error.detail.contains(says), "{inside}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_document_is_a_network_or_an_error(address in "[0-9.]{0,16}", prefix in 0u8..40, start in "[0-9.]{0,16}", mode in "[a-z]{0,6}") {
            let _ = network(&format!(
                "<forward mode='{mode}'/><ip address='{address}' prefix='{prefix}'><dhcp><range start='{start}' end='{start}'/></dhcp></ip>"
            ));
            let _ = network(&format!("<ip address='10.0.0.1' prefix='{prefix}'><dhcp><host mac='{address}' ip='{start}'/></dhcp></ip>"));
        }
    }
}
