//! A view of an Ethernet frame: addresses, the outer tag if it is of the switch's kind, and what is behind.

use crate::vlan::TagType;
use crate::{Mac, VlanId};

/// A frame that came in on a port.
#[derive(Clone, Copy, Debug)]
pub struct RxFrame<'a> {
    /// The bytes, from the destination address to the end of the payload, without the check sequence.
    pub bytes: &'a [u8],
    /// The length in bytes of the longest frame that becomes of it on a wire: less than `bytes` has if it is still to be
    /// cut into segments. 0 if that makes no sense for this frame.
    pub wire_len: usize,
}

impl<'a> From<&'a [u8]> for RxFrame<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            wire_len: bytes.len(),
        }
    }
}

/// The tag control information: priority (3 bits), drop eligible, VLAN (12 bits) (802.1Q-2005, 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tci(pub u16);

impl Tci {
    /// The 12 bits of the VLAN, as they are.
    pub fn vid(self) -> u16 {
        self.0 & 0xfff
    }

    /// The same priority in `vlan`.
    #[must_use]
    pub fn in_vlan(self, vlan: VlanId) -> Self {
        Self(self.0 & 0xf000 | vlan.get())
    }
}

/// The parts of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// To whom.
    pub destination: Mac,
    /// From whom.
    pub source: Mac,
    /// The tag, if the frame has one of the switch's kind.
    pub tag: Option<Tci>,
    /// EtherType or length, behind the tag.
    pub ether_type: u16,
    /// What is behind that.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Takes a frame apart. `None` if it ends before its EtherType does.
    // Its parts stay in registers; out of memory the addresses, stored in pieces, would be read again with a stall.
    #[inline(always)]
    pub fn parse(bytes: &'a [u8], tags: TagType) -> Option<Self> {
        let (destination, rest) = bytes.split_first_chunk()?;
        let (source, rest) = rest.split_first_chunk()?;
        let (outer, rest) = word(rest)?;
        let (tag, ether_type, payload) = if outer == tags.ether_type() {
            let (tci, rest) = word(rest)?;
            let (inner, rest) = word(rest)?;
            (Some(Tci(tci)), inner, rest)
        } else {
            (None, outer, rest)
        };
        Some(Self {
            destination: Mac(*destination),
            source: Mac(*source),
            tag,
            ether_type,
            payload,
        })
    }

    /// Whether there is another tag of the switch's kind behind the first one.
    pub fn is_double_tagged(&self, tags: TagType) -> bool {
        self.ether_type == tags.ether_type()
    }

    /// Whether its payload starts with a tag of the other kind.
    pub fn has_foreign_tag(&self, tags: TagType) -> bool {
        self.ether_type == tags.other().ether_type()
    }
}

fn word(bytes: &[u8]) -> Option<(u16, &[u8])> {
    bytes
        .split_first_chunk()
        .map(|(word, rest)| (u16::from_be_bytes(*word), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(behind_addresses: &[u8]) -> Vec<u8> {
        [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], behind_addresses].concat()
    }

    #[test]
    fn an_untagged_frame() {
        let bytes = frame(&[0x08, 0x00, 7, 8]);
        let view = Frame::parse(&bytes, TagType::Customer).unwrap();
        assert_eq!(
            (view.destination, view.source),
            (Mac::BROADCAST, Mac([2, 0, 0, 0, 0, 1]))
        );
        assert_eq!(
            (view.tag, view.ether_type, view.payload),
            (None, 0x800, &[7, 8][..])
        );
    }

    #[test]
    fn a_tag_of_the_own_kind_is_a_tag_and_one_of_the_other_is_payload() {
        let customer = frame(&[0x81, 0, 0xa0, 5, 8, 0, 9]);
        let view = Frame::parse(&customer, TagType::Customer).unwrap();
        assert_eq!(
            (view.tag, view.ether_type, view.payload),
            (Some(Tci(0xa005)), 0x800, &[9][..])
        );
        let view = Frame::parse(&customer, TagType::Service).unwrap();
        assert_eq!((view.tag, view.ether_type), (None, 0x8100));
        assert!(view.has_foreign_tag(TagType::Service));
        let both = frame(&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 5, 8, 0]);
        let view = Frame::parse(&both, TagType::Service).unwrap();
        assert_eq!(view.tag, Some(Tci(7)));
        assert!(view.has_foreign_tag(TagType::Service) && !view.is_double_tagged(TagType::Service));
    }

    #[test]
    fn a_second_tag_is_seen() {
        let bytes = frame(&[0x81, 0, 0, 1, 0x81, 0, 0, 5, 8, 0]);
        let view = Frame::parse(&bytes, TagType::Customer).unwrap();
        assert_eq!(view.tag.map(Tci::vid), Some(1));
        assert!(view.is_double_tagged(TagType::Customer));
    }

    #[test]
    fn frames_that_end_early_are_no_frames() {
        let tagged = frame(&[0x81, 0, 0, 1, 8, 0]);
        for length in 0..18 {
            assert!(
                Frame::parse(&tagged[..length], TagType::Customer).is_none(),
                "{length}"
            );
        }
        assert!(Frame::parse(&tagged, TagType::Customer).is_some());
        let plain = frame(&[8, 0]);
        assert!(Frame::parse(&plain, TagType::Customer).is_some());
        assert!(Frame::parse(&plain[..13], TagType::Customer).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_frame_or_too_short(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
            kind in prop::sample::select(vec![0x8100u16, 0x88a8, 0x0800]),
        ) {
            let mut bytes = bytes;
            if let Some(place) = bytes.get_mut(12..14) {
                place.copy_from_slice(&kind.to_be_bytes());
            }
            for tags in [TagType::Customer, TagType::Service] {
                let header = if kind == tags.ether_type() { 18 } else { 14 };
                let view = Frame::parse(&bytes, tags);
                prop_assert_eq!(view.is_some(), bytes.len() >= header);
                if let Some(view) = view {
                    prop_assert_eq!(view.payload, &bytes[header..]);
                    prop_assert_eq!(view.tag.is_some(), header == 18);
                }
            }
        }
    }
}
