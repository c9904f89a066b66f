//! The host's address of IPv6 in a network.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use crate::Error;

/// Bits of the network's part: stations make addresses by themselves in no other network (RFC 4862, 5.5.3).
const PREFIX: u8 = 64;

/// The host's own address in a network of IPv6, whose part has 64 bits: `fd00:9::1/64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet6(Ipv6Addr);

impl Subnet6 {
    /// An address that a station can have.
    pub fn new(address: Ipv6Addr) -> Result<Self, Error> {
        let special = address.is_loopback()
            || address.is_unspecified()
            || address.is_multicast()
            || address.is_unicast_link_local()
            || address.to_ipv4_mapped().is_some();
        let all_routers = address.octets()[8..] == [0; 8];
        match special || all_routers {
            true => Err(Error::Address6(format!("{address}/{PREFIX}"))),
            false => Ok(Self(address)),
        }
    }

    /// The host's address.
    pub fn address(self) -> Ipv6Addr {
        self.0
    }

    /// Bits of the network's part.
    pub fn prefix(self) -> u8 {
        PREFIX
    }

    /// The first address, which stands for the network.
    pub fn network(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.0.to_bits() >> 64 << 64)
    }

    /// Whether it has addresses in common with another network.
    pub fn overlaps(self, other: Ipv6Addr, prefix: u8) -> bool {
        let mask = u128::MAX
            .checked_shl(128 - u32::from(prefix.min(PREFIX)))
            .unwrap_or(0);
        self.0.to_bits() & mask == other.to_bits() & mask
    }
}

impl fmt::Display for Subnet6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{PREFIX}", self.0)
    }
}

impl FromStr for Subnet6 {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let address = text.strip_suffix("/64").and_then(|text| text.parse().ok());
        Self::new(address.ok_or_else(|| Error::Address6(text.into()))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        let subnet: Subnet6 = "fd00:9:0:1::77/64".parse().unwrap();
        assert_eq!(subnet.to_string(), "fd00:9:0:1::77/64");
        assert_eq!(subnet.network().to_string(), "fd00:9:0:1::");
        for bad in [
            "",
            "fd00::1",
            "fd00::1/80",
            "fd00::/64",
            "fe80::1/64",
            "ff02::1/64",
            "::1/64",
            "10.9.0.1/64",
        ] {
            assert!(bad.parse::<Subnet6>().is_err(), "{bad}");
        }
        for (other, prefix, expected) in [
            ("fd00:9:0:1::9", 128, true),
            ("fd00:9:0:2::9", 64, false),
            ("fd00:9:0:2::9", 48, true),
            ("2001:db8::1", 0, true),
        ] {
            assert_eq!(
                subnet.overlaps(other.parse().unwrap(), prefix),
                expected,
                "{other}"
            );
        }
    }
}
