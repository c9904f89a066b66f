//! ICMP echo of both families (RFC 792; RFC 4443, 4).

use std::net::{IpAddr, SocketAddr};

use super::flows::FlowKey;
use super::input::Sender;
use super::{Core, Kind};
use crate::time::Millis;
use crate::wire::{ICMP, ICMPV6, Packet, UDP_LEN, fold, pseudo, sum, u16_at};

/// Types of question and answer.
const ECHO: u8 = 8;
const ECHO_REPLY: u8 = 0;
const ECHO6: u8 = 128;
const ECHO6_REPLY: u8 = 129;

impl Core {
    /// An echo: answered for our own addresses, passed on for others.
    pub(super) fn input_icmp(&mut self, sender: Sender, packet: &Packet<'_>, now: Millis) -> Option<()> {
        let message = packet.payload;
        let (kind, right) = match packet.source {
            IpAddr::V4(_) => (ECHO, fold(sum(message)) == 0xffff),
            // Looked at before.
            IpAddr::V6(_) => (ECHO6, packet.protocol == ICMPV6),
        };
        let echo = message.len() >= UDP_LEN && message[..2] == [kind, 0] && right;
        if !echo || is_group(packet.destination) {
            return None;
        }
        let identifier = u16_at(message, 4)?;
        if self.is_ours(packet.destination) {
            self.reply(packet.destination, packet.source, message, identifier);
            return Some(());
        }
        let key = FlowKey {
            kind: Kind::Ping,
            guest: SocketAddr::new(packet.source, identifier),
            peer: SocketAddr::new(packet.destination, 0),
        };
        self.send(key, sender, message, now)
    }

    /// A message came by a ping socket.
    pub(super) fn echoed(&mut self, key: &FlowKey, message: &[u8]) {
        let kind = if key.peer.is_ipv4() {
            ECHO_REPLY
        } else {
            ECHO6_REPLY
        };
        if message.len() >= UDP_LEN && message[..2] == [kind, 0] {
            // The host's kernel has put an identifier of its own there.
            self.reply(key.peer.ip(), key.guest.ip(), message, key.guest.port());
        }
    }

    fn reply(&mut self, from: IpAddr, to: IpAddr, message: &[u8], identifier: u16) {
        let reply = echo_reply(message, identifier, from, to);
        let protocol = if from.is_ipv4() { ICMP } else { ICMPV6 };
        self.output.ip(protocol, from, to, &reply);
    }
}

fn is_group(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_multicast())
}

/// The reply to an echo, with this identifier.
pub(super) fn echo_reply(message: &[u8], identifier: u16, from: IpAddr, to: IpAddr) -> Vec<u8> {
    let mut reply = message.to_vec();
    let (kind, pseudo) = match from {
        IpAddr::V4(_) => (ECHO_REPLY, 0),
        IpAddr::V6(_) => (ECHO6_REPLY, pseudo(from, to, ICMPV6, message.len())),
    };
    reply[..4].copy_from_slice(&[kind, 0, 0, 0]);
    reply[4..6].copy_from_slice(&identifier.to_be_bytes());
    let checksum = !fold(pseudo + sum(&reply));
    reply[2..4].copy_from_slice(&checksum.to_be_bytes());
    reply
}
