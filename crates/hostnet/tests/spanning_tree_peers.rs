//! Our own switch in a spanning tree with the kernel's bridge and with Open vSwitch: two links between the bridges, a station at
//! each.

#[path = "support/player.rs"]
mod player;
#[path = "support/stations.rs"]
mod stations;
mod support;

use std::time::{Duration, Instant};

use ostler_hostnet::*;
use ostler_switch::rstp::{self, BridgeConfig, PortState, Version};
use player::Player;
use stations::{Outage, Stations};
use support::{OvsDaemons, enter, ip};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0xaa, 0, 1];
const BRIDGE: &str = "peer0";
/// Our ports, and the peer's at the other ends.
const LINKS: [(&str, &str); 2] = [("a0", "b0"), ("a1", "b1")];

struct Net<'a> {
    ours: Player,
    peer: &'a mut dyn BackEnd,
    /// At our switch, and at the peer's.
    stations: Stations,
}

/// What the peer speaks, and ours.
#[derive(Clone, Copy)]
struct Speech {
    theirs: Protocol,
    ours: Version,
}

impl Speech {
    /// Where one of the two speaks STP, the other does so too, and time counts: it is as quick as it can be.
    fn is_slow(self) -> bool {
        self.theirs == Protocol::Stp || self.ours == Version::Stp
    }

    /// Open vSwitch's RSTP says hello each 2 s.
    fn hello(self) -> u8 {
        if self.theirs == Protocol::Stp { 1 } else { 2 }
    }

    fn settings(self, priority: u16) -> BridgeSettings {
        BridgeSettings {
            protocol: Some(self.theirs),
            priority: Some(priority),
            hello: (self.theirs == Protocol::Stp).then(|| self.hello().into()),
            max_age: self.is_slow().then_some(6),
            forward_delay: self.is_slow().then_some(4),
            ..BridgeSettings::default()
        }
    }

    fn tree(self) -> BridgeConfig {
        let default = BridgeConfig {
            version: self.ours,
            ..BridgeConfig::default()
        };
        if !self.is_slow() {
            return default;
        }
        BridgeConfig {
            hello: self.hello(),
            max_age: 6,
            forward_delay: 4,
            ..default
        }
    }
}

impl<'a> Net<'a> {
    fn new(peer: &'a mut dyn BackEnd, speech: Speech) -> Self {
        for (a, b) in LINKS.into_iter().chain([("s0", "s0x"), ("t0", "t0x")]) {
            ip(&format!("link add {a} type veth peer name {b}"));
            ip(&format!("link set {a} up promisc on"));
            ip(&format!("link set {b} up promisc on"));
        }
        let stations = Stations::new(&["s0x", "t0x"]);
        peer.create(BRIDGE, &speech.settings(61_440)).unwrap();
        for port in ["b0", "b1", "t0"] {
            // The kernel takes a veth for the fastest of links, Open vSwitch does not.
            peer.add_port(BRIDGE, port, &PortSettings::default()).unwrap();
        }
        let ours = Player::start(&["a0", "a1", "s0"], MAC, speech.tree());
        Self { ours, peer, stations }
    }

    /// Whether the tree is as it should be with ours or the peer's as root; then, which link is in use. `why` is what it was else.
    fn look(&mut self, ours_is_root: bool) -> Result<usize, String> {
        let bridge = self.peer.bridge(BRIDGE).unwrap();
        let theirs: Vec<(Option<Role>, State)> = LINKS
            .iter()
            .map(|(_, b)| bridge.port(b).map(|p| (p.role, p.state)).unwrap())
            .collect();
        let views: Vec<(rstp::Role, PortState)> = (0..2)
            .map(|port| self.ours.view(port))
            .map(|view| (view.role, view.state))
            .collect();
        let why = || {
            format!(
                "ours {views:?}, theirs {theirs:?}, root {} / {:?}",
                self.ours.root(),
                bridge.stp.root_id
            )
        };
        let root = if ours_is_root {
            Some(self.ours.id())
        } else {
            bridge.stp.bridge_id.clone()
        };
        if Some(self.ours.root()) != root || bridge.stp.root_id != root {
            return Err(why());
        }
        let forwarding = |place: &usize| match ours_is_root {
            true => theirs[*place] == (Some(Role::Root), State::Forwarding),
            false => views[*place] == (rstp::Role::Root, PortState::Forwarding),
        };
        let in_use = (0..2).find(forwarding).ok_or_else(why)?;
        let spare = 1 - in_use;
        let blocked = match ours_is_root {
            true => theirs[spare] == (Some(Role::Alternate), State::Discarding),
            false => views[spare] == (rstp::Role::Alternate, PortState::Discarding),
        };
        let designated = match ours_is_root {
            true => views
                .iter()
                .all(|v| *v == (rstp::Role::Designated, PortState::Forwarding)),
            false => theirs
                .iter()
                .all(|t| *t == (Some(Role::Designated), State::Forwarding)),
        };
        if blocked && designated {
            Ok(in_use)
        } else {
            Err(why())
        }
    }

    /// Waits until one is root and one port of the other is blocked; gives the link in use.
    fn settle(&mut self, ours_is_root: bool) -> usize {
        let deadline = Instant::now() + Duration::from_secs(90);
        loop {
            match self.look(ours_is_root) {
                Ok(link) => return link,
                Err(why) => assert!(Instant::now() < deadline, "ours_is_root {ours_is_root}: {why}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until frames that are sent from now on get from our station to the peer's.
    fn reaches(&mut self) -> Outage {
        self.stations.reach().unwrap_or_else(|| {
            let (ours, theirs) = (self.look(true), self.look(false));
            panic!("nothing gets through; with ours as root: {ours:?}; with the peer as root: {theirs:?}")
        })
    }

    /// Each frame arrives once, in both directions: there is a way and no loop.
    fn no_storm(&mut self) {
        self.reaches();
        self.stations.hear_each_other_once();
    }

    /// Takes the link in use away and gives it back. The time until frames took the other.
    fn fail_over(&mut self, ours_is_root: bool) -> Outage {
        let link = self.settle(ours_is_root);
        self.reaches();
        ip(&format!("link set {} down", LINKS[link].1));
        let took = self.reaches();
        ip(&format!("link set {} up", LINKS[link].1));
        let back = self.settle(ours_is_root);
        assert_eq!(back, link, "the better link is in use again");
        self.no_storm();
        took
    }

    /// Ours is root, then the peer's is, then ours again if that `returns`; links fail under each.
    fn play(&mut self, speech: Speech, returns: bool) -> Vec<Outage> {
        let mut took = Vec::new();
        let roots = [(61_440, true), (4096, false), (61_440, true)];
        for (priority, ours_is_root) in &roots[..if returns { 3 } else { 2 }] {
            self.peer.set_bridge(BRIDGE, &speech.settings(*priority)).unwrap();
            self.settle(*ours_is_root);
            self.no_storm();
            took.push(self.fail_over(*ours_is_root));
        }
        took
    }

    fn neither_is_rapid(&self) -> bool {
        !self.ours.view(0).rapid && !self.ours.view(1).rapid
    }
}

fn with_the_kernel(name: &str, ours: Version, returns: bool) {
    if !enter(name) {
        return;
    }
    let mut kernel = Kernel::open().unwrap();
    let speech = Speech {
        theirs: Protocol::Stp,
        ours,
    };
    let mut net = Net::new(&mut kernel, speech);
    let took = net.play(speech, returns);
    eprintln!("{name}: the other link after {took:?}");
    assert!(net.neither_is_rapid());
}

/// It is no RSTP bridge, and ours speaks its language to it.
#[test]
fn stp_with_the_kernels_bridge() {
    with_the_kernel("stp_with_the_kernels_bridge", Version::Rstp, true);
}

#[test]
fn ours_as_an_stp_bridge_with_the_kernels() {
    with_the_kernel("ours_as_an_stp_bridge_with_the_kernels", Version::Stp, false);
}

fn with_open_vswitch(name: &str, ours: Version, play: impl FnOnce(&mut Net<'_>, Speech)) {
    let Some(daemons) = OvsDaemons::start(name) else {
        return;
    };
    let mut ovs = OpenVSwitch::open_at(daemons.run())
        .unwrap()
        .with_datapath("netdev");
    let speech = Speech {
        theirs: Protocol::Rstp,
        ours,
    };
    play(&mut Net::new(&mut ovs, speech), speech);
}

/// Open vSwitch speaks STP to a bridge that knows nothing else.
#[test]
fn ours_as_an_stp_bridge_with_open_vswitch() {
    const NAME: &str = "ours_as_an_stp_bridge_with_open_vswitch";
    with_open_vswitch(NAME, Version::Stp, |net, speech| {
        let took = net.play(speech, false);
        eprintln!("{NAME}: the other link after {took:?}");
        assert!(net.neither_is_rapid());
    });
}

#[test]
fn rstp_with_open_vswitch() {
    const NAME: &str = "rstp_with_open_vswitch";
    with_open_vswitch(NAME, Version::Rstp, |net, speech| {
        let took = net.play(speech, true);
        eprintln!("{NAME}: the other link after {took:?}");
        assert!(net.ours.view(0).rapid && net.ours.view(1).rapid);
        // A loaded machine may be slow once; without RSTP's hand-shake it would be half a minute each time.
        assert!(
            took.iter().any(|outage| outage.took < Duration::from_secs(1)),
            "{took:?}"
        );
        assert!(
            took.iter().all(|outage| outage.took < Duration::from_secs(5)),
            "{took:?}"
        );
    });
}
