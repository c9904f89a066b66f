//! Calls about network cards.

use std::fs;

use ostler_libvirt::procedures::*;
use ostler_libvirt::types::{
    DomainFlagsArgs, InterfaceAddress, InterfaceAddresses, InterfaceAddressesArgs, InterfaceStats,
    InterfaceStatsArgs, List,
};
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::domain::{Interface, InterfaceSource};
use serde_json::Value;

use super::{Context, Dispatcher, check_flags};
use crate::domains::domain::Live;
use crate::guest::Control;
use crate::networks::Networks;

/// What is not counted.
const UNKNOWN: i64 = -1;
/// Sources of addresses.
const LEASE: u32 = 0;
const ARP: u32 = 2;

pub(super) fn add(to: &mut Dispatcher) {
    to.on::<DomainInterfaceStats>(stats);
    to.on::<DomainInterfaceAddresses>(addresses);
    to.on::<DomainGetHostname>(hostname);
}

/// What went through a card, as its guest sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    /// Bytes that the guest received.
    pub received: u64,
    /// Bytes that it sent.
    pub sent: u64,
}

/// The counters of a guest's devices, by their names.
pub(super) fn counters(control: &Control) -> Vec<(String, Traffic)> {
    let Ok(stats) = control.execute("x-ostler-stats") else {
        return Vec::new();
    };
    let devices = stats["devices"].as_array().map(Vec::as_slice).unwrap_or_default();
    let counter = |device: &Value, name: &str| device["counters"][name].as_u64().unwrap_or(0);
    let traffic = |device: &Value| {
        let name = device["name"].as_str()?.to_owned();
        let traffic = Traffic {
            received: counter(device, "bytes-to-guest"),
            sent: counter(device, "bytes-from-guest"),
        };
        Some((name, traffic))
    };
    devices.iter().filter_map(traffic).collect()
}

/// The cards of a guest that runs: each with the name of the host's interface, if it has one, and what went through it.
pub(super) fn cards(
    live: &Live,
    counters: &[(String, Traffic)],
) -> Vec<(Interface, Option<String>, Traffic)> {
    let card = |card: &Interface| {
        let attached = live.devices.get(card.common.alias.as_deref().unwrap_or_default());
        let traffic = counters
            .iter()
            .find(|(name, _)| attached.is_some_and(|attached| attached.id == *name));
        let port = attached.and_then(|attached| attached.port.clone());
        (
            card.clone(),
            port,
            traffic.map(|(_, traffic)| *traffic).unwrap_or_default(),
        )
    };
    live.definition.devices.interfaces.iter().map(card).collect()
}

fn stats(context: &Context<'_>, args: InterfaceStatsArgs) -> Result<InterfaceStats, RemoteError> {
    let domain = context.domain(&args.domain)?;
    let counters = counters(domain.control()?.as_ref());
    let cards = domain.with_live(|live| cards(live, &counters))?;
    let is_meant = |(card, port, _): &&(Interface, Option<String>, Traffic)| {
        let name = args.device.as_str();
        port.as_deref() == Some(name)
            || card.common.alias.as_deref() == Some(name)
            || card.mac.to_string().eq_ignore_ascii_case(name)
    };
    let (_, _, traffic) = cards.iter().find(is_meant).ok_or_else(|| {
        RemoteError::new(
            Code::InvalidArgument,
            format!("invalid path, '{}' is not a known interface", args.device),
        )
    })?;
    // Frames and errors of both directions are counted together.
    Ok(InterfaceStats {
        rx_bytes: traffic.received as i64,
        rx_packets: UNKNOWN,
        rx_errors: UNKNOWN,
        rx_dropped: UNKNOWN,
        tx_bytes: traffic.sent as i64,
        tx_packets: UNKNOWN,
        tx_errors: UNKNOWN,
        tx_dropped: UNKNOWN,
    })
}

fn addresses(
    context: &Context<'_>,
    args: InterfaceAddressesArgs,
) -> Result<List<InterfaceAddresses, 2048>, RemoteError> {
    check_flags(args.flags, 0)?;
    let domain = context.domain(&args.domain)?;
    let cards = domain.with_live(|live| cards(live, &[]))?;
    let found = match args.source {
        LEASE => leases(&context.shared.networks, &cards),
        ARP => neighbours(&fs::read_to_string("/proc/net/arp").unwrap_or_default(), &cards),
        _ => {
            let why = "there is no agent in the guest to ask; use the source 'arp'";
            return Err(RemoteError::new(Code::ArgumentUnsupported, why));
        }
    };
    Ok(List(found))
}

/// The name that the guest told a network when it asked for an address.
fn hostname(context: &Context<'_>, args: DomainFlagsArgs) -> Result<String, RemoteError> {
    const BY_LEASE: u32 = 1;
    const BY_AGENT: u32 = 2;
    check_flags(args.flags, BY_LEASE | BY_AGENT)?;
    if args.flags != BY_LEASE {
        return Err(super::agent::refusal(context, &args.domain));
    }
    let domain = context.domain(&args.domain)?;
    let cards = domain.with_live(|live| cards(live, &[]))?;
    let networks = &context.shared.networks;
    let name = cards.iter().find_map(|(card, _, _)| {
        let InterfaceSource::Network { network, .. } = &card.source else {
            return None;
        };
        let network = networks.by_name(network).ok()?;
        let leases = networks.leases(&network, Some(&card.mac.to_string())).ok()?;
        leases.into_iter().find_map(|lease| lease.hostname)
    });
    name.ok_or_else(|| {
        let guest = &args.domain.name;
        RemoteError::new(Code::NoHostname, format!("no hostname found for domain {guest}"))
    })
}

/// The cards that networks gave addresses to.
fn leases(networks: &Networks, cards: &[(Interface, Option<String>, Traffic)]) -> Vec<InterfaceAddresses> {
    let found = |(card, port, _): &(Interface, Option<String>, Traffic)| {
        let InterfaceSource::Network { network, .. } = &card.source else {
            return None;
        };
        let mac = card.mac.to_string();
        // A network that was ended since has given none that is good.
        let leases = networks
            .by_name(network)
            .and_then(|network| networks.leases(&network, Some(&mac)));
        let addresses = leases
            .unwrap_or_default()
            .into_iter()
            .map(|lease| InterfaceAddress {
                kind: lease.kind,
                address: lease.address,
                prefix: lease.prefix,
            });
        let addresses: Vec<_> = addresses.take(2048).collect();
        (!addresses.is_empty()).then(|| InterfaceAddresses {
            name: port.clone().or(card.common.alias.clone()).unwrap_or_default(),
            mac: Some(mac),
            addresses: List(addresses),
        })
    };
    cards.iter().filter_map(found).collect()
}

/// The cards that the host's table of neighbours has addresses of.
fn neighbours(table: &str, cards: &[(Interface, Option<String>, Traffic)]) -> Vec<InterfaceAddresses> {
    let entries: Vec<Vec<&str>> = table
        .lines()
        .skip(1)
        .map(|line| line.split_ascii_whitespace().collect())
        .collect();
    let found = |(card, port, _): &(Interface, Option<String>, Traffic)| {
        let mac = card.mac.to_string();
        // Address, type, flags (2: it answered), Ethernet address, mask, interface.
        let is_its =
            |entry: &&Vec<&str>| entry.len() >= 6 && entry[2] != "0x0" && entry[3].eq_ignore_ascii_case(&mac);
        let addresses = entries.iter().filter(is_its).map(|entry| InterfaceAddress {
            kind: 0,
            address: entry[0].into(),
            prefix: 0,
        });
        let addresses: Vec<_> = addresses.take(2048).collect();
        (!addresses.is_empty()).then(|| InterfaceAddresses {
            name: port.clone().or(card.common.alias.clone()).unwrap_or_default(),
            mac: Some(mac),
            addresses: List(addresses),
        })
    };
    cards.iter().filter_map(found).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domains::definition::Definition;

    #[test]
    fn neighbours_that_answered_are_found_by_their_cards() {
        let definition = Definition::read(
            "<domain type='qemu'><name>a</name><memory unit='MiB'>64</memory><devices>\
             <interface type='user'><mac address='52:54:00:00:00:01'/></interface></devices></domain>",
        );
        let card = definition.unwrap().devices.interfaces[0].clone();
        let cards = [(card, Some("vnet3".into()), Traffic::default())];
        let table = "IP address  HW type  Flags  HW address  Mask  Device\n\
                     10.0.0.7  0x1  0x2  52:54:00:00:00:01  *  br0\n\
                     10.0.0.8  0x1  0x0  52:54:00:00:00:01  *  br0\n\
                     10.0.0.9  0x1  0x2  52:54:00:00:00:02  *  br0\nrubbish\n";
        let found = neighbours(table, &cards);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].addresses.0.len()), ("vnet3", 1));
        assert_eq!(found[0].addresses.0[0].address, "10.0.0.7");
        assert!(neighbours("", &cards).is_empty());
    }
}
