//! What a port's station may not pretend to be. A frame that cannot be read as what it claims to be is dropped where that matters.

use std::net::IpAddr;

use crate::counters::Drop;
use crate::packet::{Packet, What};
use crate::vlan::TagType;
use crate::{Frame, Mac};

const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const ROUTER_ADVERTISEMENT: u8 = 134;
const REDIRECT: u8 = 137;

/// Protection of a port; nothing of it is on by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protection {
    /// The only address that frames may come from, and that ARP may name as theirs.
    pub mac: Option<Mac>,
    /// The only addresses that IP packets may come from and that ARP and neighbour advertisements may claim. Link-local ones
    /// have to be in it too. DHCP requests, ARP probes and duplicate address detection pass with no address.
    pub addresses: Option<Vec<IpAddr>>,
    /// No DHCP server is behind the port: nothing comes from UDP port 67, or 547 on IPv6.
    pub dhcp_client_only: bool,
    /// No router is behind the port: neither router advertisements nor redirects come from it (RFC 6105).
    pub ra_guard: bool,
}

impl Protection {
    /// Whether nothing is protected.
    pub(crate) fn is_none(&self) -> bool {
        self.mac.is_none() && self.addresses.is_none() && !self.dhcp_client_only && !self.ra_guard
    }

    /// Whether a frame may come in.
    pub(crate) fn check(&self, frame: &Frame<'_>, tags: TagType) -> Result<(), Drop> {
        if self.mac.is_some_and(|mac| mac != frame.source) {
            return Err(Drop::SpoofedMac);
        }
        if self.is_none() {
            return Ok(());
        }
        // Behind one more tag nothing can be seen.
        if frame.is_double_tagged(tags) || frame.has_foreign_tag(tags) {
            return Err(Drop::DoubleTag);
        }
        match Packet::read(frame).ok_or(Drop::SpoofedIp)? {
            Packet::Other => Ok(()),
            Packet::Arp { sender, address } => {
                if self.mac.is_some_and(|mac| mac != sender) {
                    return Err(Drop::SpoofedMac);
                }
                self.owns(address.into(), true)
            }
            Packet::Ip { source, what } => {
                self.check_role(what, source)?;
                self.owns(source, starts_without_address(what))?;
                match what {
                    What::Icmpv6 {
                        kind: NEIGHBOUR_ADVERTISEMENT,
                        target: Some(target),
                    } => self.owns(target.into(), false),
                    _ => Ok(()),
                }
            }
        }
    }

    fn owns(&self, address: IpAddr, may_be_none: bool) -> Result<(), Drop> {
        let good = match &self.addresses {
            None => true,
            Some(own) => own.contains(&address) || (may_be_none && address.is_unspecified()),
        };
        if good { Ok(()) } else { Err(Drop::SpoofedIp) }
    }

    fn check_role(&self, what: What, source: IpAddr) -> Result<(), Drop> {
        let server = if source.is_ipv4() { 67 } else { 547 };
        match what {
            What::Udp { from, .. } if self.dhcp_client_only && from == server => Err(Drop::Rogue),
            What::Icmpv6 {
                kind: ROUTER_ADVERTISEMENT | REDIRECT,
                ..
            } if self.ra_guard => Err(Drop::Rogue),
            _ => Ok(()),
        }
    }
}

/// DHCP requests (RFC 2131, 4.1), neighbour solicitations (RFC 4862, 5.4.2) and multicast reports (RFC 3810, 5.2.13).
fn starts_without_address(what: What) -> bool {
    matches!(
        what,
        What::Udp { from: 68, to: 67 }
            | What::Icmpv6 {
                kind: 135 | 131 | 143,
                ..
            }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWN: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);

    fn strict() -> Protection {
        Protection {
            mac: Some(OWN),
            addresses: Some(vec!["10.0.0.5".parse().unwrap(), "fe80::5".parse().unwrap()]),
            dhcp_client_only: true,
            ra_guard: true,
        }
    }

    fn check(protection: &Protection, ether_type: u16, payload: &[u8]) -> Result<(), Drop> {
        let bytes = [&[0xff; 6][..], &OWN.0, &ether_type.to_be_bytes(), payload].concat();
        let frame = Frame::parse(&bytes, TagType::Customer).unwrap();
        protection.check(&frame, TagType::Customer)
    }

    fn arp(sender: Mac, address: [u8; 4]) -> Vec<u8> {
        [&[0, 1, 8, 0, 6, 4, 0, 2][..], &sender.0, &address, &[0; 10]].concat()
    }

    fn ipv4(source: [u8; 4], protocol: u8, fragment: u16, body: &[u8]) -> Vec<u8> {
        let total = (20 + body.len()) as u16;
        let header = [
            0x45,
            0,
            (total >> 8) as u8,
            total as u8,
            0,
            0,
            (fragment >> 8) as u8,
            fragment as u8,
            64,
            protocol,
            0,
            0,
        ];
        [&header[..], &source, &[255; 4], body].concat()
    }

    fn ipv6(source: &str, next: u8, body: &[u8]) -> Vec<u8> {
        let source: std::net::Ipv6Addr = source.parse().unwrap();
        [
            &[0x60, 0, 0, 0, 0, body.len() as u8, next, 255][..],
            &source.octets(),
            &[0xff; 16],
            body,
        ]
        .concat()
    }

    fn udp(from: u16, to: u16) -> Vec<u8> {
        [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0, 8, 0, 0]].concat()
    }

    #[test]
    fn the_station_itself_may_speak() {
        for (kind, payload) in [
            (0x0806, arp(OWN, [10, 0, 0, 5])),
            (0x0806, arp(OWN, [0; 4])),
            (0x0800, ipv4([10, 0, 0, 5], 6, 0, &[0; 20])),
            (0x0800, ipv4([0; 4], 17, 0, &udp(68, 67))),
            (0x0800, ipv4([10, 0, 0, 5], 17, 0x00b9, &[0; 3])),
            (0x86dd, ipv6("fe80::5", 58, &[128, 0, 0, 0])),
            (0x86dd, ipv6("::", 58, &[135; 24])),
            (0x88b5, vec![1, 2, 3]),
        ] {
            assert_eq!(check(&strict(), kind, &payload), Ok(()), "{kind:x} {payload:x?}");
        }
    }

    #[test]
    fn who_pretends_is_dropped() {
        let other = Mac([0x52, 0x54, 0, 0, 0, 2]);
        let advertised: std::net::Ipv6Addr = "fe80::1".parse().unwrap();
        let claim = [&[136, 0, 0, 0, 0, 0, 0, 0][..], &advertised.octets()].concat();
        for (kind, payload, reason) in [
            (0x0806, arp(other, [10, 0, 0, 5]), Drop::SpoofedMac),
            (0x0806, arp(OWN, [10, 0, 0, 1]), Drop::SpoofedIp),
            (0x8035, arp(OWN, [10, 0, 0, 1]), Drop::SpoofedIp),
            (0x0806, arp(OWN, [10, 0, 0, 5])[..20].to_vec(), Drop::SpoofedIp),
            (0x0800, ipv4([10, 0, 0, 6], 6, 0, &[0; 20]), Drop::SpoofedIp),
            (0x0800, ipv4([0; 4], 6, 0, &[0; 20]), Drop::SpoofedIp),
            (0x0800, ipv4([10, 0, 0, 5], 17, 0, &udp(67, 68)), Drop::Rogue),
            (0x0800, ipv4([10, 0, 0, 5], 17, 0x2000, &[0, 67]), Drop::SpoofedIp),
            (0x0800, vec![0x44; 20], Drop::SpoofedIp),
            (0x86dd, ipv6("fe80::5", 17, &udp(547, 546)), Drop::Rogue),
            (0x86dd, ipv6("fe80::6", 58, &[128, 0, 0, 0]), Drop::SpoofedIp),
            (0x86dd, ipv6("::", 6, &[0; 20]), Drop::SpoofedIp),
            (0x86dd, ipv6("fe80::5", 58, &claim), Drop::SpoofedIp),
            (0x88a8, vec![0, 5, 8, 0], Drop::DoubleTag),
        ] {
            assert_eq!(
                check(&strict(), kind, &payload),
                Err(reason),
                "{kind:x} {payload:x?}"
            );
        }
    }

    /// RFC 7113: router advertisements behind extension headers and in fragments.
    #[test]
    fn router_advertisements_do_not_hide() {
        let guard = Protection {
            ra_guard: true,
            ..Protection::default()
        };
        let ra = [134, 0, 0, 0, 64, 0, 0, 0];
        let option = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
        let fragment = |next: u8, offset: u16| [next, 0, (offset >> 8) as u8, offset as u8, 0, 0, 0, 9];
        let v6 = |next, parts: &[&[u8]]| ipv6("fe80::9", next, &parts.concat());
        for packet in [
            v6(58, &[&ra]),
            v6(0, &[&option(58), &ra]),
            v6(60, &[&option(43), &option(58), &ra]),
            v6(44, &[&fragment(58, 1), &ra]),
            v6(44, &[&fragment(60, 0), &option(58), &ra]),
            v6(58, &[&[137, 0, 0, 0]]),
        ] {
            assert_eq!(check(&guard, 0x86dd, &packet), Err(Drop::Rogue), "{packet:x?}");
        }
        for hidden in [
            v6(44, &[&fragment(60, 1), &option(58)]),
            v6(60, &[&[60, 200, 0, 0]]),
            v6(60, &[&[60; 8], &option(60).repeat(20)]),
        ] {
            assert_eq!(
                check(&guard, 0x86dd, &hidden),
                Err(Drop::SpoofedIp),
                "{hidden:x?}"
            );
        }
        assert_eq!(
            check(&guard, 0x86dd, &v6(44, &[&fragment(58, 8), &ra])),
            Ok(()),
            "a later fragment"
        );
        assert_eq!(
            check(&guard, 0x86dd, &v6(58, &[&[133, 0, 0, 0]])),
            Ok(()),
            "a solicitation"
        );
    }

    proptest! {
        /// Random packets: never a panic; and what passes has an address of the station, or none.
        #[test]
        fn any_packet_is_let_in_or_dropped(
            kind in prop::sample::select(vec![0x0806u16, 0x0800, 0x86dd]),
            mut payload in prop::collection::vec(any::<u8>(), 0..120),
            shape in any::<bool>(),
        ) {
            if let Some(first) = payload.first_mut().filter(|_| shape) {
                *first = if kind == 0x0800 { 0x45 } else { 0x60 };
            }
            if check(&strict(), kind, &payload).is_ok() {
                match kind {
                    0x0800 => prop_assert!([[10, 0, 0, 5], [0; 4]].iter().any(|a| payload[12..16] == *a)),
                    0x0806 => prop_assert_eq!(&payload[8..14], &OWN.0),
                    _ => prop_assert!(payload[8] == 0xfe || payload[8..24] == [0; 16]),
                }
            }
        }
    }
}
