//! Ports at the host's interfaces (packet sockets): peers are Linux hosts in namespaces of their own.

use std::process::Command;

use crate::support::hosts::{self, Host, ip, transfer};
use crate::support::switch::Switch;

const MEGABYTE: u64 = 1 << 20;

fn packet(name: &str, more: &str) -> String {
    format!("[[port]]\nname = \"{name}\"\npacket = \"{name}\"\nmtu = 1500\n{more}")
}

fn counter(switch: &Switch, port: &str, pointer: &str) -> u64 {
    let shown = switch.port(port).unwrap();
    shown
        .pointer(pointer)
        .and_then(|count| count.as_u64())
        .unwrap_or(0)
}

/// Nothing was refused by a port or lost beside it.
fn assert_nothing_lost(switch: &Switch, ports: &[&str]) {
    for port in ports {
        let shown = switch.port(port).unwrap();
        assert_eq!(
            shown["lost"],
            serde_json::json!({ "received": 0, "sent": 0 }),
            "{port}"
        );
        assert_eq!(shown["counters"]["dropped"].get("bad-offload"), None, "{port}");
        assert_eq!(shown["counters"]["dropped"].get("oversize"), None, "{port}");
    }
}

/// Pings, 100 MB by TCP over IPv4 and IPv6 in large segments, and links that go down and come back.
#[test]
fn two_hosts_at_interfaces_of_the_host() {
    if !hosts::enter("two_hosts_at_interfaces_of_the_host", &["socket"]) {
        return;
    }
    let (a, b) = (Host::new("a", 1), Host::new("b", 2));
    let switch = Switch::start(&(packet("a", "") + &packet("b", "") + &packet("c", "")));
    switch.until_up("a", true);
    switch.until_up("b", true);
    assert_eq!(switch.port("c").unwrap()["up"], false);
    assert!(a.reaches("10.98.0.2") && b.reaches("10.98.0.1") && a.reaches("fd98::2"));
    let before = counter(&switch, "a", "/counters/received");
    let rate = transfer(&a, &b, "10.98.0.2", 100 * MEGABYTE);
    let frames = counter(&switch, "a", "/counters/received") - before;
    eprintln!("TCP through two packet ports: {rate}, {frames} frames");
    assert!(
        frames < 100 * MEGABYTE / 1448 / 2,
        "segments were left to others: {frames} frames"
    );
    transfer(&b, &a, "fd98::1", 20 * MEGABYTE);
    assert_nothing_lost(&switch, &["a", "b"]);

    // A link that goes down at the far end, an interface that is removed, made anew, and found again.
    b.run("ip link set eth0 down");
    switch.until_up("b", false);
    b.run("ip link set eth0 up");
    switch.until_up("b", true);
    assert!(a.reaches("10.98.0.2"));
    drop(b);
    switch.until_up("b", false);
    let b = Host::new("b", 2);
    switch.until_up("b", true);
    assert!(a.reaches("10.98.0.2") && b.reaches("10.98.0.1"));
    // What the host itself sends through the interface is nothing that the switch received, nor does it hear itself.
    let before = counter(&switch, "a", "/counters/received");
    ip("address add 192.0.2.1/24 dev a");
    let _ = Command::new("ping")
        .args(["-c", "2", "-W", "1", "192.0.2.9"])
        .output();
    ip("address del 192.0.2.1/24 dev a");
    let stations = switch.net(&["fdb", "lan"]);
    let mut macs: Vec<&str> = stations["stations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|station| station["mac"].as_str().unwrap())
        .collect();
    macs.sort();
    assert_eq!(macs, ["02:00:00:00:00:01", "02:00:00:00:00:02"], "{stations:#}");
    assert!(counter(&switch, "a", "/counters/received") < before + 20);
}

/// What a peer leaves undone is done for one that takes nothing of it: large segments of TCP over both versions and of UDP are cut, and
/// checksums computed, on the way from one switch to another by a stream socket.
#[test]
fn segments_are_cut_for_a_peer_that_takes_none() {
    if !hosts::enter("segments_are_cut_for_a_peer_that_takes_none", &["socket"]) {
        return;
    }
    let (a, b) = (Host::new("a", 1), Host::new("b", 2));
    let near = Switch::start(
        &(packet("a", "vlan = 5\n") + "[[port]]\nname = \"out\"\nlisten = \"FOLDER/out\"\ntrunk = \"5\"\n"),
    );
    let far = Switch::start(&format!(
        "[[port]]\nname = \"in\"\nconnect = \"{}\"\ntrunk = \"5\"\n{}",
        near.path("out").display(),
        packet("b", "vlan = 5\n")
    ));
    near.until_up("out", true);
    far.until_up("b", true);
    let rate = transfer(&a, &b, "10.98.0.2", 20 * MEGABYTE);
    eprintln!("TCP with segments cut in software: {rate}");
    transfer(&a, &b, "fd98::2", 5 * MEGABYTE);
    assert_nothing_lost(&near, &["a", "out"]);
    // 65,507 bytes at most go into one call; UDP_SEGMENT (103) has the kernel cut them, or leave that to others.
    let mut server = b.python(
        "
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
server.bind(('10.98.0.2', 5001))
server.settimeout(30)
say('listening')
seen = [server.recv(2000) for _ in range(31)]
say(' '.join(str(len(data)) for data in seen))
say(hashlib.sha256(b''.join(seen)).hexdigest())
",
        &[],
    );
    assert_eq!(server.line(), "listening");
    let mut client = a.python(
        "
data = bytes(i * 7 & 255 for i in range(30 * 1000 + 77))
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.setsockopt(17, 103, 1000)
client.sendto(data, ('10.98.0.2', 5001))
say(hashlib.sha256(data).hexdigest())
",
        &[],
    );
    let lengths = vec!["1000"; 30].join(" ") + " 77";
    assert_eq!(server.line(), lengths);
    assert_eq!(server.line(), client.line());
    let largest = counter(&far, "in", "/counters/received-bytes") / counter(&far, "in", "/counters/received");
    assert!(largest <= 1518, "{largest}");
    let dropped = far.port("in").unwrap()["counters"]["dropped"].clone();
    assert_eq!(dropped.get("oversize"), None, "{dropped:#}");
}

/// A tap of the host with its own stack behind it, and a host at a veth: both leave segments and checksums to others.
#[test]
fn a_tap_and_an_interface_pass_segments_to_each_other() {
    let test = "a_tap_and_an_interface_pass_segments_to_each_other";
    if !hosts::enter(test, &["socket"]) {
        return;
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        eprintln!("SKIPPED {test}: needs /dev/net/tun");
        return;
    }
    let a = Host::new("a", 1);
    ip("tuntap add dev tap0 mode tap");
    ip("address add 10.98.0.9/24 dev tap0");
    ip("link set tap0 up");
    let switch = Switch::start(&(packet("a", "") + "[[port]]\nname = \"tap\"\ntap = \"tap0\"\n"));
    switch.until_up("a", true);
    switch.until_up("tap", true);
    assert!(a.reaches("10.98.0.9"));
    let here = Host::here();
    let rate = transfer(&a, &here, "10.98.0.9", 50 * MEGABYTE);
    eprintln!("TCP from an interface to a tap: {rate}");
    let rate = transfer(&here, &a, "10.98.0.1", 50 * MEGABYTE);
    eprintln!("TCP from a tap to an interface: {rate}");
    let frames = counter(&switch, "tap", "/counters/received");
    assert!(
        frames < 50 * MEGABYTE / 1448,
        "segments were left to others: {frames} frames"
    );
    assert_nothing_lost(&switch, &["a", "tap"]);
}
