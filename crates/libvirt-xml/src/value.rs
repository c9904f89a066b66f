//! Values as libvirt writes them: sizes with units, numbers, addresses of cards, UUIDs.

use std::fmt;
use std::str::FromStr;

use crate::Error;
use crate::tree::Element;

/// Where randomness comes from: it fills the bytes.
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]);

/// A UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// A random one, marked as such (version 4, RFC 9562).
    pub fn random(random: Random<'_>) -> Self {
        let mut bytes = [0; 16];
        random(&mut bytes);
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }
}

impl FromStr for Uuid {
    type Err = ();

    /// 32 hexadecimal digits; hyphens may stand between bytes.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut digits = text.trim().bytes().filter(|&byte| byte != b'-');
        let mut digit = || digits.next().and_then(|d| char::from(d).to_digit(16)).ok_or(());
        let mut bytes = [0; 16];
        for byte in &mut bytes {
            *byte = (digit()? << 4 | digit()?) as u8;
        }
        if digits.next().is_some() {
            Err(())
        } else {
            Ok(Self(bytes))
        }
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// The address of a network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// A random one with the prefix of KVM, 52:54:00.
    pub fn random(random: Random<'_>) -> Self {
        let mut bytes = [0x52, 0x54, 0, 0, 0, 0];
        random(&mut bytes[3..]);
        Self(bytes)
    }
}

impl FromStr for Mac {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|part| matches!(part.len(), 1 | 2))
                .ok_or(())?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| ())?;
        }
        if parts.next().is_some() {
            Err(())
        } else {
            Ok(Self(bytes))
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Bytes in a unit of libvirt; nothing is `default`. `k` and `KiB` are 1024 bytes, `KB` is 1000.
pub(crate) fn unit(unit: Option<&str>, default: u64) -> Option<u64> {
    let Some(unit) = unit.filter(|unit| !unit.is_empty()) else {
        return Some(default);
    };
    let lower = unit.to_ascii_lowercase();
    if matches!(lower.as_str(), "b" | "byte" | "bytes") {
        return Some(1);
    }
    let power = "kmgtpe".find(lower.chars().next()?)? as u32 + 1;
    match &lower[1..] {
        "" | "ib" => 1024u64.checked_pow(power),
        "b" => 1000u64.checked_pow(power),
        _ => None,
    }
}

/// The size that an element states in bytes; `default` is the unit where it names none.
pub(crate) fn size(element: &Element, default: u64) -> Result<u64, Error> {
    let text = element.text();
    let unit = unit(element.get("unit"), default).ok_or_else(|| {
        Error::Xml(format!(
            "unknown suffix '{}' (line {})",
            element.get("unit").unwrap_or(""),
            element.line
        ))
    })?;
    let number: u64 = text
        .parse()
        .map_err(|_| Error::text(element.line, &element.name, &text))?;
    number.checked_mul(unit).ok_or_else(|| {
        Error::Xml(format!(
            "value too large: {number} of {unit} bytes (line {})",
            element.line
        ))
    })
}

/// A number in decimal, or in hexadecimal after `0x`.
pub(crate) fn number<T: TryFrom<u64>>(text: &str) -> Option<T> {
    let number = match text.strip_prefix("0x") {
        Some(digits) if !digits.starts_with('+') => u64::from_str_radix(digits, 16).ok()?,
        None if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok()?,
        _ => return None,
    };
    T::try_from(number).ok()
}

/// A number of an attribute that may be there.
pub(crate) fn attribute<T: TryFrom<u64>>(element: &Element, name: &str) -> Result<Option<T>, Error> {
    let Some(text) = element.get(name) else {
        return Ok(None);
    };
    match number(text) {
        Some(number) => Ok(Some(number)),
        None => Err(Error::attribute(element.line, &element.name, name, text)),
    }
}

/// A yes or an on.
pub(crate) fn is_yes(value: Option<&str>) -> bool {
    matches!(value, Some("yes" | "on"))
}

/// A name of an object: not empty, no control characters, no slash.
pub(crate) fn object_name(element: &Element) -> Result<String, Error> {
    let name = element.child("name").map(Element::text).unwrap_or_default();
    if name.is_empty() {
        return Err(Error::NoName);
    }
    if name.contains('/') {
        return Err(Error::Xml(format!(
            "name {} cannot contain '/'",
            crate::error::shorten(&name)
        )));
    }
    if name.chars().any(char::is_control) || name.len() > MAX_NAME || matches!(name.as_str(), "." | "..") {
        return Err(Error::Xml(format!(
            "name '{}' must have 1 to {MAX_NAME} bytes without control characters",
            crate::error::shorten(&name)
        )));
    }
    Ok(name)
}

/// Longest name of an object in bytes.
pub const MAX_NAME: usize = 128;

/// The UUID of an object, which is made if it has none.
pub(crate) fn fill_uuid(element: &mut Element, random: Random<'_>) -> Result<Uuid, Error> {
    let uuid = match element.child_text("uuid") {
        Some(text) => text.parse().map_err(|()| {
            Error::Xml(format!(
                "malformed uuid element '{}'",
                crate::error::shorten(&text)
            ))
        })?,
        None => Uuid::random(random),
    };
    element.child_or_new("uuid").set_text(uuid.to_string());
    Ok(uuid)
}
