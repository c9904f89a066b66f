//! Distinguished names (RFC 4514 as to their spelling, X.501 as to their form), in the order of the certificate, as libvirt's
//! administrators write them: `C=GB,O=Example,CN=client`.

use std::fmt::Write;

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// Names that attributes go by; others are told by their number.
const ATTRIBUTES: &[(&str, &str)] = &[
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.42", "givenName"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "EMAIL"),
];

/// The name of a certificate's subject.
pub fn of_certificate(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    text(certificate.subject())
}

/// The tags of DER that occur in names.
mod tag {
    pub const OBJECT_IDENTIFIER: u8 = 0x06;
    pub const UTF8_STRING: u8 = 0x0c;
    pub const PRINTABLE_STRING: u8 = 0x13;
    pub const T61_STRING: u8 = 0x14;
    pub const IA5_STRING: u8 = 0x16;
    pub const BMP_STRING: u8 = 0x1e;
    pub const SEQUENCE: u8 = 0x30;
    pub const SET: u8 = 0x31;
}

/// The next element of DER: its tag and what is in it. `rest` is then what follows.
fn element<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&[tag, first], after) = rest.split_first_chunk()?;
    let (length, after) = match first {
        0..=0x7f => (usize::from(first), after),
        // More than 64 KiB are in no name.
        0x81 | 0x82 => {
            let (digits, after) = after.split_at_checked(usize::from(first & 3))?;
            (
                digits
                    .iter()
                    .fold(0, |length, digit| length << 8 | usize::from(*digit)),
                after,
            )
        }
        _ => return None,
    };
    let (contents, after) = after.split_at_checked(length)?;
    *rest = after;
    Some((tag, contents))
}

fn expect<'a>(rest: &mut &'a [u8], wanted: u8) -> Option<&'a [u8]> {
    element(rest)
        .filter(|(tag, _)| *tag == wanted)
        .map(|(_, contents)| contents)
}

/// The text of a name: the contents of its outer sequence. `None` if it is no name, or an empty one.
fn text(mut name: &[u8]) -> Option<String> {
    let mut out = String::new();
    while !name.is_empty() {
        let mut set = expect(&mut name, tag::SET)?;
        let mut separator = if out.is_empty() { "" } else { "," };
        while !set.is_empty() {
            let mut pair = expect(&mut set, tag::SEQUENCE)?;
            let attribute = identifier(expect(&mut pair, tag::OBJECT_IDENTIFIER)?)?;
            let (kind, value) = element(&mut pair)?;
            let known = ATTRIBUTES.iter().find(|(number, _)| *number == attribute);
            out.push_str(separator);
            out.push_str(known.map_or(&attribute, |(_, name)| name));
            out.push('=');
            put_value(kind, value, &mut out);
            separator = "+";
        }
    }
    (!out.is_empty()).then_some(out)
}

/// An object identifier as numbers with points between.
fn identifier(bytes: &[u8]) -> Option<String> {
    let mut numbers: Vec<u64> = Vec::new();
    let mut number = 0u64;
    for byte in bytes {
        number = number.checked_mul(128)? | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            numbers.push(std::mem::take(&mut number));
        }
    }
    let first = *numbers.first()?;
    let root = (first / 40).min(2);
    let mut out = format!("{root}.{}", first - 40 * root);
    for number in &numbers[1..] {
        let _ = write!(out, ".{number}");
    }
    Some(out)
}

/// Appends a value, so that nothing in it can be taken for more of the name.
fn put_value(kind: u8, value: &[u8], out: &mut String) {
    let text = match kind {
        tag::UTF8_STRING | tag::PRINTABLE_STRING | tag::IA5_STRING => String::from_utf8(value.to_vec()).ok(),
        // Nobody writes anything but Latin-1 there.
        tag::T61_STRING => Some(value.iter().map(|byte| char::from(*byte)).collect()),
        tag::BMP_STRING => {
            let units = value
                .chunks_exact(2)
                .map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            char::decode_utf16(units).collect::<Result<_, _>>().ok()
        }
        _ => None,
    };
    let Some(text) = text else {
        out.push('#');
        for byte in value {
            let _ = write!(out, "{byte:02x}");
        }
        return;
    };
    let last = text.chars().count().saturating_sub(1);
    for (at, character) in text.chars().enumerate() {
        match character {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => out.extend(['\\', character]),
            '#' if at == 0 => out.push_str("\\#"),
            ' ' if at == 0 || at == last => out.push_str("\\ "),
            c if c.is_control() => {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(out, "\\{byte:02X}");
                }
            }
            c => out.push(c),
        }
    }
}

/// Whether `text` is what `pattern` says, in which `*` stands for any text.
pub fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn der(tag: u8, contents: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        match contents.len() {
            length @ 0..0x80 => bytes.push(length as u8),
            length => bytes.extend([0x82, (length >> 8) as u8, length as u8]),
        }
        bytes.extend(contents);
        bytes
    }

    fn attribute(oid: &[u8], kind: u8, value: &[u8]) -> Vec<u8> {
        der(
            tag::SEQUENCE,
            &[der(tag::OBJECT_IDENTIFIER, oid), der(kind, value)].concat(),
        )
    }

    const CN: &[u8] = &[0x55, 4, 3];

    #[test]
    fn names_are_spelled_as_the_rfc_says() {
        let one = |kind, value: &[u8]| text(&der(tag::SET, &attribute(CN, kind, value))).unwrap();
        assert_eq!(one(tag::UTF8_STRING, b"client"), "CN=client");
        assert_eq!(
            one(tag::UTF8_STRING, b"a,O=b"),
            "CN=a\\,O=b",
            "no second attribute"
        );
        assert_eq!(one(tag::PRINTABLE_STRING, b"# a "), "CN=\\# a\\ ");
        assert_eq!(one(tag::UTF8_STRING, b"a\nb"), "CN=a\\0Ab");
        assert_eq!(one(tag::T61_STRING, b"\xe9"), "CN=é");
        assert_eq!(one(tag::BMP_STRING, b"\0a\0b"), "CN=ab");
        assert_eq!(one(0x02, b"\x01\xff"), "CN=#01ff");
        let long = vec![b'x'; 300];
        assert_eq!(one(tag::UTF8_STRING, &long).len(), 303);
        let email = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1];
        let unknown = [0x2a, 3];
        let both = [
            attribute(&email, tag::IA5_STRING, b"a@b"),
            attribute(&unknown, tag::UTF8_STRING, b"x"),
        ]
        .concat();
        let name = [
            der(tag::SET, &attribute(&[0x55, 4, 6], tag::PRINTABLE_STRING, b"GB")),
            der(tag::SET, &both),
        ]
        .concat();
        assert_eq!(text(&name).unwrap(), "C=GB,EMAIL=a@b+1.2.3=x");
        assert_eq!(text(b""), None);
    }

    #[test]
    fn patterns() {
        for (pattern, name, fits) in [
            ("CN=a", "CN=a", true),
            ("CN=a", "CN=ab", false),
            ("CN=a*", "CN=ab", true),
            ("*", "", true),
            ("*CN=a", "O=x,CN=a", true),
            ("O=*,CN=*", "O=x,CN=y", true),
            ("O=*,CN=*", "O=x", false),
            ("a*a", "a", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXc", false),
            ("", "CN=a", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_name_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200), value: Vec<u8>) {
            let _ = text(&bytes);
            let _ = identifier(&bytes);
            // Whatever is in a value, the name has one attribute.
            let name = text(&der(tag::SET, &attribute(CN, tag::UTF8_STRING, &value))).unwrap();
            prop_assert!(!name.contains('\n') && !name.replace("\\,", "").contains(','), "{}", name);
        }

        #[test]
        fn a_text_fits_itself(text in "[a-z,=]{0,20}", more in "[a-z]{0,9}") {
            let (open, any) = (format!("{text}*"), format!("{text}{more}"));
            prop_assert!(matches(&text, &text));
            prop_assert!(matches(&open, &any));
        }
    }
}
