//! MAC addresses (IEEE 802, clause 8).

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// A 48-bit MAC address.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// All stations.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// The bridge group address, where BPDUs go (802.1D-2004, table 7-9).
    pub const BRIDGE_GROUP: Self = Self([0x01, 0x80, 0xc2, 0, 0, 0]);

    /// The address at the start of `bytes`, if there are six of them.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk().map(|mac| Self(*mac))
    }

    /// Whether this is a group address (broadcast included).
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Which of the sixteen addresses 01:80:c2:00:00:0x this is: no bridge forwards them (802.1D-2004, 7.12.6).
    pub fn reserved(self) -> Option<u8> {
        match self.0 {
            [0x01, 0x80, 0xc2, 0, 0, x @ 0..=15] => Some(x),
            _ => None,
        }
    }

    /// The address as a number of 48 bits.
    pub fn as_u64(self) -> u64 {
        self.0
            .iter()
            .fold(0, |number, &byte| number << 8 | u64::from(byte))
    }

    /// The address of the low 48 bits of `number`.
    pub fn from_u64(number: u64) -> Self {
        let [_, _, mac @ ..] = number.to_be_bytes();
        Self(mac)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::MacText(text.chars().take(32).collect());
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
            if !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            Err(wrong())
        } else {
            Ok(Self(mac))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_numbers_come_back() {
        let mac: Mac = "52:54:00:ab:CD:01".parse().unwrap();
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:01");
        assert_eq!(Mac::from_u64(mac.as_u64()), mac);
        assert_eq!(mac.as_u64(), 0x5254_00ab_cd01);
    }

    #[test]
    fn text_that_is_no_address_is_refused() {
        for text in [
            "",
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:01:02",
            "52:54:00:ab:cd:0g",
            "52:54:00:ab:cd:+1",
            "5254:00:ab:cd:01:1",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    /// 802.1D-2004, table 7-10: sixteen addresses, and no more.
    #[test]
    fn sixteen_addresses_are_reserved() {
        assert_eq!(Mac::BRIDGE_GROUP.reserved(), Some(0));
        assert_eq!(Mac([1, 0x80, 0xc2, 0, 0, 15]).reserved(), Some(15));
        assert_eq!(Mac([1, 0x80, 0xc2, 0, 0, 16]).reserved(), None);
        assert_eq!(Mac([1, 0x80, 0xc2, 0, 1, 0]).reserved(), None);
        assert_eq!(Mac::BROADCAST.reserved(), None);
    }
}
