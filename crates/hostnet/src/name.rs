//! Names of interfaces, and MAC addresses.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// Refuses what Linux refuses (`dev_valid_name`), and `%`, which it would take for a pattern.
pub fn check_name(name: &str) -> Result<&str, Error> {
    let bad = |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.contains(bad) {
        return Err(Error::Name(name.into()));
    }
    Ok(name)
}

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// From the bytes of an address attribute; `None` where it has another length.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// An address for local use (IEEE 802, 8.4).
    pub(crate) fn random() -> Result<Self, Error> {
        let mut bytes = [0; 6];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|e| Error::io("asking the kernel for a random address")(e.into()))?;
        bytes[0] = bytes[0] & 0xfc | 2;
        Ok(Self(bytes))
    }

    /// Whether it is the address of one station: neither a group's nor nobody's.
    pub fn is_station(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
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
        let refused = || Error::Mac(text.into());
        let mut bytes = [0; 6];
        let mut pairs = text.split(':');
        for byte in &mut bytes {
            let pair = pairs.next().ok_or_else(refused)?;
            if pair.len() != 2 || !pair.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(refused());
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| refused())?;
        }
        match pairs.next() {
            None => Ok(Self(bytes)),
            Some(_) => Err(refused()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        assert_eq!(
            "52:54:00:12:34:5F".parse::<Mac>().unwrap().to_string(),
            "52:54:00:12:34:5f"
        );
        for bad in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "5254:00:12:34:56",
            "+1:54:00:12:34:56",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
        assert!(!Mac([1, 0, 0, 0, 0, 0]).is_station() && !Mac([0; 6]).is_station());
    }

    #[test]
    fn names_that_linux_refuses_are_refused_here() {
        for name in [
            "",
            "a/b",
            "sixteen-letters-",
            "a b",
            ".",
            "..",
            "tap%d",
            "a:1",
            "a\0b",
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name("br-lan0").is_ok());
    }
}
