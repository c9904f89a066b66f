//! A guest's frame on its way in: what it is, and whether it may be.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use super::Core;
use crate::output::Takes;
use crate::time::Millis;
use crate::wire::{
    ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, FRAGMENT, ICMP, ICMPV6, Mac, Packet, TCP,
    Tcp, UDP, Udp, VNET_LEN, u16_at,
};
use crate::{dhcp, dhcp6};

/// Bits of the byte in which the guest's side tells what the guest takes.
pub(super) const TAKES_CHECKSUM: u8 = 1;
pub(super) const TAKES_LARGE: u8 = 2;
pub(super) const TAKES_LARGE6: u8 = 4;
/// Extension headers beside that of fragments, by the list of IANA (RFC 7045): hop-by-hop options, routing, ESP, AH, destination
/// options, mobility, HIP, shim6.
const EXTENSIONS: [u8; 8] = [0, 43, 50, 51, 60, 135, 139, 140];

/// Who sent a packet, and whether its checksum is to be looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sender {
    pub(super) card: Mac,
    /// False: the guest left its checksums to us, and nothing can be lost between.
    pub(super) complete: bool,
}

impl Core {
    /// Takes in a frame of the guest, behind its virtio-net header. Whatever makes no sense is dropped.
    pub fn input(&mut self, bytes: &[u8], now: Millis) {
        // A frame that cannot be parsed has nobody to complain to.
        let _ = self.try_input(bytes, now);
    }

    fn try_input(&mut self, bytes: &[u8], now: Millis) -> Option<()> {
        let (header, frame) = bytes.split_at_checked(VNET_LEN)?;
        let (ethernet, payload) = frame.split_at_checked(ETHERNET_LEN)?;
        self.output.takes = Takes {
            checksum: header[10] & TAKES_CHECKSUM != 0,
            large: header[10] & TAKES_LARGE != 0,
            large6: header[10] & TAKES_LARGE6 != 0,
        };
        let sender = Sender {
            card: *ethernet[6..].first_chunk()?,
            complete: header[0] & 1 == 0,
        };
        let to = &ethernet[..6];
        let for_us = to == self.config.mac || *to == [0xff; 6];
        if sender.card[0] & 1 != 0 {
            return None;
        }
        match u16_at(ethernet, 12)? {
            ETHERTYPE_ARP if for_us => self.input_arp(sender.card, payload),
            ETHERTYPE_IPV4 if for_us => self.input_ipv4(sender, &Packet::ipv4(payload)?, now),
            // Groups of IPv6: questions to neighbours, routers and DHCP servers.
            ETHERTYPE_IPV6 if for_us || to.starts_with(&[0x33, 0x33]) => {
                self.input_ipv6(sender, &Packet::ipv6(payload)?, now)
            }
            _ => None,
        }
    }

    fn input_ipv4(&mut self, sender: Sender, packet: &Packet<'_>, now: Millis) -> Option<()> {
        if packet.fragment {
            self.counters.fragments.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        if packet.protocol == UDP
            && let Some(datagram) = Udp::parse(packet.payload)
            && datagram.destination == dhcp::SERVER_PORT
        {
            return self.input_dhcp(datagram.payload, now);
        }
        match packet.protocol {
            ICMP => {
                self.learn_guest(sender, packet)?;
                self.input_icmp(sender, packet, now)
            }
            _ => self.input_transport(sender, packet, now),
        }
    }

    fn input_ipv6(&mut self, sender: Sender, packet: &Packet<'_>, now: Millis) -> Option<()> {
        self.config.ipv6?;
        let IpAddr::V6(to) = packet.destination else {
            return None;
        };
        match packet.protocol {
            FRAGMENT => self.counters.fragments.fetch_add(1, Ordering::Relaxed),
            protocol if EXTENSIONS.contains(&protocol) => {
                self.counters.extension_headers.fetch_add(1, Ordering::Relaxed)
            }
            ICMPV6 => {
                (!sender.complete || packet.checksum_holds()).then_some(())?;
                return self.input_icmpv6(sender, packet, now);
            }
            UDP if to == dhcp6::ALL_SERVERS => {
                let datagram = Udp::parse(packet.payload)?;
                (!sender.complete || packet.checksum_holds()).then_some(())?;
                return self.input_dhcp6(sender, packet, &datagram, now);
            }
            _ if to.is_multicast() => return None,
            _ => return self.input_transport(sender, packet, now),
        };
        None
    }

    /// TCP and UDP, the same over both families.
    fn input_transport(&mut self, sender: Sender, packet: &Packet<'_>, now: Millis) -> Option<()> {
        self.learn_guest(sender, packet)?;
        match packet.protocol {
            TCP => {
                let segment = Tcp::parse(packet.payload)?;
                (!sender.complete || packet.checksum_holds()).then_some(())?;
                self.input_tcp(sender, packet, &segment, now);
                Some(())
            }
            UDP => {
                let datagram = Udp::parse(packet.payload)?;
                // Over IPv6 there always is one (RFC 8200, 8.1).
                let checked = datagram.has_checksum || packet.source.is_ipv6();
                (!sender.complete || !checked || packet.checksum_holds()).then_some(())?;
                self.input_udp(sender, packet, &datagram, now)
            }
            _ => None,
        }
    }

    /// Notes where the sender of a packet is; `None` if it is not one that a guest can be.
    pub(super) fn learn_guest(&mut self, sender: Sender, packet: &Packet<'_>) -> Option<()> {
        self.is_guest(packet.source).then_some(())?;
        self.output.learn(packet.source, sender.card);
        Some(())
    }
}
