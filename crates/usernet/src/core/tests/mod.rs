//! The network without a host: a guest made of frames.

mod loss;
mod streams;
mod v6;

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::connections::{MAX_CONNECTIONS, MAX_HALF_OPEN};
use super::echo::echo_reply;
use super::flows::MAX_FLOWS;
use super::input::{TAKES_CHECKSUM, TAKES_LARGE, TAKES_LARGE6};
use super::*;
use crate::config::{DNS, DNS6, FIRST_GUEST, GATEWAY, GATEWAY6, OUR_MAC, Subnet};
use crate::dns::Code;
use crate::guests::{Host, Plan};
use crate::output::Segment;
use crate::tcp::BUFFER;
use crate::wire::{
    ETHERNET_LEN, ETHERTYPE_ARP, ICMP, ICMPV6, Mac, Packet, TCP, TCP_LEN, Tcp, UDP, Udp, VNET_LEN,
    address_at, flags, fold, pseudo, sum, u16_at,
};

const GUEST_MAC: Mac = [0x52, 0x54, 0, 1, 2, 3];
const GUEST: Ipv4Addr = FIRST_GUEST;
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

fn config() -> Config {
    Config {
        upstream: Some(([127, 0, 0, 1], 5353).into()),
        forwards: vec!["tcp:2222:22".parse().unwrap(), "udp:9000:9".parse().unwrap()],
        ..Config::for_guest(GUEST_MAC, "vm", GUEST).without_ipv6()
    }
}

/// What a frame to the guest holds.
fn packet(frame: &[u8]) -> Packet<'_> {
    assert_eq!(frame[VNET_LEN..VNET_LEN + 6], GUEST_MAC, "to the guest");
    assert_eq!(frame[VNET_LEN + 12..VNET_LEN + 14], [8, 0]);
    Packet::ipv4(&frame[VNET_LEN + ETHERNET_LEN..]).unwrap()
}

/// The guest's address in the family of `to`.
fn guest_in(to: IpAddr) -> IpAddr {
    match to {
        IpAddr::V4(_) => GUEST.into(),
        IpAddr::V6(_) => v6::GUEST6.into(),
    }
}

/// Packets of the guest, to its gateway.
fn guest_output(to: IpAddr) -> Output {
    let mut output = Output::new(GUEST_MAC, GUEST);
    output.learn(to, OUR_MAC);
    output
}

/// A network and a guest on it.
struct Link {
    core: Core,
    now: Millis,
    takes: u8,
}

impl Link {
    fn new(config: Config, takes: u8) -> Self {
        Self {
            core: Core::new(config),
            now: 1,
            takes,
        }
    }

    /// The guest sends an IPv4 packet.
    fn ip(&mut self, protocol: u8, to: Ipv4Addr, payload: &[u8]) {
        let mut output = guest_output(to.into());
        output.ip(protocol, GUEST.into(), to.into(), payload);
        let mut frame = output.pop().unwrap();
        frame[10] = self.takes;
        self.core.input(&frame, self.now);
    }

    /// The guest sends a packet in the family of `to`.
    fn ip_to(&mut self, protocol: u8, to: IpAddr, payload: &[u8]) {
        let mut output = guest_output(to);
        output.ip(protocol, guest_in(to), to, payload);
        let mut frame = output.pop().unwrap();
        frame[10] = self.takes;
        self.core.input(&frame, self.now);
    }

    fn udp(&mut self, from: u16, to: SocketAddr, payload: &[u8]) {
        let mut output = guest_output(to.ip());
        output.udp(SocketAddr::new(guest_in(to.ip()), from), to, payload);
        let mut frame = output.pop().unwrap();
        frame[10] = self.takes;
        self.core.input(&frame, self.now);
    }

    fn tcp(&mut self, port: u16, to: SocketAddr, segment: Segment<'_>, payload: &[u8]) {
        let mut output = guest_output(to.ip());
        output.tcp(
            SocketAddr::new(guest_in(to.ip()), port),
            to,
            &segment,
            [payload, &[]],
        );
        let mut frame = output.pop().unwrap();
        frame[10] = self.takes;
        self.core.input(&frame, self.now);
    }

    /// The segments without payload that are on their way already: what they acknowledge, and the blocks that they name.
    fn acknowledgments(&mut self) -> Vec<(u32, Vec<(u32, u32)>)> {
        let frames = std::iter::from_fn(|| self.core.next_frame());
        let parse = |frame: Vec<u8>| {
            let packet = packet(&frame);
            let tcp = Tcp::parse(packet.payload).unwrap();
            assert!(tcp.payload.is_empty() && packet.checksum_holds());
            (tcp.acknowledgment, tcp.sack.iter().collect())
        };
        frames.map(parse).collect()
    }

    fn frames(&mut self) -> Vec<Vec<u8>> {
        self.core.poll(self.now);
        std::iter::from_fn(|| self.core.next_frame()).collect()
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.core.next_action()).collect()
    }

    /// Opens a connection from the guest's port 1000; returns its name and our next sequence number.
    fn open(&mut self, window: u16) -> (Id, u32) {
        self.tcp(1000, server(), segment(flags::SYN, 99, 0, window), &[]);
        let actions = self.actions();
        let [Action::Connect { connection, to }] = actions[..] else {
            panic!("{actions:?}");
        };
        assert_eq!(to, server());
        assert!(self.frames().is_empty(), "the host has not answered");
        self.core.connection(connection).unwrap().connected(self.now);
        let frames = self.frames();
        let syn = Tcp::parse(packet(&frames[0]).payload).unwrap();
        assert_eq!((syn.flags, syn.acknowledgment), (flags::SYN | flags::ACK, 100));
        assert_eq!(
            (syn.mss, syn.scale),
            (Some(1460), None),
            "no shift if the guest has none"
        );
        let ours = syn.sequence.wrapping_add(1);
        self.tcp(1000, server(), segment(flags::ACK, 100, ours, window), &[]);
        (connection, ours)
    }
}

fn server() -> SocketAddr {
    SocketAddr::new(SERVER.into(), 80)
}

fn segment(flag: u8, sequence: u32, acknowledgment: u32, window: u16) -> Segment<'static> {
    let options: &[u8] = if flag & flags::SYN != 0 {
        &[2, 4, 5, 0xb4]
    } else {
        &[]
    };
    Segment {
        sequence,
        acknowledgment,
        flags: flag,
        window,
        options,
        mss: 65_535,
    }
}

#[test]
fn a_connection_opens_carries_and_closes() {
    let mut link = Link::new(config(), 0);
    let (id, ours) = link.open(60_000);
    link.tcp(1000, server(), segment(flags::ACK, 100, ours, 60_000), b"hello");
    // The same once more, and something from the future: neither counts, and both are answered at once.
    link.tcp(1000, server(), segment(flags::ACK, 100, ours, 60_000), b"hello");
    link.tcp(1000, server(), segment(flags::ACK, 200, ours, 60_000), b"later");
    assert_eq!(link.acknowledgments(), [(105, vec![]), (105, vec![])]);
    let connection = link.core.connection(id).unwrap();
    assert_eq!(connection.for_host(), b"hello");
    connection.host_took(5, 1);
    connection.host_gave(&[7; 3000], 1);
    connection.host_gave(&[], 1);
    let frames = link.frames();
    let mut next = ours;
    for (index, frame) in frames.iter().enumerate() {
        let packet = packet(frame);
        assert!(packet.checksum_holds());
        let tcp = Tcp::parse(packet.payload).unwrap();
        assert_eq!((tcp.sequence, tcp.acknowledgment), (next, 105));
        assert!(tcp.payload.len() <= 1460 && tcp.payload.iter().all(|byte| *byte == 7));
        assert_eq!(tcp.has(flags::FIN), index == 2);
        next = next.wrapping_add(tcp.payload.len() as u32);
    }
    assert_eq!(next.wrapping_sub(ours), 3000);
    link.tcp(
        1000,
        server(),
        segment(flags::ACK | flags::FIN, 105, next + 1, 60_000),
        &[],
    );
    assert!(link.core.connection(id).unwrap().wants_shutdown());
    let frames = link.frames();
    let last = Tcp::parse(packet(&frames[0]).payload).unwrap();
    assert_eq!((last.flags, last.acknowledgment), (flags::ACK, 106));
    let close = Action::Close {
        connection: id,
        reset: false,
    };
    assert_eq!(link.actions(), [close]);
    assert!(link.core.connection(id).is_none());
}

#[test]
fn a_guest_that_takes_large_segments_gets_them_whole() {
    let mut link = Link::new(config(), TAKES_CHECKSUM | TAKES_LARGE);
    let (id, _) = link.open(65_535);
    link.core.connection(id).unwrap().host_gave(&[1; 65_000], 1);
    let frames = link.frames();
    let lens: Vec<usize> = frames.iter().map(|frame| frame.len()).collect();
    let headers = VNET_LEN + ETHERNET_LEN + 20 + TCP_LEN;
    assert_eq!(lens, [headers + 1460 * 44, headers + 65_000 - 1460 * 44]);
    let frame = &frames[0];
    // The checksum is left to the guest: flags, TCP over IPv4, header length, segment size, start and place.
    assert_eq!(frame[..10], [1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0]);
    let packet = packet(frame);
    let pseudo = fold(pseudo(SERVER.into(), GUEST.into(), TCP, packet.payload.len()));
    assert_eq!(u16_at(packet.payload, 16), Some(pseudo));
}

#[test]
fn what_is_lost_is_sent_again_and_a_silent_guest_is_given_up() {
    let mut link = Link::new(config(), 0);
    let (id, ours) = link.open(60_000);
    link.core.connection(id).unwrap().host_gave(b"data", 1);
    assert_eq!(link.frames().len(), 1);
    assert!(link.frames().is_empty(), "not yet");
    let mut sent = 1;
    while let Some(deadline) = link.core.deadline() {
        assert!(deadline > link.now && sent < 100, "{deadline}");
        link.now = deadline;
        for frame in link.frames() {
            let tcp = Tcp::parse(packet(&frame).payload).unwrap();
            if tcp.has(flags::RST) {
                continue;
            }
            assert_eq!((tcp.sequence, tcp.payload), (ours, &b"data"[..]));
            sent += 1;
        }
    }
    assert_eq!(sent, 16);
    let close = Action::Close {
        connection: id,
        reset: true,
    };
    assert_eq!(link.actions(), [close]);
}

#[test]
fn three_duplicates_are_a_loss() {
    let mut link = Link::new(config(), 0);
    let (id, ours) = link.open(60_000);
    link.core.connection(id).unwrap().host_gave(&[3; 4000], 1);
    assert_eq!(link.frames().len(), 3);
    for _ in 0..3 {
        assert!(link.frames().is_empty());
        link.tcp(1000, server(), segment(flags::ACK, 100, ours, 60_000), &[]);
    }
    let frames = link.frames();
    let [again] = &frames[..] else {
        panic!("{} frames", frames.len());
    };
    let tcp = Tcp::parse(packet(again).payload).unwrap();
    assert_eq!((tcp.sequence, tcp.payload.len()), (ours, 1460), "the oldest");
    // More of them say nothing new.
    for _ in 0..5 {
        link.tcp(1000, server(), segment(flags::ACK, 100, ours, 60_000), &[]);
    }
    assert!(link.frames().is_empty());
    // The guest lacks the next one, too.
    link.tcp(1000, server(), segment(flags::ACK, 100, ours + 1460, 60_000), &[]);
    let frames = link.frames();
    let tcp = Tcp::parse(packet(&frames[0]).payload).unwrap();
    assert_eq!((frames.len(), tcp.sequence), (1, ours + 1460));
}

#[test]
fn a_closed_window_is_probed_and_opens() {
    let mut link = Link::new(config(), 0);
    let (id, ours) = link.open(0);
    link.core.connection(id).unwrap().host_gave(b"data", 1);
    assert!(link.frames().is_empty());
    // However long it stays closed: a guest that answers is there.
    for _ in 0..40 {
        link.now = link.core.deadline().unwrap();
        let frames = link.frames();
        assert_eq!(Tcp::parse(packet(&frames[0]).payload).unwrap().payload, b"d");
        link.tcp(1000, server(), segment(flags::ACK, 100, ours, 0), &[]);
    }
    link.tcp(1000, server(), segment(flags::ACK, 100, ours, 1000), &[]);
    let frames = link.frames();
    assert_eq!(Tcp::parse(packet(&frames[0]).payload).unwrap().payload, b"data");
}

#[test]
fn a_slow_host_closes_the_guests_window() {
    let mut link = Link::new(config(), 0);
    let (id, ours) = link.open(60_000);
    let mut next = 100u32;
    for _ in 0..1000 {
        link.tcp(
            1000,
            server(),
            segment(flags::ACK, next, ours, 60_000),
            &[1; 1460],
        );
        let frames = link.frames();
        let Some(frame) = frames.first() else { continue };
        next = Tcp::parse(packet(frame).payload).unwrap().acknowledgment;
    }
    let taken = next.wrapping_sub(100) as usize;
    assert!((BUFFER..BUFFER + (1 << 16)).contains(&taken), "{taken}");
    let connection = link.core.connection(id).unwrap();
    while let count @ 1.. = connection.for_host().len() {
        connection.host_took(count, 1);
    }
    let frames = link.frames();
    let update = Tcp::parse(packet(&frames[0]).payload).unwrap();
    assert!(update.window > 60_000, "the guest hears that there is room again");
}

#[test]
fn connections_are_bounded() {
    let mut link = Link::new(config(), 0);
    for port in 1..=300 {
        link.tcp(port, server(), segment(flags::SYN, 0, 0, 1000), &[]);
    }
    assert_eq!(link.actions().len(), MAX_HALF_OPEN);
    let frames = link.frames();
    assert_eq!(frames.len(), 300 - MAX_HALF_OPEN);
    let reset = |frame: &Vec<u8>| Tcp::parse(packet(frame).payload).unwrap().has(flags::RST);
    assert!(frames.iter().all(reset));
}

#[test]
fn flows_are_bounded_and_forgotten() {
    let mut link = Link::new(config(), 0);
    for port in 1..=300 {
        link.udp(port, server(), b"x");
    }
    let forgotten = |actions: &[Action]| {
        actions
            .iter()
            .filter(|a| matches!(a, Action::Forget { .. }))
            .count()
    };
    let actions = link.actions();
    assert_eq!(
        (actions.len() - forgotten(&actions), forgotten(&actions)),
        (300, 300 - MAX_FLOWS)
    );
    link.now += FLOW_LIFE + 1000;
    link.frames();
    assert_eq!(forgotten(&link.actions()), MAX_FLOWS);
    assert_eq!(link.core.deadline(), None);
}

#[test]
fn datagrams_go_out_and_come_back_in_fragments_if_they_must() {
    let mut link = Link::new(config(), 0);
    link.udp(5000, SocketAddr::new(GATEWAY.into(), 7), b"ping");
    let actions = link.actions();
    let [
        Action::Send {
            flow,
            kind: Kind::Udp,
            to,
            payload,
        },
    ] = &actions[..]
    else {
        panic!("{actions:?}");
    };
    assert_eq!(
        (to.to_string().as_str(), &payload[..]),
        ("127.0.0.1:7", &b"ping"[..])
    );
    link.core.datagram(*flow, b"pong", 1);
    let frames = link.frames();
    let answer = packet(&frames[0]);
    assert!(answer.checksum_holds());
    let answer = Udp::parse(answer.payload).unwrap();
    assert_eq!(
        (answer.source, answer.destination, answer.payload),
        (7, 5000, &b"pong"[..])
    );
    link.core.datagram(*flow, &[9; 4000], 1);
    let frames = link.frames();
    assert_eq!(frames.len(), 3);
    let whole: Vec<u8> = frames
        .iter()
        .flat_map(|frame| packet(frame).payload.to_vec())
        .collect();
    assert_eq!(Udp::parse(&whole).unwrap().payload, [9; 4000]);
}

#[test]
fn a_restricted_guest_reaches_nobody() {
    let mut link = Link::new(
        Config {
            restrict: true,
            ..config()
        },
        0,
    );
    for to in [
        server(),
        SocketAddr::new(GATEWAY.into(), 22),
        SocketAddr::new(DNS.into(), 53),
    ] {
        link.tcp(1, to, segment(flags::SYN, 0, 0, 1000), &[]);
        link.udp(1, to, b"x");
    }
    let query = b"\xab\xcd\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\0\0\x01\0\x01";
    link.udp(1, SocketAddr::new(DNS.into(), 53), query);
    link.ip(
        ICMP,
        SERVER,
        &echo_reply(&[8, 0, 0, 0, 0, 1, 0, 1], 1, SERVER.into(), GUEST.into()),
    );
    assert_eq!(link.actions(), []);
    let frames = link.frames();
    assert_eq!(frames.len(), 4, "three resets, and a name server that refuses");
    assert_eq!(
        Udp::parse(packet(&frames[3]).payload).unwrap().payload[3] & 15,
        Code::Refused as u8
    );
    // The other way ports are open all the same.
    assert!(link.core.forwarded(0, 40_000, 1).is_some());
    assert_eq!(link.core.forwarded(1, 40_000, 1), None, "a UDP port");
}

/// With another router there, ours serves addresses and names, and passes nothing on.
#[test]
fn beside_another_router_only_addresses_and_names_are_served() {
    let mut link = Link::new(
        Config {
            router: Some(Ipv4Addr::new(10, 0, 2, 1)),
            ..config()
        },
        0,
    );
    assert_eq!(link.core.network.router, Some(Ipv4Addr::new(10, 0, 2, 1)));
    for to in [server(), SocketAddr::new(GATEWAY.into(), 22)] {
        link.tcp(1, to, segment(flags::SYN, 0, 0, 1000), &[]);
        link.udp(1, to, b"x");
    }
    link.ip(
        ICMP,
        SERVER,
        &echo_reply(&[8, 0, 0, 0, 0, 1, 0, 1], 1, SERVER.into(), GUEST.into()),
    );
    assert_eq!(link.actions(), []);
    let query = b"\xab\xcd\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\0\0\x01\0\x01";
    link.udp(1, SocketAddr::new(DNS.into(), 53), query);
    assert_eq!(link.actions().len(), 1, "the question is passed on");
}

#[test]
fn the_hosts_loopback_is_reached_by_the_gateway_only() {
    let link = Link::new(config(), 0);
    for nowhere in [
        "127.0.0.1:80",
        "0.0.0.0:80",
        "10.0.2.99:80",
        "224.0.0.1:80",
        "255.255.255.255:80",
        "10.0.2.3:80",
    ] {
        assert_eq!(link.core.outside(nowhere.parse().unwrap()), None, "{nowhere}");
    }
    let outside = |text: &str| link.core.outside(text.parse().unwrap()).unwrap().to_string();
    assert_eq!(outside("10.0.2.2:80"), "127.0.0.1:80");
    assert_eq!(outside("10.0.2.3:53"), "127.0.0.1:5353");
    assert_eq!(outside("192.0.2.1:80"), "192.0.2.1:80");
}

#[test]
fn a_forwarded_connection_opens_towards_the_guest() {
    let mut link = Link::new(config(), 0);
    let id = link.core.forwarded(0, 40_000, 1).unwrap();
    let frames = link.frames();
    let syn = packet(&frames[0]);
    assert_eq!((syn.source, syn.destination), (GATEWAY.into(), GUEST.into()));
    let syn = Tcp::parse(syn.payload).unwrap();
    assert_eq!((syn.source, syn.destination, syn.flags), (40_000, 22, flags::SYN));
    let gateway = SocketAddr::new(GATEWAY.into(), 40_000);
    let ours = syn.sequence.wrapping_add(1);
    assert_eq!(
        link.core.connection(id).unwrap().room_for_host(),
        0,
        "not open yet"
    );
    link.tcp(
        22,
        gateway,
        segment(flags::SYN | flags::ACK, 500, ours, 1000),
        &[],
    );
    let frames = link.frames();
    assert_eq!(
        Tcp::parse(packet(&frames[0]).payload).unwrap().acknowledgment,
        501
    );
    assert!(link.core.connection(id).unwrap().room_for_host() > 0);
    link.tcp(22, gateway, segment(flags::RST, 501, 0, 0), &[]);
    link.frames();
    let close = Action::Close {
        connection: id,
        reset: true,
    };
    assert_eq!(link.actions(), [close]);
}

#[test]
fn a_forwarded_datagram_is_answered_to_its_client() {
    let mut link = Link::new(config(), 0);
    let client = SocketAddr::from(([127, 0, 0, 1], 40_000));
    link.core.forwarded_datagram(1, client, b"ping", 1);
    let frames = link.frames();
    let datagram = Udp::parse(packet(&frames[0]).payload).unwrap();
    assert_eq!(
        (datagram.source, datagram.destination, datagram.payload),
        (40_000, 9, &b"ping"[..])
    );
    link.udp(9, SocketAddr::new(GATEWAY.into(), 40_000), b"pong");
    let reply = Action::Reply {
        forward: 1,
        to: client,
        payload: b"pong".to_vec(),
    };
    assert_eq!(link.actions(), [reply]);
    link.core.forwarded_datagram(0, client, b"ping", 1);
    assert!(link.frames().is_empty(), "that is a port of TCP");
}

#[test]
fn the_gateway_answers_arp_and_pings() {
    let mut link = Link::new(config(), 0);
    let mut arp = [0; VNET_LEN + ETHERNET_LEN + 28];
    arp[VNET_LEN..VNET_LEN + 6].fill(0xff);
    arp[VNET_LEN + 6..VNET_LEN + 12].copy_from_slice(&GUEST_MAC);
    arp[VNET_LEN + 12..VNET_LEN + 14].copy_from_slice(&ETHERTYPE_ARP.to_be_bytes());
    let body = &mut arp[VNET_LEN + ETHERNET_LEN..];
    body[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    body[8..14].copy_from_slice(&GUEST_MAC);
    body[14..18].copy_from_slice(&GUEST.octets());
    body[24..28].copy_from_slice(&GATEWAY.octets());
    link.core.input(&arp, 1);
    let frames = link.frames();
    let reply = &frames[0][VNET_LEN + ETHERNET_LEN..];
    assert_eq!(
        (reply[7], &reply[8..14], &reply[14..18]),
        (2, &OUR_MAC[..], &[10, 0, 2, 2][..])
    );
    let mut echo = echo_reply(&[0, 0, 0, 0, 1, 2, 3, 4, 5], 0x0102, GATEWAY.into(), GUEST.into());
    echo[0] = 8;
    echo[2] -= 8;
    link.ip(ICMP, GATEWAY, &echo);
    let frames = link.frames();
    let reply = packet(&frames[0]).payload;
    assert_eq!((reply[0], &reply[4..]), (0, &[1, 2, 3, 4, 5][..]));
    assert_eq!(fold(sum(reply)), 0xffff);
}

/// A network that several guests share.
fn shared() -> Config {
    let gateway = Ipv4Addr::new(192, 168, 9, 1);
    Config {
        subnet: Subnet { gateway, prefix: 24 },
        dns: Some(gateway),
        domain: "lan".into(),
        plan: Plan {
            ranges: vec![(Ipv4Addr::new(192, 168, 9, 2), Ipv4Addr::new(192, 168, 9, 254))],
            hosts: vec![Host {
                mac: Some([2, 0, 0, 0, 0, 9]),
                name: Some("web".into()),
                address: Ipv4Addr::new(192, 168, 9, 80),
            }],
            names: vec![("printer.lan".into(), Ipv4Addr::new(192, 168, 9, 7).into())],
            ..Plan::default()
        },
        shared: true,
        forwards: vec!["tcp:2222:192.168.9.66:22".parse().unwrap()],
        upstream: None,
        ..config()
    }
}

/// A message of a DHCP client behind its headers: of this type, for this address, with a name.
fn dhcp_message(mac: Mac, kind: u8, wanted: Option<Ipv4Addr>, name: &str) -> Vec<u8> {
    let mut message = vec![0; 240];
    message[..3].copy_from_slice(&[1, 1, 6]);
    message[28..34].copy_from_slice(&mac);
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    message.extend([53, 1, kind, 12, name.len() as u8]);
    message.extend(name.bytes());
    if let Some(wanted) = wanted {
        message.extend([50, 4]);
        message.extend(wanted.octets());
    }
    message.push(255);
    let mut output = Output::new(mac, Ipv4Addr::UNSPECIFIED);
    let from = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 68);
    output.udp(from, SocketAddr::new(Ipv4Addr::BROADCAST.into(), 67), &message);
    output.pop().unwrap()
}

#[test]
fn several_guests_share_a_network() {
    let config = shared();
    config.check().unwrap();
    let gateway = config.subnet.gateway;
    let mut core = Core::new(config);
    let lease = |core: &mut Core, number: u8, name: &str| {
        let mac = [2, 0, 0, 0, 0, number];
        core.input(&dhcp_message(mac, 1, None, name), 1);
        let offer = core.next_frame().unwrap();
        assert_eq!(offer[VNET_LEN..VNET_LEN + 6], mac, "to the one who asked");
        let offer = Packet::ipv4(&offer[VNET_LEN + ETHERNET_LEN..]).unwrap();
        let address = address_at(Udp::parse(offer.payload).unwrap().payload, 16).unwrap();
        core.input(&dhcp_message(mac, 3, Some(address), name), 1);
        assert!(core.next_frame().is_some());
        address
    };
    let first = lease(&mut core, 1, "one");
    let second = lease(&mut core, 2, "two");
    let reserved = lease(&mut core, 9, "nine");
    assert_eq!(
        [first, second, reserved].map(|address| address.octets()[3]),
        [2, 3, 80]
    );
    // Names, with the domain and without, of guests and of others.
    for (name, address) in [
        (&b"\x03two\0"[..], second),
        (b"\x03one\x03lan\0", first),
        (b"\x03web\0", reserved),
        (b"\x07printer\x03lan\0", Ipv4Addr::new(192, 168, 9, 7)),
        (b"\x07gateway\0", gateway),
    ] {
        let mut query = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend(name);
        query.extend([0, 1, 0, 1]);
        let mut output = Output::new([2, 0, 0, 0, 0, 1], first);
        output.learn(gateway, OUR_MAC);
        output.udp(
            SocketAddr::new(first.into(), 4000),
            SocketAddr::new(gateway.into(), 53),
            &query,
        );
        core.input(&output.pop().unwrap(), 2);
        let frame = core.next_frame().unwrap();
        assert!(frame.ends_with(&address.octets()), "{name:?}");
    }
    let leases = core.directory();
    assert_eq!(leases.lock().unwrap().lookup("nine", 2), None, "it is called web");
}

#[test]
fn a_guest_that_never_spoke_is_asked_for_its_card() {
    let config = shared();
    let gateway = config.subnet.gateway;
    let guest = Ipv4Addr::new(192, 168, 9, 66);
    let mut core = Core::new(config);
    core.forwarded(0, 40_000, 1).unwrap();
    core.poll(1);
    let question = core.next_frame().unwrap();
    assert_eq!(question[VNET_LEN..VNET_LEN + 6], [0xff; 6]);
    assert_eq!(question[VNET_LEN + 12..VNET_LEN + 14], [8, 6]);
    assert!(question.ends_with(&guest.octets()));
    assert!(core.next_frame().is_none(), "nothing can be sent yet");
    let mac = [2, 0, 0, 0, 0, 66];
    let mut reply = vec![0; VNET_LEN + ETHERNET_LEN + 28];
    reply[VNET_LEN..VNET_LEN + 6].copy_from_slice(&OUR_MAC);
    reply[VNET_LEN + 6..VNET_LEN + 12].copy_from_slice(&mac);
    reply[VNET_LEN + 12..VNET_LEN + 14].copy_from_slice(&[8, 6]);
    let body = &mut reply[VNET_LEN + ETHERNET_LEN..];
    body[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 2]);
    body[8..14].copy_from_slice(&mac);
    body[14..18].copy_from_slice(&guest.octets());
    body[18..24].copy_from_slice(&OUR_MAC);
    body[24..].copy_from_slice(&gateway.octets());
    core.input(&reply, 2);
    let again = core.deadline().unwrap();
    core.poll(again);
    let syn = core.next_frame().unwrap();
    assert_eq!(syn[VNET_LEN..VNET_LEN + 6], mac);
    let packet = Packet::ipv4(&syn[VNET_LEN + ETHERNET_LEN..]).unwrap();
    assert_eq!(
        (packet.source, packet.destination),
        (gateway.into(), guest.into())
    );
}

#[test]
fn one_guest_of_several_does_not_take_everything() {
    let config = shared();
    let gateway = config.subnet.gateway;
    let mut core = Core::new(config);
    let knock = |core: &mut Core, guest: u8, port: u16| {
        let address = Ipv4Addr::new(192, 168, 9, guest);
        let mut output = Output::new([2, 0, 0, 0, 0, guest], address);
        output.learn(SERVER, OUR_MAC);
        output.learn(gateway, OUR_MAC);
        let from = SocketAddr::new(address.into(), port);
        output.tcp(from, server(), &segment(flags::SYN, 0, 0, 1000), [&[], &[]]);
        output.udp(from, SocketAddr::new(SERVER.into(), 9), b"x");
        while let Some(frame) = output.pop() {
            core.input(&frame, 1);
        }
    };
    for port in 1..=300 {
        knock(&mut core, 20, port);
    }
    assert_eq!(core.connections.len(), MAX_HALF_OPEN / PARTS);
    assert_eq!(core.flows.len(), MAX_FLOWS / PARTS);
    for port in 1..=5 {
        knock(&mut core, 21, port);
    }
    assert_eq!(core.connections.len(), MAX_HALF_OPEN / PARTS + 5);
    assert_eq!(core.flows.len(), MAX_FLOWS / PARTS + 5);
}

proptest! {
    /// Whatever a guest sends, with right checksums or wrong ones: no panic, and bounds that hold.
    #[test]
    fn hostile_frames_are_no_danger(
        frames in prop::collection::vec(
            (0usize..9, any::<[u8; 4]>(), prop::collection::vec(any::<u8>(), 0..120), any::<u16>(), 0u8..4), 1..60,
        ),
        steps in prop::collection::vec(0u64..5000, 1..60),
    ) {
        let mut link = Link::new(v6::config6(), 0);
        for (index, (kind, to, mut payload, port, takes)) in frames.into_iter().enumerate() {
            link.takes = takes;
            // Mostly the same few connections, so that their states are met.
            let ports = [1000, port];
            let from = ports[usize::from(port) % 2];
            let random = Ipv6Addr::from_bits((u128::from(u32::from_be_bytes(to)) << 96) | 5);
            let to = [
                server(),
                SocketAddr::new(GATEWAY.into(), 40_000),
                SocketAddr::new(Ipv4Addr::from(to).into(), port),
                SocketAddr::new(v6::SERVER6.into(), 80),
                SocketAddr::new(GATEWAY6.into(), 40_000),
                SocketAddr::new(random.into(), port),
            ][index % 6];
            match kind {
                0 => {
                    payload.resize(payload.len().max(14), 0);
                    let sequence = u32::from(payload[0]) + 90;
                    let flag = payload[1];
                    link.tcp(from, to, segment(flag, sequence, payload[2].into(), port), &payload);
                }
                1 => link.udp(from, to, &payload),
                2 => link.udp(68, SocketAddr::new(Ipv4Addr::BROADCAST.into(), 67), &payload),
                3 => link.discovery(port, payload.clone()),
                4 => link.dhcp6(&payload),
                5 => link.udp(from, SocketAddr::new(DNS6.into(), 53), &payload),
                6 => link.ip_to(payload.first().copied().unwrap_or(6), to.ip(), &payload),
                _ => {
                    if let Some(slot) = payload.get_mut(VNET_LEN..VNET_LEN + 6) {
                        slot.copy_from_slice(&OUR_MAC);
                    }
                    link.core.input(&payload, link.now);
                }
            }
            if index % 4 == 0 {
                let _ = link.core.forwarded(0, port, link.now);
                let _ = link.core.forwarded(2, port, link.now);
                link.core.forwarded_datagram(1, ([127, 0, 0, 1], port).into(), &payload, link.now);
            }
            link.now += steps[index % steps.len()];
            for action in link.actions() {
                match action {
                    Action::Connect { connection, .. } => {
                        link.core.connection(connection).unwrap().connected(link.now);
                    }
                    Action::Send { flow, payload, .. } => link.core.datagram(flow, &payload, link.now),
                    _ => {}
                }
            }
            let ids: Vec<Id> = link.core.connections.keys().copied().collect();
            for id in ids {
                let connection = link.core.connection(id).unwrap();
                connection.host_gave(&payload, link.now);
                let count = connection.for_host().len() / 2;
                connection.host_took(count, link.now);
            }
            for frame in link.frames() {
                prop_assert!(frame.len() <= VNET_LEN + ETHERNET_LEN + 65_535);
            }
        }
        prop_assert!(link.core.connections.len() <= MAX_CONNECTIONS && link.core.flows.len() <= MAX_FLOWS);
        prop_assert_eq!(link.core.connections.len(), link.core.by_ends.len());
        prop_assert_eq!(link.core.flows.len(), link.core.flow_keys.len());
    }
}
