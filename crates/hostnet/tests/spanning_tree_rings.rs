//! Our own switch in a ring with two bridges of the kernel, and with two of Open vSwitch; a station at each.

#[path = "support/player.rs"]
mod player;
#[path = "support/stations.rs"]
mod stations;
mod support;

use std::time::{Duration, Instant};

use ostler_hostnet::*;
use ostler_switch::rstp::{self, BridgeConfig, PortState};
use player::Player;
use stations::{Outage, Stations};
use support::{OvsDaemons, enter, ip};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0xaa, 0, 1];
const BRIDGES: [&str; 2] = ["ring0", "ring1"];
/// The links of the ring: ours to each bridge, and the one between these.
const LINKS: [[&str; 2]; 3] = [["a0", "b0"], ["a1", "b1"], ["c0", "c1"]];
/// The stations' ports and their own ends: at ours, and at each bridge.
const STATIONS: [[&str; 2]; 3] = [["s0", "s0x"], ["s1", "s1x"], ["s2", "s2x"]];
/// The ports of each bridge.
const PORTS: [[&str; 3]; 2] = [["b0", "c0", "s1"], ["b1", "c1", "s2"]];
const PATIENCE: Duration = Duration::from_secs(90);

/// Who is to be root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Root {
    Ours,
    /// The bridge in this place.
    Peer(usize),
}

struct Ring<'a> {
    ours: Player,
    peer: &'a mut dyn BackEnd,
    protocol: Protocol,
    stations: Stations,
}

/// A port of the ring in a tree that has settled: it forwards, or it is the one that is blocked.
fn is_open(place: usize, role: rstp::Role, state: PortState) -> Result<bool, String> {
    match (role, state) {
        (rstp::Role::Root | rstp::Role::Designated, PortState::Forwarding) => Ok(true),
        (rstp::Role::Alternate, PortState::Discarding) => Ok(false),
        _ => Err(format!("our port {place} is {role:?} and {state:?}")),
    }
}

impl<'a> Ring<'a> {
    fn new(peer: &'a mut dyn BackEnd, protocol: Protocol) -> Self {
        for [a, b] in LINKS.into_iter().chain(STATIONS) {
            ip(&format!("link add {a} type veth peer name {b}"));
            ip(&format!("link set {a} up promisc on"));
            ip(&format!("link set {b} up promisc on"));
        }
        for (bridge, ports) in BRIDGES.into_iter().zip(PORTS) {
            peer.create(bridge, &settings(protocol, 61_440)).unwrap();
            for port in ports {
                peer.add_port(bridge, port, &PortSettings::default()).unwrap();
            }
        }
        let tree = match protocol {
            Protocol::Rstp => BridgeConfig::default(),
            _ => BridgeConfig {
                hello: 1,
                max_age: 6,
                forward_delay: 4,
                ..BridgeConfig::default()
            },
        };
        Self {
            ours: Player::start(&["a0", "a1", "s0"], MAC, tree),
            peer,
            protocol,
            stations: Stations::new(&STATIONS.map(|[_, own]| own)),
        }
    }

    /// Whether all agree on the root and one port of the ring is blocked. `Err` is what is otherwise.
    fn look(&mut self, root: Root) -> Result<(), String> {
        let bridges = BRIDGES.map(|name| self.peer.bridge(name).unwrap());
        let id = match root {
            Root::Ours => Some(self.ours.id()),
            Root::Peer(place) => bridges[place].stp.bridge_id.clone(),
        };
        let roots = [
            Some(self.ours.root()),
            bridges[0].stp.root_id.clone(),
            bridges[1].stp.root_id.clone(),
        ];
        if roots.iter().any(|seen| *seen != id) {
            return Err(format!("{id:?} is to be root, and the three say {roots:?}"));
        }
        let mut blocked = Vec::new();
        for (place, [name, _]) in LINKS[..2].iter().enumerate() {
            let view = self.ours.view(place);
            if !is_open(place, view.role, view.state)? {
                blocked.push(*name);
            }
        }
        for (bridge, ports) in bridges.iter().zip(PORTS) {
            for name in &ports[..2] {
                let port = bridge.port(name).unwrap();
                match (port.role, port.state) {
                    (Some(Role::Root | Role::Designated), State::Forwarding) => {}
                    (Some(Role::Alternate), State::Discarding) => blocked.push(name),
                    other => return Err(format!("{name} is {other:?}")),
                }
            }
        }
        match blocked.len() {
            1 => Ok(()),
            _ => Err(format!("blocked are {blocked:?}")),
        }
    }

    fn settle(&mut self, root: Root) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(why) = self.look(root) {
            assert!(Instant::now() < deadline, "{root:?} as root: {why}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn reach(&mut self, root: Root) -> Outage {
        self.stations
            .reach()
            .unwrap_or_else(|| panic!("nothing gets through: {:?}", self.look(root)))
    }

    fn no_storm(&mut self, root: Root) {
        self.reach(root);
        self.stations.hear_each_other_once();
    }

    /// Makes one the root, and takes away a link of its, so that the blocked port is needed; then gives that back.
    fn play(&mut self, root: Root, link: usize) -> Outage {
        for (place, bridge) in BRIDGES.into_iter().enumerate() {
            let priority = if root == Root::Peer(place) { 4096 } else { 61_440 };
            self.peer
                .set_bridge(bridge, &settings(self.protocol, priority))
                .unwrap();
        }
        self.settle(root);
        self.no_storm(root);
        ip(&format!("link set {} down", LINKS[link][1]));
        let outage = self.reach(root);
        self.stations.hear_each_other_once();
        ip(&format!("link set {} up", LINKS[link][1]));
        self.settle(root);
        self.no_storm(root);
        outage
    }

    /// Each of the three is root once.
    fn play_all(&mut self) -> [Outage; 3] {
        [
            self.play(Root::Ours, 0),
            self.play(Root::Peer(0), 0),
            self.play(Root::Peer(1), 2),
        ]
    }
}

fn settings(protocol: Protocol, priority: u16) -> BridgeSettings {
    let stp = protocol == Protocol::Stp;
    BridgeSettings {
        protocol: Some(protocol),
        priority: Some(priority),
        // As quick as STP can be.
        hello: stp.then_some(1),
        max_age: stp.then_some(6),
        forward_delay: stp.then_some(4),
        ..BridgeSettings::default()
    }
}

#[test]
fn a_ring_with_bridges_of_the_kernel_by_stp() {
    const NAME: &str = "a_ring_with_bridges_of_the_kernel_by_stp";
    if !enter(NAME) {
        return;
    }
    let mut kernel = Kernel::open().unwrap();
    let outages = Ring::new(&mut kernel, Protocol::Stp).play_all();
    eprintln!("{NAME}: {outages:?}");
}

#[test]
fn a_ring_with_bridges_of_open_vswitch_by_rstp() {
    const NAME: &str = "a_ring_with_bridges_of_open_vswitch_by_rstp";
    let Some(daemons) = OvsDaemons::start(NAME) else {
        return;
    };
    let mut ovs = OpenVSwitch::open_at(daemons.run())
        .unwrap()
        .with_datapath("netdev");
    let outages = Ring::new(&mut ovs, Protocol::Rstp).play_all();
    eprintln!("{NAME}: {outages:?}");
    // A loaded machine may be slow once; without RSTP's hand-shake it would be half a minute each time.
    assert!(
        outages.iter().any(|outage| outage.took < Duration::from_secs(1)),
        "{outages:?}"
    );
    assert!(
        outages.iter().all(|outage| outage.took < Duration::from_secs(5)),
        "{outages:?}"
    );
}
