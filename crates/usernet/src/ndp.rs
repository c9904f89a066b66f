//! Neighbour discovery (RFC 4861) with the options of RFC 8106: messages in and out, as the payload of ICMPv6.

use std::net::Ipv6Addr;

use crate::wire::{Mac, address6_at};

/// Message types (RFC 4861, 4).
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Options (RFC 4861, 4.6; RFC 8106, 5).
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;
const PREFIX: u8 = 3;
const MTU: u8 = 5;
const DNS_SERVERS: u8 = 25;
const DNS_SEARCH: u8 = 31;

/// Everyone on the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Seconds that a router is good for after an advertisement; it advertises three times in that time at least.
pub const ROUTER_LIFETIME: u16 = 1800;
/// Seconds that an address made of the prefix is valid, and preferred.
const PREFIX_VALID: u32 = 86_400;
const PREFIX_PREFERRED: u32 = 14_400;
/// Bits of the prefix: stations add 64 of their own (RFC 4862, 5.5.3).
const PREFIX_LEN: u8 = 64;

/// A message of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Which routers are there?
    RouterSolicitation,
    /// Who has this address? The card of who asks, if it says so.
    NeighbourSolicitation { target: Ipv6Addr, card: Option<Mac> },
    /// This card has the address.
    NeighbourAdvertisement { target: Ipv6Addr, card: Option<Mac> },
}

impl Message {
    /// The message in the payload of an ICMPv6 packet whose hops and checksum are right; `None` if it is another one, or makes
    /// no sense (RFC 4861, 6.1 and 7.1).
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let [kind, 0, ..] = *bytes else { return None };
        let fixed = match kind {
            ROUTER_SOLICITATION => 8,
            NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT => 24,
            _ => return None,
        };
        let options = bytes.get(fixed..)?;
        let card = |wanted| link_address(options, wanted);
        if kind == ROUTER_SOLICITATION {
            card(SOURCE_LINK_ADDRESS)?;
            return Some(Self::RouterSolicitation);
        }
        let target = address6_at(bytes, 8).filter(|target| !target.is_multicast())?;
        Some(if kind == NEIGHBOUR_SOLICITATION {
            let card = card(SOURCE_LINK_ADDRESS)?;
            Self::NeighbourSolicitation { target, card }
        } else {
            let card = card(TARGET_LINK_ADDRESS)?;
            Self::NeighbourAdvertisement { target, card }
        })
    }
}

/// The card in the option `wanted`, if it is there; the outer `None` if options are cut off or empty.
fn link_address(mut options: &[u8], wanted: u8) -> Option<Option<Mac>> {
    let mut found = None;
    while let [kind, units, ..] = *options {
        let (option, rest) = options.split_at_checked(usize::from(units) * 8)?;
        // An option of no bytes never ends.
        if option.is_empty() {
            return None;
        }
        if kind == wanted && option.len() == 8 {
            found = option[2..].first_chunk().copied();
        }
        options = rest;
    }
    options.is_empty().then_some(found)
}

/// The group in which stations are asked for an address (RFC 4291, 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | u16::from(a),
        u16::from_be_bytes([b, c]),
    )
}

/// Asks who has `target`, in the name of the card `ours`. Checksums are left out in all of these.
pub fn neighbour_solicitation(target: Ipv6Addr, ours: &Mac) -> Vec<u8> {
    let mut message = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message.extend([SOURCE_LINK_ADDRESS, 1]);
    message.extend(ours);
    message
}

/// Says that the router's card `ours` has `target`; `solicited` if someone who has an address asked.
pub fn neighbour_advertisement(target: Ipv6Addr, ours: &Mac, solicited: bool) -> Vec<u8> {
    // A router; what it says overrides what was known.
    let flags = 0x80 | 0x20 | if solicited { 0x40 } else { 0 };
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    message.extend(target.octets());
    message.extend([TARGET_LINK_ADDRESS, 1]);
    message.extend(ours);
    message
}

/// What the router says of itself and of the link.
#[derive(Debug, Clone)]
pub struct Advertised<'a> {
    /// Its card.
    pub mac: Mac,
    /// Bytes of the largest packet.
    pub mtu: u32,
    /// It leads to the outside.
    pub default_router: bool,
    /// Addresses, or all but addresses, are had by DHCPv6.
    pub managed: bool,
    pub other: bool,
    /// An address of the prefix.
    pub prefix: Ipv6Addr,
    /// Stations may make addresses of it.
    pub autonomous: bool,
    pub dns: Option<Ipv6Addr>,
    /// The domain that short names are completed with; empty if there is none.
    pub domain: &'a str,
}

/// A router advertisement (RFC 4861, 4.2).
pub fn router_advertisement(said: &Advertised<'_>) -> Vec<u8> {
    const HOPS: u8 = 64;
    let flags = (u8::from(said.managed) << 7) | (u8::from(said.other) << 6);
    let lifetime = if said.default_router { ROUTER_LIFETIME } else { 0 };
    let mut message = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, HOPS, flags];
    message.extend(lifetime.to_be_bytes());
    // Reachable and retransmission time: not said.
    message.extend([0; 8]);
    message.extend([SOURCE_LINK_ADDRESS, 1]);
    message.extend(said.mac);
    message.extend([MTU, 1, 0, 0]);
    message.extend(said.mtu.to_be_bytes());
    // On the link.
    let flags = 0x80 | (u8::from(said.autonomous) << 6);
    message.extend([PREFIX, 4, PREFIX_LEN, flags]);
    message.extend(PREFIX_VALID.to_be_bytes());
    message.extend(PREFIX_PREFERRED.to_be_bytes());
    message.extend([0; 4]);
    message.extend(&said.prefix.octets()[..8]);
    message.extend([0; 8]);
    if let Some(dns) = said.dns {
        message.extend([DNS_SERVERS, 3, 0, 0]);
        message.extend(u32::from(ROUTER_LIFETIME).to_be_bytes());
        message.extend(dns.octets());
    }
    if !said.domain.is_empty() {
        let mut name = encode_name(said.domain);
        name.resize(name.len().next_multiple_of(8), 0);
        message.extend([DNS_SEARCH, 1 + (name.len() / 8) as u8, 0, 0]);
        message.extend(u32::from(ROUTER_LIFETIME).to_be_bytes());
        message.extend(name);
    }
    message
}

/// A name in labels (RFC 1035, 3.1), as options of ours have it.
pub fn encode_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        let len = label.len().min(63);
        bytes.push(len as u8);
        bytes.extend(&label.as_bytes()[..len]);
    }
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CARD: Mac = [2, 0, 0, 0, 0, 9];

    #[test]
    fn questions_and_answers_are_understood() {
        let target: Ipv6Addr = "fd00::1234:5678".parse().unwrap();
        assert_eq!(solicited_node(target).to_string(), "ff02::1:ff34:5678");
        assert_eq!(
            Message::parse(&neighbour_solicitation(target, &CARD)),
            Some(Message::NeighbourSolicitation {
                target,
                card: Some(CARD)
            })
        );
        let answer = neighbour_advertisement(target, &CARD, true);
        assert_eq!(answer[4], 0xe0);
        assert_eq!(
            Message::parse(&answer),
            Some(Message::NeighbourAdvertisement {
                target,
                card: Some(CARD)
            })
        );
        assert_eq!(
            Message::parse(&[133, 0, 0, 0, 0, 0, 0, 0]),
            Some(Message::RouterSolicitation)
        );
        // An option of no bytes, one that is cut off, and a group as a target.
        assert_eq!(Message::parse(&[133, 0, 0, 0, 0, 0, 0, 0, 1, 0]), None);
        assert_eq!(Message::parse(&[133, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2]), None);
        assert_eq!(Message::parse(&neighbour_solicitation(ALL_NODES, &CARD)), None);
    }

    #[test]
    fn an_advertisement_says_what_there_is() {
        let mut said = Advertised {
            mac: CARD,
            mtu: 1500,
            default_router: true,
            managed: true,
            other: false,
            prefix: "fd00::1".parse().unwrap(),
            autonomous: true,
            dns: Some("fd00::3".parse().unwrap()),
            domain: "lan.example",
        };
        let message = router_advertisement(&said);
        assert_eq!(message[..8], [134, 0, 0, 0, 64, 0x80, 0x07, 0x08]);
        assert_eq!(message.len() % 8, 0);
        assert_eq!(message[16..24], [1, 1, 2, 0, 0, 0, 0, 9]);
        assert_eq!(message[24..32], [5, 1, 0, 0, 0, 0, 5, 0xdc]);
        assert_eq!(message[32..36], [3, 4, 64, 0xc0]);
        assert_eq!(message[48..50], [0xfd, 0]);
        assert_eq!(message[64..68], [25, 3, 0, 0]);
        assert!(message[88..].starts_with(&[31, 3, 0, 0]), "in units of 8 bytes");
        assert!(message[96..].starts_with(b"\x03lan\x07example\0"));
        said.default_router = false;
        said.autonomous = false;
        said.dns = None;
        said.domain = "";
        let message = router_advertisement(&said);
        assert_eq!(
            (&message[6..8], message[35], message.len()),
            (&[0, 0][..], 0x80, 64)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_understood_or_refused(kind in 130u8..140, bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let mut bytes = bytes;
            let _ = Message::parse(&bytes);
            if bytes.len() > 1 {
                bytes[..2].copy_from_slice(&[kind, 0]);
            }
            if let Some(Message::NeighbourSolicitation { target, .. }) = Message::parse(&bytes) {
                prop_assert!(!target.is_multicast());
            }
        }
    }
}
