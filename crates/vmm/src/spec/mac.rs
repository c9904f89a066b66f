//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The address of a network card, written as `52:54:00:12:34:56`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// A unicast address of the range that QEMU and libvirt use for guests, derived from `seed` so that the same guest
    /// keeps its address from one start to the next.
    pub fn derived(seed: &str) -> Self {
        // FNV-1a: the address has to be stable and spread out, not secret.
        let hash = seed.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let [a, b, c, ..] = hash.to_le_bytes();
        Self([0x52, 0x54, 0x00, a, b, c])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("{text:?} is no Ethernet address; write six bytes as 52:54:00:12:34:56");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(refuse)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(refuse());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| refuse())?;
        }
        if parts.next().is_some() {
            return Err(refuse());
        }
        if bytes[0] & 1 != 0 || bytes == [0; 6] {
            return Err(format!(
                "{text} is no address of one card: it must be unicast and not all zeroes"
            ));
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for MacAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unicast_addresses_are_taken() {
        assert_eq!(
            "52:54:00:Ab:cd:ef".parse(),
            Ok(MacAddress([0x52, 0x54, 0, 0xab, 0xcd, 0xef]))
        );
        for bad in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "5:54:0:12:34:56",
            "53:54:00:12:34:56",
            "00:00:00:00:00:00",
            "+2:54:00:12:34:56",
            "zz:54:00:12:34:56",
        ] {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_derived_address_is_valid(seed in ".{0,40}") {
            let mac = MacAddress::derived(&seed);
            proptest::prop_assert_eq!(mac.to_string().parse(), Ok(mac));
        }
    }
}
