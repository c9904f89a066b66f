//! Globally unique identifiers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Bytes in each group of digits.
const GROUPS: [usize; 5] = [4, 2, 2, 2, 6];

/// A GUID, its bytes in the order in which they are written: `324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// A random one (RFC 9562, version 4) made of random bytes.
    pub fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// As it is in memory: the first three groups are little-endian numbers.
    pub fn in_memory(self) -> [u8; 16] {
        let mut bytes = self.0;
        bytes[..4].reverse();
        bytes[4..6].reverse();
        bytes[6..8].reverse();
        bytes
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.0.iter();
        for (number, size) in GROUPS.into_iter().enumerate() {
            if number > 0 {
                f.write_str("-")?;
            }
            for byte in bytes.by_ref().take(size) {
                write!(f, "{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Guid {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("{text:?} is no GUID; write one as 324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87");
        let mut bytes = [0; 16];
        let mut rest = &mut bytes[..];
        let mut groups = text.split('-');
        for size in GROUPS {
            let digits = groups
                .next()
                .filter(|digits| digits.len() == 2 * size)
                .ok_or_else(refuse)?;
            if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(refuse());
            }
            let (group, after) = rest.split_at_mut(size);
            for (index, byte) in group.iter_mut().enumerate() {
                *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).map_err(|_| refuse())?;
            }
            rest = after;
        }
        if groups.next().is_some() {
            return Err(refuse());
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Guid {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Guid> for String {
    fn from(guid: Guid) -> Self {
        guid.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_groups_are_numbers_in_memory() {
        let guid: Guid = "00112233-4455-6677-8899-aAbBcCdDeEfF".parse().unwrap();
        assert_eq!(guid.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        let expected = [
            0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff,
        ];
        assert_eq!(guid.in_memory(), expected);
        assert_eq!(
            Guid::from_random([0xff; 16]).to_string(),
            "ffffffff-ffff-4fff-bfff-ffffffffffff"
        );
    }

    #[test]
    fn what_is_no_guid_is_refused() {
        for text in [
            "",
            "-",
            "0011223344556677889 9aabbccddeeff",
            "00112233-4455-6677-8899-aabbccddeef",
            "00112233-4455-6677-8899-aabbccddeeff-",
            "+0112233-4455-6677-8899-aabbccddeeff",
            "00112233-4455-6677-889-9aabbccddeeff",
            "0011223é-4455-6677-8899-aabbccddeeff",
        ] {
            assert!(text.parse::<Guid>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_guid_survives_its_text(bytes in any::<[u8; 16]>()) {
            prop_assert_eq!(Guid(bytes).to_string().parse(), Ok(Guid(bytes)));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,50}") {
            let _ = text.parse::<Guid>();
        }
    }
}
