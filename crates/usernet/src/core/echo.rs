//! ICMP echo.

use std::net::SocketAddrV4;

use super::flows::FlowKey;
use super::{Core, Kind};
use crate::time::Millis;
use crate::wire::{ICMP, Ipv4, UDP_LEN, fold, sum, u16_at};

impl Core {
    /// ICMP echo (RFC 792): answered for our own addresses, passed on for others.
    pub(super) fn input_icmp(&mut self, packet: &Ipv4<'_>, now: Millis) -> Option<()> {
        let message = packet.payload;
        let echo = message.len() >= UDP_LEN && message[..2] == [8, 0] && fold(sum(message)) == 0xffff;
        if !echo {
            return None;
        }
        if self.is_ours(packet.destination) {
            let reply = echo_reply(message, u16_at(message, 4)?);
            self.output.ipv4(ICMP, packet.destination, packet.source, &reply);
            return Some(());
        }
        let key = FlowKey {
            kind: Kind::Ping,
            guest: SocketAddrV4::new(packet.source, u16_at(message, 4)?),
            peer: SocketAddrV4::new(packet.destination, 0),
        };
        self.send(key, message, now)
    }
}

/// The reply to an echo, with this identifier.
pub(super) fn echo_reply(message: &[u8], identifier: u16) -> Vec<u8> {
    let mut reply = message.to_vec();
    reply[..4].fill(0);
    reply[4..6].copy_from_slice(&identifier.to_be_bytes());
    let checksum = !fold(sum(&reply));
    reply[2..4].copy_from_slice(&checksum.to_be_bytes());
    reply
}
