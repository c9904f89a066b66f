//! Messages: a header of the family's own, then attributes of type and length, aligned to four bytes (RFC 3549, 2.2).

use super::constants::{NLM_F_ACK, NLM_F_REQUEST};

/// Bytes of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;

/// A request, built from left to right. Sequence number and length are set when it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A message of that type with `flags` beside those that every request has.
    pub(crate) fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        bytes.extend_from_slice(header);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        Self { bytes }
    }

    /// A link message (`struct ifinfomsg`): of the interface with that number, 0 for one that is named or new.
    pub(crate) fn link(kind: u16, flags: u16, family: u8, index: u32) -> Self {
        Self::link_flags(kind, flags, family, index, 0, 0)
    }

    /// The same with interface flags to be changed where `mask` has them.
    pub(crate) fn link_flags(kind: u16, flags: u16, family: u8, index: u32, set: u32, mask: u32) -> Self {
        let mut header = [0; 16];
        header[0] = family;
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        header[8..12].copy_from_slice(&set.to_ne_bytes());
        header[12..16].copy_from_slice(&mask.to_ne_bytes());
        Self::new(kind, flags, &header)
    }

    pub(crate) fn bytes_of(mut self, kind: u16, value: &[u8]) -> Self {
        // An attribute's length has 16 bits; ours have some dozen bytes.
        let len = u16::try_from(4 + value.len()).expect("attributes of requests are short");
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes_of(kind, &bytes)
    }

    pub(crate) fn u8(self, kind: u16, value: u8) -> Self {
        self.bytes_of(kind, &[value])
    }

    pub(crate) fn u16(self, kind: u16, value: u16) -> Self {
        self.bytes_of(kind, &value.to_ne_bytes())
    }

    pub(crate) fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes_of(kind, &value.to_ne_bytes())
    }

    /// An attribute that holds attributes.
    pub(crate) fn nest(mut self, kind: u16, inside: impl FnOnce(Self) -> Self) -> Self {
        const NLA_F_NESTED: u16 = 0x8000;
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        let mut nested = inside(self);
        let len = u16::try_from(nested.bytes.len() - start).expect("attributes of requests are short");
        nested.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        nested.bytes[start + 2..start + 4].copy_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        nested
    }

    /// The message as it goes out.
    pub(super) fn finish(&self, sequence: u32) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let len = bytes.len() as u32;
        bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        bytes
    }
}

/// One message of an answer.
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) body: &'a [u8],
}

/// The messages of a datagram; ends early where one does not fit.
pub(crate) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = u32_of(datagram.get(0..4)?)? as usize;
        let whole = datagram.get(..len)?;
        let message = Message {
            kind: u16_of(whole.get(4..6)?)?,
            flags: u16_of(whole.get(6..8)?)?,
            sequence: u32_of(whole.get(8..12)?)?,
            body: whole.get(HEADER..)?,
        };
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// Attributes one after the other; ends early where one does not fit.
#[derive(Clone, Copy)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        const TYPE_MASK: u16 = 0x3fff;
        let len = usize::from(u16_of(self.0.get(0..2)?)?);
        let kind = u16_of(self.0.get(2..4)?)? & TYPE_MASK;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// The first attribute of that type.
pub(crate) fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    Attributes(attributes)
        .find(|(k, _)| *k == kind)
        .map(|(_, value)| value)
}

pub(crate) fn u16_of(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?))
}

pub(crate) fn u32_of(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// Text up to its terminating zero.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_built_is_read_again() {
        let request = Request::link(16, 0, 7, 3)
            .text(3, "br0")
            .nest(18, |r| r.text(1, "bridge").nest(2, |r| r.u32(1, 1500).u8(5, 1)));
        let bytes = request.finish(9);
        let message = messages(&bytes).next().unwrap();
        assert_eq!((message.kind, message.sequence), (16, 9));
        assert_eq!(u32_of(&message.body[4..]), Some(3));
        let attributes = &message.body[16..];
        assert_eq!(attribute(attributes, 3).map(text).as_deref(), Some("br0"));
        let data = attribute(attribute(attributes, 18).unwrap(), 2).unwrap();
        assert_eq!(attribute(data, 1).and_then(u32_of), Some(1500));
        assert_eq!(attribute(data, 5), Some(&[1][..]));
        assert_eq!(attribute(data, 6), None);
    }

    proptest! {
        #[test]
        fn nothing_that_is_read_goes_wrong(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut seen = 0;
            for message in messages(&bytes) {
                seen += HEADER + message.body.len();
                for (_, value) in Attributes(message.body) {
                    prop_assert!(Attributes(value).count() <= value.len());
                }
            }
            prop_assert!(seen <= bytes.len());
        }
    }
}
