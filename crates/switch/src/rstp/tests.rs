//! Points of 802.1D-2004, clause 17, one by one, on bridges that are joined by hand.

use super::*;

struct Wire {
    bridges: Vec<Bridge>,
    links: Vec<[(usize, usize); 2]>,
    /// What was done at each bridge and port.
    log: Vec<(usize, usize, Action)>,
}

fn mac(n: u64) -> Mac {
    Mac::from_u64(0x0200_0000_0000 + n)
}

fn at(place: usize) -> PortIndex {
    PortIndex::new(place).unwrap()
}

fn bridge(n: u64, config: BridgeConfig, ports: &[StpPortConfig]) -> Bridge {
    let mut bridge = Bridge::new(config, mac(n));
    for (place, port) in ports.iter().enumerate() {
        bridge.add_port(at(place), port.clone());
    }
    bridge
}

fn rapid(n: u64, ports: usize) -> Bridge {
    bridge(n, BridgeConfig::default(), &vec![StpPortConfig::default(); ports])
}

fn old(n: u64, ports: usize) -> Bridge {
    let config = BridgeConfig {
        version: Version::Stp,
        ..BridgeConfig::default()
    };
    bridge(n, config, &vec![StpPortConfig::default(); ports])
}

impl Wire {
    fn new(bridges: Vec<Bridge>, links: &[[(usize, usize); 2]]) -> Self {
        let mut wire = Self {
            bridges,
            links: links.to_vec(),
            log: Vec::new(),
        };
        for link in links {
            for &(b, p) in link {
                wire.bridges[b].set_enabled(at(p), true);
            }
        }
        wire.settle();
        wire
    }

    /// Carries BPDUs until nobody sends any.
    fn settle(&mut self) {
        for _ in 0..1000 {
            let mut quiet = true;
            for b in 0..self.bridges.len() {
                let mut n = 0;
                while let Some((port, action)) = self.bridges[b].take_action(n) {
                    n += 1;
                    self.log.push((b, port.get(), action));
                    if let Action::Send(bpdu) = action {
                        for [one, other] in self.links.clone() {
                            if one == (b, port.get()) {
                                self.bridges[other.0].receive(at(other.1), bpdu);
                                quiet = false;
                            } else if other == (b, port.get()) {
                                self.bridges[one.0].receive(at(one.1), bpdu);
                                quiet = false;
                            }
                        }
                        // Actions of a bridge that is joined to itself come behind.
                    }
                }
            }
            if quiet {
                return;
            }
        }
        panic!("BPDUs without end");
    }

    fn ticks(&mut self, seconds: usize) {
        for _ in 0..seconds {
            self.bridges.iter_mut().for_each(Bridge::tick);
            self.settle();
        }
    }

    fn cut(&mut self, link: usize) {
        for (b, p) in self.links.remove(link) {
            self.bridges[b].set_enabled(at(p), false);
        }
        self.settle();
    }

    fn role(&self, b: usize, p: usize) -> Role {
        self.bridges[b].view(at(p)).unwrap().role
    }

    fn state(&self, b: usize, p: usize) -> PortState {
        self.bridges[b].view(at(p)).unwrap().state
    }

    fn sent(&self, b: usize, p: usize) -> Vec<Bpdu> {
        self.log
            .iter()
            .filter(|entry| (entry.0, entry.1) == (b, p))
            .filter_map(|entry| match entry.2 {
                Action::Send(bpdu) => Some(bpdu),
                _ => None,
            })
            .collect()
    }
}

/// A BPDU of a bridge that is not there.
fn message(root: u64, bridge: u64, port: u16) -> Bpdu {
    let id = |n| BridgeId::new(32_768, mac(n));
    Bpdu::Rapid {
        priority: Priority {
            root: id(root),
            cost: 0,
            bridge: id(bridge),
            port: PortId(0x8000 | port),
        },
        times: Times {
            message_age: 0,
            max_age: 20,
            hello: 2,
            forward_delay: 15,
        },
        flags: Flags::default(),
        role: Role::Designated,
    }
}

fn as_config(bpdu: Bpdu) -> Bpdu {
    match bpdu {
        Bpdu::Rapid {
            priority,
            times,
            flags,
            ..
        } => Bpdu::Config {
            priority,
            times,
            flags,
        },
        other => other,
    }
}

/// 17.3.1, 17.6: the lowest identifier is root, whichever side it is on; the priority comes before the address.
#[test]
fn the_lowest_identifier_is_root_both_ways() {
    for (a, b, root) in [(1, 2, 0), (2, 1, 1)] {
        let wire = Wire::new(vec![rapid(a, 1), rapid(b, 1)], &[[(0, 0), (1, 0)]]);
        assert_eq!(wire.bridges[1 - root].root(), wire.bridges[root].id());
        assert_eq!(
            (wire.role(root, 0), wire.role(1 - root, 0)),
            (Role::Designated, Role::Root)
        );
        assert_eq!(wire.bridges[root].root_port(), None);
        assert_eq!(wire.bridges[1 - root].root_port(), Some(at(0)));
        assert_eq!(wire.bridges[1 - root].root_path_cost(), 2000);
    }
    let favoured = bridge(
        9,
        BridgeConfig {
            priority: 4096,
            ..BridgeConfig::default()
        },
        &[StpPortConfig::default()],
    );
    let wire = Wire::new(vec![rapid(1, 1), favoured], &[[(0, 0), (1, 0)]]);
    assert_eq!(wire.bridges[0].root(), wire.bridges[1].id());
}

/// 17.10: proposal and agreement make both ends of a point-to-point link forward without a timer.
#[test]
fn a_point_to_point_link_forwards_at_once() {
    let wire = Wire::new(vec![rapid(1, 1), rapid(2, 1)], &[[(0, 0), (1, 0)]]);
    assert_eq!(
        (wire.state(0, 0), wire.state(1, 0)),
        (PortState::Forwarding, PortState::Forwarding)
    );
    let flags = |bpdu: &Bpdu| {
        if let Bpdu::Rapid { flags, .. } = bpdu {
            *flags
        } else {
            Flags::default()
        }
    };
    assert!(wire.sent(0, 0).iter().any(|bpdu| flags(bpdu).proposal));
    assert!(wire.sent(1, 0).iter().any(|bpdu| flags(bpdu).agreement));
}

/// 17.21.9: on a shared medium no agreement counts, and the delay runs.
#[test]
fn a_shared_medium_waits() {
    let shared = [StpPortConfig {
        point_to_point: false,
        ..StpPortConfig::default()
    }];
    let two = vec![bridge(1, BridgeConfig::default(), &shared), rapid(2, 1)];
    let mut wire = Wire::new(two, &[[(0, 0), (1, 0)]]);
    assert_eq!(wire.state(0, 0), PortState::Discarding);
    wire.ticks(30);
    assert_eq!(wire.state(0, 0), PortState::Forwarding);
}

/// 17.21.25: of two links the one with the lower designated port wins; cost and priority come first.
#[test]
fn ties_are_broken_in_order() {
    let links = [[(0, 0), (1, 0)], [(0, 1), (1, 1)]];
    let wire = Wire::new(vec![rapid(1, 2), rapid(2, 2)], &links);
    assert_eq!((wire.role(1, 0), wire.role(1, 1)), (Role::Root, Role::Alternate));
    assert_eq!(
        (wire.state(1, 1), wire.state(0, 1)),
        (PortState::Discarding, PortState::Forwarding)
    );

    let dear = [
        StpPortConfig {
            path_cost: 2001,
            ..StpPortConfig::default()
        },
        StpPortConfig::default(),
    ];
    let wire = Wire::new(
        vec![rapid(1, 2), bridge(2, BridgeConfig::default(), &dear)],
        &links,
    );
    assert_eq!((wire.role(1, 0), wire.role(1, 1)), (Role::Alternate, Role::Root));

    let low = [
        StpPortConfig::default(),
        StpPortConfig {
            priority: 112,
            ..StpPortConfig::default()
        },
    ];
    let wire = Wire::new(
        vec![bridge(1, BridgeConfig::default(), &low), rapid(2, 2)],
        &links,
    );
    assert_eq!((wire.role(1, 0), wire.role(1, 1)), (Role::Alternate, Role::Root));
}

/// 17.3.2: two ports of one bridge on one segment: the lower is designated, the other its backup.
#[test]
fn a_bridge_joined_to_itself_has_a_backup_port() {
    let mut wire = Wire::new(vec![rapid(1, 2)], &[[(0, 0), (0, 1)]]);
    wire.ticks(6);
    assert_eq!(
        (wire.role(0, 0), wire.role(0, 1)),
        (Role::Designated, Role::Backup)
    );
    assert_eq!(wire.state(0, 1), PortState::Discarding);
}

/// 17.29.2: an alternate port takes over as soon as the root port fails.
#[test]
fn an_alternate_port_takes_over_at_once() {
    let mut wire = Wire::new(
        vec![rapid(1, 2), rapid(2, 2)],
        &[[(0, 0), (1, 0)], [(0, 1), (1, 1)]],
    );
    wire.ticks(4);
    wire.cut(0);
    assert_eq!(
        (wire.role(1, 1), wire.state(1, 1)),
        (Role::Root, PortState::Forwarding)
    );
    wire.ticks(4);
    assert_eq!(wire.state(0, 1), PortState::Forwarding);
}

/// 17.13.1 and 17.25: an edge port forwards at once, and is none any more when it hears a BPDU.
#[test]
fn edge_ports() {
    let edge = [StpPortConfig {
        admin_edge: true,
        ..StpPortConfig::default()
    }];
    let mut one = bridge(5, BridgeConfig::default(), &edge);
    one.set_enabled(at(0), true);
    let view = one.view(at(0)).unwrap();
    assert_eq!((view.state, view.edge), (PortState::Forwarding, true));
    one.receive(at(0), message(1, 1, 1));
    assert!(!one.view(at(0)).unwrap().edge);
}

/// 17.25, 17.13.3: a port that hears no BPDU for the migrate time is an edge port, unless it may not find out.
#[test]
fn edge_ports_are_found() {
    let manual = StpPortConfig {
        auto_edge: false,
        ..StpPortConfig::default()
    };
    let mut one = bridge(5, BridgeConfig::default(), &[StpPortConfig::default(), manual]);
    (0..2).for_each(|p| one.set_enabled(at(p), true));
    one.tick();
    assert!(!one.view(at(0)).unwrap().edge);
    (0..2).for_each(|_| one.tick());
    let view = one.view(at(0)).unwrap();
    assert_eq!((view.state, view.edge), (PortState::Forwarding, true));
    assert!(!one.view(at(1)).unwrap().edge);
    assert_ne!(one.view(at(1)).unwrap().state, PortState::Forwarding);
}

/// 17.21.23: what was heard is kept for three hellos.
#[test]
fn information_ages_after_three_hellos() {
    let mut wire = Wire::new(vec![rapid(5, 1)], &[]);
    wire.bridges[0].set_enabled(at(0), true);
    wire.bridges[0].receive(at(0), message(1, 1, 1));
    assert_eq!(wire.role(0, 0), Role::Root);
    wire.ticks(5);
    assert_eq!(wire.role(0, 0), Role::Root);
    wire.ticks(1);
    assert_eq!(wire.role(0, 0), Role::Designated);
    assert_eq!(wire.bridges[0].root(), wire.bridges[0].id());
}

/// 17.21.23: what is as old as max age is not passed on.
#[test]
fn information_beyond_max_age_is_not_taken() {
    let mut wire = Wire::new(vec![rapid(5, 1)], &[]);
    wire.bridges[0].set_enabled(at(0), true);
    let Bpdu::Rapid {
        priority,
        times,
        flags,
        role,
    } = message(1, 1, 1)
    else {
        unreachable!()
    };
    let times = Times {
        message_age: 20,
        ..times
    };
    wire.bridges[0].receive(
        at(0),
        Bpdu::Rapid {
            priority,
            times,
            flags,
            role,
        },
    );
    assert_eq!(wire.bridges[0].root(), wire.bridges[0].id());
}

/// 17.24: a port falls back to STP when it hears it, keeps to it for the migrate time, and comes back.
#[test]
fn a_port_speaks_what_its_neighbour_speaks() {
    let mut wire = Wire::new(vec![rapid(1, 2)], &[]);
    (0..2).for_each(|p| wire.bridges[0].set_enabled(at(p), true));
    wire.ticks(4);
    wire.bridges[0].receive(at(0), as_config(message(9, 9, 1)));
    assert!(!wire.bridges[0].view(at(0)).unwrap().rapid);
    assert!(
        wire.bridges[0].view(at(1)).unwrap().rapid,
        "the other port stays as it is"
    );
    wire.log.clear();
    wire.ticks(2);
    assert!(matches!(wire.sent(0, 0)[..], [Bpdu::Config { .. }, ..]));
    assert!(
        wire.sent(0, 1)
            .iter()
            .all(|bpdu| matches!(bpdu, Bpdu::Rapid { .. }))
    );
    wire.bridges[0].receive(at(0), message(9, 9, 1));
    assert!(
        !wire.bridges[0].view(at(0)).unwrap().rapid,
        "within the migrate time"
    );
    wire.ticks(2);
    wire.bridges[0].receive(at(0), message(9, 9, 1));
    assert!(wire.bridges[0].view(at(0)).unwrap().rapid);
    wire.bridges[0].receive(at(0), as_config(message(9, 9, 1)));
    wire.ticks(4);
    wire.bridges[0].receive(at(0), as_config(message(9, 9, 1)));
    assert!(!wire.bridges[0].view(at(0)).unwrap().rapid);
    wire.bridges[0].check_migration(at(0));
    assert!(wire.bridges[0].view(at(0)).unwrap().rapid, "mcheck, 17.19.13");
}

/// 8.4 of 802.1D-1998: listening and learning take the forward delay each, and an RST BPDU is no BPDU.
#[test]
fn stp_takes_twice_the_forward_delay() {
    let mut wire = Wire::new(vec![old(1, 1), old(2, 1)], &[[(0, 0), (1, 0)]]);
    let mut states = Vec::new();
    for _ in 0..40 {
        wire.ticks(1);
        states.push(wire.state(0, 0));
    }
    let seconds = |state| states.iter().filter(|&&s| s == state).count();
    assert!((14..=20).contains(&seconds(PortState::Discarding)), "{states:?}");
    assert_eq!(seconds(PortState::Learning), 15);
    assert_eq!(states.last(), Some(&PortState::Forwarding));
    assert!(
        wire.sent(0, 0)
            .iter()
            .all(|bpdu| matches!(bpdu, Bpdu::Config { .. }))
    );
    wire.bridges[0].receive(at(0), message(0, 0, 1));
    assert_eq!(wire.bridges[0].root(), wire.bridges[0].id());
}

/// 802.1Q-2005, 13.25.14: a better root behind a port with root guard blocks the port only.
#[test]
fn root_guard() {
    let guard = StpPortConfig {
        root_guard: true,
        ..StpPortConfig::default()
    };
    let mut wire = Wire::new(vec![bridge(5, BridgeConfig::default(), &[guard])], &[]);
    wire.bridges[0].set_enabled(at(0), true);
    wire.ticks(4);
    wire.bridges[0].receive(at(0), message(1, 1, 1));
    assert_eq!(
        (wire.role(0, 0), wire.state(0, 0)),
        (Role::Alternate, PortState::Discarding)
    );
    assert_eq!(wire.bridges[0].root(), wire.bridges[0].id());
    wire.ticks(7);
    assert_eq!(
        wire.role(0, 0),
        Role::Designated,
        "it comes back when the other is silent"
    );
}

/// 17.21.10: an inferior neighbour that learns does not hear this port, which stops forwarding.
#[test]
fn a_link_that_carries_one_way_only_is_blocked() {
    let manual = StpPortConfig {
        auto_edge: false,
        ..StpPortConfig::default()
    };
    let mut wire = Wire::new(vec![bridge(1, BridgeConfig::default(), &[manual])], &[]);
    wire.bridges[0].set_enabled(at(0), true);
    wire.ticks(30);
    assert_eq!(wire.state(0, 0), PortState::Forwarding);
    let Bpdu::Rapid {
        priority,
        times,
        role,
        ..
    } = message(9, 9, 1)
    else {
        unreachable!()
    };
    let flags = Flags {
        learning: true,
        ..Flags::default()
    };
    wire.bridges[0].receive(
        at(0),
        Bpdu::Rapid {
            priority,
            times,
            flags,
            role,
        },
    );
    assert_eq!(wire.state(0, 0), PortState::Discarding);
}

/// 17.26, 17.13.12: no more BPDUs at once than the transmit hold count; one more each second.
#[test]
fn bpdus_are_held_back() {
    let mut wire = Wire::new(vec![rapid(5, 1)], &[]);
    wire.bridges[0].set_enabled(at(0), true);
    wire.ticks(30);
    wire.log.clear();
    for n in 0..50 {
        wire.bridges[0].receive(at(0), message(100 + n, 100 + n, 1));
        wire.bridges[0].receive(at(0), message(1 + n % 2, 1 + n % 2, 1));
    }
    wire.settle();
    assert!(wire.sent(0, 0).len() <= 6, "{}", wire.sent(0, 0).len());
}

/// 17.31: a port that starts to forward tells all others, which forget their stations and tell on.
#[test]
fn topology_changes_flush_the_other_ports() {
    let mut wire = Wire::new(
        vec![rapid(1, 2), rapid(2, 2), rapid(3, 2)],
        &[[(0, 0), (1, 0)], [(1, 1), (2, 0)], [(2, 1), (0, 1)]],
    );
    wire.ticks(10);
    assert_eq!(wire.state(2, 0), PortState::Discarding);
    wire.log.clear();
    let before: u64 = wire.bridges.iter().map(Bridge::topology_changes).sum();
    wire.cut(2);
    wire.ticks(3);
    assert_eq!(
        (wire.role(2, 0), wire.state(2, 0)),
        (Role::Root, PortState::Forwarding)
    );
    assert!(wire.bridges.iter().map(Bridge::topology_changes).sum::<u64>() > before);
    let flushed = |b, p| wire.log.contains(&(b, p, Action::Flush));
    assert!(flushed(1, 0) && flushed(2, 1), "{:?}", wire.log);
    wire.log.clear();
    wire.ticks(10);
    assert!(
        !wire.log.iter().any(|entry| entry.2 == Action::Flush),
        "it comes to an end"
    );
}

/// 17.31, 9.3.2: a notification of an STP neighbour is acknowledged and passed on.
#[test]
fn a_notification_is_acknowledged() {
    let manual = StpPortConfig {
        auto_edge: false,
        ..StpPortConfig::default()
    };
    let mut wire = Wire::new(
        vec![bridge(1, BridgeConfig::default(), &[manual.clone(), manual])],
        &[],
    );
    (0..2).for_each(|p| wire.bridges[0].set_enabled(at(p), true));
    wire.ticks(4);
    wire.bridges[0].receive(at(0), as_config(message(9, 9, 1)));
    wire.ticks(40);
    assert_eq!(wire.state(0, 0), PortState::Forwarding);
    wire.log.clear();
    wire.bridges[0].receive(at(0), Bpdu::TopologyChange);
    wire.ticks(2);
    let acknowledged = wire.sent(0, 0).iter().any(
        |bpdu| matches!(bpdu, Bpdu::Config { flags, .. } if flags.topology_change_ack && flags.topology_change),
    );
    assert!(acknowledged, "{:?}", wire.sent(0, 0));
    assert!(wire.log.contains(&(0, 1, Action::Flush)));
}

/// 9.3.4: a port's own Configuration BPDU says nothing to it.
#[test]
fn a_ports_own_bpdu_is_ignored() {
    let mut one = rapid(5, 1);
    one.set_enabled(at(0), true);
    let before = one.view(at(0));
    let Bpdu::Config {
        times,
        flags,
        priority,
    } = as_config(message(1, 1, 1))
    else {
        unreachable!()
    };
    let own = Priority {
        bridge: one.id(),
        port: one.view(at(0)).unwrap().id,
        ..priority
    };
    one.receive(
        at(0),
        Bpdu::Config {
            times,
            flags,
            priority: own,
        },
    );
    assert_eq!(one.view(at(0)), before);
}

/// 17.13, 17.14: settings changed while it runs count at once.
#[test]
fn settings_change_while_it_runs() {
    let mut wire = Wire::new(
        vec![rapid(1, 2), rapid(2, 2)],
        &[[(0, 0), (1, 0)], [(0, 1), (1, 1)]],
    );
    wire.ticks(10);
    wire.bridges[1].set_port(
        at(1),
        StpPortConfig {
            path_cost: 1,
            ..StpPortConfig::default()
        },
    );
    wire.settle();
    assert_eq!((wire.role(1, 0), wire.role(1, 1)), (Role::Alternate, Role::Root));
    wire.bridges[1].set_config(BridgeConfig {
        priority: 0,
        ..BridgeConfig::default()
    });
    wire.settle();
    wire.ticks(2);
    assert_eq!(wire.bridges[0].root(), wire.bridges[1].id());
    assert_eq!(wire.role(1, 0), Role::Designated);
}
