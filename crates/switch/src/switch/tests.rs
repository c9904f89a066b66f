//! What becomes of single frames, by the clauses of the standards; and random frames on random switches against a model that
//! knows nothing but the rules of VLANs.

mod batches;
mod groups;

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::config::{Admit, PortVlans};
use crate::counters::{Drop, EgressDrop};
use crate::rstp::{BridgeConfig, PortState};
use crate::{Protection, TagType, VlanSet};

/// Collects what is sent.
#[derive(Default)]
struct Sent {
    frames: Vec<Vec<u8>>,
    sent: Vec<(usize, Vec<u8>)>,
    own: Vec<(usize, Vec<u8>)>,
    full: Option<usize>,
}

impl Output for Sent {
    fn send(&mut self, port: PortIndex, index: usize, tag: TagAction) -> bool {
        if self.full == Some(port.get()) {
            return false;
        }
        self.sent
            .push((port.get(), tag.parts(&self.frames[index]).concat()));
        true
    }

    fn originate(&mut self, port: PortIndex, frame: &[u8]) -> bool {
        self.own.push((port.get(), frame.to_vec()));
        true
    }
}

struct Bench {
    switch: Switch,
    now: Time,
    full: Option<usize>,
}

fn at(place: usize) -> PortIndex {
    PortIndex::new(place).unwrap()
}

fn v(number: u16) -> VlanId {
    VlanId::new(number).unwrap()
}

fn mac(n: u64) -> Mac {
    Mac::from_u64(0x5254_0000_0000 + n)
}

const ALL: Mac = Mac::BROADCAST;
const GROUP: Mac = Mac([1, 0, 0x5e, 1, 2, 3]);

/// A frame with these tags in front of an EtherType of nobody.
fn frame(to: Mac, from: Mac, tags: &[[u8; 4]]) -> Vec<u8> {
    [&to.0[..], &from.0, &tags.concat(), &[0x88, 0xb5], &[7; 46]].concat()
}

fn c_tag(tci: u16) -> [u8; 4] {
    [0x81, 0, (tci >> 8) as u8, tci as u8]
}

impl Bench {
    fn with(config: SwitchConfig, ports: Vec<PortConfig>) -> Self {
        let now = Time::from_secs(1000);
        let mut bench = Self {
            switch: Switch::new(config, [1, 2], now).unwrap(),
            now,
            full: None,
        };
        for port in ports {
            let port = bench.switch.add_port(port).unwrap();
            bench
                .switch
                .set_link(port, true, now, &mut Sent::default())
                .unwrap();
        }
        bench
    }

    fn new(ports: Vec<PortConfig>) -> Self {
        Self::with(SwitchConfig::new(mac(99)), ports)
    }

    /// `count` access ports in VLAN 1.
    fn plain(count: usize) -> Self {
        Self::new(vec![PortConfig::access(v(1)); count])
    }

    fn receive(&mut self, port: usize, frame: Vec<u8>) -> Vec<(usize, Vec<u8>)> {
        self.batch(port, vec![frame])
    }

    fn batch(&mut self, port: usize, frames: Vec<Vec<u8>>) -> Vec<(usize, Vec<u8>)> {
        let mut sent = Sent {
            frames: frames.clone(),
            full: self.full,
            ..Sent::default()
        };
        self.switch.receive_batch(
            at(port),
            frames.iter().map(|f| RxFrame::from(&f[..])),
            self.now,
            &mut sent,
        );
        for port in self.switch.ports() {
            assert!(
                self.switch.counters(port).unwrap().balance(),
                "{:?}",
                self.switch.counters(port)
            );
        }
        sent.sent
    }

    /// The ports that send the frame.
    fn ports(&mut self, port: usize, frame: Vec<u8>) -> Vec<usize> {
        self.receive(port, frame)
            .into_iter()
            .map(|(port, _)| port)
            .collect()
    }

    fn dropped(&mut self, port: usize, frame: Vec<u8>, reason: Drop) {
        let before = self.switch.counters(at(port)).unwrap().dropped.get(reason);
        let sent = self.receive(port, frame);
        assert!(sent.is_empty(), "{sent:?}");
        assert_eq!(
            self.switch.counters(at(port)).unwrap().dropped.get(reason),
            before + 1,
            "{:?}",
            self.switch.counters(at(port))
        );
    }

    fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now = self.now + std::time::Duration::from_secs(1);
            self.switch.poll(self.now, &mut Sent::default());
        }
    }
}

/// 802.1D-2004, 7.7 and 7.8: unknown stations, groups and all are flooded, known ones are not, and nothing goes back.
#[test]
fn frames_go_where_their_station_was_heard() {
    let mut b = Bench::plain(4);
    assert_eq!(b.ports(0, frame(mac(2), mac(1), &[])), [1, 2, 3]);
    assert_eq!(b.ports(2, frame(mac(1), mac(2), &[])), [0]);
    assert_eq!(b.ports(0, frame(mac(2), mac(1), &[])), [2]);
    assert_eq!(b.ports(0, frame(ALL, mac(1), &[])), [1, 2, 3]);
    assert_eq!(b.ports(0, frame(GROUP, mac(1), &[])), [1, 2, 3]);
    b.receive(0, frame(ALL, mac(3), &[]));
    b.dropped(0, frame(mac(3), mac(1), &[]), Drop::SamePort);
    b.wait(300);
    assert_eq!(b.ports(3, frame(mac(1), mac(9), &[])), [0, 1, 2], "aged");
}

#[test]
fn a_station_that_moves_is_found_and_counted() {
    let mut b = Bench::plain(3);
    b.receive(0, frame(ALL, mac(1), &[]));
    b.receive(1, frame(ALL, mac(1), &[]));
    assert_eq!(b.ports(2, frame(mac(1), mac(2), &[])), [1]);
    assert_eq!(b.switch.counters(at(1)).unwrap().moves, 1);
    b.switch.set_static(v(1), mac(1), at(0)).unwrap();
    b.receive(1, frame(ALL, mac(1), &[]));
    assert_eq!(b.ports(2, frame(mac(1), mac(2), &[])), [0]);
    assert_eq!(b.switch.counters(at(1)).unwrap().static_conflicts, 1);
}

/// 802.1D-2004, 7.12.6: none of the sixteen is forwarded, unless it is allowed.
#[test]
fn reserved_addresses_are_not_forwarded() {
    let mut b = Bench::plain(2);
    for x in 0..16 {
        b.dropped(
            0,
            frame(Mac([1, 0x80, 0xc2, 0, 0, x]), mac(1), &[]),
            Drop::Reserved,
        );
    }
    assert_eq!(
        b.ports(0, frame(Mac([1, 0x80, 0xc2, 0, 0, 16]), mac(1), &[])),
        [1]
    );
    let lldp = SwitchConfig {
        forward_reserved: 1 << 14,
        ..SwitchConfig::new(mac(99))
    };
    let mut b = Bench::with(lldp, vec![PortConfig::access(v(1)); 2]);
    assert_eq!(
        b.ports(0, frame(Mac([1, 0x80, 0xc2, 0, 0, 14]), mac(1), &[])),
        [1]
    );
    for never in [1, 2] {
        let config = SwitchConfig {
            forward_reserved: 1 << never,
            ..SwitchConfig::new(mac(99))
        };
        assert_eq!(config.check(), Err(Error::NeverForwarded(never)));
    }
}

/// Frames of every length from 0 to 70,000 are forwarded, or dropped for a reason, and counted once.
#[test]
fn frames_of_every_length() {
    let mut big = PortConfig::access(v(1));
    big.mtu = 65_535;
    let mut b = Bench::new(vec![big, PortConfig::access(v(1))]);
    let bytes = [frame(ALL, mac(1), &[]), vec![0; 70_000]].concat();
    for length in 0..=70_000 {
        let mut sent = Sent {
            frames: vec![Vec::new()],
            ..Sent::default()
        };
        b.switch.receive(at(0), &bytes[..length], b.now, &mut sent);
        assert_eq!(
            sent.sent.len(),
            usize::from((14..=1514).contains(&length)),
            "{length}"
        );
    }
    let (one, other) = (
        b.switch.counters(at(0)).unwrap(),
        b.switch.counters(at(1)).unwrap(),
    );
    assert!(one.balance() && other.balance());
    assert_eq!((one.received, one.forwarded, other.sent), (70_001, 1501, 1501));
    assert_eq!(
        (one.dropped.get(Drop::Runt), one.dropped.get(Drop::Oversize)),
        (14, 70_000 - 65_549)
    );
    assert_eq!(other.egress_dropped.get(EgressDrop::TooLong), 65_549 - 1514);
    assert_eq!(one.dropped.get(Drop::NoDestination), 65_549 - 1514);
}

/// A frame that is still to be cut is measured by its segments.
#[test]
fn frames_to_be_segmented_pass() {
    let mut b = Bench::plain(2);
    let bytes = [frame(ALL, mac(1), &[]), vec![0; 30_000]].concat();
    let mut sent = Sent {
        frames: vec![bytes.clone()],
        ..Sent::default()
    };
    b.switch.receive_batch(
        at(0),
        [RxFrame {
            bytes: &bytes,
            wire_len: 1514,
        }],
        b.now,
        &mut sent,
    );
    assert_eq!(sent.sent.len(), 1);
    b.switch.receive_batch(
        at(0),
        [RxFrame {
            bytes: &bytes,
            wire_len: 1515,
        }],
        b.now,
        &mut sent,
    );
    assert_eq!(sent.sent.len(), 1);
}

#[test]
fn groups_and_nobody_send_nothing() {
    let mut b = Bench::plain(2);
    b.dropped(0, frame(mac(2), GROUP, &[]), Drop::BadSource);
    b.dropped(0, frame(mac(2), Mac::default(), &[]), Drop::BadSource);
    assert_eq!(b.switch.stations().count(), 0);
}

/// 802.1Q-2005, 6.7 and 8.6: access ports and trunks, tags put in and taken out, priorities kept, no way between VLANs.
#[test]
fn tags_go_in_and_out() {
    let trunk = PortConfig::trunk("10,20,30".parse().unwrap(), Some(v(30)));
    let mut b = Bench::new(vec![
        PortConfig::access(v(10)),
        PortConfig::access(v(20)),
        trunk.clone(),
        trunk,
    ]);
    let (plain, to) = (frame(ALL, mac(1), &[]), |tci| frame(ALL, mac(1), &[c_tag(tci)]));
    assert_eq!(b.receive(0, plain.clone()), [(2, to(10)), (3, to(10))]);
    assert_eq!(
        b.receive(0, to(0xa000)),
        [(2, to(0xa00a)), (3, to(0xa00a))],
        "a priority tag keeps its priority"
    );
    assert_eq!(b.receive(2, to(10)), [(0, plain.clone()), (3, to(10))]);
    assert_eq!(b.receive(2, to(0xe014)), [(1, plain.clone()), (3, to(0xe014))]);
    assert_eq!(
        b.receive(2, plain.clone()),
        [(3, plain.clone())],
        "the native VLAN has no tag"
    );
    assert_eq!(b.receive(2, to(30)), [(3, plain.clone())]);
    b.dropped(2, to(40), Drop::NotAMember);
    b.dropped(2, to(4095), Drop::ReservedVlan);
    b.dropped(0, to(4095), Drop::ReservedVlan);
    b.dropped(0, to(10), Drop::NotAdmitted);
    b.dropped(0, to(20), Drop::NotAdmitted);
    let strict = PortConfig::trunk("10".parse().unwrap(), None);
    let mut b = Bench::new(vec![strict, PortConfig::access(v(10))]);
    b.dropped(0, plain, Drop::NotAdmitted);
    b.dropped(0, to(0), Drop::NotAdmitted);
}

/// 802.1Q-2005, 8.6.2: without ingress filtering frames come in for a VLAN that the port is not in, and leave nothing behind.
#[test]
fn ingress_filtering_can_be_off() {
    let mut open = PortConfig::trunk("10".parse().unwrap(), None);
    open.vlans.ingress_filtering = false;
    let mut b = Bench::new(vec![open, PortConfig::access(v(20))]);
    assert_eq!(b.ports(0, frame(ALL, mac(1), &[c_tag(20)])), [1]);
    assert_eq!(b.switch.stations().count(), 0);
}

/// Two tags: from an access port, and by way of a trunk's native VLAN.
#[test]
fn double_tags_reach_no_other_vlan() {
    let trunk = PortConfig::trunk("1,20".parse().unwrap(), Some(v(1)));
    let mut b = Bench::new(vec![
        PortConfig::access(v(1)),
        trunk.clone(),
        trunk,
        PortConfig::access(v(20)),
    ]);
    let double = |outer, inner| frame(ALL, mac(1), &[c_tag(outer), c_tag(inner)]);
    b.dropped(0, double(1, 20), Drop::DoubleTag);
    b.dropped(0, double(0, 20), Drop::DoubleTag);
    b.dropped(
        0,
        frame(ALL, mac(1), &[[0x88, 0xa8, 0, 1], c_tag(20)]),
        Drop::DoubleTag,
    );
    b.dropped(1, double(0, 20), Drop::DoubleTag);
    b.dropped(1, double(1, 20), Drop::NoDestination);
    assert_eq!(
        b.switch
            .counters(at(2))
            .unwrap()
            .egress_dropped
            .get(EgressDrop::DoubleTag),
        1
    );
    assert_eq!(
        b.receive(1, double(20, 1)),
        [(2, double(20, 1))],
        "with its outer tag it stays in its VLAN"
    );
}

/// 802.1ad: a provider's switch takes customers' tags as payload.
#[test]
fn service_tags() {
    let config = SwitchConfig {
        tags: TagType::Service,
        ..SwitchConfig::new(mac(99))
    };
    let mut customer = PortConfig::access(v(7));
    customer.vlans.foreign_tags = true;
    let trunk = PortConfig::trunk("7".parse().unwrap(), None);
    let mut b = Bench::with(config, vec![customer, trunk]);
    let tagged = frame(ALL, mac(1), &[c_tag(5)]);
    let both = frame(ALL, mac(1), &[[0x88, 0xa8, 0, 7], c_tag(5)]);
    assert_eq!(b.receive(0, tagged.clone()), [(1, both.clone())]);
    assert_eq!(b.receive(1, both), [(0, tagged)]);
}

#[test]
fn floods_are_off_where_they_are_off() {
    let off = |change: fn(&mut PortConfig)| {
        let mut port = PortConfig::access(v(1));
        change(&mut port);
        port
    };
    let mut b = Bench::new(vec![
        PortConfig::access(v(1)),
        off(|p| p.flood.unknown = false),
        off(|p| p.flood.multicast = false),
        off(|p| p.flood.broadcast = false),
    ]);
    assert_eq!(b.ports(0, frame(mac(2), mac(1), &[])), [2, 3]);
    assert_eq!(b.ports(0, frame(GROUP, mac(1), &[])), [1, 3]);
    assert_eq!(b.ports(0, frame(ALL, mac(1), &[])), [1, 2]);
    b.receive(1, frame(ALL, mac(2), &[]));
    assert_eq!(
        b.ports(0, frame(mac(2), mac(1), &[])),
        [1],
        "known stations are reached all the same"
    );
}

#[test]
fn isolated_ports_reach_the_others_only() {
    let mut isolated = PortConfig::access(v(1));
    isolated.isolated = true;
    let mut b = Bench::new(vec![isolated.clone(), isolated, PortConfig::access(v(1))]);
    assert_eq!(b.ports(0, frame(ALL, mac(1), &[])), [2]);
    b.receive(1, frame(ALL, mac(2), &[]));
    b.dropped(0, frame(mac(2), mac(1), &[]), Drop::NoDestination);
    assert_eq!(b.ports(2, frame(mac(2), mac(3), &[])), [1]);
}

#[test]
fn storms_are_held_back() {
    let mut port = PortConfig::access(v(1));
    port.storm.broadcast = Some(Rate {
        per_second: 10,
        burst: 5,
    });
    port.storm.unknown = Some(Rate {
        per_second: 10,
        burst: 3,
    });
    let mut b = Bench::new(vec![port, PortConfig::access(v(1))]);
    b.receive(1, frame(ALL, mac(2), &[]));
    let many = |to| vec![frame(to, mac(1), &[]); 100];
    assert_eq!(b.batch(0, many(ALL)).len(), 5);
    assert_eq!(b.batch(0, many(mac(3))).len(), 3);
    assert_eq!(b.batch(0, many(mac(2))).len(), 100);
    assert_eq!(b.batch(0, many(GROUP)).len(), 100);
    b.wait(10);
    assert_eq!(b.batch(0, many(ALL)).len(), 5);
    assert_eq!(
        b.switch.counters(at(0)).unwrap().dropped.get(Drop::Storm),
        95 + 97 + 95
    );
}

#[test]
fn rates_hold_in_both_directions() {
    let rate = Some(Rate {
        per_second: 60_000,
        burst: 600,
    });
    let (mut slow_in, mut slow_out) = (PortConfig::access(v(1)), PortConfig::access(v(1)));
    slow_in.ingress_rate = rate;
    slow_out.egress_rate = rate;
    let mut b = Bench::new(vec![slow_in, slow_out, PortConfig::access(v(1))]);
    let one = frame(ALL, mac(1), &[]);
    let mut got = [0; 3];
    for _ in 0..10_000 {
        b.now = b.now + std::time::Duration::from_millis(1);
        b.ports(2, one.clone())
            .into_iter()
            .for_each(|port| got[port] += one.len());
    }
    assert!(
        (590_000..=605_000).contains(&got[1]),
        "out in ten seconds: {}",
        got[1]
    );
    assert!(got[0] >= 599_000, "the other port has no limit: {}", got[0]);
    let mut got = 0;
    for _ in 0..20_000 {
        b.now = b.now + std::time::Duration::from_micros(500);
        got += b
            .ports(0, one.clone())
            .into_iter()
            .filter(|&port| port == 2)
            .count()
            * one.len();
    }
    assert!((590_000..=605_000).contains(&got), "in, in ten seconds: {got}");
}

#[test]
fn a_full_queue_is_counted() {
    let mut b = Bench::plain(3);
    b.full = Some(1);
    assert_eq!(b.ports(0, frame(ALL, mac(1), &[])), [2]);
    assert_eq!(
        b.switch
            .counters(at(1))
            .unwrap()
            .egress_dropped
            .get(EgressDrop::QueueFull),
        1
    );
}

#[test]
fn mirrors_copy_and_do_nothing_else() {
    let mut b = Bench::new(vec![
        PortConfig::access(v(1)),
        PortConfig::trunk("1".parse().unwrap(), None),
        PortConfig::access(v(1)),
        PortConfig::access(v(1)),
    ]);
    let set = |ports: &[usize]| ports.iter().map(|&p| at(p)).collect::<PortSet>();
    let mut out = Sent::default();
    let mirror = Mirror {
        to: at(3),
        ingress: set(&[0]),
        egress: set(&[1]),
    };
    b.switch.set_mirror(mirror.clone(), b.now, &mut out).unwrap();
    let plain = frame(ALL, mac(1), &[]);
    let tagged = frame(ALL, mac(1), &[c_tag(1)]);
    let sent = b.receive(0, plain.clone());
    assert_eq!(
        sent,
        [
            (3, plain.clone()),
            (1, tagged.clone()),
            (3, tagged),
            (2, plain.clone())
        ]
    );
    assert_eq!(b.ports(2, frame(mac(9), mac(2), &[])), [0, 1, 3]);
    b.dropped(3, plain, Drop::MirrorPort);
    assert_eq!(b.switch.counters(at(3)).unwrap().mirrored, 3);
    let own = Mirror {
        to: at(3),
        ingress: set(&[3]),
        egress: set(&[]),
    };
    assert_eq!(
        b.switch.set_mirror(own, b.now, &mut out),
        Err(Error::MirrorLoop(at(3)))
    );
    b.switch.clear_mirror(at(3), b.now, &mut out).unwrap();
    assert_eq!(b.ports(0, frame(ALL, mac(1), &[])), [1, 2, 3]);
}

#[test]
fn ports_come_and_go() {
    let mut b = Bench::plain(3);
    let mut out = Sent::default();
    b.receive(1, frame(ALL, mac(2), &[]));
    b.switch.set_static(v(1), mac(5), at(1)).unwrap();
    b.switch.remove_port(at(1), b.now, &mut out).unwrap();
    assert_eq!(b.ports(0, frame(mac(2), mac(1), &[])), [2]);
    assert_eq!(b.ports(0, frame(mac(5), mac(1), &[])), [2]);
    b.receive(1, frame(ALL, mac(2), &[]));
    assert_eq!(b.switch.strays(), 1);
    assert_eq!(b.switch.add_port(PortConfig::access(v(1))), Ok(at(1)));
    assert_eq!(b.ports(0, frame(ALL, mac(1), &[])), [2], "its link is down");
    b.dropped(1, frame(ALL, mac(2), &[]), Drop::PortDown);
    b.switch.set_link(at(1), true, b.now, &mut out).unwrap();
    assert_eq!(b.ports(0, frame(ALL, mac(1), &[])), [1, 2]);
    b.switch
        .set_port(at(1), PortConfig::access(v(2)), b.now, &mut out)
        .unwrap();
    assert_eq!(b.ports(0, frame(ALL, mac(1), &[])), [2]);
    assert_eq!(
        b.switch.remove_port(at(7), b.now, &mut out),
        Err(Error::NoPort(at(7)))
    );
}

#[test]
fn a_switch_has_so_many_ports_and_no_more() {
    let mut b = Bench::plain(0);
    for _ in 0..MAX_PORTS {
        b.switch.add_port(PortConfig::access(v(1))).unwrap();
    }
    assert_eq!(
        b.switch.add_port(PortConfig::access(v(1))),
        Err(Error::Full(MAX_PORTS))
    );
}

#[test]
fn stations_above_the_limit() {
    let mut limited = PortConfig::access(v(1));
    limited.mac_limit = Some(1);
    let mut strict = limited.clone();
    strict.drop_above_limit = true;
    let mut b = Bench::new(vec![limited, strict, PortConfig::access(v(1))]);
    for port in 0..2 {
        b.receive(port, frame(ALL, mac(10 + port as u64), &[]));
    }
    assert_eq!(b.ports(0, frame(ALL, mac(20), &[])), [1, 2]);
    b.dropped(1, frame(ALL, mac(21), &[]), Drop::MacLimit);
    assert_eq!(b.switch.stations().count(), 2);
}

#[test]
fn who_pretends_is_neither_learned_nor_forwarded() {
    let mut port = PortConfig::access(v(1));
    port.protection = Protection {
        mac: Some(mac(1)),
        ..Protection::default()
    };
    let mut b = Bench::new(vec![port, PortConfig::access(v(1))]);
    b.dropped(0, frame(ALL, mac(2), &[]), Drop::SpoofedMac);
    assert_eq!(b.switch.stations().count(), 0);
    assert_eq!(b.ports(0, frame(ALL, mac(1), &[])), [1]);
}

/// A BPDU of a bridge that is better than any.
fn bpdu() -> Vec<u8> {
    let header = [
        1, 0x80, 0xc2, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 38, 0x42, 0x42, 3, 0, 0, 0, 0, 0,
    ];
    let id = [0, 0, 2, 0, 0, 0, 0, 1];
    [
        &header[..],
        &id,
        &[0; 4],
        &id,
        &[0x80, 1, 0, 0, 20, 0, 2, 0, 15, 0],
    ]
    .concat()
}

fn tree_bench(ports: Vec<PortConfig>) -> Bench {
    let config = SwitchConfig {
        spanning_tree: Some(BridgeConfig::default()),
        ..SwitchConfig::new(mac(99))
    };
    Bench::with(config, ports)
}

#[test]
fn bpdu_guard_shuts_the_port() {
    let mut guarded = PortConfig::access(v(1));
    guarded.stp.bpdu_guard = true;
    guarded.stp.admin_edge = true;
    let mut b = tree_bench(vec![guarded.clone(), guarded]);
    assert_eq!(b.ports(0, frame(ALL, mac(1), &[])), [1]);
    b.receive(0, bpdu());
    assert!(b.switch.is_guarded(at(0)));
    b.dropped(0, frame(ALL, mac(1), &[]), Drop::PortDown);
    assert!(b.ports(1, frame(ALL, mac(2), &[])).is_empty());
    assert_eq!(b.switch.tree().unwrap().root(), b.switch.tree().unwrap().id());
    b.switch
        .set_link(at(0), true, b.now, &mut Sent::default())
        .unwrap();
    assert!(b.switch.is_guarded(at(0)), "only its user opens it");
    b.switch.clear_guard(at(0), b.now, &mut Sent::default()).unwrap();
    assert_eq!(b.ports(0, frame(ALL, mac(1), &[])), [1]);
}

/// 802.1D-2004, 7.7 and 17.30: no frame passes, nor is a station learned, before the port's state allows it.
#[test]
fn states_of_the_tree_hold_for_frames() {
    let mut shared = PortConfig::access(v(1));
    (shared.stp.auto_edge, shared.stp.point_to_point) = (false, false);
    let mut edge = PortConfig::access(v(1));
    edge.stp.admin_edge = true;
    let mut b = tree_bench(vec![shared, edge]);
    let state = |b: &Bench| b.switch.tree().unwrap().view(at(0)).unwrap().state;
    b.dropped(0, frame(ALL, mac(1), &[]), Drop::Blocked);
    assert_eq!(
        (state(&b), b.switch.stations().count()),
        (PortState::Discarding, 0)
    );
    while state(&b) == PortState::Discarding {
        b.wait(1);
    }
    b.dropped(0, frame(ALL, mac(1), &[]), Drop::Blocked);
    assert_eq!((state(&b), b.switch.stations().count()), (PortState::Learning, 1));
    b.wait(20);
    assert_eq!(b.ports(0, frame(ALL, mac(1), &[])), [1]);
}

/// Bad and too many BPDUs cost a counter, and are never forwarded.
#[test]
fn bpdus_in_masses() {
    let mut b = tree_bench(vec![PortConfig::access(v(1)); 2]);
    for length in 0..14 + 38 {
        assert!(b.receive(0, bpdu()[..length].to_vec()).is_empty());
    }
    assert_eq!(b.switch.counters(at(0)).unwrap().consumed, 0);
    b.wait(10);
    for _ in 0..10_000 {
        assert!(b.receive(0, bpdu()).is_empty());
    }
    assert_eq!(b.switch.counters(at(0)).unwrap().consumed, 100);
    b.dropped(0, frame(Mac::BRIDGE_GROUP, mac(1), &[c_tag(0)]), Drop::Reserved);
    assert_eq!(b.switch.tree().unwrap().unsettled(), 0);
}

/// The clock stands still, goes back, or jumps by years.
#[test]
fn wild_clocks() {
    let mut b = tree_bench(vec![PortConfig::access(v(1)); 2]);
    b.wait(30);
    for now in [0, 5, u64::MAX / 2, 7, u64::MAX, 0] {
        let mut out = Sent {
            frames: vec![frame(ALL, mac(1), &[])],
            ..Sent::default()
        };
        b.switch.poll(Time::from_nanos(now), &mut out);
        b.switch
            .receive(at(0), &frame(ALL, mac(1), &[]), Time::from_nanos(now), &mut out);
        assert!(b.switch.counters(at(0)).unwrap().balance());
    }
}

#[test]
fn wrong_settings_are_refused_whole() {
    let mut b = Bench::plain(1);
    let mut out = Sent::default();
    let with = |change: fn(&mut PortConfig)| {
        let mut port = PortConfig::access(v(1));
        change(&mut port);
        port
    };
    for bad in [
        with(|p| p.mtu = 67),
        with(|p| p.vlans.pvid = Some(VlanId::new(9).unwrap())),
        with(|p| p.vlans.tagged = "1".parse().unwrap()),
        with(|p| {
            p.ingress_rate = Some(Rate {
                per_second: 0,
                burst: 1,
            })
        }),
        with(|p| p.stp.path_cost = 0),
    ] {
        assert!(b.switch.add_port(bad.clone()).is_err(), "{bad:?}");
        assert!(b.switch.set_port(at(0), bad, b.now, &mut out).is_err());
    }
    assert_eq!(b.switch.ports().count(), 1);
    assert_eq!(
        b.switch.set_static(v(1), ALL, at(0)),
        Err(Error::NotAStation(ALL))
    );
    assert_eq!(
        b.switch.set_static(v(2), mac(1), at(0)),
        Err(Error::NotAMember {
            port: at(0),
            vlan: v(2)
        })
    );
    for bad in [
        SwitchConfig {
            ageing: 9,
            ..SwitchConfig::new(mac(1))
        },
        SwitchConfig {
            fdb_entries: 0,
            ..SwitchConfig::new(mac(1))
        },
        SwitchConfig::new(ALL),
    ] {
        assert!(Switch::new(bad, [0, 0], Time::default()).is_err());
    }
}

/// The VLANs that the random ports know.
const VLANS: [u16; 3] = [1, 5, 9];

prop_compose! {
    fn any_port()(
        kind in 0..3, native in prop::option::of(prop::sample::select(&VLANS[..])),
        list in prop::collection::vec(prop::sample::select(&VLANS[..]), 0..4),
        access in prop::sample::select(&VLANS[..]), isolated in prop::bool::weighted(0.2), foreign: bool,
    ) -> PortConfig {
        let vlans: VlanSet = list.iter().map(|&n| v(n)).collect();
        let mut port = match kind {
            0 => PortConfig::access(v(access)),
            _ => PortConfig::trunk(vlans, native.map(v)),
        };
        port.isolated = isolated;
        port.vlans.foreign_tags = foreign;
        port
    }
}

/// The VLAN in which a port takes a frame with this tag and, behind it, that kind; written down from the rules anew.
fn vlan_in(vlans: &PortVlans, tag: Option<u16>, inner: u16) -> Option<u16> {
    let number = tag.map_or(0, |tci| tci % 4096);
    let second = tag.is_some() && inner == 0x8100;
    if inner == 0x88a8 && !vlans.foreign_tags || (second && number == 0) {
        return None;
    }
    match (vlans.admit, number) {
        (Admit::Untagged, 1..) | (Admit::Tagged, 0) | (_, 4095) => None,
        (_, 0) => vlans.pvid.map(VlanId::get),
        (_, n) => (vlans.tagged.contains(v(n)) || vlans.untagged.contains(v(n))).then_some(n),
    }
}

proptest! {
    /// Random frames through a random switch: each is sent by exactly the ports that a model says, in the form that it says.
    #[test]
    fn frames_go_as_a_simple_model_says(
        ports in prop::collection::vec(any_port(), 2..6),
        frames in prop::collection::vec(
            (0..6usize, 0..6u64, 1..5u64, prop::option::of(0..3u16), prop::sample::select(vec![0u16, 1, 5, 9, 7, 4095]),
             prop::sample::select(vec![0x88b5u16, 0x88b5, 0x88b5, 0x8100, 0x88a8])), 1..60),
    ) {
        let mut b = Bench::new(ports.clone());
        let mut known: HashMap<(u16, u64), usize> = HashMap::new();
        for (from, to, source, priority, number, inner) in frames {
            let from = from % ports.len();
            let tag = priority.map(|p| p << 13 | number);
            // Untagged frames with EtherType 8100 are tagged ones.
            let inner = if tag.is_none() && inner == 0x8100 { 0x88b5 } else { inner };
            let destination = if to == 0 { ALL } else { mac(to) };
            let behind = [&inner.to_be_bytes()[..], &[0, 5, 8, 0], &[3; 40]].concat();
            let build = |tag: Option<u16>| {
                let tag = tag.map(|tci| c_tag(tci).to_vec()).unwrap_or_default();
                [&destination.0[..], &mac(source).0, &tag, &behind].concat()
            };
            let mut want = Vec::new();
            if let Some(vlan) = vlan_in(&ports[from].vlans, tag, inner) {
                known.insert((vlan, source), from);
                let only = known.get(&(vlan, to)).copied();
                for (port, config) in ports.iter().enumerate() {
                    let hears = port != from && only.is_none_or(|only| only == port)
                        && !(ports[from].isolated && config.isolated);
                    if hears && config.vlans.tagged.contains(v(vlan)) {
                        want.push((port, build(Some(tag.unwrap_or(0) & 0xe000 | vlan))));
                    } else if hears && config.vlans.untagged.contains(v(vlan)) && !(tag.is_some() && inner == 0x8100) {
                        want.push((port, build(None)));
                    }
                }
            }
            prop_assert_eq!(b.receive(from, build(tag)), want);
        }
    }

    /// Whatever bytes come in, nothing panics, the counters balance, and no frame leaves a port in a VLAN that is not the port's.
    #[test]
    fn any_bytes_stay_in_their_vlan(
        ports in prop::collection::vec(any_port(), 2..5),
        frames in prop::collection::vec((0..5usize, prop::collection::vec(any::<u8>(), 0..60), any::<bool>()), 1..40),
    ) {
        let mut b = Bench::new(ports.clone());
        for (from, mut bytes, tagged) in frames {
            let from = from % ports.len();
            if tagged && bytes.len() > 16 {
                bytes[12..15].copy_from_slice(&[0x81, 0, 0]);
                bytes[15] %= 12;
            }
            for (port, sent) in b.receive(from, bytes.clone()) {
                let kind = |f: &[u8]| (f[12..14] == [0x81, 0]).then(|| u16::from_be_bytes([f[14], f[15]]) & 0xfff);
                let came = kind(&bytes).filter(|&n| n != 0).or(ports[from].vlans.pvid.map(VlanId::get));
                let left = match kind(&sent) {
                    Some(number) => ports[port].vlans.tagged.contains(v(number)).then_some(number),
                    None => ports[port].vlans.untagged.iter().next().map(VlanId::get),
                };
                prop_assert!(left.is_some() && left == came, "{:?} on {} became {:?} on {}", bytes, from, sent, port);
            }
        }
    }
}
