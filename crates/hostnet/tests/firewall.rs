//! Networks with rules of the host's firewall, between three namespaces: a station of the network, the host, and a host outside. What
//! passes is tried by connections, datagrams and pings.

mod support;

use std::fmt::Display;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use ostler_hostnet::*;
use support::{Namespace, ip};

/// Nothing here takes long unless it never comes.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a datagram is waited for that shall not come.
const SILENCE: Duration = Duration::from_secs(1);

const STATION: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// What a station or a host tries.
trait Tries {
    fn pings(&self, address: impl Display) -> bool;
    fn connects(&self, host: &Namespace, address: Ipv4Addr) -> Option<SocketAddr>;
    fn asks(&self, host: &Namespace, address: Ipv4Addr, wait: Duration) -> Option<SocketAddr>;
}

impl Tries for Namespace {
    fn pings(&self, address: impl Display) -> bool {
        let ping = |address: String| {
            let mut ping = Command::new("ping");
            ping.args(["-c", "1", "-W", "3", &address]).output().unwrap()
        };
        let address = address.to_string();
        self.within(|| ping(address)).status.success()
    }

    /// Connects to a host's address. Returns whom that host sees; `None` if the connection is refused.
    fn connects(&self, host: &Namespace, address: Ipv4Addr) -> Option<SocketAddr> {
        let listener = host.within(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
        let to = SocketAddr::new(IpAddr::V4(address), listener.local_addr().unwrap().port());
        let mut stream = match self.within(|| TcpStream::connect_timeout(&to, LIMIT)) {
            Ok(stream) => stream,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
                return None;
            }
        };
        let (mut peer, from) = listener.accept().unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        peer.set_read_timeout(Some(LIMIT)).unwrap();
        let mut got = [0; 4];
        stream.write_all(b"ping").unwrap();
        peer.read_exact(&mut got).unwrap();
        peer.write_all(b"pong").unwrap();
        stream.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"pong");
        Some(from)
    }

    /// Sends a datagram to a host's address, which is answered. Returns whom that host sees; `None` if it sees none.
    fn asks(&self, host: &Namespace, address: Ipv4Addr, wait: Duration) -> Option<SocketAddr> {
        let server = host.within(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
        let client = self.within(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
        server.set_read_timeout(Some(wait)).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        client
            .send_to(b"ping", (address, server.local_addr().unwrap().port()))
            .unwrap();
        let mut got = [0; 16];
        let (_, from) = server.recv_from(&mut got).ok()?;
        server.send_to(b"pong", from).unwrap();
        assert_eq!(client.recv(&mut got).unwrap(), 4);
        Some(from)
    }
}

/// The station, the host, which is this thread's namespace, and the host outside, which knows a way to the network.
struct World {
    kernel: Kernel,
    station: Namespace,
    host: Namespace,
    outside: Namespace,
}

fn network(forward: Forward) -> Network {
    Network {
        name: "br-lan".into(),
        forward,
        address: format!("{GATEWAY}/24").parse().unwrap(),
        address6: None,
        ports: Ports::default(),
        out: None,
    }
}

impl World {
    /// A world without the network.
    fn new(test: &str) -> Option<Self> {
        let there = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"]
            .iter()
            .any(|path| std::path::Path::new(path).exists());
        if !there {
            eprintln!("SKIPPED {test}: needs nft, which is in Debian's package nftables");
            return None;
        }
        if !support::enter(test) {
            return None;
        }
        let outside = Namespace::new();
        ip(&format!(
            "link add out type veth peer name eth0 netns {}",
            outside.path()
        ));
        ip(&format!("address add {HOST}/24 dev out"));
        ip("link set out up");
        outside.ip(&format!("address add {OUTSIDE}/24 dev eth0"));
        outside.ip("link set eth0 up");
        outside.ip(&format!("route add 10.9.0.0/24 via {HOST}"));
        Some(Self {
            kernel: Kernel::open().unwrap(),
            station: Namespace::new(),
            host: Namespace::of_this_thread(),
            outside,
        })
    }

    /// Makes the network and connects the station.
    fn make(&mut self, network: &Network) {
        self.kernel
            .create_network(network, &BridgeSettings::default())
            .unwrap();
        ip(&format!(
            "link add station type veth peer name eth0 netns {}",
            self.station.path()
        ));
        self.kernel
            .add_port(&network.name, "station", &PortSettings::default())
            .unwrap();
        self.station.ip(&format!("address add {STATION}/24 dev eth0"));
        self.station.ip("link set eth0 up");
        self.station.ip(&format!("route add default via {GATEWAY}"));
    }

    /// Gives everybody an address of IPv6, and has the host forward that too.
    fn add_ipv6(&self) {
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        ip("-6 address add fd09::1/64 dev br-lan nodad");
        ip("-6 address add fd51::1/64 dev out nodad");
        self.station.ip("-6 address add fd09::2/64 dev eth0 nodad");
        self.station.ip("-6 route add default via fd09::1");
        self.outside.ip("-6 address add fd51::2/64 dev eth0 nodad");
        self.outside.ip("-6 route add default via fd51::1");
    }

    fn out(&self) -> Option<SocketAddr> {
        self.station.connects(&self.outside, OUTSIDE)
    }

    fn comes_in(&self) -> Option<SocketAddr> {
        self.outside.connects(&self.station, STATION)
    }

    /// The station and the host reach each other, whatever the network.
    fn assert_host_is_reached(&self) {
        assert!(self.station.connects(&self.host, GATEWAY).is_some());
        assert!(self.host.connects(&self.station, STATION).is_some());
    }

    /// Nothing passes between the station and others.
    fn assert_isolated(&self) {
        assert_eq!(self.out(), None);
        assert_eq!(self.comes_in(), None);
        assert_eq!(self.station.asks(&self.outside, OUTSIDE, SILENCE), None);
        assert_eq!(self.outside.asks(&self.station, STATION, SILENCE), None);
        assert!(!self.station.pings(OUTSIDE) && !self.outside.pings(STATION));
    }

    /// Everything passes, by everybody's own address.
    fn assert_routed(&self) {
        assert_eq!(self.out().unwrap().ip(), STATION);
        assert_eq!(self.comes_in().unwrap().ip(), OUTSIDE);
        assert_eq!(
            self.station.asks(&self.outside, OUTSIDE, LIMIT).unwrap().ip(),
            STATION
        );
        assert!(self.station.pings(OUTSIDE) && self.outside.pings(STATION));
    }
}

fn ruleset() -> String {
    let shown = Command::new("/usr/sbin/nft")
        .args(["list", "ruleset"])
        .output()
        .unwrap();
    String::from_utf8(shown.stdout).unwrap()
}

#[test]
fn nat_hides_the_network_and_lets_only_answers_in() {
    let Some(mut world) = World::new("nat_hides_the_network_and_lets_only_answers_in") else {
        return;
    };
    world.make(&network(Forward::Nat));
    let seen = world.out().unwrap();
    assert_eq!(seen.ip(), HOST);
    assert_eq!(
        world.station.asks(&world.outside, OUTSIDE, LIMIT).unwrap().ip(),
        HOST
    );
    assert!(world.station.pings(OUTSIDE));
    assert_eq!(world.comes_in(), None, "a connection came in");
    assert_eq!(world.outside.asks(&world.station, STATION, SILENCE), None);
    assert!(!world.outside.pings(STATION));
    world.assert_host_is_reached();

    // What is no packet of the subnet's does not pass, either.
    world.add_ipv6();
    assert!(world.station.pings("fd09::1"));
    assert!(!world.station.pings("fd51::2") && !world.outside.pings("fd09::2"));

    // By the ports that are the network's, more connections than the range has, one after the other.
    let ports: Ports = "40000-40003".parse().unwrap();
    world
        .kernel
        .set_network(&Network {
            ports,
            ..network(Forward::Nat)
        })
        .unwrap();
    for _ in 0..6 {
        // To another port each time.
        let seen = world.out().unwrap();
        assert!((ports.first..=ports.last).contains(&seen.port()), "{seen}");
    }
    let seen = world.station.asks(&world.outside, OUTSIDE, LIMIT).unwrap();
    assert!((ports.first..=ports.last).contains(&seen.port()), "{seen}");

    // Another subnet behind the bridge is none of the network's.
    world.station.ip("address add 10.8.0.2/24 dev eth0");
    ip("route add 10.8.0.0/24 dev br-lan");
    let from = |address: &'static str| {
        move || {
            let mut ping = Command::new("ping");
            ping.args(["-c", "1", "-W", "2", "-I", address, &OUTSIDE.to_string()])
                .output()
                .unwrap()
                .status
                .success()
        }
    };
    assert!(world.station.within(from("10.9.0.2")));
    assert!(!world.station.within(from("10.8.0.2")));
}

#[test]
fn a_routed_network_is_reached_by_its_own_addresses() {
    let Some(mut world) = World::new("a_routed_network_is_reached_by_its_own_addresses") else {
        return;
    };
    world.make(&network(Forward::Route));
    world.assert_routed();
    world.assert_host_is_reached();

    // With another way out than the one that leads outside, nothing passes; with that one, everything.
    ip("link add other type veth peer name far");
    let by = |out: &str| Network {
        out: Some(out.into()),
        ..network(Forward::Route)
    };
    world.kernel.set_network(&by("other")).unwrap();
    world.assert_isolated();
    world.kernel.set_network(&by("out")).unwrap();
    world.assert_routed();
}

#[test]
fn an_isolated_network_reaches_its_host_only() {
    let Some(mut world) = World::new("an_isolated_network_reaches_its_host_only") else {
        return;
    };
    // The host forwards: it is the rules that keep the network apart.
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    world.make(&network(Forward::Isolated));
    world.assert_isolated();
    world.assert_host_is_reached();

    // Two stations reach each other.
    let second = Namespace::new();
    ip(&format!(
        "link add second type veth peer name eth0 netns {}",
        second.path()
    ));
    world
        .kernel
        .add_port("br-lan", "second", &PortSettings::default())
        .unwrap();
    second.ip("address add 10.9.0.3/24 dev eth0");
    second.ip("link set eth0 up");
    assert!(second.connects(&world.station, STATION).is_some());
}

#[test]
fn an_open_network_is_left_to_the_hosts_own_rules() {
    let Some(mut world) = World::new("an_open_network_is_left_to_the_hosts_own_rules") else {
        return;
    };
    world.make(&network(Forward::Open));
    world.assert_routed();
    assert!(!ruleset().contains("hook"), "{}", ruleset());
    world.add_ipv6();
    assert!(world.station.pings("fd51::2") && world.outside.pings("fd09::2"));

    // A rule of the host's own.
    for line in [
        "add table inet own",
        "add chain inet own forward { type filter hook forward priority 0; policy drop; }",
    ] {
        let status = Command::new("/usr/sbin/nft").arg(line).status().unwrap();
        assert!(status.success(), "{line}");
    }
    assert!(!world.station.pings(OUTSIDE));
}

#[test]
fn a_network_goes_with_its_rules_and_leaves_others_alone() {
    let Some(mut world) = World::new("a_network_goes_with_its_rules_and_leaves_others_alone") else {
        return;
    };
    for line in [
        "add table inet own",
        "add chain inet own input { type filter hook input priority 0; }",
    ] {
        let status = Command::new("/usr/sbin/nft").arg(line).status().unwrap();
        assert!(status.success(), "{line}");
    }
    let before = ruleset();
    world.make(&network(Forward::Nat));
    assert_eq!(world.kernel.networks().unwrap(), [network(Forward::Nat)]);
    assert!(world.out().is_some());
    // From one mode to the other and back, with the station connected.
    world.kernel.set_network(&network(Forward::Isolated)).unwrap();
    world.assert_isolated();
    world.kernel.set_network(&network(Forward::Nat)).unwrap();
    assert_eq!(world.out().unwrap().ip(), HOST);

    world.kernel.delete_network("br-lan").unwrap();
    assert_eq!(world.kernel.networks().unwrap(), []);
    assert_eq!(world.kernel.bridges().unwrap(), []);
    assert_eq!(ruleset(), before);
}
