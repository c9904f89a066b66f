//! A router as its user describes it: DHCP, names and NAT for the guests of one VLAN.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use ostler_switch::Mac;
use ostler_usernet::{Config, Dhcp6, Forward, Host, Host6, Ipv6, Lease, Plan, Subnet, name_server};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Seconds that a lease lasts where nobody says it.
const LEASE: u32 = 3600;

/// A router.
#[derive(Serialize, Deserialize, Default, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RouterSpec {
    /// Its address with the bits of the network's part, such as `192.168.122.1/24`.
    pub address: String,
    /// Its address of IPv6, such as `fd00:122::1/64`; without it there is no IPv6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address6: Option<String>,
    /// Its Ethernet address; made of the other one if it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Whether it is a DHCP server. [default: true]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dhcp: Option<bool>,
    /// What there is of DHCPv6. [default: `managed` if there are addresses of IPv6 to give, else `information`]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dhcp6: Option<Dhcp6>,
    /// Guests may make addresses of IPv6 by themselves. [default: true]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slaac: Option<bool>,
    /// Seconds that a lease lasts. [default: 3600]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<u32>,
    /// The domain of the guests' names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Whom it asks for other names: `host` (the host's first name server), `own` (nobody), an address with or without a port;
    /// `off`: there is no name server. [default: host]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<String>,
    /// Guests reach nothing outside their network.
    pub restrict: bool,
    /// The router that guests use in place of this one, which then serves addresses and names only: for a network of the kernel's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    /// The Ethernet address of that router, by whose address on the link guests of IPv6 leave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_mac: Option<String>,
    /// Its address leads to the host's loopback. [default: true]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loopback: Option<bool>,
    /// Ports of the host that lead to guests, such as `tcp:127.0.0.1:2222:192.168.122.10:22`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forward: Vec<String>,
    /// Addresses for everyone, such as `192.168.122.2-192.168.122.254`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<String>,
    /// The same of IPv6, such as `fd00:122::100-fd00:122::1ff`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ranges6: Vec<String>,
    /// Guests with an address of their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub host: Vec<HostSpec>,
    /// Other names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub name: Vec<NameSpec>,
}

/// What of a router may change while it runs: who gets which address, and which names there are.
#[derive(Serialize, Deserialize, Default, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct PlanSpec {
    /// The router's port.
    pub port: String,
    /// Addresses for everyone, such as `192.168.122.2-192.168.122.254`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<String>,
    /// The same of IPv6, such as `fd00:122::100-fd00:122::1ff`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ranges6: Vec<String>,
    /// Guests with an address of their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub host: Vec<HostSpec>,
    /// Other names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub name: Vec<NameSpec>,
}

/// A guest with an address of its own, of either family, known by its card or by the name that it gives itself.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HostSpec {
    /// Its card.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// What it calls itself by DHCPv6, such as `00:03:00:01:52:54:00:00:00:01`; for an address of IPv6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duid: Option<String>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its address.
    pub address: IpAddr,
}

/// Names of an address.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NameSpec {
    /// The address.
    pub address: IpAddr,
    /// The names.
    pub names: Vec<String>,
}

impl RouterSpec {
    /// Another plan.
    pub(crate) fn set_plan(&mut self, plan: PlanSpec) {
        self.ranges = plan.ranges;
        self.ranges6 = plan.ranges6;
        self.host = plan.host;
        self.name = plan.name;
    }

    /// The plan, if each part of it can be read.
    fn plan(&self) -> Result<Plan, String> {
        let (mut hosts, mut hosts6) = (Vec::new(), Vec::new());
        for host in &self.host {
            let mac = host.mac.as_ref().map(|mac| mac.parse::<Mac>());
            let mac = mac.transpose().map_err(|error| error.to_string())?;
            let mac = mac.map(|mac| mac.0);
            let name = host.name.as_ref().map(|name| name.to_ascii_lowercase());
            let duid = host.duid.as_deref().map(parse_duid).transpose()?;
            match host.address {
                IpAddr::V4(address) if duid.is_none() => hosts.push(Host { mac, name, address }),
                IpAddr::V4(address) => {
                    return Err(format!(
                        "{address} is reserved by a DUID, which belongs to IPv6; write mac"
                    ));
                }
                IpAddr::V6(address) => hosts6.push(Host6 {
                    duid,
                    mac,
                    name,
                    address,
                }),
            }
        }
        let names = self.name.iter().flat_map(|set| {
            let named = |name: &String| (name.to_ascii_lowercase(), set.address);
            set.names.iter().map(named)
        });
        Ok(Plan {
            ranges: parse_ranges(&self.ranges)?,
            hosts,
            ranges6: parse_ranges(&self.ranges6)?,
            hosts6,
            names: names.collect(),
        })
    }

    /// IPv6, if there is any.
    fn ipv6(&self) -> Result<Option<Ipv6>, String> {
        let Some(text) = &self.address6 else {
            let any = self.dhcp6.is_some() || self.slaac.is_some();
            return if any {
                Err("dhcp6 and slaac belong to IPv6; write address6, too".into())
            } else {
                Ok(None)
            };
        };
        let gateway = text
            .strip_suffix("/64")
            .and_then(|address| address.parse::<Ipv6Addr>().ok());
        let gateway =
            gateway.ok_or_else(|| format!("\"{text}\" is no address of a router; write ADDRESS/64"))?;
        let gives = !self.ranges6.is_empty() || self.host.iter().any(|host| host.address.is_ipv6());
        let usual = if gives { Dhcp6::Managed } else { Dhcp6::Information };
        Ok(Some(Ipv6 {
            gateway,
            dns: (self.dns.as_deref() != Some("off")).then_some(gateway),
            slaac: self.slaac.unwrap_or(true),
            dhcp: self.dhcp6.unwrap_or(usual),
        }))
    }

    /// The card of the other router.
    fn router_mac(&self) -> Result<Option<[u8; 6]>, String> {
        let Some(text) = &self.gateway_mac else {
            return Ok(None);
        };
        if self.gateway.is_none() || self.address6.is_none() {
            return Err("gateway-mac is that of a gateway with IPv6; write gateway and address6, too".into());
        }
        let mac = text.parse::<Mac>().map_err(|error| error.to_string())?;
        Ok(Some(mac.0))
    }

    /// Says in one sentence what cannot be.
    pub fn check(&self) -> Result<(), String> {
        self.config().map(drop)
    }

    /// The network, or in one sentence what cannot be.
    pub(crate) fn config(&self) -> Result<Config, String> {
        let wrong = || {
            format!(
                "\"{}\" is no address of a router; write ADDRESS/BITS",
                self.address
            )
        };
        let (gateway, prefix) = self.address.split_once('/').ok_or_else(wrong)?;
        let gateway: Ipv4Addr = gateway.parse().map_err(|_| wrong())?;
        let subnet = Subnet {
            gateway,
            prefix: prefix.parse().map_err(|_| wrong())?,
        };
        let [a, b, c, d] = gateway.octets();
        let mac = match &self.mac {
            Some(mac) => mac.parse::<Mac>().map_err(|error| error.to_string())?.0,
            None => [0x52, 0x55, a, b, c, d],
        };
        let forwards = self.forward.iter().map(|text| text.parse::<Forward>());
        let config = Config {
            mac,
            subnet,
            dns: (self.dns.as_deref() != Some("off")).then_some(gateway),
            ipv6: self.ipv6()?,
            dhcp: self.dhcp.unwrap_or(true),
            domain: self.domain.as_deref().unwrap_or_default().to_ascii_lowercase(),
            lease: self.lease.unwrap_or(LEASE),
            plan: self.plan()?,
            upstream: self.upstream()?,
            restrict: self.restrict,
            router: self.gateway,
            router_mac: self.router_mac()?,
            loopback: self.loopback.unwrap_or(true),
            shared: true,
            forwards: forwards.collect::<Result<_, _>>()?,
        };
        config.check()?;
        Ok(config)
    }

    /// Who is asked for names that are not known here.
    fn upstream(&self) -> Result<Option<SocketAddr>, String> {
        let text = match self.dns.as_deref() {
            None | Some("host") => {
                return Ok(name_server(
                    &std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
                ));
            }
            Some("own" | "off") => return Ok(None),
            Some(text) => text,
        };
        let alone = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53));
        let server = text.parse().or(alone);
        server.map(Some).map_err(|_| {
            format!("\"{text}\" is no name server; write host, own, off, ADDRESS or ADDRESS:PORT")
        })
    }
}

/// FIRST-LAST, two addresses of a family.
fn parse_ranges<A: FromStr>(ranges: &[String]) -> Result<Vec<(A, A)>, String> {
    let range = |text: &String| {
        let ends = text
            .split_once('-')
            .and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
        ends.ok_or_else(|| format!("\"{text}\" is no range; write FIRST-LAST, two addresses"))
    };
    ranges.iter().map(range).collect()
}

/// Bytes in hexadecimal, with colons between.
fn parse_duid(text: &str) -> Result<Vec<u8>, String> {
    let byte = |digits: &str| {
        let good = (1..=2).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        u8::from_str_radix(digits, 16).ok().filter(|_| good)
    };
    let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
    let shown: String = text.chars().take(80).collect();
    bytes
        .ok_or_else(|| format!("\"{shown}\" is no DUID; write its bytes in hexadecimal, with colons between"))
}

/// A lease as it is shown.
pub(crate) fn show_lease(lease: &Lease, port: &str) -> Value {
    let client_id = lease.client_id.as_ref().map(|id| {
        let bytes: Vec<String> = id.iter().map(|byte| format!("{byte:02x}")).collect();
        bytes.join(":")
    });
    json!({
        "port": port,
        "mac": Mac(lease.mac).to_string(),
        "address": lease.address,
        "name": lease.name,
        "client-id": client_id,
        "remaining": lease.remaining,
        "reserved": lease.reserved,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spec() -> RouterSpec {
        toml::from_str(
            "address = \"192.168.122.1/24\"\nranges = [\"192.168.122.2-192.168.122.254\"]\ndomain = \"Lan\"\n\
             dns = \"127.0.0.1:5353\"\nforward = [\"tcp:2222:192.168.122.10:22\"]\n\
             [[host]]\nmac = \"52:54:00:00:00:01\"\nname = \"Web\"\naddress = \"192.168.122.10\"\n\
             [[name]]\naddress = \"192.168.122.9\"\nnames = [\"Printer\", \"scanner\"]\n",
        )
        .unwrap()
    }

    #[test]
    fn a_router_is_understood() {
        let config = spec().config().unwrap();
        assert_eq!(config.subnet.mask(), Ipv4Addr::new(255, 255, 255, 0));
        assert_eq!(
            (config.dns, config.domain.as_str()),
            (Some(config.subnet.gateway), "lan")
        );
        assert_eq!(config.upstream, Some(([127, 0, 0, 1], 5353).into()));
        assert_eq!(config.mac, [0x52, 0x55, 192, 168, 122, 1]);
        assert_eq!(config.plan.hosts[0].name.as_deref(), Some("web"));
        assert_eq!(config.plan.names.len(), 2);
        assert!(config.shared && config.loopback && config.dhcp);
        let text = serde_json::to_string(&spec()).unwrap();
        assert_eq!(
            serde_json::from_str::<RouterSpec>(&text).unwrap(),
            spec(),
            "{text}"
        );
    }

    fn spec6() -> RouterSpec {
        toml::from_str(
            "address = \"192.168.122.1/24\"\naddress6 = \"fd00:122::1/64\"\n\
             ranges6 = [\"fd00:122::100-fd00:122::1ff\"]\n\
             [[host]]\nduid = \"0:3:0:1:52:54:0:0:0:1\"\nname = \"Web\"\naddress = \"fd00:122::10\"\n\
             [[host]]\nmac = \"52:54:00:00:00:01\"\nname = \"Web\"\naddress = \"192.168.122.10\"\n\
             [[name]]\naddress = \"fd00:122::9\"\nnames = [\"Printer\"]\n",
        )
        .unwrap()
    }

    #[test]
    fn a_router_of_both_families_is_understood() {
        let config = spec6().config().unwrap();
        let ipv6 = config.ipv6.unwrap();
        assert_eq!(ipv6.gateway.to_string(), "fd00:122::1");
        assert_eq!(
            (ipv6.dns, ipv6.slaac, ipv6.dhcp),
            (Some(ipv6.gateway), true, Dhcp6::Managed)
        );
        let host = &config.plan.hosts6[0];
        assert_eq!(
            host.duid.as_deref(),
            Some(&[0, 3, 0, 1, 0x52, 0x54, 0, 0, 0, 1][..])
        );
        assert_eq!((config.plan.hosts6.len(), config.plan.hosts.len()), (1, 1));
        assert!(config.plan.names[0].1.is_ipv6());
        let text = serde_json::to_string(&spec6()).unwrap();
        assert_eq!(
            serde_json::from_str::<RouterSpec>(&text).unwrap(),
            spec6(),
            "{text}"
        );
        // Nothing to give: guests make their addresses.
        let mut spec = spec6();
        spec.ranges6.clear();
        spec.host.clear();
        assert_eq!(spec.config().unwrap().ipv6.unwrap().dhcp, Dhcp6::Information);
        spec.dhcp6 = Some(Dhcp6::Off);
        spec.slaac = Some(false);
        spec.dns = Some("off".into());
        let ipv6 = spec.config().unwrap().ipv6.unwrap();
        assert_eq!((ipv6.dns, ipv6.slaac, ipv6.dhcp), (None, false, Dhcp6::Off));
        let mut wrong: Vec<(&str, RouterSpec)> = Vec::new();
        let mut add = |says, change: fn(&mut RouterSpec)| {
            let mut spec = spec6();
            change(&mut spec);
            wrong.push((says, spec));
        };
        add("write ADDRESS/64", |spec| {
            spec.address6 = Some("fd00:122::1/48".into())
        });
        add("write ADDRESS/64", |spec| {
            spec.address6 = Some("192.168.122.1/64".into())
        });
        add("no address of a router", |spec| {
            spec.address6 = Some("fd00:122::/64".into())
        });
        add("is not one within", |spec| {
            spec.ranges6 = vec!["fd00::1-fd00::2".into()]
        });
        add("no range", |spec| {
            spec.ranges6 = vec!["192.168.122.1-192.168.122.2".into()]
        });
        add("no DUID", |spec| spec.host[0].duid = Some("0:3:0:1:+5".into()));
        add("a DUID has 3", |spec| spec.host[0].duid = Some("0:3".into()));
        add("belongs to IPv6", |spec| {
            spec.host[1].duid = Some("0:3:0:1".into())
        });
        add("has no IPv6", |spec| spec.address6 = None);
        add("belong to IPv6", |spec| {
            *spec = RouterSpec {
                dhcp6: Some(Dhcp6::Off),
                ..super::tests::spec()
            };
        });
        for (says, spec) in wrong {
            let said = spec.config().unwrap_err();
            assert!(said.contains(says), "{says}: {said}");
        }
    }

    #[test]
    fn what_cannot_be_is_said() {
        type Change = fn(&mut RouterSpec);
        let wrong: [(&str, Change); 11] = [
            ("no address of a router", |spec| {
                spec.address = "192.168.122.1".into()
            }),
            ("no address of a router", |spec| {
                spec.address = "192.168.122.0/24".into()
            }),
            ("no network for guests", |spec| {
                spec.address = "192.168.122.1/32".into()
            }),
            ("no range", |spec| spec.ranges = vec!["192.168.122.2".into()]),
            ("is not one within", |spec| {
                spec.ranges = vec!["192.168.121.2-192.168.122.3".into()];
            }),
            ("no MAC address", |spec| spec.host[0].mac = Some("x".into())),
            ("no name of a host", |spec| {
                spec.name[0].names = vec!["a b".into()]
            }),
            ("cannot be given to a guest", |spec| {
                spec.gateway = Some(Ipv4Addr::new(192, 168, 122, 2));
            }),
            ("no name server", |spec| spec.dns = Some("a.b".into())),
            ("names no guest", |spec| spec.forward = vec!["tcp:1:2".into()]),
            ("a lease of", |spec| spec.lease = Some(0)),
        ];
        for (says, change) in wrong {
            let mut spec = spec();
            change(&mut spec);
            let said = spec.config().unwrap_err();
            assert!(said.contains(says), "{says}: {said}");
        }
    }

    proptest! {
        #[test]
        fn any_words_of_ipv6_are_a_router_or_refused(address in "[0-9a-f:/]{0,30}", range in "[0-9a-f:-]{0,50}", duid in "[0-9a-f:]{0,40}") {
            let mut spec = spec6();
            spec.host[0].duid = Some(duid);
            let _ = spec.config();
            spec.ranges6 = vec![range];
            let _ = spec.config();
            spec.address6 = Some(address);
            let _ = spec.config();
        }

        #[test]
        fn any_words_are_a_router_or_refused(address in "[0-9./]{0,20}", range in "[0-9.-]{0,34}", dns in "[a-z0-9.:]{0,20}") {
            let mut spec = spec();
            spec.ranges = vec![range];
            let _ = spec.config();
            spec.address = address;
            spec.dns = Some(dns);
            let _ = spec.config();
        }
    }
}
