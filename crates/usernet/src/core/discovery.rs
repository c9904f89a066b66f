//! Who has which Ethernet address, by ARP and by neighbour discovery.

use std::net::{IpAddr, Ipv6Addr};

use super::Core;
use super::input::Sender;
use crate::ndp::{self, Message};
use crate::time::Millis;
use crate::wire::{ETHERTYPE_ARP, Mac, Packet, address_at};

/// A packet that passed no router: none may speak for a neighbour (RFC 4861, 6.1 and 7.1).
const ALL_HOPS: u8 = 255;

impl Core {
    /// Answers who has our addresses, and takes answers to us (RFC 826).
    pub(super) fn input_arp(&mut self, source: Mac, payload: &[u8]) -> Option<()> {
        const HEADER: [u8; 7] = [0, 1, 8, 0, 6, 4, 0];
        let message = payload.get(..28)?;
        let (sender, target) = (address_at(message, 14)?, address_at(message, 24)?);
        if message[..7] != HEADER || !self.is_ours(target.into()) {
            return None;
        }
        if self.is_guest(sender.into()) {
            self.output.learn(sender, source);
        }
        if message[7] != 1 {
            return None;
        }
        let mut reply = [0; 28];
        reply[..7].copy_from_slice(&HEADER);
        reply[7] = 2;
        reply[8..14].copy_from_slice(&self.config.mac);
        reply[14..18].copy_from_slice(&target.octets());
        reply[18..28].copy_from_slice(&message[8..18]);
        self.output.ethernet(source, ETHERTYPE_ARP, &reply);
        Some(())
    }

    /// Neighbour discovery, and echo.
    pub(super) fn input_icmpv6(&mut self, sender: Sender, packet: &Packet<'_>, now: Millis) -> Option<()> {
        let IpAddr::V6(source) = packet.source else {
            return None;
        };
        if packet.hops != ALL_HOPS || !matches!(packet.payload.first()?, 133..=137) {
            self.learn_guest(sender, packet)?;
            return self.input_icmp(sender, packet, now);
        }
        // One without an address asks whether it may have one, or for a router.
        if !source.is_unspecified() {
            self.learn_guest(sender, packet)?;
        }
        match Message::parse(packet.payload)? {
            Message::RouterSolicitation => self.solicited(source, now),
            Message::NeighbourSolicitation { target, card } => {
                if source.is_unspecified() {
                    self.learn_claimed(sender.card, target);
                }
                self.answer_solicitation(source, target, card)?;
            }
            Message::NeighbourAdvertisement { target, card } => {
                if self.is_guest(target.into()) {
                    self.output.learn(target, card.unwrap_or(sender.card));
                }
            }
        }
        Some(())
    }

    /// A guest asks whether it may have `target` (RFC 4862, 5.4), and says nothing when it does. Nobody's address is taken by a question.
    fn learn_claimed(&mut self, card: Mac, target: Ipv6Addr) {
        let unknown = self.output.neighbours.card(target.into()).is_none();
        if unknown && self.is_guest(target.into()) {
            self.output.learn(target, card);
        }
    }

    /// Says that we have `target`, if it is ours (RFC 4861, 7.2.4).
    fn answer_solicitation(&mut self, source: Ipv6Addr, target: Ipv6Addr, card: Option<Mac>) -> Option<()> {
        if !self.is_ours(target.into()) || (source.is_unspecified() && card.is_some()) {
            return None;
        }
        let solicited = !source.is_unspecified();
        let to = if solicited { source } else { ndp::ALL_NODES };
        let answer = ndp::neighbour_advertisement(target, &self.config.mac, solicited);
        self.output.discovery(to, answer);
        Some(())
    }
}
