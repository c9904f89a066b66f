//! The host's address in a network.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::Error;

/// The host's own address in a network, with the bits of the network's part: `10.9.0.1/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    address: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    /// An address that a station can have, in a network that has room for others.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Result<Self, Error> {
        let subnet = Self { address, prefix };
        let refused = || Error::Address(subnet.to_string());
        if !(8..=30).contains(&prefix) {
            return Err(refused());
        }
        let is_station = address != subnet.network() && address != subnet.broadcast();
        let is_usual = !address.is_loopback()
            && !address.is_multicast()
            && !address.is_unspecified()
            && !address.is_broadcast();
        match is_station && is_usual {
            true => Ok(subnet),
            false => Err(refused()),
        }
    }

    /// The host's address.
    pub fn address(self) -> Ipv4Addr {
        self.address
    }

    /// Bits of the network's part, 8 to 30.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    fn mask(self) -> u32 {
        u32::MAX << (32 - u32::from(self.prefix))
    }

    /// The first address, which stands for the network.
    pub fn network(self) -> Ipv4Addr {
        (u32::from(self.address) & self.mask()).into()
    }

    /// The last address, which reaches all stations.
    pub fn broadcast(self) -> Ipv4Addr {
        (u32::from(self.address) | !self.mask()).into()
    }

    /// Whether some address belongs to both.
    pub fn overlaps(self, other: Ipv4Addr, prefix: u8) -> bool {
        let bits = u32::from(self.prefix.min(prefix));
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        u32::from(self.address) & mask == u32::from(other) & mask
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refused = || Error::Address(text.into());
        let (address, prefix) = text.split_once('/').ok_or_else(refused)?;
        let all_digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
        if !all_digits {
            return Err(refused());
        }
        let address = address.parse().map_err(|_| refused())?;
        Self::new(address, prefix.parse().map_err(|_| refused())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        let subnet: Subnet = "10.9.1.1/23".parse().unwrap();
        assert_eq!(subnet.to_string(), "10.9.1.1/23");
        assert_eq!(subnet.network(), Ipv4Addr::new(10, 9, 0, 0));
        assert_eq!(subnet.broadcast(), Ipv4Addr::new(10, 9, 1, 255));
        for bad in [
            "",
            "10.9.0.1",
            "10.9.0.1/",
            "10.9.0.1/+24",
            "10.9.0.1/7",
            "10.9.0.1/31",
            "10.9.0.0/24",
            "10.9.0.255/24",
            "127.0.0.1/8",
            "224.0.0.1/8",
            "255.255.255.1/24/1",
            "fd00::1/64",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_overlaps() {
        let subnet: Subnet = "10.9.0.1/24".parse().unwrap();
        for (address, prefix, expected) in [
            ([10, 9, 0, 77], 32, true),
            ([10, 9, 0, 128], 25, true),
            ([10, 9, 7, 1], 16, true),
            ([1, 2, 3, 4], 0, true),
            ([10, 9, 1, 1], 24, false),
            ([192, 168, 0, 1], 8, false),
        ] {
            assert_eq!(subnet.overlaps(address.into(), prefix), expected, "{address:?}");
        }
    }
}
