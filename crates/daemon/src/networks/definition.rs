//! From a definition to what is started.

use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::network::{Forward, Network, UpdateError};
use ostler_libvirt_xml::tree::Element;
use ostler_libvirt_xml::{Error as XmlError, Random};
use ostler_switchd::RouterSpec;

use super::kernel::KernelNetwork;
use super::router;

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
    /// A bridge of the kernel's that is made for it, with rules of the firewall.
    Kernel(Box<KernelNetwork>),
    /// A bridge of the kernel's that is there already.
    Bridge(String),
    /// One of Open vSwitch.
    OpenVSwitch(String),
}

impl Way {
    /// What a switch of ours serves: the network's addresses and names.
    pub fn router(&self) -> Option<&RouterSpec> {
        match self {
            Way::Switch(router) => router.as_deref(),
            Way::Kernel(kernel) => kernel.router.as_deref(),
            Way::Bridge(_) | Way::OpenVSwitch(_) => None,
        }
    }

    /// Whether a switch of ours belongs to it.
    pub fn has_switch(&self) -> bool {
        match self {
            Way::Switch(_) => true,
            Way::Kernel(kernel) => kernel.router.is_some(),
            Way::Bridge(_) | Way::OpenVSwitch(_) => false,
        }
    }

    /// Whether its bridge is its own, and not one that is there already.
    pub fn owns_bridge(&self) -> bool {
        matches!(self, Way::Switch(_) | Way::Kernel(_))
    }
}

/// The namespace of an element of ours in `<metadata>`: `<backend kind='bridge'/>`.
pub const NAMESPACE: &str = "urn:ostler:network";

/// Who moves a network's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mover {
    /// A switch of ours, which needs no privilege.
    Switch,
    /// A bridge of the kernel's.
    Bridge,
}

/// Ports of the host that NAT uses where nobody says which.
const ALL_PORTS: (u16, u16) = (1024, 65535);
/// Elements that would change nothing if they were kept, and whose owners wanted something.
const NOT_SERVED: [(&str, &str); 5] = [
    ("route", "there are no routes to other networks"),
    (
        "bandwidth",
        "a network as a whole has no limits; those of a <portgroup> are kept",
    ),
    ("dns/txt", "the name server knows addresses only"),
    ("dns/srv", "the name server knows addresses only"),
    ("forward/nat/address", "packets leave with the host's own address"),
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
        if let Some(router) = way.router() {
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
    let wanted = mover(network)?;
    let kernel = match (&network.forward, wanted) {
        (Forward::Bridge, None) => return bridge(network),
        (Forward::Direct { mode, .. }, _) => return Err(no_mode(mode)),
        (Forward::Bridge, Some(_)) => {
            return Err("the bridge is there already; take <backend> out of <metadata>".into());
        }
        (Forward::Route { .. } | Forward::Open, Some(Mover::Switch)) => {
            return Err("a switch of ours has no forward modes 'route' and 'open'; use kind='bridge'".into());
        }
        (Forward::Route { .. } | Forward::Open, _) => true,
        (Forward::Nat { .. } | Forward::Isolated, wanted) => wanted == Some(Mover::Bridge),
    };
    for (path, why) in NOT_SERVED {
        if has(network.tree(), path) {
            return Err(format!("{why}; take <{}> out", path.replace('/', "><")));
        }
    }
    if kernel {
        return Ok(Way::Kernel(Box::new(KernelNetwork::of(network)?)));
    }
    switch(network)
}

/// A network on a switch of ours.
fn switch(network: &Network) -> Result<Way, String> {
    let on_bridge = format!(
        "; or have it on a bridge of the kernel by <metadata><o:backend xmlns:o='{NAMESPACE}' kind='bridge'/></metadata>"
    );
    let restrict = match &network.forward {
        Forward::Nat { dev: Some(dev), .. } => {
            return Err(format!(
                "packets leave as the host's routes say, not by '{dev}' only; take dev out of <forward>{on_bridge}"
            ));
        }
        Forward::Nat { ports, .. } if *ports != ALL_PORTS => {
            return Err(format!(
                "the ports that packets leave with cannot be chosen; take <port> out of <nat>{on_bridge}"
            ));
        }
        Forward::Nat { .. } => false,
        _ => true,
    };
    if has(network.tree(), "forward/interface") {
        return Err(format!(
            "packets leave as the host's routes say; take <forward><interface> out{on_bridge}"
        ));
    }
    match router::addresses(network)? {
        None if restrict => Ok(Way::Switch(None)),
        None => Err("a network with NAT needs an <ip>".into()),
        Some(addresses) => {
            let router = router::of(network, &addresses, restrict)?;
            Ok(Way::Switch(Some(Box::new(router))))
        }
    }
}

/// Who is to move the frames, if the document says it.
fn mover(network: &Network) -> Result<Option<Mover>, String> {
    let metadata = network.tree().child("metadata");
    let is_ours = |element: &&Element| {
        let (prefix, name) = match element.name.split_once(':') {
            Some((prefix, name)) => (format!("xmlns:{prefix}"), name),
            None => ("xmlns".to_owned(), &*element.name),
        };
        let declared = [Some(*element), metadata, Some(network.tree())];
        let uri = declared
            .into_iter()
            .flatten()
            .find_map(|element| element.get(&prefix));
        name == "backend" && uri == Some(NAMESPACE)
    };
    let mut found = metadata.into_iter().flat_map(Element::elements).filter(is_ours);
    let Some(backend) = found.next() else {
        return Ok(None);
    };
    match backend.get("kind") {
        Some("switch") => Ok(Some(Mover::Switch)),
        Some("bridge") => Ok(Some(Mover::Bridge)),
        other => Err(format!(
            "there is no <backend kind='{}'>; there are switch and bridge",
            other.unwrap_or_default()
        )),
    }
}

fn no_mode(mode: &str) -> String {
    format!(
        "the forward mode '{mode}' is not there; there are nat, route, open, bridge (with a <bridge>), and none for an isolated network"
    )
}

/// A network on a bridge that someone else made.
fn bridge(network: &Network) -> Result<Way, String> {
    let bridge = network.bridge.as_ref().ok_or_else(|| no_mode("bridge"))?;
    if !network.ips.is_empty() {
        return Err("a bridge that is there already has its addresses; take <ip> out".into());
    }
    Ok(match bridge.openvswitch {
        true => Way::OpenVSwitch(bridge.name.clone()),
        false => Way::Bridge(bridge.name.clone()),
    })
}

/// True if there is an element at the end of a path of names.
fn has(element: &Element, path: &str) -> bool {
    match path.split_once('/') {
        Some((first, rest)) => element.all(first).any(|child| has(child, rest)),
        None => element.child(path).is_some(),
    }
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
    fn a_network_of_both_families() {
        let definition = network(&format!(
            "<forward/>{IP}</ip><dns><host ip='fd00:9::9'><hostname>printer</hostname></host></dns>\
             <ip family='ipv6' address='fd00:9::1' prefix='64'><dhcp><range start='fd00:9::100' end='fd00:9::1ff'/>\
             <host id='0:3:0:1:52:54:0:0:0:1' name='web' ip='fd00:9::10'/></dhcp></ip>"
        ));
        let Way::Switch(Some(router)) = definition.unwrap().way else {
            panic!();
        };
        assert_eq!(router.address6.as_deref(), Some("fd00:9::1/64"));
        assert_eq!(router.ranges6, ["fd00:9::100-fd00:9::1ff"]);
        assert_eq!(router.host[0].duid.as_deref(), Some("0:3:0:1:52:54:0:0:0:1"));
        assert_eq!((router.slaac, router.dhcp), (Some(false), Some(false)));
        // Who is given none makes one.
        let definition = network(&format!(
            "{IP}</ip><ip family='ipv6' address='fd00:9::1' prefix='64'/>"
        ));
        let Way::Switch(Some(router)) = definition.unwrap().way else {
            panic!();
        };
        assert_eq!(router.slaac, Some(true));
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
        let ovs = "<forward mode='bridge'/><bridge name='ovs0'/><virtualport type='openvswitch'/>";
        assert_eq!(network(ovs).unwrap().way, Way::OpenVSwitch("ovs0".into()));
    }

    fn kernel(inside: &str) -> KernelNetwork {
        match network(inside).unwrap().way {
            Way::Kernel(kernel) => *kernel,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn route_and_open_are_on_a_bridge_of_the_kernel() {
        let made = kernel(&format!(
            "<forward mode='route' dev='eth0'/><bridge name='br7' delay='4'/><mac address='52:54:00:00:00:07'/>{IP}</ip>"
        ));
        assert_eq!(made.network.name, "br7");
        assert_eq!(made.network.address.to_string(), "10.9.0.1/16");
        assert_eq!(made.network.out.as_deref(), Some("eth0"));
        assert_eq!(
            (made.settings.forward_delay, made.settings.max_age),
            (Some(4), Some(6))
        );
        assert_eq!(made.mac.unwrap().to_string(), "52:54:00:00:00:07");
        assert_eq!(made.router, None, "nobody is given an address");
        let open = kernel(&format!("<forward mode='open'/>{IP}</ip>"));
        assert_eq!(open.settings.forward_delay, None);
        // The others are, if they are asked to be.
        let backend = format!("<metadata><o:backend xmlns:o='{NAMESPACE}' kind='bridge'/></metadata>");
        let dhcp = "<dhcp><range start='10.9.0.2' end='10.9.255.253'/></dhcp>";
        let nat = kernel(&format!(
            "{backend}<forward><nat><port start='2000' end='3000'/></nat></forward>{IP}{dhcp}</ip>"
        ));
        assert_eq!(nat.network.ports.to_string(), "2000-3000");
        let router = nat.router.unwrap();
        assert_eq!(router.address, "10.9.255.254/16");
        assert_eq!(router.gateway, Some([10, 9, 0, 1].into()));
        let isolated = kernel(&format!("{backend}{IP}{dhcp}</ip>")).router.unwrap();
        assert_eq!((isolated.gateway, isolated.restrict), (None, true));
        // Where the ranges leave none, the last address of the highest one is the server's.
        let whole = dhcp.replace("253", "254");
        let whole = kernel(&format!("{backend}{IP}{whole}</ip>")).router.unwrap();
        assert_eq!(whole.address, "10.9.255.254/16");
    }

    #[test]
    fn ipv6_on_a_bridge_of_the_kernel_is_advertised_in_the_hosts_name() {
        let ip6 = "<ip family='ipv6' address='fd00:9::1' prefix='64'><dhcp><range start='fd00:9::ffff:ffff:ffff:f000' \
                   end='fd00:9::ffff:ffff:ffff:ffff'/></dhcp></ip>";
        let mac = "<mac address='52:54:00:00:00:07'/>";
        let made = kernel(&format!("<forward mode='route'/>{mac}{IP}</ip>{ip6}"));
        assert_eq!(made.network.address6.unwrap().to_string(), "fd00:9::1/64");
        let router = made.router.unwrap();
        assert_eq!(router.address6.as_deref(), Some("fd00:9::ffff:ffff:ffff:efff/64"));
        assert_eq!(router.gateway_mac.as_deref(), Some("52:54:00:00:00:07"));
        assert_eq!((router.dhcp, router.slaac), (Some(false), Some(false)));
        let backend = format!("<metadata><o:backend xmlns:o='{NAMESPACE}' kind='bridge'/></metadata>");
        let isolated = kernel(&format!("{backend}{mac}{IP}</ip>{ip6}"));
        assert_eq!(isolated.router.unwrap().gateway_mac, None);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (inside, says) in [
            ("<forward mode='route'/>".into(), "needs an <ip>"),
            (
                format!("<forward mode='route'/>{IP}</ip><ip family='ipv6' address='fd00::1' prefix='64'><dhcp><host name='a' ip='fd00::1'/></dhcp></ip>"),
                "fd00::1 is one that a guest gets",
            ),
            (
                format!("<metadata><o:backend xmlns:o='{NAMESPACE}' kind='switch'/></metadata><forward mode='open'/>{IP}</ip>"),
                "'open'",
            ),
            (
                format!("<metadata><o:backend xmlns:o='{NAMESPACE}' kind='vde'/></metadata>{IP}</ip>"),
                "kind='vde'",
            ),
            (
                format!("<metadata><backend xmlns='{NAMESPACE}' kind='bridge'/></metadata><forward mode='bridge'/><bridge name='br0'/>"),
                "take <backend> out",
            ),
            (
                format!("<forward mode='route'><interface dev='a'/><interface dev='b'/></forward>{IP}</ip>"),
                "one <interface>",
            ),
            (
                "<forward mode='route'/><ip address='10.9.0.1' prefix='30'><dhcp><range start='10.9.0.2' end='10.9.0.2'/></dhcp></ip>".into(),
                "no address is left",
            ),
            (
                "<forward mode='route'/><ip address='10.9.0.1' prefix='24'><dhcp><range start='10.9.0.1' end='10.9.0.9'/></dhcp></ip>".into(),
                "within a range",
            ),
            (
                "<forward mode='bridge'><interface dev='eth0'/></forward>".into(),
                "'bridge'",
            ),
            ("<forward mode='private' dev='eth0'/>".into(), "'private'"),
            (format!("<forward dev='eth0'/>{IP}</ip>"), "'eth0'"),
            ("<forward mode='nat'/>".into(), "needs an <ip>"),
            (
                format!("{IP}</ip><ip address='10.8.0.1' prefix='24'/>"),
                "one <ip> of each family",
            ),
            (
                "<ip family='ipv6' address='fd00::1' prefix='64'/>".into(),
                "an <ip> of IPv4 beside it",
            ),
            (
                format!("{IP}</ip><ip family='ipv6' address='fd00::1' prefix='80'/>"),
                "prefix='64'",
            ),
            (
                format!("{IP}</ip><ip family='ipv6' address='fd00::' prefix='64'/>"),
                "no address of a router",
            ),
            (
                format!(
                    "{IP}</ip><ip family='ipv6' address='fd00::1' prefix='64'><dhcp><host id='0:1' ip='fd00::9'/></dhcp></ip>"
                ),
                "a DUID has",
            ),
            (
                format!("{IP}<dhcp><host id='0:1:2:3' ip='10.9.0.9'/></dhcp></ip>"),
                "belongs to DHCPv6",
            ),
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
            let _ = network(&format!(
                "<forward mode='route'/><ip address='10.0.0.1' prefix='{prefix}'><dhcp><range start='{start}' end='{address}'/></dhcp></ip>"
            ));
            let _ = network(&format!("<ip address='10.0.0.1' prefix='{prefix}'><dhcp><host mac='{address}' ip='{start}'/></dhcp></ip>"));
            let _ = network(&format!(
                "<ip address='10.0.0.1' prefix='24'/><ip family='ipv6' address='fd00::{prefix}' prefix='64'><dhcp><host id='{mode}' ip='fd00::9'/></dhcp></ip>"
            ));
        }
    }
}
