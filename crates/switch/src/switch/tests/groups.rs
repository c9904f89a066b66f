//! IGMP and MLD snooping by the points of RFC 4541, 2236, 3376 and 3810, message by message.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::*;
use crate::{Family, PortGroups, RouterPort, SnoopConfig};

const JOIN_V1: u8 = 0x12;
const JOIN_V2: u8 = 0x16;
const LEAVE_V2: u8 = 0x17;
const IS_EXCLUDE: u8 = 2;
const TO_INCLUDE: u8 = 3;
const ALLOW: u8 = 5;
const BLOCK: u8 = 6;
const MLD_QUERY: u8 = 130;
const MLD_REPORT: u8 = 131;
const MLD_DONE: u8 = 132;

fn sum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn group_mac(group: IpAddr) -> Mac {
    match group {
        IpAddr::V4(group) => {
            let [_, b, c, d] = group.octets();
            Mac([1, 0, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V6(group) => {
            let [.., a, b, c, d] = group.octets();
            Mac([0x33, 0x33, a, b, c, d])
        }
    }
}

fn ethernet(to: Mac, from: u64, ether_type: u16, packet: &[u8]) -> Vec<u8> {
    [&to.0[..], &mac(from).0, &ether_type.to_be_bytes(), packet].concat()
}

/// An IPv4 packet with the Router Alert option.
fn v4(source: &str, to: Ipv4Addr, protocol: u8, ttl: u8, body: &[u8]) -> Vec<u8> {
    let source: Ipv4Addr = source.parse().unwrap();
    let total = (24 + body.len() as u16).to_be_bytes();
    let mut header = [
        &[0x46, 0xc0, total[0], total[1], 0, 0, 0, 0, ttl, protocol, 0, 0][..],
        &source.octets(),
        &to.octets(),
        &[0x94, 4, 0, 0],
    ]
    .concat();
    let check = sum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&check);
    [&header[..], body].concat()
}

/// An IPv6 packet with a hop-by-hop header that alerts routers.
fn v6(source: &str, to: Ipv6Addr, hops: u8, icmp: &[u8]) -> Vec<u8> {
    let source: Ipv6Addr = source.parse().unwrap();
    let mut icmp = icmp.to_vec();
    let pseudo = [
        &source.octets()[..],
        &to.octets(),
        &(icmp.len() as u32).to_be_bytes(),
        &[0, 0, 0, 58],
        &icmp,
    ]
    .concat();
    let check = sum(&pseudo).to_be_bytes();
    icmp[2..4].copy_from_slice(&check);
    let len = (icmp.len() as u16 + 8).to_be_bytes();
    [
        &[0x60, 0, 0, 0, len[0], len[1], 0, hops][..],
        &source.octets(),
        &to.octets(),
        &[58, 0, 5, 2, 0, 0, 1, 0],
        &icmp,
    ]
    .concat()
}

fn igmp_body(kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut body = [&[kind, code, 0, 0][..], rest].concat();
    let check = sum(&body).to_be_bytes();
    body[2..4].copy_from_slice(&check);
    body
}

/// IGMPv1 or v2.
fn igmp(from: u64, source: &str, kind: u8, code: u8, group: &str) -> Vec<u8> {
    let group: Ipv4Addr = group.parse().unwrap();
    let to = match kind {
        0x11 if group.is_unspecified() => Ipv4Addr::new(224, 0, 0, 1),
        LEAVE_V2 => Ipv4Addr::new(224, 0, 0, 2),
        _ => group,
    };
    let packet = v4(source, to, 2, 1, &igmp_body(kind, code, &group.octets()));
    ethernet(group_mac(to.into()), from, 0x0800, &packet)
}

/// IGMPv3 or MLDv2: a report of records, each a type, a group and its sources.
fn report(from: u64, records: &[(u8, &str, &[&str])]) -> Vec<u8> {
    let bytes = |address: &str| match ip(address) {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let mut rest = vec![0, 0];
    rest.extend((records.len() as u16).to_be_bytes());
    for (kind, group, sources) in records {
        rest.extend([*kind, 0, 0, sources.len() as u8]);
        rest.extend(bytes(group));
        sources.iter().for_each(|source| rest.extend(bytes(source)));
    }
    if records[0].1.contains(':') {
        let to: Ipv6Addr = "ff02::16".parse().unwrap();
        let packet = v6("fe80::5", to, 1, &[&[143, 0, 0, 0][..], &rest].concat());
        return ethernet(group_mac(to.into()), from, 0x86dd, &packet);
    }
    let to = Ipv4Addr::new(224, 0, 0, 22);
    let packet = v4("10.0.0.5", to, 2, 1, &igmp_body(0x22, 0, &rest));
    ethernet(group_mac(to.into()), from, 0x0800, &packet)
}

/// MLDv1.
fn mld(from: u64, source: &str, kind: u8, milliseconds: u16, group: &str) -> Vec<u8> {
    let group: Ipv6Addr = group.parse().unwrap();
    let to = match kind {
        MLD_QUERY if group.is_unspecified() => "ff02::1".parse().unwrap(),
        MLD_DONE => "ff02::2".parse().unwrap(),
        _ => group,
    };
    let [a, b] = milliseconds.to_be_bytes();
    let icmp = [&[kind, 0, 0, 0, a, b, 0, 0][..], &group.octets()].concat();
    ethernet(group_mac(to.into()), from, 0x86dd, &v6(source, to, 1, &icmp))
}

/// Some data for a group.
fn data(from: u64, group: &str) -> Vec<u8> {
    match ip(group) {
        IpAddr::V4(to) => ethernet(
            group_mac(to.into()),
            from,
            0x0800,
            &v4("10.0.0.9", to, 17, 9, &[0; 20]),
        ),
        IpAddr::V6(to) => {
            let header = [
                &[0x60, 0, 0, 0, 0, 20, 17, 9][..],
                &[0xfd; 16],
                &to.octets(),
                &[0; 20],
            ]
            .concat();
            ethernet(group_mac(to.into()), from, 0x86dd, &header)
        }
    }
}

/// Four access ports in VLAN 1, with a querier of ours that has been answered, or none.
fn bench(change: impl FnOnce(&mut SnoopConfig, &mut Vec<PortConfig>)) -> Bench {
    let mut snooping = SnoopConfig {
        querier: true,
        address: "10.0.0.100".parse().unwrap(),
        ..SnoopConfig::default()
    };
    let mut ports = vec![PortConfig::access(v(1)); 4];
    change(&mut snooping, &mut ports);
    let mut config = SwitchConfig::new(mac(99));
    config.snooping = Some(snooping);
    let mut bench = Bench::with(config, ports);
    bench.pass(20);
    bench
}

impl Bench {
    /// Lets seconds pass, and returns what the switch said of itself meanwhile.
    fn pass(&mut self, seconds: u64) -> Vec<(usize, Vec<u8>)> {
        let mut out = Sent::default();
        for _ in 0..seconds {
            self.now = self.now + Duration::from_secs(1);
            self.switch.poll(self.now, &mut out);
        }
        out.own
    }

    /// What came of itself when a frame was received.
    fn own(&mut self, port: usize, frame: Vec<u8>) -> Vec<(usize, Vec<u8>)> {
        let mut out = Sent {
            frames: vec![frame.clone()],
            ..Sent::default()
        };
        self.switch.receive(at(port), &frame, self.now, &mut out);
        out.own
    }

    fn members(&self, group: &str) -> Vec<usize> {
        let members = self.switch.group_members();
        members
            .filter(|member| member.group == ip(group))
            .map(|member| member.port.get())
            .collect()
    }

    fn drops(&self, port: usize, reason: Drop) -> u64 {
        self.switch.counters(at(port)).unwrap().dropped.get(reason)
    }
}

/// RFC 4541, 2.1.2: data reaches who reported, by every version of both protocols, and nobody else.
#[test]
fn members_get_their_group_by_every_version() {
    let joins: [(&str, &[Vec<u8>]); 6] = [
        ("239.1.1.1", &[igmp(2, "10.0.0.2", JOIN_V1, 0, "239.1.1.1")]),
        ("239.1.1.2", &[igmp(2, "10.0.0.2", JOIN_V2, 0, "239.1.1.2")]),
        ("239.1.1.3", &[report(2, &[(IS_EXCLUDE, "239.1.1.3", &[])])]),
        ("232.1.1.4", &[report(2, &[(ALLOW, "232.1.1.4", &["10.0.0.9"])])]),
        ("ff05::5", &[mld(2, "fe80::2", MLD_REPORT, 0, "ff05::5")]),
        ("ff05::6", &[report(2, &[(IS_EXCLUDE, "ff05::6", &[])])]),
    ];
    for (group, messages) in joins {
        let mut bench = bench(|_, _| {});
        assert_eq!(bench.ports(0, data(1, group)), [], "{group}: nobody wants it");
        for message in messages {
            assert_eq!(
                bench.ports(2, message.clone()),
                [],
                "no router is there to hear it"
            );
        }
        assert_eq!(bench.members(group), [2]);
        assert_eq!(bench.ports(0, data(1, group)), [2], "{group}");
        assert_eq!(
            bench.ports(2, data(1, group)),
            [],
            "not back to where it came from"
        );
        assert_eq!(bench.switch.counters(at(2)).unwrap().consumed, 1);
    }
}

/// RFC 4541, 2.1.1 (1): reports go to routers only; 2.1.1 (1) b: those are where queries come from, except from 0.0.0.0.
#[test]
fn reports_go_to_router_ports_only() {
    let mut bench = bench(|_, ports| {
        ports[1].groups.router = RouterPort::Always;
    });
    assert_eq!(bench.ports(0, igmp(1, "10.0.0.1", JOIN_V2, 0, "239.1.1.1")), [1]);
    assert_eq!(
        bench.ports(3, igmp(4, "0.0.0.0", 0x11, 100, "0.0.0.0")),
        [0, 1, 2],
        "a query goes to all"
    );
    assert_eq!(bench.ports(0, igmp(1, "10.0.0.1", JOIN_V2, 0, "239.1.1.1")), [1]);
    assert_eq!(
        bench.ports(3, igmp(4, "10.0.0.200", 0x11, 100, "0.0.0.0")),
        [0, 1, 2]
    );
    assert_eq!(
        bench.ports(0, igmp(1, "10.0.0.1", JOIN_V2, 0, "239.1.1.1")),
        [1, 3]
    );
    // Routers get every group (RFC 4541, 2.1.2 (1)).
    assert_eq!(bench.ports(2, data(3, "239.9.9.9")), [1, 3]);
    assert_eq!(bench.ports(2, data(3, "239.1.1.1")), [0, 1, 3]);
    // A router that says nothing any more is one no more.
    bench.pass(300);
    assert_eq!(bench.ports(2, data(3, "239.9.9.9")), [1]);
}

/// RFC 4541, 2.1.2 (2) and 3: 224.0.0.x and all nodes are for everybody, whoever reported them. Groups of one link that nobody
/// reported are too, because neighbour discovery depends on them.
#[test]
fn groups_of_the_link_are_flooded() {
    let mut bench = bench(|_, _| {});
    bench.receive(2, igmp(2, "10.0.0.2", JOIN_V2, 0, "224.0.0.251"));
    assert_eq!(bench.members("224.0.0.251"), []);
    for group in ["224.0.0.251", "224.0.0.1", "ff02::1", "ff01::1", "ff02::1:ff00:5"] {
        assert_eq!(bench.ports(0, data(1, group)), [1, 2, 3], "{group}");
    }
    // Reported ones go to who reported them.
    bench.receive(2, report(2, &[(IS_EXCLUDE, "ff02::1:ff00:5", &[])]));
    assert_eq!(bench.ports(0, data(1, "ff02::1:ff00:5")), [2]);
    // What is no packet to a group is flooded as ever.
    assert_eq!(bench.ports(0, frame(GROUP, mac(1), &[])), [1, 2, 3]);
}

/// Without anybody who asks, silence says nothing: groups are flooded, until a querier is heard and has been answered.
#[test]
fn without_a_querier_groups_are_flooded() {
    let mut bench = bench(|snooping, _| snooping.querier = false);
    bench.receive(2, igmp(2, "10.0.0.2", JOIN_V2, 0, "239.1.1.1"));
    assert_eq!(bench.ports(0, data(1, "239.1.1.1")), [1, 2, 3]);
    bench.receive(3, igmp(4, "10.0.0.4", 0x11, 100, "0.0.0.0"));
    assert_eq!(
        bench.ports(0, data(1, "239.1.1.1")),
        [1, 2, 3],
        "stations have ten seconds to answer"
    );
    bench.pass(11);
    bench.receive(2, igmp(2, "10.0.0.2", JOIN_V2, 0, "239.1.1.1"));
    assert_eq!(bench.ports(0, data(1, "239.1.1.1")), [2, 3]);
    assert_eq!(
        bench.ports(0, data(1, "ff05::1")),
        [1, 2, 3],
        "nobody asks by MLD"
    );
    bench.pass(300);
    assert_eq!(
        bench.ports(0, data(1, "239.1.1.1")),
        [1, 2, 3],
        "the querier is gone"
    );
}

/// RFC 3376, 8.4: a member that says nothing for robustness x interval + response time is forgotten; RFC 3376, 6.4: one that answers
/// is not.
#[test]
fn members_that_say_nothing_are_forgotten() {
    let mut bench = bench(|_, _| {});
    for port in [2, 3] {
        bench.receive(port, igmp(port as u64, "10.0.0.2", JOIN_V2, 0, "239.1.1.1"));
    }
    bench.pass(200);
    bench.receive(3, igmp(3, "10.0.0.3", JOIN_V2, 0, "239.1.1.1"));
    bench.pass(59);
    assert_eq!(bench.members("239.1.1.1"), [2, 3]);
    bench.pass(2);
    assert_eq!(bench.members("239.1.1.1"), [3]);
    assert_eq!(bench.ports(0, data(1, "239.1.1.1")), [3]);
    bench.pass(260);
    assert_eq!(bench.members("239.1.1.1"), []);
    assert_eq!(bench.ports(0, data(1, "239.1.1.1")), []);
}

/// RFC 2236, 3 and RFC 3376, 6.4.2: after a leave the querier asks as often as the robustness says, on that port only; who
/// answers stays, and without an answer the port is out.
#[test]
fn whoever_is_left_is_asked() {
    for (join, leave) in [
        (
            igmp(2, "10.0.0.2", JOIN_V2, 0, "239.1.1.1"),
            igmp(2, "10.0.0.2", LEAVE_V2, 0, "239.1.1.1"),
        ),
        (
            report(2, &[(IS_EXCLUDE, "239.1.1.1", &[])]),
            report(2, &[(TO_INCLUDE, "239.1.1.1", &[])]),
        ),
        (
            report(2, &[(ALLOW, "239.1.1.1", &["10.0.0.9"])]),
            report(2, &[(BLOCK, "239.1.1.1", &["10.0.0.9"])]),
        ),
        (
            mld(2, "fe80::2", MLD_REPORT, 0, "ff05::1"),
            mld(2, "fe80::2", MLD_DONE, 0, "ff05::1"),
        ),
        (
            report(2, &[(IS_EXCLUDE, "ff05::1", &[])]),
            report(2, &[(TO_INCLUDE, "ff05::1", &[])]),
        ),
    ] {
        let group = if join[12] == 8 { "239.1.1.1" } else { "ff05::1" };
        let mut bench = bench(|_, _| {});
        bench.receive(2, join.clone());
        let asked = bench.own(2, leave.clone());
        assert_eq!(asked.len(), 1);
        assert_eq!(
            (asked[0].0, Mac::read(&asked[0].1)),
            (2, Some(group_mac(ip(group))))
        );
        assert_eq!(bench.own(2, leave.clone()), [], "it is being asked already");
        assert_eq!(bench.ports(0, data(1, group)), [2], "until nobody answers");
        let again = bench.pass(1);
        assert_eq!(again.iter().filter(|(_, frame)| *frame == asked[0].1).count(), 1);
        bench.receive(2, join.clone());
        bench.pass(5);
        assert_eq!(bench.members(group), [2], "somebody answered");
        bench.receive(2, leave.clone());
        bench.pass(4);
        assert_eq!(bench.members(group), [], "nobody did");
    }
}

/// RFC 4541, 2.1.1 (1): where somebody else asks, his question shortens the time of members that do not answer.
#[test]
fn a_routers_question_about_a_group_shortens_its_members_time() {
    let mut bench = bench(|snooping, _| snooping.querier = false);
    bench.receive(3, igmp(4, "10.0.0.4", 0x11, 100, "0.0.0.0"));
    for port in [1, 2] {
        bench.receive(port, igmp(port as u64, "10.0.0.2", JOIN_V2, 0, "239.1.1.1"));
    }
    assert_eq!(
        bench.own(2, igmp(2, "10.0.0.2", LEAVE_V2, 0, "239.1.1.1")),
        [],
        "it is for the router to ask"
    );
    bench.receive(3, igmp(4, "10.0.0.4", 0x11, 10, "239.1.1.1"));
    bench.receive(1, igmp(1, "10.0.0.1", JOIN_V2, 0, "239.1.1.1"));
    bench.pass(4);
    assert_eq!(bench.members("239.1.1.1"), [1]);
}

#[test]
fn a_port_with_fast_leave_is_out_at_once() {
    let mut bench = bench(|_, ports| {
        ports[2].groups = PortGroups {
            fast_leave: true,
            ..PortGroups::default()
        };
    });
    bench.receive(2, igmp(2, "10.0.0.2", JOIN_V2, 0, "239.1.1.1"));
    assert_eq!(bench.own(2, igmp(2, "10.0.0.2", LEAVE_V2, 0, "239.1.1.1")), []);
    assert_eq!(bench.ports(0, data(1, "239.1.1.1")), []);
}

/// RFC 3376, 6.6.2 and RFC 3810, 7.6.2: the lowest address asks; when it is not heard any more, the switch asks again.
#[test]
fn the_querier_with_the_lowest_address_asks() {
    let questions = |bench: &mut Bench, seconds| {
        let own = bench.pass(seconds);
        let of = |kind: [u8; 2]| {
            own.iter()
                .filter(|(port, frame)| *port == 1 && frame[12..14] == kind)
                .count()
        };
        [of([8, 0]), of([0x86, 0xdd])]
    };
    let mut bench = bench(|_, _| {});
    // RFC 3376, 8.6 and 8.7: two at the start, 31 s apart, then every 125 s.
    assert_eq!(questions(&mut bench, 20), [1, 1]);
    assert_eq!(questions(&mut bench, 500), [4, 4]);
    bench.receive(3, igmp(4, "10.0.0.200", 0x11, 100, "0.0.0.0"));
    assert_eq!(
        questions(&mut bench, 125),
        [1, 1],
        "a higher address does not matter"
    );
    bench.receive(3, igmp(4, "10.0.0.50", 0x11, 100, "0.0.0.0"));
    assert_eq!(questions(&mut bench, 250), [0, 2], "a lower one does");
    assert_eq!(
        bench
            .switch
            .queriers()
            .next()
            .map(|(_, _, address, own)| (address, own)),
        Some((ip("10.0.0.50"), false))
    );
    bench.receive(3, mld(4, "fe80::1", MLD_QUERY, 10_000, "::"));
    assert_eq!(questions(&mut bench, 200)[1], 0);
    assert_eq!(
        questions(&mut bench, 300).map(|count| count > 0),
        [true, true],
        "he is gone"
    );
}

/// RFC 4541, 2.1.1 (3): messages with a wrong checksum, of more than one hop or without an alert are neither used nor forwarded.
#[test]
fn broken_messages_are_neither_used_nor_forwarded() {
    let mut bench = bench(|_, ports| ports[1].groups.router = RouterPort::Always);
    let good = igmp(2, "10.0.0.2", JOIN_V2, 0, "239.1.1.1");
    let mut wrong = Vec::new();
    for at in [16, 24, 40, 45] {
        let mut frame = good.clone();
        frame[at] ^= 1;
        wrong.push(frame);
    }
    let group: Ipv4Addr = "239.1.1.1".parse().unwrap();
    let far = v4("10.0.0.2", group, 2, 2, &igmp_body(JOIN_V2, 0, &group.octets()));
    wrong.push(ethernet(group_mac(group.into()), 2, 0x0800, &far));
    wrong.push(mld(2, "fd00::2", MLD_REPORT, 0, "ff05::1"));
    let mut no_alert = mld(2, "fe80::2", MLD_REPORT, 0, "ff05::1");
    no_alert[56] = 1;
    wrong.push(no_alert);
    let mut cut = report(2, &[(IS_EXCLUDE, "239.1.1.1", &[])]);
    let body = igmp_body(0x22, 0, &[0, 0, 0, 9, IS_EXCLUDE, 0, 0, 0, 239, 1, 1, 1]);
    cut.truncate(14);
    cut.extend(v4("10.0.0.5", Ipv4Addr::new(224, 0, 0, 22), 2, 1, &body));
    wrong.push(cut);
    let count = wrong.len() as u64;
    for frame in wrong {
        assert_eq!(bench.ports(2, frame.clone()), [], "{frame:x?}");
    }
    assert_eq!(bench.drops(2, Drop::BadGroupMessage), count);
    assert_eq!(bench.switch.group_members().count(), 0);
    // RFC 4541, 2.1.1 (2): what nobody here knows is flooded.
    let unknown = v4("10.0.0.2", group, 2, 1, &igmp_body(0x13, 0, &[0; 4]));
    assert_eq!(
        bench.ports(2, ethernet(group_mac(group.into()), 2, 0x0800, &unknown)),
        [0, 1, 3]
    );
}

#[test]
fn a_port_that_may_be_no_router_does_not_ask() {
    let mut bench = bench(|_, ports| ports[2].groups.router = RouterPort::Never);
    assert_eq!(bench.ports(2, igmp(2, "10.0.0.2", 0x11, 100, "0.0.0.0")), []);
    assert_eq!(bench.ports(2, mld(2, "fe80::2", MLD_QUERY, 1000, "::")), []);
    assert_eq!(bench.drops(2, Drop::Rogue), 2);
    assert_eq!(bench.ports(0, data(1, "239.9.9.9")), []);
}

/// Nobody fills the table for others, and what is refused is counted.
#[test]
fn the_table_is_bounded() {
    let mut bench = bench(|snooping, _| (snooping.groups, snooping.port_groups) = (10, 6));
    for port in [1, 2] {
        for n in 0..100 {
            let group = format!("239.1.{port}.{n}");
            bench.receive(port, igmp(port as u64, "10.0.0.2", JOIN_V2, 0, &group));
        }
    }
    let count = |bench: &Bench, port| {
        bench
            .switch
            .group_members()
            .filter(|member| member.port == at(port))
            .count()
    };
    assert_eq!((count(&bench, 1), count(&bench, 2)), (6, 4));
    assert_eq!(bench.switch.groups_refused(), 94 + 96);
    bench.receive(3, igmp(3, "10.0.0.3", JOIN_V2, 0, "239.1.1.0"));
    assert_eq!(
        bench.members("239.1.1.0"),
        [1, 3],
        "a group that is known has room for others"
    );
    // What expires makes room again.
    bench.pass(300);
    bench.receive(3, igmp(3, "10.0.0.3", JOIN_V2, 0, "239.7.7.7"));
    assert_eq!(bench.members("239.7.7.7"), [3]);
}

/// Groups are apart in each VLAN, questions are tagged as the port has it, and a port that goes takes its groups along.
#[test]
fn groups_are_known_by_vlan_and_go_with_their_port() {
    let mut bench = bench(|_, ports| {
        ports[0] = PortConfig::trunk("1,2".parse().unwrap(), None);
        ports[3] = PortConfig::access(v(2));
    });
    let asked = bench.pass(15);
    let of = |port: usize| {
        asked
            .iter()
            .filter(move |(to, _)| *to == port)
            .map(|(_, frame)| frame[12..16].to_vec())
    };
    let tags: Vec<_> = of(0).collect();
    assert!(
        tags.contains(&vec![0x81, 0, 0, 1]) && tags.contains(&vec![0x81, 0, 0, 2]),
        "{tags:?}"
    );
    assert!(of(3).all(|start| start[0] != 0x81));
    bench.receive(2, igmp(2, "10.0.0.2", JOIN_V2, 0, "239.1.1.1"));
    let tagged = |vlan: u8| {
        let mut frame = data(1, "239.1.1.1");
        frame.splice(12..12, [0x81, 0, 0, vlan]);
        frame
    };
    assert_eq!(bench.ports(0, tagged(1)), [2]);
    assert_eq!(bench.ports(0, tagged(2)), []);
    let now = bench.now;
    bench
        .switch
        .set_link(at(2), false, now, &mut Sent::default())
        .unwrap();
    assert_eq!(bench.switch.group_members().count(), 0);
    bench
        .switch
        .set_link(at(2), true, now, &mut Sent::default())
        .unwrap();
    bench.receive(2, igmp(2, "10.0.0.2", JOIN_V2, 0, "239.1.1.1"));
    let elsewhere = PortConfig::access(v(2));
    bench
        .switch
        .set_port(at(2), elsewhere, now, &mut Sent::default())
        .unwrap();
    assert_eq!(bench.switch.group_members().count(), 0);
}

/// RFC 4541, 2.1.1 (4): after a change of the spanning tree all are asked.
#[test]
fn a_change_of_the_tree_makes_the_switch_ask() {
    let mut config = SwitchConfig::new(mac(99));
    config.snooping = Some(SnoopConfig {
        querier: true,
        ..SnoopConfig::default()
    });
    config.spanning_tree = Some(BridgeConfig::default());
    let mut port = PortConfig::access(v(1));
    port.stp.admin_edge = false;
    port.stp.auto_edge = false;
    let mut bench = Bench::with(config, vec![port; 3]);
    bench.pass(200);
    let is_question = |(port, frame): &(usize, Vec<u8>)| *port == 0 && frame[..3] == [1, 0, 0x5e];
    // Right after a question the next one is far away.
    while !bench.pass(1).iter().any(is_question) {}
    assert!(!bench.pass(60).iter().any(is_question));
    let (now, mut out) = (bench.now, Sent::default());
    bench.switch.set_link(at(2), false, now, &mut out).unwrap();
    bench.switch.set_link(at(2), true, now, &mut out).unwrap();
    assert!(bench.pass(40).iter().any(is_question));
}

proptest! {
    /// Whatever is said, by whoever and when: the counters balance (the bench looks), members and routers alone get a group, and the
    /// table keeps to its bounds.
    #[test]
    fn any_conversation_keeps_to_the_rules(
        steps in prop::collection::vec((0usize..4, 0u8..12, 0u8..6, 0u64..200), 1..120),
    ) {
        let mut bench = bench(|snooping, _| (snooping.groups, snooping.port_groups) = (5, 3));
        for (port, kind, n, seconds) in steps {
            let four = format!("239.1.1.{n}");
            let six = format!("ff05::{n}");
            let from = port as u64;
            match kind {
                0 => drop(bench.receive(port, igmp(from, "10.0.0.2", JOIN_V2, 0, &four))),
                1 => drop(bench.receive(port, igmp(from, "10.0.0.2", LEAVE_V2, 0, &four))),
                2 => drop(bench.receive(port, report(from, &[(IS_EXCLUDE, &four, &[]), (TO_INCLUDE, "239.1.1.1", &[])]))),
                3 => drop(bench.receive(port, mld(from, "fe80::2", MLD_REPORT, 0, &six))),
                4 => drop(bench.receive(port, mld(from, "fe80::2", MLD_DONE, 0, &six))),
                5 => drop(bench.receive(port, igmp(from, "10.0.0.1", 0x11, n * 40, &four))),
                6 => drop(bench.receive(port, igmp(from, "10.0.0.1", 0x11, n, "0.0.0.0"))),
                7 => drop(bench.pass(seconds)),
                8 => {
                    let (now, mut out) = (bench.now, Sent::default());
                    bench.switch.set_link(at(port), n % 2 == 0, now, &mut out).unwrap();
                }
                _ => {
                    let group = if kind % 2 == 0 { &four } else { &six };
                    let family = if kind % 2 == 0 { Family::V4 } else { Family::V6 };
                    let asked = bench.switch.queriers().any(|(_, of, ..)| of == family);
                    let reached = bench.ports(port, data(from, group));
                    prop_assert!(reached.iter().all(|to| *to != port));
                    if asked && seconds > 100 {
                        bench.pass(32);
                        let mut allowed = bench.members(group);
                        allowed.extend(bench.switch.router_ports(v(1), family).iter().map(PortIndex::get));
                        let reached = bench.ports(port, data(from, group));
                        prop_assert!(reached.iter().all(|to| allowed.contains(to)), "{:?} {:?}", reached, allowed);
                    }
                }
            }
            let members: Vec<_> = bench.switch.group_members().collect();
            for port in 0..4 {
                prop_assert!(members.iter().filter(|member| member.port == at(port)).count() <= 3);
            }
            let mut groups: Vec<_> = members.iter().map(|member| member.group).collect();
            groups.dedup();
            prop_assert!(groups.len() <= 5);
        }
    }
}
