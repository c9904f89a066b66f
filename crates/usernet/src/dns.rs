//! Names that are answered here; all others go to the host's name server (RFC 1035).

use std::net::IpAddr;

use crate::wire::u16_at;

/// Where name servers listen.
pub const PORT: u16 = 53;
const HEADER_LEN: usize = 12;
/// Seconds that an answer may be kept.
const TTL: u32 = 60;
const A: u16 = 1;
/// An address of IPv6 (RFC 3596).
const AAAA: u16 = 28;
const INTERNET: u16 = 1;

/// What an answer says beside names (RFC 1035, 4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// All is well.
    NoError = 0,
    /// The server cannot ask anyone.
    Refused = 5,
}

/// A query with one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query<'a> {
    header: &'a [u8],
    question: &'a [u8],
    /// Small letters, labels divided by dots, none at the end.
    pub name: String,
    kind: u16,
    class: u16,
}

impl<'a> Query<'a> {
    /// The query in the payload of a datagram.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, body) = bytes.split_at_checked(HEADER_LEN)?;
        let is_query = header[2] & 0xf8 == 0;
        if !is_query || u16_at(header, 4)? != 1 {
            return None;
        }
        let mut name = String::new();
        let mut at = 0;
        loop {
            let len = usize::from(*body.get(at)?);
            at += 1;
            if len == 0 {
                break;
            }
            // A question is the first name in a message: there is nothing that it could point to.
            if len > 63 || name.len() + len > 254 {
                return None;
            }
            let label = body.get(at..at + len)?;
            at += len;
            if !name.is_empty() {
                name.push('.');
            }
            name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
        }
        Some(Self {
            header,
            question: body.get(..at + 4)?,
            name,
            kind: u16_at(body, at)?,
            class: u16_at(body, at + 2)?,
        })
    }

    /// True if an address of IPv6 is asked for.
    pub fn wants_ipv6(&self) -> bool {
        self.kind == AAAA
    }

    /// The answer: `address` if one of its kind was asked for, else none.
    pub fn answer(&self, code: Code, address: Option<IpAddr>) -> Vec<u8> {
        let kind = |address: &IpAddr| if address.is_ipv4() { A } else { AAAA };
        let address = address.filter(|address| (self.kind, self.class) == (kind(address), INTERNET));
        let mut message = self.header[..2].to_vec();
        // A response, authoritative; recursion as asked, and to be had.
        message.extend([0x84 | (self.header[2] & 1), 0x80 | code as u8, 0, 1]);
        message.extend([0, u8::from(address.is_some()), 0, 0, 0, 0]);
        message.extend(self.question);
        if let Some(address) = address {
            // The name is that of the question, at byte 12.
            message.extend([0xc0, HEADER_LEN as u8, 0, self.kind as u8, 0, INTERNET as u8]);
            message.extend(TTL.to_be_bytes());
            match address {
                IpAddr::V4(address) => {
                    message.extend([0, 4]);
                    message.extend(address.octets());
                }
                IpAddr::V6(address) => {
                    message.extend([0, 16]);
                    message.extend(address.octets());
                }
            }
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn query(name: &[u8], kind: u8) -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend(name);
        bytes.extend([0, kind, 0, 1]);
        bytes
    }

    #[test]
    fn a_name_is_answered_with_its_address() {
        let bytes = query(b"\x07GateWay\x06ostler\0", 1);
        let query = Query::parse(&bytes).unwrap();
        assert_eq!(query.name, "gateway.ostler");
        let answer = query.answer(Code::NoError, Some(Ipv4Addr::new(10, 0, 2, 2).into()));
        assert_eq!(answer[..4], [0xab, 0xcd, 0x85, 0x80]);
        assert_eq!(answer[4..12], [0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(answer[12..bytes.len()], bytes[12..], "the question as it came");
        assert_eq!(
            answer[bytes.len()..],
            [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 2, 2]
        );
    }

    #[test]
    fn another_type_has_no_answers_and_bad_names_are_refused() {
        let bytes = query(b"\x01a\0", 28);
        let answer = Query::parse(&bytes)
            .unwrap()
            .answer(Code::NoError, Some(Ipv4Addr::LOCALHOST.into()));
        assert_eq!((answer[7], answer.len()), (0, bytes.len()));
        let answer = Query::parse(&bytes)
            .unwrap()
            .answer(Code::NoError, Some(Ipv6Addr::LOCALHOST.into()));
        assert_eq!(answer[bytes.len()..bytes.len() + 4], [0xc0, 12, 0, 28]);
        assert!(answer.ends_with(&[[0, 16, 0].as_slice(), &Ipv6Addr::LOCALHOST.octets()[1..]].concat()));
        assert_eq!(Query::parse(&query(b"\xc0\x0c", 1)), None);
        assert_eq!(Query::parse(&query(b"\x3f", 1)), None);
        assert_eq!(Query::parse(&query(&b"\x3f".repeat(400), 1)), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_understood_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), count in 0u8..3) {
            let mut bytes = bytes;
            if bytes.len() > HEADER_LEN {
                bytes[2] = 1;
                bytes[4..6].copy_from_slice(&[0, count]);
            }
            if let Some(query) = Query::parse(&bytes) {
                prop_assert!(query.name.chars().count() <= 254);
                query.answer(Code::Refused, None);
            }
        }
    }
}
