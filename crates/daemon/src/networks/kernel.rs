//! Networks of the kernel's: a bridge with the host's address and rules of the firewall; and beside it a switch of ours, at a tap of
//! the bridge, which gives addresses and names.
//!
//! What was made is told from what others made by a file in the network's folder, which is written before the first step.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ostler_hostnet::{
    BackEnd, BridgeSettings, Error as HostError, Forward, Kernel, Mac, Network as HostNetwork, PortSettings,
    Ports, Protocol, Subnet, Subnet6, TapSpec,
};
use ostler_libvirt::types::Uuid;
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::network::{Forward as Wish, Ip, Network};
use ostler_switchd::RouterSpec;

use super::router::{self, Addresses};
use super::storage_failed;
use super::switch::NetworkFiles;
use crate::files::write_durably;

/// Seconds of the spanning tree's forward delay (802.1D-1998, 8.10.2).
const DELAYS: std::ops::RangeInclusive<u32> = 4..=30;
/// Its longest usual age of what it heard, in seconds.
const MAX_AGE: u32 = 20;

/// A network of the kernel's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelNetwork {
    /// The bridge's name, the host's address there, and whom its stations reach.
    pub network: HostNetwork,
    /// The bridge.
    pub settings: BridgeSettings,
    /// The bridge's Ethernet address.
    pub mac: Option<Mac>,
    /// The tap of the switch that gives addresses and names.
    pub tap: String,
    /// What that switch serves; none if the network gives no addresses.
    pub router: Option<Box<RouterSpec>>,
}

impl KernelNetwork {
    /// The network that a document asks for, or what cannot be.
    pub fn of(network: &Network) -> Result<Self, String> {
        let addresses = router::addresses(network)?;
        let addresses = addresses.ok_or("a network on a bridge of the kernel needs an <ip>")?;
        let bridge = network.bridge.as_ref().ok_or("it has no <bridge>")?;
        let subnet = Subnet::new(addresses.v4, addresses.ip.prefix).map_err(|error| error.to_string())?;
        let host = HostNetwork {
            name: bridge.name.clone(),
            forward: forward(&network.forward),
            address: subnet,
            address6: addresses
                .v6
                .map(|(_, address)| Subnet6::new(address).map_err(|error| error.to_string()))
                .transpose()?,
            ports: ports(&network.forward)?,
            out: out(network)?,
        };
        let restrict = network.forward == Wish::Isolated;
        // Guests of IPv6 are told of their network in any case.
        let router = (router::gives(addresses.ip) || addresses.v6.is_some())
            .then(|| serve(network, &addresses, restrict))
            .transpose()?;
        Ok(Self {
            network: host,
            settings: BridgeSettings {
                mtu: network.mtu.map(u32::from),
                vlan_filtering: has_vlans(network).then_some(true),
                ..tree(bridge.stp, bridge.delay)
            },
            mac: bridge.mac.and_then(|mac| mac.to_string().parse().ok()),
            tap: tap_of(&network.uuid.0),
            router: router.map(Box::new),
        })
    }
}

/// Whether ports are to have VLANs. The host's address and the server are in VLAN 1, as all ports are that have none of their own.
fn has_vlans(network: &Network) -> bool {
    let groups = network.port_groups.iter().chain([&network.port]);
    groups.into_iter().any(|group| group.vlan.is_some())
}

/// The tap that belongs to a network alone.
fn tap_of(uuid: &Uuid) -> String {
    let [a, b, c, d, ..] = uuid;
    format!("dhcp-{a:02x}{b:02x}{c:02x}{d:02x}")
}

fn forward(wish: &Wish) -> Forward {
    match wish {
        Wish::Nat { .. } => Forward::Nat,
        Wish::Route { .. } => Forward::Route,
        Wish::Open => Forward::Open,
        _ => Forward::Isolated,
    }
}

fn ports(wish: &Wish) -> Result<Ports, String> {
    match wish {
        Wish::Nat {
            ports: (first, last), ..
        } => format!("{first}-{last}").parse(),
        _ => Ok(Ports::default()),
    }
}

/// The only interface by which packets leave.
fn out(network: &Network) -> Result<Option<String>, String> {
    let dev = match &network.forward {
        Wish::Nat { dev, .. } | Wish::Route { dev } => dev.clone(),
        _ => None,
    };
    let forward = network.tree().child("forward");
    let listed: Vec<&str> = forward
        .into_iter()
        .flat_map(|forward| forward.all("interface"))
        .filter_map(|interface| interface.get("dev"))
        .collect();
    match (dev, &listed[..]) {
        (dev, []) => Ok(dev),
        (None, [one]) => Ok(Some((*one).to_owned())),
        (Some(dev), [one]) if dev == *one => Ok(Some(dev)),
        _ => Err("packets leave by one interface or by any; write one <interface> in <forward>".into()),
    }
}

/// The kernel's spanning tree lets no port forward before twice its delay, so one without a delay is none.
fn tree(stp: bool, delay: u32) -> BridgeSettings {
    match stp && DELAYS.contains(&delay) {
        true => BridgeSettings {
            protocol: Some(Protocol::Stp),
            forward_delay: Some(delay),
            // 802.1D-2004, 17.14.
            max_age: Some(MAX_AGE.min(2 * (delay - 1))),
            ..BridgeSettings::default()
        },
        false => BridgeSettings {
            protocol: Some(Protocol::Off),
            ..BridgeSettings::default()
        },
    }
}

/// The router that serves the network's addresses and names beside the host, which is the gateway.
fn serve(network: &Network, addresses: &Addresses<'_>, restrict: bool) -> Result<RouterSpec, String> {
    let gateway = addresses.v4;
    let given = |(first, last): &(IpAddr, IpAddr)| (*first..=*last).contains(&IpAddr::V4(gateway));
    if addresses.ip.ranges.iter().any(given) {
        return Err(format!(
            "the host's own address {gateway} is within a range; take it out"
        ));
    }
    let own = own_address(network, addresses.ip, gateway)
        .ok_or("no address is left for the DHCP server; leave one out of the ranges")?;
    let mut router = router::of(network, addresses, restrict)?;
    router.address = format!("{own}/{}", addresses.ip.prefix);
    if let Some((ip, address)) = addresses.v6 {
        let own = own_address6(network, ip, address)?;
        router.address6 = Some(format!("{own}/{}", ip.prefix));
        let mac = network.bridge.as_ref().and_then(|bridge| bridge.mac);
        router.gateway_mac = mac.filter(|_| !restrict).map(|mac| mac.to_string());
    }
    // An isolated network has no gateway.
    router.gateway = (!restrict).then_some(gateway);
    router.check()?;
    Ok(router)
}

/// The highest address that nobody is to get; else the end of a range, which guests are not given then.
fn own_address(network: &Network, ip: &Ip, gateway: Ipv4Addr) -> Option<Ipv4Addr> {
    let mask = u32::MAX.checked_shl(32 - u32::from(ip.prefix)).unwrap_or(0);
    let first = u32::from(gateway) & mask;
    let number = |address: &IpAddr| match address {
        IpAddr::V4(address) => Some(u32::from(*address)),
        IpAddr::V6(_) => None,
    };
    let taken: Vec<u32> = ip
        .hosts
        .iter()
        .filter_map(|host| number(&host.ip))
        .chain(
            network
                .dns_hosts
                .iter()
                .filter_map(|(address, _)| number(address)),
        )
        .chain([gateway.into()])
        .collect();
    let ranges: Vec<(u32, u32)> = ip
        .ranges
        .iter()
        .filter_map(|(first, last)| Some((number(first)?, number(last)?)))
        .collect();
    // Not the broadcast address.
    let mut address = (first | !mask) - 1;
    while address > first {
        if let Some((start, _)) = ranges
            .iter()
            .find(|(start, end)| (*start..=*end).contains(&address))
        {
            address = start - 1;
        } else if taken.contains(&address) {
            address -= 1;
        } else {
            return Some(address.into());
        }
    }
    let ends = ranges
        .iter()
        .filter(|(start, end)| start < end)
        .map(|(_, end)| *end);
    let free = ends.filter(|end| !taken.contains(end) && *end < first | !mask);
    free.max().map(Ipv4Addr::from)
}

/// The highest address of IPv6 that nobody is to get.
fn own_address6(network: &Network, ip: &Ip, gateway: Ipv6Addr) -> Result<Ipv6Addr, String> {
    let taken = |address: IpAddr| {
        let in_range = |(first, last): &(IpAddr, IpAddr)| (*first..=*last).contains(&address);
        ip.ranges.iter().any(in_range)
            || ip.hosts.iter().any(|host| host.ip == address)
            || network.dns_hosts.iter().any(|(named, _)| *named == address)
    };
    if taken(gateway.into()) {
        return Err(format!(
            "the host's own address {gateway} is one that a guest gets; take it out"
        ));
    }
    // The last 128 are for anycast (RFC 2526).
    let last = (gateway.to_bits() >> 64 << 64) + u128::from(u64::MAX - 128);
    let ranges = ip.ranges.len() + ip.hosts.len() + network.dns_hosts.len();
    let mut address = last;
    for _ in 0..=ranges + 1 {
        let candidate = Ipv6Addr::from_bits(address);
        if candidate != gateway && !taken(candidate.into()) {
            return Ok(candidate);
        }
        let start = ip.ranges.iter().find_map(|(first, last)| match (first, last) {
            (IpAddr::V6(first), IpAddr::V6(last)) if (*first..=*last).contains(&candidate) => {
                Some(first.to_bits())
            }
            _ => None,
        });
        address = start.unwrap_or(address) - 1;
    }
    Err("no address of IPv6 is left for the DHCP server; leave one out of the ranges".into())
}

/// That the steps of making the network have begun.
fn marker(files: &NetworkFiles) -> PathBuf {
    files.folder.join("bridge")
}

fn failed(error: HostError) -> RemoteError {
    let hint = match &error {
        error if error.is_permission() => "; a network on a bridge of the kernel needs root",
        _ => "",
    };
    RemoteError::network(Code::OperationFailed, format!("{error}{hint}"))
}

/// Makes the bridge with its address, its rules, and the tap of the switch. What was made before a failure is for [`end`].
pub fn make(files: &NetworkFiles, wish: &KernelNetwork) -> Result<(), RemoteError> {
    let mut kernel = Kernel::open().map_err(failed)?;
    let name = &wish.network.name;
    if kernel.bridge(name).is_ok() {
        return Err(failed(HostError::Exists(name.clone())));
    }
    write_durably(&marker(files), name.as_bytes()).map_err(storage_failed)?;
    kernel
        .create_network(&wish.network, &wish.settings)
        .map_err(failed)?;
    complete(&mut kernel, wish).map_err(failed)
}

/// What is made beside the bridge, where it is missing.
fn complete(kernel: &mut Kernel, wish: &KernelNetwork) -> Result<(), HostError> {
    if let Some(mac) = wish.mac {
        kernel.set_bridge_mac(&wish.network.name, mac)?;
    }
    if let Some(address) = wish.network.address6 {
        kernel.give_ipv6(&wish.network.name, address)?;
    }
    if wish.router.is_none() || kernel.taps()?.iter().any(|tap| tap.name == wish.tap) {
        return Ok(());
    }
    let port = PortSettings {
        mtu: wish.settings.mtu,
        ..PortSettings::default()
    };
    kernel.create_tap(&TapSpec {
        name: wish.tap.clone(),
        bridge: Some((wish.network.name.clone(), port)),
        ..TapSpec::default()
    })
}

/// Finds a network that an earlier daemon made; gives it back what it lost of its rules. An error if it is not there, or half.
pub fn find(files: &NetworkFiles, wish: &KernelNetwork) -> Result<(), RemoteError> {
    let mut kernel = Kernel::open().map_err(failed)?;
    let name = &wish.network.name;
    if !marker(files).exists() || kernel.address_of(name).map_err(failed)? != wish.network.address {
        let why = format!("the bridge '{name}' is not the network's");
        return Err(RemoteError::network(Code::OperationFailed, why));
    }
    if !kernel.networks().map_err(failed)?.contains(&wish.network) {
        kernel.set_network(&wish.network).map_err(failed)?;
    }
    complete(&mut kernel, wish).map_err(failed)
}

/// Takes away what [`make`] made, all or a part of it. The ports of guests are left to the host.
pub fn end(files: &NetworkFiles, wish: &KernelNetwork) -> Result<(), RemoteError> {
    if !marker(files).exists() {
        return Ok(());
    }
    let mut kernel = Kernel::open().map_err(failed)?;
    if kernel
        .taps()
        .map_err(failed)?
        .iter()
        .any(|tap| tap.name == wish.tap)
    {
        kernel.delete_tap(&wish.tap).map_err(failed)?;
    }
    let name = &wish.network.name;
    let ended = match kernel.delete_network(name) {
        // Without rules: it was not made to its end, or somebody flushed them.
        Err(HostError::NoNetwork(_)) if kernel.bridge(name).is_ok() => kernel.delete(name),
        Err(HostError::NoNetwork(_)) => Ok(()),
        other => other,
    };
    ended.map_err(failed)?;
    fs::remove_file(marker(files)).map_err(storage_failed)
}
