//! Who is to get which address, and which names there are, as the user says it.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::table::Reservation;
use crate::config::{Ipv6, Subnet};
use crate::wire::Mac;

/// Reservations, ranges and names at most; those of addresses for each family.
const MAX_HOSTS: usize = 4096;
pub(super) const MAX_RANGES: usize = 64;
const MAX_NAMES: usize = 4096;
/// Bytes of a client's identifier (RFC 8415, 11.1).
const MAX_DUID: usize = 130;

/// Who is to get which address, and which names there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// First and last address of ranges for everyone.
    pub ranges: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// Guests with an address of their own.
    pub hosts: Vec<Host>,
    /// The same of IPv6.
    pub ranges6: Vec<(Ipv6Addr, Ipv6Addr)>,
    /// Guests with an address of IPv6 of their own.
    pub hosts6: Vec<Host6>,
    /// Other names, in small letters.
    pub names: Vec<(String, IpAddr)>,
}

/// A guest with an address of its own, known by its card, or else by the name that it gives itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its card.
    pub mac: Option<Mac>,
    /// Its name, in small letters.
    pub name: Option<String>,
    /// Its address.
    pub address: Ipv4Addr,
}

/// A guest with an address of IPv6 of its own, known by its DUID, its card, or else by the name that it gives itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host6 {
    /// What it calls itself (RFC 8415, 11).
    pub duid: Option<Vec<u8>>,
    /// Its card.
    pub mac: Option<Mac>,
    /// Its name, in small letters.
    pub name: Option<String>,
    /// Its address.
    pub address: Ipv6Addr,
}

/// Checks a name of a host or domain: labels of letters, digits, `-` and `_` with dots between (RFC 1123, 2.1).
pub fn check_name(name: &str) -> Result<(), String> {
    let good = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    if name.len() <= 253 && name.split('.').all(good) {
        Ok(())
    } else {
        let shown: String = name.chars().take(80).collect();
        Err(format!(
            "\"{shown}\" is no name of a host; write letters, digits and hyphens with dots between"
        ))
    }
}

impl Plan {
    /// Says what cannot be in this network, in one sentence.
    pub fn check(&self, subnet: &Subnet, ipv6: Option<&Ipv6>) -> Result<(), String> {
        for (what, count, most) in [
            ("ranges", self.ranges.len(), MAX_RANGES),
            ("ranges of IPv6", self.ranges6.len(), MAX_RANGES),
            ("reservations", self.hosts.len(), MAX_HOSTS),
            ("reservations of IPv6", self.hosts6.len(), MAX_HOSTS),
            ("names", self.names.len(), MAX_NAMES),
        ] {
            if count > most {
                return Err(format!("there are {count} {what}, and {most} can be"));
            }
        }
        let within = format!("{}/{}", subnet.gateway, subnet.prefix);
        for range in &self.ranges {
            check_range(range, |address| subnet.contains(*address), &within)?;
        }
        for host in &self.hosts {
            check_host(host.address, subnet.is_guest(host.address), &within)?;
            check_known(host.address, host.mac.is_some(), host.name.as_deref())?;
        }
        let Some(ipv6) = ipv6 else {
            let any = !self.ranges6.is_empty() || !self.hosts6.is_empty();
            return if any {
                Err("there are addresses of IPv6 to give, and the network has no IPv6".into())
            } else {
                self.check_names()
            };
        };
        let within = format!("{}/64", ipv6.gateway);
        for range in &self.ranges6 {
            check_range(range, |address| ipv6.contains(*address), &within)?;
        }
        for host in &self.hosts6 {
            check_host(host.address, ipv6.is_guest(host.address), &within)?;
            let known = host.mac.is_some() || host.duid.is_some();
            check_known(host.address, known, host.name.as_deref())?;
            let len = host.duid.as_ref().map_or(MAX_DUID, Vec::len);
            if !(3..=MAX_DUID).contains(&len) {
                return Err(format!(
                    "the identifier of {} has {len} bytes; a DUID has 3 to {MAX_DUID}",
                    host.address
                ));
            }
        }
        self.check_names()
    }

    fn check_names(&self) -> Result<(), String> {
        self.names.iter().try_for_each(|(name, _)| check_name(name))
    }
}

fn check_range<A: Display + PartialOrd>(
    (first, last): &(A, A),
    contains: impl Fn(&A) -> bool,
    within: &str,
) -> Result<(), String> {
    if first > last || !contains(first) || !contains(last) {
        return Err(format!("the range {first}-{last} is not one within {within}"));
    }
    Ok(())
}

fn check_host(address: impl Display, is_guest: bool, within: &str) -> Result<(), String> {
    if is_guest {
        Ok(())
    } else {
        Err(format!("{address} cannot be a guest's address within {within}"))
    }
}

fn check_known(address: impl Display, by_itself: bool, name: Option<&str>) -> Result<(), String> {
    if !by_itself && name.is_none() {
        return Err(format!(
            "the reservation of {address} names neither a card nor a name"
        ));
    }
    name.map_or(Ok(()), check_name)
}

impl From<&Host> for Reservation<Ipv4Addr> {
    fn from(host: &Host) -> Self {
        Self {
            duid: None,
            mac: host.mac,
            name: host.name.clone(),
            address: host.address,
        }
    }
}

impl From<&Host6> for Reservation<Ipv6Addr> {
    fn from(host: &Host6) -> Self {
        Self {
            duid: host.duid.clone(),
            mac: host.mac,
            name: host.name.clone(),
            address: host.address,
        }
    }
}
