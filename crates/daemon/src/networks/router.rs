//! From a network's addresses to the router that serves them: DHCP of both families, names, and whom guests reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ostler_libvirt_xml::network::{DhcpHost, Ip, Network};
use ostler_libvirt_xml::tree::Element;
use ostler_switchd::{HostSpec, NameSpec, RouterSpec};

/// Bits of the network's part of IPv6: guests make their addresses by themselves in no other network (RFC 4862, 5.5.3).
const PREFIX6: u8 = 64;

/// The addresses of a network: one of IPv4, and perhaps one of IPv6.
pub struct Addresses<'a> {
    /// The first, with what is given of its network.
    pub ip: &'a Ip,
    /// The first.
    pub v4: Ipv4Addr,
    /// The second.
    pub v6: Option<(&'a Ip, Ipv6Addr)>,
}

/// The addresses of a network, if it has any.
pub fn addresses(network: &Network) -> Result<Option<Addresses<'_>>, String> {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for ip in &network.ips {
        match ip.address {
            IpAddr::V4(address) => v4.push((ip, address)),
            IpAddr::V6(address) => v6.push((ip, address)),
        }
    }
    if let Some((ip, address)) = v6.iter().find(|(ip, _)| ip.prefix != PREFIX6) {
        let prefix = ip.prefix;
        return Err(format!(
            "{address}/{prefix} cannot be served; a network of IPv6 has prefix='{PREFIX6}'"
        ));
    }
    match (&v4[..], &v6[..]) {
        ([], []) => Ok(None),
        ([], _) => Err("a network of IPv6 alone cannot be served; write an <ip> of IPv4 beside it".into()),
        ([(ip, address)], [] | [_]) => Ok(Some(Addresses {
            ip,
            v4: *address,
            v6: v6.first().copied(),
        })),
        _ => Err("a network has one <ip> of each family".into()),
    }
}

/// The router of a network; `restrict`ed it leads nowhere.
pub fn of(network: &Network, addresses: &Addresses<'_>, restrict: bool) -> Result<RouterSpec, String> {
    let Addresses { ip, v4, v6 } = addresses;
    let name = |(address, names): &(IpAddr, Vec<String>)| NameSpec {
        address: *address,
        names: names.clone(),
    };
    let ip6 = v6.map(|(ip, _)| ip);
    let hosts = ip.hosts.iter().chain(ip6.iter().flat_map(|ip| &ip.hosts));
    Ok(RouterSpec {
        address: format!("{v4}/{}", ip.prefix),
        address6: v6.map(|(_, address)| format!("{address}/{PREFIX6}")),
        dhcp: Some(gives(ip)),
        // As in libvirt's networks: who gets an address makes none.
        slaac: ip6.map(|ip| !gives(ip)),
        lease: lease(network.tree())?,
        domain: network.domain.as_ref().map(|(domain, _)| domain.clone()),
        dns: Some(dns(network, restrict)?),
        restrict,
        // What listens on the host's loopback only is not for guests.
        loopback: Some(false),
        ranges: ranges(ip),
        ranges6: ip6.map(ranges).unwrap_or_default(),
        host: hosts.map(host).collect::<Result<_, _>>()?,
        name: network.dns_hosts.iter().map(name).collect(),
        ..RouterSpec::default()
    })
}

/// True if guests are given addresses.
pub fn gives(ip: &Ip) -> bool {
    !ip.ranges.is_empty() || !ip.hosts.is_empty()
}

fn ranges(ip: &Ip) -> Vec<String> {
    let range = |(first, last): &(IpAddr, IpAddr)| format!("{first}-{last}");
    ip.ranges.iter().map(range).collect()
}

fn host(host: &DhcpHost) -> Result<HostSpec, String> {
    if host.id.is_some() && host.ip.is_ipv4() {
        return Err(format!(
            "{} is reserved by an id, which belongs to DHCPv6; write mac",
            host.ip
        ));
    }
    Ok(HostSpec {
        mac: host.mac.map(|mac| mac.to_string()),
        duid: host.id.clone(),
        name: host.name.clone(),
        address: host.ip,
    })
}

/// Whom the router asks for names.
fn dns(network: &Network, restrict: bool) -> Result<String, String> {
    let forwarder = network.tree().at("dns/forwarder");
    Ok(match (network.dns, forwarder) {
        (false, _) => "off".into(),
        (true, _) if restrict => "own".into(),
        (true, Some(forwarder)) if forwarder.get("domain").is_none() => {
            forwarder.get("addr").unwrap_or("host").into()
        }
        (true, Some(_)) => return Err("names of one domain cannot be asked of another server".into()),
        (true, None) => "host".into(),
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
