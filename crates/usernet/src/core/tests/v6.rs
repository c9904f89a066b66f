//! The same guest over IPv6.

use super::*;
use crate::config::{Dhcp6, FIRST_GUEST6, Ipv6};
use crate::dhcp6;
use crate::guests::Host6;
use crate::ndp::{self, ALL_NODES};
use crate::neighbours::link_local;

/// What the guest's kernel makes of prefix and card.
pub const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0, 2, 0x5054, 0xff, 0xfe01, 0x203);
pub const SERVER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);

pub fn config6() -> Config {
    let forward = format!("tcp:[::1]:2223:[{GUEST6}]:22");
    Config {
        upstream: Some(([127, 0, 0, 1], 5353).into()),
        forwards: [
            "tcp:2222:22",
            "udp:9000:9",
            &forward,
            "udp:[::1]:9001:[fd00:10:0:2::15]:9",
        ]
        .map(|text| text.parse().unwrap())
        .to_vec(),
        ..Config::for_guest(GUEST_MAC, "vm", GUEST)
    }
}

fn at6(address: Ipv6Addr, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

/// A packet of IPv6 to the guest.
fn packet6(frame: &[u8]) -> Packet<'_> {
    assert_eq!(frame[VNET_LEN + 12..VNET_LEN + 14], [0x86, 0xdd]);
    Packet::ipv6(&frame[VNET_LEN + ETHERNET_LEN..]).unwrap()
}

impl Link {
    /// A network that has said its first word of itself.
    fn new6(config: Config) -> Self {
        let mut link = Self::new(config, 0);
        let frames = link.frames();
        assert_eq!(packet6(&frames[0]).payload[0], 134, "an advertisement");
        assert_eq!(frames[0][VNET_LEN..VNET_LEN + 6], [0x33, 0x33, 0, 0, 0, 1]);
        link
    }

    /// A message of neighbour discovery, of any kind.
    pub fn discovery(&mut self, kind: u16, mut message: Vec<u8>) {
        message.resize(message.len().max(8), 0);
        message[..2].copy_from_slice(&[133 + (kind % 5) as u8, 0]);
        self.discover(GUEST6, ndp::solicited_node(GATEWAY6), message);
    }

    fn discover(&mut self, from: Ipv6Addr, to: Ipv6Addr, message: Vec<u8>) {
        let mut output = guest_output(to.into());
        output.icmpv6(from, to, message, 255);
        self.core.input(&output.pop().unwrap(), self.now);
    }

    /// A datagram to all DHCPv6 servers.
    pub fn dhcp6(&mut self, message: &[u8]) {
        let mut output = guest_output(IpAddr::V6(dhcp6::ALL_SERVERS));
        let from = at6(link_local(&GUEST_MAC), 546);
        output.udp(from, at6(dhcp6::ALL_SERVERS, 547), message);
        self.core.input(&output.pop().unwrap(), self.now);
    }

    /// The DHCPv6 server's answer to a message of this kind with these options.
    fn ask_dhcp6(&mut self, kind: u8, options: &[&[u8]]) -> Option<Vec<u8>> {
        let mut message = vec![kind, 7, 8, 9];
        options.iter().for_each(|option| message.extend(*option));
        self.dhcp6(&message);
        let frames = self.frames();
        let frame = frames.first()?;
        assert_eq!(frame[VNET_LEN..VNET_LEN + 6], GUEST_MAC);
        let packet = packet6(frame);
        assert!(packet.checksum_holds());
        assert_eq!(packet.destination, IpAddr::V6(link_local(&GUEST_MAC)));
        let datagram = Udp::parse(packet.payload).unwrap();
        assert_eq!((datagram.source, datagram.destination), (547, 546));
        Some(datagram.payload.to_vec())
    }

    /// The name server's answer over IPv6.
    fn ask_name(&mut self, name: &[u8], kind: u8) -> Vec<u8> {
        let mut query = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend(name);
        query.extend([0, kind, 0, 1]);
        self.udp(4000, at6(DNS6, 53), &query);
        let frames = self.frames();
        Udp::parse(packet6(&frames[0]).payload).unwrap().payload.to_vec()
    }
}

/// Beside another router the advertisement is in its name; without its card nobody leads to the outside.
#[test]
fn another_router_is_advertised_by_its_card() {
    const CARD: [u8; 6] = [0x52, 0x54, 0, 0x77, 0x77, 0x77];
    for card in [None, Some(CARD)] {
        let config = Config {
            router: Some(Ipv4Addr::new(10, 0, 2, 1)),
            router_mac: card,
            ..config6()
        };
        let mut link = Link::new(config, 0);
        let frames = link.frames();
        let packet = packet6(&frames[0]);
        assert!(packet.checksum_holds());
        let said = card.unwrap_or(OUR_MAC);
        assert_eq!(packet.source, IpAddr::V6(link_local(&said)));
        assert_eq!(
            frames[0][VNET_LEN + 6..VNET_LEN + 12],
            OUR_MAC,
            "it is sent by our card"
        );
        let lifetime = u16::from_be_bytes([packet.payload[6], packet.payload[7]]);
        assert_eq!(lifetime, card.map_or(0, |_| ndp::ROUTER_LIFETIME));
        assert!(contains(packet.payload, &[&[1, 1][..], &said].concat()));
    }
}

/// Options of a client: its identifier, the server's, an association without and with an address.
const CLIENT_ID: &[u8] = &[0, 1, 0, 6, 0, 3, 0, 1, 9, 9];
const IA: &[u8] = &[0, 3, 0, 12, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0];

fn server_id() -> Vec<u8> {
    [&[0, 2, 0, 10, 0, 3, 0, 1][..], &OUR_MAC].concat()
}

fn ia_with(address: Ipv6Addr) -> Vec<u8> {
    let mut option = vec![0, 3, 0, 40, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 24];
    option.extend(address.octets());
    option.extend([0; 8]);
    option
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn a_router_is_found_and_speaks_from_time_to_time() {
    let mut link = Link::new6(config6());
    // Who has an address is answered by itself.
    let own = link_local(&GUEST_MAC);
    let all_routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    link.discover(own, all_routers, vec![133, 0, 0, 0, 0, 0, 0, 0]);
    let frames = link.frames();
    let answer = packet6(&frames[0]);
    assert_eq!(
        (answer.source, answer.destination, answer.hops),
        (IpAddr::V6(link_local(&OUR_MAC)), own.into(), 255)
    );
    assert!(answer.checksum_holds());
    assert_eq!(answer.payload[5], 0xc0, "addresses and all else by DHCPv6, too");
    assert!(contains(answer.payload, &[3, 4, 64, 0xc0]), "the prefix");
    assert!(contains(answer.payload, &DNS6.octets()));
    assert!(contains(answer.payload, b"\x06ostler\0"));
    // Many without one: all are told once, three seconds after the last time.
    for _ in 0..10 {
        link.discover(Ipv6Addr::UNSPECIFIED, all_routers, vec![133, 0, 0, 0, 0, 0, 0, 0]);
    }
    assert!(link.frames().is_empty());
    link.now = link.core.deadline().unwrap();
    assert_eq!(link.now, 3001);
    assert_eq!(link.frames().len(), 1);
    // By itself.
    let mut times = Vec::new();
    for _ in 0..20 {
        let before = link.now;
        link.now = link.core.deadline().unwrap();
        times.push(link.now - before);
        assert_eq!(packet6(&link.frames()[0]).destination, IpAddr::V6(ALL_NODES));
    }
    assert!(
        times.iter().all(|time| (200_000..600_000).contains(time)),
        "{times:?}"
    );
    // Behind a router, nobody asks.
    let mut output = guest_output(IpAddr::V6(all_routers));
    output.icmpv6(own, all_routers, vec![133, 0, 0, 0, 0, 0, 0, 0], 254);
    link.core.input(&output.pop().unwrap(), link.now);
    assert!(link.frames().is_empty());
}

#[test]
fn a_router_that_leads_nowhere_says_so() {
    let mut config = config6();
    config.restrict = true;
    config.ipv6 = Some(Ipv6 {
        slaac: false,
        dhcp: Dhcp6::Information,
        ..config.ipv6.unwrap()
    });
    let mut link = Link::new(config, 0);
    let frames = link.frames();
    let said = packet6(&frames[0]).payload;
    assert_eq!(said[5..8], [0x40, 0, 0], "no lifetime as a router");
    assert!(contains(said, &[3, 4, 64, 0x80]));
    assert_eq!(link.ask_dhcp6(1, &[CLIENT_ID, IA]), None, "no addresses");
    assert!(link.ask_dhcp6(11, &[CLIENT_ID]).is_some());
}

#[test]
fn neighbours_are_answered_for_our_addresses_only() {
    let mut link = Link::new6(config6());
    for (target, ours) in [
        (GATEWAY6, true),
        (DNS6, true),
        (link_local(&OUR_MAC), true),
        (GUEST6, false),
        (SERVER6, false),
    ] {
        let question = ndp::neighbour_solicitation(target, &GUEST_MAC);
        link.discover(GUEST6, ndp::solicited_node(target), question.clone());
        // The same of one that asks whether it may have the address.
        link.discover(
            Ipv6Addr::UNSPECIFIED,
            ndp::solicited_node(target),
            question[..24].to_vec(),
        );
        let frames = link.frames();
        assert_eq!(frames.len(), if ours { 2 } else { 0 }, "{target}");
        for (frame, (flags, to)) in frames.iter().zip([(0xe0, GUEST6), (0xa0, ALL_NODES)]) {
            let answer = packet6(frame);
            assert_eq!((answer.payload[0], answer.payload[4]), (136, flags));
            assert_eq!((answer.destination, answer.hops), (IpAddr::V6(to), 255));
            assert_eq!(answer.payload[8..24], target.octets());
            assert!(answer.payload.ends_with(&OUR_MAC) && answer.checksum_holds());
        }
    }
}

#[test]
fn an_address_that_is_asked_for_is_remembered_unless_it_is_anothers() {
    let mut link = Link::new6(config6());
    let claim = |link: &mut Link, card: Mac, target: Ipv6Addr| {
        let question = ndp::neighbour_solicitation(target, &card)[..24].to_vec();
        let group = ndp::solicited_node(target);
        let mut output = Output::new(card, Ipv4Addr::UNSPECIFIED);
        output.icmpv6(Ipv6Addr::UNSPECIFIED, group, question, 255);
        link.core.input(&output.pop().unwrap(), 1);
    };
    let other = [2, 0, 0, 0, 0, 9];
    claim(&mut link, GUEST_MAC, GUEST6);
    claim(&mut link, other, GUEST6);
    claim(&mut link, other, GATEWAY6);
    claim(&mut link, other, SERVER6);
    let card = |address: Ipv6Addr| link.core.output.neighbours.card(address.into());
    assert_eq!(card(GUEST6), Some(GUEST_MAC));
    assert_eq!((card(GATEWAY6), card(SERVER6)), (None, None));
}

#[test]
fn addresses_are_given_kept_and_taken_back() {
    let mut link = Link::new6(config6());
    let advertised = link.ask_dhcp6(1, &[CLIENT_ID, IA]).unwrap();
    assert_eq!(advertised[..4], [2, 7, 8, 9]);
    assert!(contains(&advertised, &FIRST_GUEST6.octets()), "the reserved one");
    let leases = |link: &Link| {
        let named = |address| Some(IpAddr::V6(address));
        let directory = link.core.directory();
        let directory = directory.lock().unwrap();
        named(directory.lookup6("vm", |_| None, link.now).unwrap())
    };
    let server = server_id();
    let reply = link
        .ask_dhcp6(3, &[CLIENT_ID, &server, &ia_with(FIRST_GUEST6)])
        .unwrap();
    assert_eq!(reply[0], 7);
    assert_eq!(leases(&link), Some(IpAddr::V6(FIRST_GUEST6)));
    // Another address that it believes to have is over at once.
    let other = Ipv6Addr::from_bits(FIRST_GUEST6.to_bits() + 1);
    let reply = link.ask_dhcp6(5, &[CLIENT_ID, &server, &ia_with(other)]).unwrap();
    let gone = [&other.octets()[..], &[0; 8]].concat();
    assert!(contains(&reply, &gone) && contains(&reply, &FIRST_GUEST6.octets()));
    // A second association gets none.
    let mut second = IA.to_vec();
    second[4] = 9;
    let reply = link.ask_dhcp6(1, &[CLIENT_ID, IA, &second]).unwrap();
    assert!(contains(&reply, &[0, 13, 0, 2, 0, 2]));
    // Is it on the right link?
    let confirmed = |link: &mut Link, address| link.ask_dhcp6(4, &[CLIENT_ID, &ia_with(address)]).unwrap();
    assert!(confirmed(&mut link, GUEST6).ends_with(&[0, 13, 0, 2, 0, 0]));
    assert!(confirmed(&mut link, SERVER6).ends_with(&[0, 13, 0, 2, 0, 4]));
    assert_eq!(link.ask_dhcp6(4, &[CLIENT_ID, IA]), None);
    // Given back, once.
    for status in [None, Some([0, 13, 0, 2, 0, 3])] {
        let reply = link
            .ask_dhcp6(8, &[CLIENT_ID, &server, &ia_with(FIRST_GUEST6)])
            .unwrap();
        assert!(reply.ends_with(&[0, 13, 0, 2, 0, 0]));
        assert_eq!(contains(&reply, &[0, 13, 0, 2, 0, 3]), status.is_some());
    }
    // At once, if both sides like it, and what is somebody else's is not given again.
    let reply = link.ask_dhcp6(1, &[CLIENT_ID, IA, &[0, 14, 0, 0]]).unwrap();
    assert_eq!(reply[0], 7);
    assert!(
        link.ask_dhcp6(9, &[CLIENT_ID, &server, &ia_with(FIRST_GUEST6)])
            .is_some()
    );
    let advertised = link.ask_dhcp6(1, &[CLIENT_ID, IA]).unwrap();
    assert!(!contains(&advertised, &FIRST_GUEST6.octets()));
    assert!(contains(&advertised, &other.octets()));
}

#[test]
fn names_have_addresses_of_both_families() {
    let mut link = Link::new6(config6());
    const AAAA: u8 = 28;
    assert!(
        link.ask_name(b"\x07gateway\x06ostler\0", AAAA)
            .ends_with(&GATEWAY6.octets())
    );
    assert!(link.ask_name(b"\x03dns\0", AAAA).ends_with(&DNS6.octets()));
    assert!(link.ask_name(b"\x07gateway\0", 1).ends_with(&GATEWAY.octets()));
    // The guest asks from the address that it made by itself.
    assert!(link.ask_name(b"\x02vm\0", AAAA).ends_with(&GUEST6.octets()));
    assert!(link.ask_name(b"\x02vm\0", 1).ends_with(&GUEST.octets()));
    // Once it has asked for one, that one.
    let server = server_id();
    link.ask_dhcp6(3, &[CLIENT_ID, &server, IA]).unwrap();
    assert!(link.ask_name(b"\x02vm\0", AAAA).ends_with(&FIRST_GUEST6.octets()));
    assert_eq!(link.ask_name(b"\x02no\x06ostler\0", AAAA)[7], 0);
    // Others are asked of the host's name server, whichever way that is reached.
    link.udp(
        4000,
        at6(DNS6, 53),
        b"\xab\xcd\x01\0\0\x01\0\0\0\0\0\0\x03www\0\0\x1c\0\x01",
    );
    let actions = link.actions();
    let [Action::Send { flow, to, .. }] = &actions[..] else {
        panic!("{actions:?}");
    };
    assert_eq!(to.to_string(), "127.0.0.1:5353");
    link.core.datagram(*flow, b"answer", 1);
    let frames = link.frames();
    let answer = packet6(&frames[0]);
    assert_eq!(answer.source, IpAddr::V6(DNS6));
    assert_eq!(Udp::parse(answer.payload).unwrap().payload, b"answer");
}

#[test]
fn a_connection_opens_and_carries() {
    let mut link = Link::new6(config6());
    let server = at6(SERVER6, 80);
    link.takes = TAKES_CHECKSUM | TAKES_LARGE6;
    link.tcp(1000, server, segment(flags::SYN, 99, 0, 65_535), &[]);
    let actions = link.actions();
    let [Action::Connect { connection, to }] = actions[..] else {
        panic!("{actions:?}");
    };
    assert_eq!(to, server);
    link.core.connection(connection).unwrap().connected(link.now);
    let frames = link.frames();
    let syn = packet6(&frames[0]);
    let syn = Tcp::parse(syn.payload).unwrap();
    assert_eq!(syn.mss, Some(1440), "what fits beside the longer header");
    let ours = syn.sequence.wrapping_add(1);
    link.tcp(1000, server, segment(flags::ACK, 100, ours, 65_535), b"hello");
    assert_eq!(link.core.connection(connection).unwrap().for_host(), b"hello");
    link.core
        .connection(connection)
        .unwrap()
        .host_gave(&[1; 65_000], 1);
    let frames = link.frames();
    let headers = VNET_LEN + ETHERNET_LEN + 40 + TCP_LEN;
    let lens: Vec<usize> = frames.iter().map(Vec::len).collect();
    assert_eq!(lens, [headers + 1440 * 45, headers + 65_000 - 1440 * 45]);
    // The checksum is left to the guest: flags, TCP over IPv6, header length, segment size, start and place.
    assert_eq!(frames[0][..10], [1, 4, 74, 0, 0xa0, 5, 54, 0, 16, 0]);
    let packet = packet6(&frames[0]);
    let right = fold(pseudo(SERVER6.into(), GUEST6.into(), TCP, packet.payload.len()));
    assert_eq!(u16_at(packet.payload, 16), Some(right));
    // A guest that takes large segments of the other family only.
    link.takes = TAKES_CHECKSUM | TAKES_LARGE;
    link.tcp(
        1000,
        server,
        segment(flags::ACK, 105, ours.wrapping_add(65_000), 65_535),
        &[],
    );
    link.core.connection(connection).unwrap().host_gave(&[1; 3000], 1);
    assert_eq!(link.frames().len(), 3);
    // Nobody there.
    link.tcp(1001, at6(GUEST6, 80), segment(flags::SYN, 1, 0, 100), &[]);
    let frames = link.frames();
    assert!(Tcp::parse(packet6(&frames[0]).payload).unwrap().has(flags::RST));
}

#[test]
fn datagrams_come_back_in_fragments_if_they_must() {
    let mut link = Link::new6(config6());
    link.udp(5000, at6(GATEWAY6, 7), b"ping");
    let actions = link.actions();
    let [Action::Send { flow, to, .. }] = &actions[..] else {
        panic!("{actions:?}");
    };
    assert_eq!(to.to_string(), "[::1]:7");
    link.core.datagram(*flow, b"pong", 1);
    let frames = link.frames();
    let answer = packet6(&frames[0]);
    assert!(answer.checksum_holds());
    assert_eq!(Udp::parse(answer.payload).unwrap().payload, b"pong");
    link.core.datagram(*flow, &[9; 4000], 1);
    let frames = link.frames();
    assert_eq!(frames.len(), 3);
    let mut whole = Vec::new();
    for (index, frame) in frames.iter().enumerate() {
        assert!(frame.len() <= VNET_LEN + ETHERNET_LEN + 1500);
        let packet = packet6(frame);
        assert_eq!((packet.protocol, packet.payload[0]), (44, UDP));
        let place = u16_at(packet.payload, 2).unwrap();
        assert_eq!(
            (usize::from(place & !7), place & 1 != 0),
            (whole.len(), index < 2)
        );
        assert_eq!(packet.payload[4..8], packet6(&frames[0]).payload[4..8]);
        whole.extend(&packet.payload[8..]);
    }
    assert_eq!(Udp::parse(&whole).unwrap().payload, [9; 4000]);
    // A datagram over IPv6 has a checksum.
    let mut output = guest_output(GATEWAY6.into());
    let bare = [&[0x13, 0x88, 0, 8, 0, 9, 0, 0][..], b"x"].concat();
    output.ip(UDP, GUEST6.into(), GATEWAY6.into(), &bare);
    link.core.input(&output.pop().unwrap(), 1);
    assert_eq!(link.actions(), []);
}

#[test]
fn echoes_are_answered_and_passed_on() {
    let mut link = Link::new6(config6());
    let echo = |to: Ipv6Addr| {
        let mut echo = echo_reply(&[0, 0, 0, 0, 1, 2, 3, 4, 5], 0x0102, GUEST6.into(), to.into());
        echo[0] = 128;
        // One less in the upper half of a word.
        let sum = u16_at(&echo, 2).unwrap();
        echo[2..4].copy_from_slice(&fold(u64::from(sum) + 0x0100).to_be_bytes());
        echo
    };
    for to in [GATEWAY6, DNS6, link_local(&OUR_MAC)] {
        link.ip_to(ICMPV6, to.into(), &echo(to));
        let frames = link.frames();
        let reply = packet6(&frames[0]);
        assert_eq!(
            (reply.payload[0], &reply.payload[4..]),
            (129, &[1, 2, 3, 4, 5][..])
        );
        assert!(reply.checksum_holds());
        assert_eq!(reply.source, IpAddr::V6(to));
    }
    let question = echo(SERVER6);
    link.ip_to(ICMPV6, SERVER6.into(), &question);
    let actions = link.actions();
    let [
        Action::Send {
            flow,
            kind: Kind::Ping,
            to,
            payload,
        },
    ] = &actions[..]
    else {
        panic!("{actions:?}");
    };
    assert_eq!((*to, payload), (at6(SERVER6, 0), &question));
    // The host's kernel gave it another identifier; what is no reply is dropped.
    link.core.datagram(*flow, &[129, 0, 0, 0, 9, 9, 3, 4, 5], 1);
    link.core.datagram(*flow, &[128, 0, 0, 0, 9, 9, 3, 4, 5], 1);
    let frames = link.frames();
    assert_eq!(frames.len(), 1);
    let reply = packet6(&frames[0]);
    assert!(reply.checksum_holds());
    assert_eq!(reply.payload[4..], [1, 2, 3, 4, 5]);
    // Groups and wrong checksums get nothing.
    link.ip_to(ICMPV6, ALL_NODES.into(), &echo(ALL_NODES));
    link.ip_to(ICMPV6, GATEWAY6.into(), &question);
    assert!(link.frames().is_empty() && link.actions().is_empty());
}

#[test]
fn a_restricted_guest_reaches_nobody_over_ipv6() {
    let mut link = Link::new6(Config {
        restrict: true,
        ..config6()
    });
    for to in [
        at6(SERVER6, 80),
        at6(GATEWAY6, 22),
        at6(link_local(&OUR_MAC), 22),
        at6(DNS6, 53),
    ] {
        link.tcp(1, to, segment(flags::SYN, 0, 0, 1000), &[]);
        link.udp(1, to, b"x");
    }
    let echo = [128, 0, 0, 0, 0, 1, 0, 1];
    link.ip_to(
        ICMPV6,
        SERVER6.into(),
        &echo_reply(&echo, 1, GUEST6.into(), SERVER6.into()),
    );
    assert_eq!(link.actions(), []);
    let frames = link.frames();
    assert_eq!(frames.len(), 4, "resets");
    assert_eq!(link.ask_name(b"\x03www\0", 28)[3] & 15, Code::Refused as u8);
}

#[test]
fn the_hosts_own_addresses_are_reached_by_the_gateway_only() {
    let link = Link::new6(config6());
    let outside = |text: &str| link.core.outside(text.parse().unwrap()).map(|to| to.to_string());
    for nowhere in [
        "[::1]:80",
        "[::]:80",
        "[::127.0.0.1]:80",
        "[::ffff:127.0.0.1]:80",
        "[::ffff:192.0.2.1]:80",
        "[fe80::1]:80",
        "[ff02::1]:80",
        "[fd00:10:0:2::99]:80",
        "[fd00:10:0:2::3]:80",
    ] {
        assert_eq!(outside(nowhere), None, "{nowhere}");
    }
    assert_eq!(outside("[fd00:10:0:2::2]:80").as_deref(), Some("[::1]:80"));
    assert_eq!(
        outside("[fe80::5055:aff:fe00:202]:80").as_deref(),
        Some("[::1]:80")
    );
    assert_eq!(outside("[fd00:10:0:2::3]:53").as_deref(), Some("127.0.0.1:5353"));
    assert_eq!(
        outside("[fd00:10:0:3::1]:80").as_deref(),
        Some("[fd00:10:0:3::1]:80")
    );
    let mut closed = config6();
    closed.loopback = false;
    let link = Link::new6(closed);
    assert_eq!(link.core.outside(at6(GATEWAY6, 80)), None);
    // Without IPv6 nothing of it is reached, nor answered.
    let mut link = Link::new(config6().without_ipv6(), 0);
    assert_eq!(link.core.outside(at6(SERVER6, 80)), None);
    link.tcp(1, at6(SERVER6, 80), segment(flags::SYN, 0, 0, 1000), &[]);
    link.discovery(0, Vec::new());
    link.dhcp6(&[11, 0, 0, 0]);
    assert!(link.frames().is_empty() && link.actions().is_empty());
    assert_eq!(link.core.deadline(), None);
}

#[test]
fn fragments_and_extension_headers_are_dropped_and_counted() {
    let mut link = Link::new6(config6());
    let payload = [&[TCP, 0, 0, 1, 0, 0, 0, 1][..], &[0; 20]].concat();
    for protocol in [0, 43, 44, 50, 51, 60, 135, 139, 140] {
        link.ip_to(protocol, SERVER6.into(), &payload);
    }
    // A datagram of the other family in three pieces.
    let mut output = guest_output(SERVER.into());
    output.ip(UDP, GUEST.into(), SERVER.into(), &[0; 4000]);
    while let Some(frame) = output.pop() {
        link.core.input(&frame, 1);
    }
    // No next header, and unknown ones: nothing to count.
    link.ip_to(59, SERVER6.into(), &payload);
    link.ip_to(200, SERVER6.into(), &payload);
    assert!(link.frames().is_empty() && link.actions().is_empty());
    let counters = link.core.counters();
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(count(&counters.fragments), 1 + 3);
    assert_eq!(count(&counters.extension_headers), 8);
}

#[test]
fn forwarded_ports_reach_a_guest_by_ipv6() {
    let mut link = Link::new6(config6());
    // The guest is asked for its card first.
    link.core.forwarded(2, 40_000, 1).unwrap();
    let frames = link.frames();
    let question = packet6(&frames[0]);
    assert_eq!(question.destination, IpAddr::V6(ndp::solicited_node(GUEST6)));
    assert_eq!(
        (question.payload[0], &question.payload[8..24]),
        (135, &GUEST6.octets()[..])
    );
    let answer = ndp::neighbour_advertisement(GUEST6, &GUEST_MAC, true);
    link.discover(GUEST6, link_local(&OUR_MAC), answer);
    link.now = 1500;
    let frames = link.frames();
    let syn = packet6(&frames[0]);
    assert_eq!((syn.source, syn.destination), (GATEWAY6.into(), GUEST6.into()));
    let client = at6(Ipv6Addr::LOCALHOST, 40_000);
    link.discover(
        FIRST_GUEST6,
        ndp::solicited_node(GATEWAY6),
        ndp::neighbour_solicitation(GATEWAY6, &GUEST_MAC),
    );
    link.frames();
    link.core.forwarded_datagram(3, client, b"ping", 1500);
    let frames = link.frames();
    let packet = packet6(&frames[0]);
    assert_eq!(packet.destination, IpAddr::V6(FIRST_GUEST6));
    assert_eq!(Udp::parse(packet.payload).unwrap().payload, b"ping");
    let mut output = guest_output(GATEWAY6.into());
    output.udp(at6(FIRST_GUEST6, 9), at6(GATEWAY6, 40_000), b"pong");
    link.core.input(&output.pop().unwrap(), 1500);
    let reply = Action::Reply {
        forward: 3,
        to: client,
        payload: b"pong".to_vec(),
    };
    assert_eq!(link.actions(), [reply]);
}

#[test]
fn a_guest_with_many_addresses_is_one_guest() {
    let mut config = config6();
    config.shared = true;
    config.forwards.clear();
    config.plan.hosts6 = vec![Host6 {
        duid: Some(vec![0, 3, 0, 1]),
        mac: None,
        name: None,
        address: FIRST_GUEST6,
    }];
    config.check().unwrap();
    let mut link = Link::new6(config);
    for number in 0..400u128 {
        let mut output = guest_output(SERVER6.into());
        let from = Ipv6Addr::from_bits(GUEST6.to_bits() + number);
        output.tcp(
            at6(from, 1),
            at6(SERVER6, 80),
            &segment(flags::SYN, 0, 0, 1000),
            [&[], &[]],
        );
        output.udp(at6(from, 1), at6(SERVER6, 9), b"x");
        while let Some(frame) = output.pop() {
            link.core.input(&frame, 1);
        }
        // And the same card over IPv4.
        link.tcp(number as u16 + 1, server(), segment(flags::SYN, 0, 0, 1000), &[]);
    }
    assert_eq!(link.core.connections.len(), MAX_HALF_OPEN / PARTS);
    assert_eq!(link.core.flows.len(), MAX_FLOWS / PARTS);
}
