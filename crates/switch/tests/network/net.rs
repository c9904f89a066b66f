//! The network: switches, links with a delay, a host on each switch, events in the order of their time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use ostler_switch::rstp::{BridgeConfig, BridgeId, Version};
use ostler_switch::{Mac, Output, PortConfig, PortIndex, Switch, SwitchConfig, TagAction, Time, VlanId};

use crate::random::Random;

#[derive(Clone, Copy)]
pub enum Shape {
    /// A ring of at most 18: with a link gone, its ends are 17 bridges apart, which is within max age.
    Ring,
    /// A tree of random form with more links at random places, some of them double.
    Random,
}

struct Link {
    ends: [(usize, PortIndex); 2],
    up: bool,
    /// In nanoseconds.
    delay: u64,
    /// Raised when the link fails: what was on it is lost.
    life: u64,
}

enum What {
    Poll(usize),
    Arrive {
        link: usize,
        life: u64,
        end: usize,
        frame: Vec<u8>,
    },
}

/// The active links, and each switch's root.
pub struct Tree {
    active: Vec<bool>,
    roots: Vec<Option<usize>>,
}

/// A frame that a host got.
struct Delivery {
    switch: usize,
    frame: Vec<u8>,
}

pub struct Net {
    switches: Vec<Switch>,
    hosts: Vec<PortIndex>,
    links: Vec<Link>,
    /// For each switch and port, the link and which end of it.
    plugs: Vec<Vec<Option<(usize, usize)>>>,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    pending: std::collections::HashMap<u64, What>,
    sequence: u64,
    now: u64,
    deliveries: Vec<Delivery>,
}

/// What a switch sends, for one call into it.
struct Sent<'a> {
    frame: &'a [u8],
    out: Vec<(PortIndex, Vec<u8>)>,
}

impl Output for Sent<'_> {
    fn send(&mut self, port: PortIndex, _: usize, tag: TagAction) -> bool {
        self.out.push((port, tag.parts(self.frame).concat()));
        true
    }

    fn originate(&mut self, port: PortIndex, frame: &[u8]) -> bool {
        self.out.push((port, frame.to_vec()));
        true
    }
}

fn host(switch: usize) -> Mac {
    Mac::from_u64(0x0200_0000_0000 + switch as u64)
}

impl Net {
    pub fn new(random: &mut Random, shape: Shape, version: impl Fn(&mut Random) -> Version) -> Self {
        let count = match shape {
            Shape::Ring => 3 + random.below(16),
            Shape::Random => 2 + random.below(49),
        } as usize;
        let mut net = Self {
            switches: Vec::new(),
            hosts: Vec::new(),
            links: Vec::new(),
            plugs: vec![Vec::new(); count],
            events: BinaryHeap::new(),
            pending: std::collections::HashMap::new(),
            sequence: 0,
            now: 1_000_000_000,
            deliveries: Vec::new(),
        };
        for at in 0..count {
            net.add_switch(at, random, &version);
        }
        match shape {
            Shape::Ring => (0..count).for_each(|at| net.add_link(at, (at + 1) % count, random)),
            Shape::Random => {
                for at in 1..count {
                    net.add_link(at, random.below(at as u64) as usize, random);
                }
                for _ in 0..random.below(count as u64 + 1) {
                    let (a, b) = (
                        random.below(count as u64) as usize,
                        random.below(count as u64) as usize,
                    );
                    if a != b {
                        net.add_link(a, b, random);
                    }
                }
            }
        }
        net
    }

    fn add_switch(&mut self, at: usize, random: &mut Random, version: &impl Fn(&mut Random) -> Version) {
        let mac = Mac::from_u64(0x0a00_0000_0000 + random.below(1 << 32) * 64 + at as u64);
        let mut config = SwitchConfig::new(mac);
        config.fdb_entries = 64;
        config.spanning_tree = Some(BridgeConfig {
            version: version(random),
            priority: random.pick(&[0, 4096, 32_768, 32_768, 32_768, 61_440]),
            transmit_hold: 10,
            ..BridgeConfig::default()
        });
        // Each switch counts its seconds from another moment.
        let phase = Time::from_nanos(self.now - random.below(1_000_000_000));
        let mut switch = Switch::new(config, [random.next(), random.next()], phase).unwrap();
        let mut port = PortConfig::access(VlanId::DEFAULT);
        port.stp.admin_edge = true;
        let host = switch.add_port(port).unwrap();
        self.hosts.push(host);
        self.plugs[at].push(None);
        let due = switch.next_deadline().as_nanos();
        self.switches.push(switch);
        self.schedule(due, What::Poll(at));
    }

    fn add_link(&mut self, a: usize, b: usize, random: &mut Random) {
        let mut ends = Vec::new();
        for (end, at) in [a, b].into_iter().enumerate() {
            let mut config = PortConfig::access(VlanId::DEFAULT);
            config.stp.path_cost = random.pick(&[2, 4, 19, 100, 2000, 20_000, 200_000]);
            config.stp.priority = random.pick(&[0, 128, 128, 240]);
            let port = self.switches[at].add_port(config).unwrap();
            self.plugs[at].push(Some((self.links.len(), end)));
            assert_eq!(self.plugs[at].len(), port.get() + 1);
            ends.push((at, port));
        }
        let delay = 1000 + random.below(500_000);
        self.links.push(Link {
            ends: [ends[0], ends[1]],
            up: false,
            delay,
            life: 0,
        });
    }

    fn schedule(&mut self, at: u64, what: What) {
        self.sequence += 1;
        self.pending.insert(self.sequence, what);
        self.events.push(Reverse((at, self.sequence)));
    }

    /// Calls into a switch and sends what comes out.
    fn call(&mut self, at: usize, frame: &[u8], call: impl FnOnce(&mut Switch, Time, &mut Sent<'_>)) {
        let mut sent = Sent {
            frame,
            out: Vec::new(),
        };
        call(&mut self.switches[at], Time::from_nanos(self.now), &mut sent);
        for (port, frame) in sent.out {
            match self.plugs[at][port.get()] {
                Some((link, end)) if self.links[link].up => {
                    let Link { delay, life, .. } = self.links[link];
                    self.schedule(
                        self.now + delay,
                        What::Arrive {
                            link,
                            life,
                            end: 1 - end,
                            frame,
                        },
                    );
                }
                Some(_) => {}
                None if frame[..6] == Mac::BRIDGE_GROUP.0 => {}
                None => self.deliveries.push(Delivery { switch: at, frame }),
            }
        }
    }

    pub fn all_links_up(&mut self) {
        for at in 0..self.switches.len() {
            let host = self.hosts[at];
            self.call(at, &[], |switch, now, out| {
                switch.set_link(host, true, now, out).unwrap()
            });
        }
        (0..self.links.len()).for_each(|link| self.set_link(link, true));
    }

    fn set_link(&mut self, link: usize, up: bool) {
        self.links[link].up = up;
        self.links[link].life += 1;
        for (at, port) in self.links[link].ends {
            self.call(at, &[], |switch, now, out| {
                switch.set_link(port, up, now, out).unwrap()
            });
        }
    }

    fn a_link(&self, up: bool, random: &mut Random) -> Option<usize> {
        let links: Vec<_> = (0..self.links.len())
            .filter(|&link| self.links[link].up == up)
            .collect();
        (!links.is_empty()).then(|| random.pick(&links))
    }

    pub fn fail_a_link(&mut self, random: &mut Random) {
        if let Some(link) = self.a_link(true, random) {
            self.set_link(link, false);
        }
    }

    pub fn mend_a_link(&mut self, random: &mut Random) {
        if let Some(link) = self.a_link(false, random) {
            self.set_link(link, true);
        }
    }

    /// Lets so many milliseconds pass.
    pub fn run(&mut self, millis: u64) {
        let end = self.now + millis * 1_000_000;
        let mut left: u64 = 20_000_000;
        while let Some(&Reverse((at, sequence))) = self.events.peek()
            && at <= end
        {
            self.events.pop();
            self.now = at;
            left -= 1;
            assert!(left > 0, "a storm of frames");
            match self.pending.remove(&sequence) {
                Some(What::Poll(at)) => {
                    self.call(at, &[], |switch, now, out| switch.poll(now, out));
                    let due = self.switches[at].next_deadline().as_nanos();
                    self.schedule(due, What::Poll(at));
                }
                Some(What::Arrive {
                    link,
                    life,
                    end,
                    frame,
                }) if self.links[link].life == life => {
                    let (at, port) = self.links[link].ends[end];
                    self.call(at, &frame, |switch, now, out| {
                        switch.receive(port, &frame, now, out)
                    });
                }
                _ => {}
            }
        }
        self.now = end;
    }

    pub fn unsettled(&self) -> u64 {
        self.switches
            .iter()
            .filter_map(|switch| switch.tree())
            .map(|tree| tree.unsettled())
            .sum()
    }

    /// For each switch, the first one that it is connected with by the links that `counts`; and whether those close a loop.
    fn parts(&self, counts: impl FnMut(&Link) -> bool) -> (Vec<usize>, bool) {
        let mut part: Vec<usize> = (0..self.switches.len()).collect();
        let mut looped = false;
        let mut counts = counts;
        for link in self.links.iter().filter(|link| counts(link)) {
            let (a, b) = (part[link.ends[0].0], part[link.ends[1].0]);
            looped |= a == b;
            part.iter_mut()
                .filter(|p| **p == a.max(b))
                .for_each(|p| *p = a.min(b));
        }
        (part, looped)
    }

    fn is_active(&self, link: &Link) -> bool {
        link.up
            && link
                .ends
                .iter()
                .all(|&(at, port)| self.switches[at].is_forwarding(port))
    }

    /// The tree as it is now.
    pub fn tree(&self) -> Tree {
        let trees = || self.switches.iter().filter_map(|switch| switch.tree());
        let root_of = |at: BridgeId| trees().position(|root| root.id() == at);
        Tree {
            active: self.links.iter().map(|link| self.is_active(link)).collect(),
            roots: trees().map(|tree| root_of(tree.root())).collect(),
        }
    }

    /// Whether old information can go round: the links that failed since `before` have cut bridges off the tree, and there is
    /// a loop among these.
    pub fn information_may_go_round(&self, before: &Tree) -> bool {
        let mut still = before.active.iter();
        let (part, _) = self.parts(|link| still.next() == Some(&true) && link.up);
        let on_the_tree = |at: usize| before.roots[at].is_some_and(|root| part[root] == part[at]);
        let (_, looped) = self.parts(|link| link.up && link.ends.iter().all(|end| !on_the_tree(end.0)));
        looped
    }

    /// The most links between a bridge and the root of its part on the cheapest way, the longest of those that cost the same. A bridge's
    /// information is as many seconds old as it has passed bridges (802.1D-2004, 17.21.23), and worth nothing from max age on.
    pub fn depth(&self) -> u64 {
        let (part, _) = self.parts(|link| link.up);
        let id = |at: usize| self.switches[at].tree().map(|tree| tree.id());
        let is_root = |at: usize| {
            let all = 0..self.switches.len();
            all.filter(|&other| part[other] == part[at]).filter_map(id).min() == id(at)
        };
        let mut ways: Vec<Option<(u64, u64)>> = (0..self.switches.len())
            .map(|at| is_root(at).then_some((0, 0)))
            .collect();
        let cost = |at: usize, port: PortIndex| {
            let port = self.switches[at].port(port);
            port.map_or(0, |port| u64::from(port.stp.path_cost))
        };
        // No cheapest way has more links than there are bridges.
        for _ in 0..self.switches.len() {
            for link in self.links.iter().filter(|link| link.up) {
                for (near, far) in [(link.ends[0], link.ends[1]), (link.ends[1], link.ends[0])] {
                    let Some((costs, links)) = ways[near.0] else {
                        continue;
                    };
                    let way = (costs + cost(far.0, far.1), links + 1);
                    let is_better = ways[far.0]
                        .is_none_or(|(costs, links)| way.0 < costs || (way.0 == costs && way.1 > links));
                    if is_better {
                        ways[far.0] = Some(way);
                    }
                }
            }
        }
        ways.into_iter()
            .flatten()
            .map(|(_, links)| links)
            .max()
            .unwrap_or(0)
    }

    /// Whether the active topology is a spanning tree of each part, with the best bridge as root, and carries frames.
    pub fn check(&mut self, random: &mut Random) -> Result<(), String> {
        let (reachable, _) = self.parts(|link| link.up);
        let (active, looped) = self.parts(|link| self.is_active(link));
        if looped {
            return Err("active links form a loop".into());
        }
        if reachable != active {
            return Err(format!(
                "connected are {reachable:?}, but active links connect {active:?}"
            ));
        }
        for at in 0..self.switches.len() {
            let id = |at: usize| self.switches[at].tree().map(|tree| tree.id());
            let best = (0..self.switches.len())
                .filter(|&b| reachable[b] == reachable[at])
                .filter_map(id)
                .min();
            let root = self.switches[at].tree().map(|tree| tree.root());
            if root != best {
                return Err(format!(
                    "switch {at} takes {root:?} for the root, which is {best:?}"
                ));
            }
        }
        self.check_frames(random, &reachable)
    }

    /// A broadcast reaches every host of the part once, and an answer from one of them reaches the sender once.
    fn check_frames(&mut self, random: &mut Random, reachable: &[usize]) -> Result<(), String> {
        let from = random.below(self.switches.len() as u64) as usize;
        let others: Vec<_> = (0..self.switches.len())
            .filter(|&at| at != from && reachable[at] == reachable[from])
            .collect();
        let got = self.say(from, Mac::BROADCAST);
        if got != others {
            return Err(format!(
                "a broadcast of host {from} reached {got:?}, not each of {others:?} once"
            ));
        }
        if !others.is_empty() {
            let to = from;
            let from = random.pick(&others);
            let got = self.say(from, host(to));
            // Who has just forgotten host `to` floods; but nobody gets anything twice.
            let twice = got.windows(2).any(|two| two[0] == two[1]);
            if twice || !got.contains(&to) {
                return Err(format!("a frame of host {from} to host {to} reached {got:?}"));
            }
        }
        let unbalanced = self.switches.iter().any(|switch| {
            switch
                .ports()
                .any(|port| switch.counters(port).is_none_or(|counters| !counters.balance()))
        });
        if unbalanced {
            Err("counters do not balance".into())
        } else {
            Ok(())
        }
    }

    /// A host says something; who gets it within 100 ms.
    fn say(&mut self, from: usize, to: Mac) -> Vec<usize> {
        self.deliveries.clear();
        let frame = [
            &to.0[..],
            &host(from).0,
            &[0x88, 0xb5],
            &self.now.to_be_bytes(),
            &[0; 38],
        ]
        .concat();
        let port = self.hosts[from];
        self.call(from, &frame, |switch, now, out| {
            switch.receive(port, &frame, now, out)
        });
        self.run(100);
        let mut got: Vec<_> = self
            .deliveries
            .iter()
            .filter(|d| d.frame == frame)
            .map(|d| d.switch)
            .collect();
        got.sort_unstable();
        got
    }
}
