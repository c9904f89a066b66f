//! Entries for fuzzers: what a guest sends.

use crate::core::{Action, Core};
use crate::dns;
use crate::ndp;
use crate::{Config, DNS, FIRST_GUEST, GATEWAY};
use crate::{dhcp, dhcp6};

/// A DHCP message.
pub fn dhcp(input: &[u8]) {
    let network = dhcp::Network {
        server: GATEWAY,
        mask: [255, 255, 255, 0].into(),
        router: Some(GATEWAY),
        dns: Some(DNS),
        domain: "example".into(),
        lease: 3600,
    };
    if let Some(request) = dhcp::Request::parse(input) {
        request.hostname();
        request.answer(Some(FIRST_GUEST), &network);
        request.answer(None, &network);
    }
}

/// A DHCPv6 message.
pub fn dhcp6(input: &[u8]) {
    let network = dhcp6::Network {
        mac: [0x52, 0x55, 0, 0, 0, 1],
        dns: Some(crate::DNS6),
        domain: "example".into(),
        lease: 3600,
    };
    if let Some(request) = dhcp6::Request::parse(input) {
        request.hostname();
        request.purpose(&network);
        request.answer(&[], Some(dhcp6::Status::Success), &network);
    }
}

/// A message of neighbour discovery.
pub fn ndp(input: &[u8]) {
    let _ = ndp::Message::parse(input);
}

/// A question to the name server.
pub fn dns(input: &[u8]) {
    if let Some(query) = dns::Query::parse(input) {
        assert!(query.name.chars().count() <= 254);
        query.answer(dns::Code::Refused, Some(crate::DNS6.into()));
    }
}

/// Frames behind their virtio-net headers, each behind two bytes: its length, and how much time is before it and what the host's
/// sockets do. Checksums are taken for right, as a guest may leave them out.
pub fn frames(mut input: &[u8]) {
    let mut core = Core::new(Config {
        upstream: Some(([127, 0, 0, 1], 5353).into()),
        ..Config::for_guest([0x52, 0x54, 0, 1, 2, 3], "vm", FIRST_GUEST)
    });
    let mut now = 1;
    while let Some((&[length, host], rest)) = input.split_first_chunk() {
        let (frame, rest) = rest.split_at(rest.len().min(usize::from(length)));
        input = rest;
        now += u64::from(host >> 2) * 100;
        let mut frame = frame.to_vec();
        if let Some(flags) = frame.first_mut() {
            *flags |= 1;
        }
        core.input(&frame, now);
        core.poll(now);
        while let Some(action) = core.next_action() {
            let Action::Connect { connection, .. } = action else {
                continue;
            };
            match host & 3 {
                0 => core.host_failed(connection),
                how => {
                    if let Some(connection) = core.connection(connection) {
                        connection.connected(now);
                        let room = connection.room_for_host().min(3000 * usize::from(how - 1));
                        connection.host_gave(&vec![7; room], now);
                        let took = connection.for_host().len();
                        connection.host_took(took, now);
                    }
                }
            }
        }
        while let Some(frame) = core.next_frame() {
            assert!(frame.len() <= 12 + 14 + 65_535);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_fuzzers_found_is_survived() {
        ostler_corpus::replay("usernet-dhcp", super::dhcp);
        ostler_corpus::replay("usernet-dhcp6", super::dhcp6);
        ostler_corpus::replay("usernet-ndp", super::ndp);
        ostler_corpus::replay("usernet-dns", super::dns);
        ostler_corpus::replay("usernet-frames", super::frames);
    }
}
