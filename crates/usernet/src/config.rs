//! What a user-mode network is asked to be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::guests::{Host, Host6, Plan};
use crate::neighbours::link_local;
use crate::wire::Mac;

/// The gateway of a network for one guest, which has 256 addresses; a guest reaches the host's loopback by it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// Its name server.
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// The first address that is given to guests there.
pub const FIRST_GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const LAST_GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 254);
/// The gateway, the name server and the reserved address of IPv6 there. The prefix is a unique local one (RFC 4193), not the site-local
/// fec0::/64 that is usual for such networks: those are no longer to be used (RFC 3879).
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0, 2, 0, 0, 0, 2);
/// Its name server's.
pub const DNS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0, 2, 0, 0, 0, 3);
/// The first one that is given to guests there.
pub const FIRST_GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0, 2, 0, 0, 0, 0x15);
const LAST_GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0, 2, 0, 0, 0, 0xffff);
/// The Ethernet address of gateway and name server there.
pub const OUR_MAC: Mac = [0x52, 0x55, 0x0a, 0x00, 0x02, 0x02];
/// Bits of its network's part.
const PREFIX: u8 = 24;
/// Its domain.
const DOMAIN: &str = "ostler";
/// Seconds that a lease lasts there.
const LEASE: u32 = 86_400;

/// Ports that can be forwarded at most.
pub const MAX_FORWARDS: usize = 64;
/// Seconds that a lease lasts at least and at most.
const LEASES: std::ops::RangeInclusive<u32> = 60..=31_536_000;

/// The addresses of a network: the gateway's, and how many bits of it all have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The gateway.
    pub gateway: Ipv4Addr,
    /// Bits of the network's part.
    pub prefix: u8,
}

impl Subnet {
    /// The mask.
    pub fn mask(&self) -> Ipv4Addr {
        let bits = u32::from(self.prefix.min(32));
        Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - bits).unwrap_or(0))
    }

    /// True if `address` belongs to the network.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address & self.mask() == self.gateway & self.mask()
    }

    /// True if `address` is one that a guest may have: inside, neither the network's own, nor all of it, nor the gateway.
    pub fn is_guest(&self, address: Ipv4Addr) -> bool {
        let host = address & !self.mask();
        let whole = host == !self.mask() || host == Ipv4Addr::UNSPECIFIED;
        self.contains(address) && !whole && address != self.gateway
    }
}

/// Which part of DHCPv6 there is, as advertisements of the router say (RFC 4861, 4.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dhcp6 {
    /// Addresses and all else: the flags M and O.
    #[default]
    Managed,
    /// All but addresses: the flag O.
    Information,
    /// None.
    Off,
}

/// IPv6 in the network: the gateway's address, and 64 bits of it that all have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv6 {
    /// The gateway.
    pub gateway: Ipv6Addr,
    /// The name server's address, which may be the gateway's.
    pub dns: Option<Ipv6Addr>,
    /// Guests may make addresses of the prefix by themselves (RFC 4862).
    pub slaac: bool,
    /// What there is of DHCPv6.
    pub dhcp: Dhcp6,
}

impl Ipv6 {
    /// With the gateway as name server, and everything that there can be.
    pub fn of(gateway: Ipv6Addr) -> Self {
        Self {
            gateway,
            dns: Some(gateway),
            slaac: true,
            dhcp: Dhcp6::Managed,
        }
    }

    /// True if `address` belongs to the network.
    pub fn contains(&self, address: Ipv6Addr) -> bool {
        address.octets()[..8] == self.gateway.octets()[..8]
    }

    /// True if `address` is one that a guest may have: inside, not ours, nor that of all routers (RFC 4291, 2.6.1).
    pub fn is_guest(&self, address: Ipv6Addr) -> bool {
        self.contains(address) && !self.own().any(|own| own == address)
    }

    /// The addresses of the network that no guest has.
    pub(crate) fn own(&self) -> impl Iterator<Item = Ipv6Addr> + use<> {
        let all_routers = Ipv6Addr::from_bits((self.gateway.to_bits() >> 64) << 64);
        [self.gateway, all_routers].into_iter().chain(self.dns)
    }

    /// Says what cannot be, in one sentence.
    fn check(&self) -> Result<(), String> {
        let gateway = self.gateway;
        let special = gateway.is_loopback() || gateway.is_unspecified() || gateway.to_ipv4_mapped().is_some();
        let all_routers = gateway.octets()[8..] == [0; 8];
        if special || all_routers || gateway.is_unicast_link_local() || gateway.is_multicast() {
            return Err(format!(
                "{gateway}/64 is no address of a router; write one host of a network, such as fd00:122::1/64"
            ));
        }
        if let Some(dns) = self.dns.filter(|dns| !self.contains(*dns)) {
            return Err(format!("the name server {dns} is not one of {gateway}/64"));
        }
        Ok(())
    }
}

/// What the network is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The Ethernet address of gateway and name server.
    pub mac: Mac,
    /// The addresses.
    pub subnet: Subnet,
    /// The name server's address, which may be the gateway's. None: there is none.
    pub dns: Option<Ipv4Addr>,
    /// IPv6 beside IPv4, if it is there.
    pub ipv6: Option<Ipv6>,
    /// Whether there is a DHCP server.
    pub dhcp: bool,
    /// The domain of the names that are answered here; empty if they have none.
    pub domain: String,
    /// Seconds that a lease lasts.
    pub lease: u32,
    /// Who gets which address, and which names there are.
    pub plan: Plan,
    /// The name server that other names are asked of.
    pub upstream: Option<SocketAddr>,
    /// Guests reach nothing outside their network, the host neither.
    pub restrict: bool,
    /// The router that guests are to use in place of this one, which then serves addresses and names only.
    #[serde(default)]
    pub router: Option<Ipv4Addr>,
    /// The card of that router, whose address on the link is made of it: guests of IPv6 are told of it in its name.
    #[serde(default)]
    pub router_mac: Option<Mac>,
    /// The gateway's address leads to the host's loopback.
    pub loopback: bool,
    /// Several guests share it: none may take all connections.
    pub shared: bool,
    /// Ports of the host that lead to guests.
    pub forwards: Vec<Forward>,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port of the host that leads to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// Which protocol's port.
    pub transport: Transport,
    /// Where the host listens.
    pub listen: SocketAddr,
    /// Which guest; the only one if it is not said.
    pub guest: Option<IpAddr>,
    /// The guest's port.
    pub port: u16,
}

/// True if `address` is one that the guest of a network for one may have.
pub fn is_guest(address: Ipv4Addr) -> bool {
    let subnet = Subnet {
        gateway: GATEWAY,
        prefix: PREFIX,
    };
    subnet.is_guest(address) && address != DNS
}

impl Config {
    /// A network for one guest, which has the card `mac`, and `address` is reserved for it.
    pub fn for_guest(mac: Mac, name: &str, address: Ipv4Addr) -> Self {
        let name = name.to_ascii_lowercase();
        let host = Host {
            mac: Some(mac),
            name: Some(name.clone()),
            address,
        };
        let host6 = Host6 {
            duid: None,
            mac: Some(mac),
            name: Some(name),
            address: FIRST_GUEST6,
        };
        Self {
            mac: OUR_MAC,
            subnet: Subnet {
                gateway: GATEWAY,
                prefix: PREFIX,
            },
            dns: Some(DNS),
            ipv6: Some(Ipv6 {
                dns: Some(DNS6),
                ..Ipv6::of(GATEWAY6)
            }),
            dhcp: true,
            domain: DOMAIN.into(),
            lease: LEASE,
            plan: Plan {
                ranges: vec![(FIRST_GUEST, LAST_GUEST)],
                hosts: vec![host],
                ranges6: vec![(FIRST_GUEST6, LAST_GUEST6)],
                hosts6: vec![host6],
                names: Vec::new(),
            },
            upstream: None,
            restrict: false,
            router: None,
            router_mac: None,
            loopback: true,
            shared: false,
            forwards: Vec::new(),
        }
    }

    /// The same network without IPv6.
    #[must_use]
    pub fn without_ipv6(mut self) -> Self {
        self.ipv6 = None;
        self.plan.ranges6.clear();
        self.plan.hosts6.clear();
        self
    }

    /// True if `address` is one that a guest may be given, or may make of the prefix.
    pub fn is_guest(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.subnet.is_guest(address) && self.dns != Some(address),
            IpAddr::V6(address) => self.ipv6.is_some_and(|ipv6| ipv6.is_guest(address)),
        }
    }

    /// The address that the gateway's card has on its link.
    pub(crate) fn link_local(&self) -> Ipv6Addr {
        link_local(&self.mac)
    }

    /// The other router has an address of the network that no guest can be given.
    fn check_router(&self) -> Result<(), String> {
        let Some(router) = self.router else {
            return Ok(());
        };
        let Subnet { gateway, prefix } = self.subnet;
        if !self.subnet.is_guest(router) || self.dns == Some(router) {
            return Err(format!(
                "the gateway {router} is no other address within {gateway}/{prefix}"
            ));
        }
        let in_range = |(first, last): &(Ipv4Addr, Ipv4Addr)| (first..=last).contains(&&router);
        let is_given = self.plan.ranges.iter().any(in_range)
            || self.plan.hosts.iter().any(|host| host.address == router);
        match is_given {
            true => Err(format!(
                "the gateway {router} cannot be given to a guest; take it out of ranges and hosts"
            )),
            false => Ok(()),
        }
    }

    /// Says what cannot be, in one sentence.
    pub fn check(&self) -> Result<(), String> {
        let Subnet { gateway, prefix } = self.subnet;
        if !(8..=30).contains(&prefix) {
            return Err(format!(
                "{gateway}/{prefix} is no network for guests; give it 8 to 30 bits"
            ));
        }
        let alone = Subnet {
            gateway: Ipv4Addr::UNSPECIFIED,
            ..self.subnet
        };
        let host = gateway & !alone.mask();
        if matches!(gateway.octets()[0], 0 | 127 | 224..)
            || host == Ipv4Addr::UNSPECIFIED
            || host == !alone.mask()
        {
            return Err(format!(
                "{gateway}/{prefix} is no address of a router; write one host of a network, such as 192.168.122.1/24"
            ));
        }
        if self.mac[0] & 1 != 0 || self.mac == [0; 6] {
            return Err("the router's Ethernet address is one of a group, or none".into());
        }
        if !LEASES.contains(&self.lease) {
            return Err(format!(
                "a lease of {} seconds cannot be; write {} to {}",
                self.lease,
                LEASES.start(),
                LEASES.end()
            ));
        }
        if !self.domain.is_empty() {
            crate::guests::check_name(&self.domain)?;
        }
        self.ipv6.map_or(Ok(()), |ipv6| ipv6.check())?;
        self.plan.check(&self.subnet, self.ipv6.as_ref())?;
        self.check_router()?;
        if self.forwards.len() > MAX_FORWARDS {
            return Err(format!("more than {MAX_FORWARDS} ports are forwarded"));
        }
        for forward in &self.forwards {
            match forward.guest {
                Some(guest) if self.is_guest(guest) => {}
                Some(guest) => {
                    return Err(format!(
                        "a port is forwarded to {guest}, which is no guest's address"
                    ));
                }
                None => {
                    return Err(
                        "a forwarded port names no guest; write tcp:[ADDRESS:]PORT:GUEST:GUESTPORT".into(),
                    );
                }
            }
        }
        Ok(())
    }
}

impl std::str::FromStr for Forward {
    type Err = String;

    /// `tcp:[ADDRESS:]PORT:[GUEST:]GUESTPORT`, or the same with `udp`; addresses of IPv6 in brackets.
    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || {
            format!("\"{text}\" is no forwarded port; write tcp:[ADDRESS:]PORT:[GUEST:]GUESTPORT or udp:...")
        };
        let (transport, rest) = text.split_once(':').ok_or_else(usage)?;
        let transport = match transport {
            "tcp" => Transport::Tcp,
            "udp" => Transport::Udp,
            _ => return Err(usage()),
        };
        let parts = parts(rest).ok_or_else(usage)?;
        let address = |text: &str| parse_address(text).ok_or_else(usage);
        // Only this host reaches a guest, unless the user wants it otherwise.
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let (listen, host_port, guest, port) = match parts[..] {
            [host_port, port] => (here, host_port, None, port),
            [host_port, guest, port] if guest.contains(['.', '[']) => {
                (here, host_port, Some(address(guest)?), port)
            }
            [listen, host_port, port] => (address(listen)?, host_port, None, port),
            [listen, host_port, guest, port] => (address(listen)?, host_port, Some(address(guest)?), port),
            _ => return Err(usage()),
        };
        let number = |text: &str| match text.parse::<u16>() {
            Ok(0) | Err(_) => Err(format!("\"{text}\" is no port; write a number from 1 to 65535")),
            Ok(port) => Ok(port),
        };
        Ok(Self {
            transport,
            listen: SocketAddr::new(listen, number(host_port)?),
            guest,
            port: number(port)?,
        })
    }
}

/// An address of IPv4, or one of IPv6 in brackets.
fn parse_address(text: &str) -> Option<IpAddr> {
    match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse().ok().map(IpAddr::V6),
        None => text.parse().ok().map(IpAddr::V4),
    }
}

/// What is between the colons outside of brackets.
fn parts(text: &str) -> Option<Vec<&str>> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let bracket = match rest.starts_with('[') {
            true => rest.find(']')?,
            false => 0,
        };
        let Some(colon) = rest[bracket..].find(':') else {
            parts.push(rest);
            return Some(parts);
        };
        let (part, after) = rest.split_at(bracket + colon);
        parts.push(part);
        rest = &after[1..];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forwards_are_understood_or_refused() {
        let forward: Forward = "tcp:2222:22".parse().unwrap();
        assert_eq!(
            (forward.listen.to_string().as_str(), forward.guest, forward.port),
            ("127.0.0.1:2222", None, 22)
        );
        let forward: Forward = "udp:0.0.0.0:53:5353".parse().unwrap();
        assert_eq!(
            (forward.listen.to_string().as_str(), forward.port),
            ("0.0.0.0:53", 5353)
        );
        assert_eq!(forward.transport, Transport::Udp);
        for (text, listen) in [
            ("tcp:2222:10.0.0.5:22", "127.0.0.1:2222"),
            ("tcp:0.0.0.0:2222:10.0.0.5:22", "0.0.0.0:2222"),
        ] {
            let forward: Forward = text.parse().unwrap();
            assert_eq!(forward.listen.to_string(), listen);
            assert_eq!(
                (forward.guest, forward.port),
                (Some(Ipv4Addr::new(10, 0, 0, 5).into()), 22)
            );
        }
        let guest: IpAddr = "fd00::5".parse().unwrap();
        for (text, listen, wanted) in [
            ("tcp:[::1]:2222:22", "[::1]:2222", None),
            ("tcp:2222:[fd00::5]:22", "127.0.0.1:2222", Some(guest)),
            ("tcp:[::]:2222:[fd00::5]:22", "[::]:2222", Some(guest)),
            (
                "tcp:[::1]:2222:10.0.0.5:22",
                "[::1]:2222",
                Some(Ipv4Addr::new(10, 0, 0, 5).into()),
            ),
        ] {
            let forward: Forward = text.parse().unwrap();
            assert_eq!(
                (forward.listen.to_string().as_str(), forward.guest),
                (listen, wanted),
                "{text}"
            );
        }
        for bad in [
            "",
            "tcp",
            "tcp:22",
            "tcp:0:22",
            "tcp:22:0",
            "sctp:1:2",
            "tcp:a:1:2",
            "tcp:1:2:3",
            "tcp:1:99999",
            "tcp:1:10.0.0:2",
            "tcp:1.1.1.1:1:10.0.0.1:2:3",
            "tcp:::1:2222:22",
            "tcp:[::1:2222:22",
            "tcp:[1.1.1.1]:2222:22",
            "tcp:[::1]2222:22",
            "tcp:[::1]:2222:fd00::5:22",
        ] {
            assert!(bad.parse::<Forward>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_guest_has_an_address_of_its_own() {
        assert!(is_guest(FIRST_GUEST));
        for other in [
            GATEWAY,
            DNS,
            Ipv4Addr::new(10, 0, 2, 0),
            Ipv4Addr::new(10, 0, 2, 255),
            Ipv4Addr::new(10, 0, 3, 15),
        ] {
            assert!(!is_guest(other), "{other}");
        }
    }

    #[test]
    fn what_cannot_be_is_said() {
        let good = Config::for_guest([2; 6], "vm", FIRST_GUEST);
        assert_eq!(good.check(), Ok(()));
        assert_eq!(good.clone().without_ipv6().check(), Ok(()));
        let mut six = good.clone();
        six.forwards
            .push("tcp:[::1]:1:[fd00:10:0:2::15]:2".parse().unwrap());
        assert_eq!(six.check(), Ok(()));
        type Change = fn(&mut Config);
        let wrong: [(&str, Change); 16] = [
            ("no network for guests", |config| config.subnet.prefix = 31),
            ("no address of a router", |config| {
                config.subnet.gateway = Ipv4Addr::new(10, 0, 2, 255);
            }),
            ("no address of a router", |config| {
                config.subnet.gateway = Ipv4Addr::new(127, 0, 2, 1);
            }),
            ("one of a group", |config| config.mac[0] = 1),
            ("a lease of 1 seconds", |config| config.lease = 1),
            ("no name", |config| config.domain = "a..b".into()),
            ("names no guest", |config| {
                config.forwards.push("tcp:1:2".parse().unwrap());
            }),
            ("no address of a router", |config| {
                config.ipv6 = Some(Ipv6::of("fd00:10:0:2::".parse().unwrap()));
            }),
            ("no address of a router", |config| {
                config.ipv6 = Some(Ipv6::of("fe80::1".parse().unwrap()));
            }),
            ("not one of", |config| {
                config.ipv6.as_mut().unwrap().dns = Some("fd00::3".parse().unwrap());
            }),
            ("the network has no IPv6", |config| config.ipv6 = None),
            ("no guest's address", |config| {
                config.forwards.push("tcp:1:[fd00:10:0:2::3]:2".parse().unwrap());
            }),
            ("no other address within", |config| config.router = Some(GATEWAY)),
            ("no other address within", |config| {
                config.router = Some(Ipv4Addr::new(10, 0, 3, 1));
            }),
            ("cannot be given to a guest", |config| {
                config.router = Some(Ipv4Addr::new(10, 0, 2, 99));
            }),
            ("no guest's address", |config| {
                config.forwards.push("tcp:1:10.0.2.2:2".parse().unwrap());
            }),
        ];
        for (says, change) in wrong {
            let mut config = good.clone();
            change(&mut config);
            let said = config.check().unwrap_err();
            assert!(said.contains(says), "{says}: {said}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_forwarded_port_or_none(text in r"(tcp|udp)?[\[\]:0-9.a]{0,40}") {
            let _ = text.parse::<Forward>();
        }
    }
}
