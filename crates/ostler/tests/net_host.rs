//! `ostler net host` in a network namespace of each test's own.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use rustix::thread::UnshareFlags;
use serde_json::Value;

/// Moves this thread into a network namespace of its own, which ends with the thread.
fn enter(test: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED {test}: needs root for a network namespace");
        return false;
    }
    // SAFETY: only the network namespace of this thread changes; no file descriptor table is unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
    true
}

fn command(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ostler"));
    // No Open vSwitch of the machine's own is touched.
    command.args(["net", "host", "--ovs-run", "/nonexistent"]);
    command.args(line.split_whitespace());
    command
}

fn net(line: &str) -> String {
    let output = command(line).output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(line: &str) -> Value {
    serde_json::from_str(&net(&format!("{line} --json"))).unwrap()
}

fn fails(line: &str, status: i32) -> String {
    let output = command(line).output().unwrap();
    assert_eq!(output.status.code(), Some(status), "{line}: {output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

fn ip(line: &str) -> String {
    let output = Command::new("ip").args(line.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn bridges_ports_taps_and_stations_by_the_command_line() {
    if !enter("bridges_ports_taps_and_stations_by_the_command_line") {
        return;
    }
    net("create br0 --stp stp --priority 4096");
    ip("link add v0 type veth peer name v1");
    net("port add br0 v0 --cost 77 --flag isolated --flag learning=off");
    net("fdb add br0 52:54:00:00:00:01 --port v0");
    let shown = json("show br0");
    assert_eq!(shown["kind"], "kernel");
    assert_eq!(shown["stp"]["protocol"], "stp");
    assert_eq!(shown["stp"]["priority"], 4096);
    assert_eq!(shown["ports"][0]["path-cost"], 77);
    assert_eq!(shown["ports"][0]["flags"][0], "isolated");
    assert_eq!(json("list")[0]["name"], "br0");
    let stations = json("fdb show br0");
    let station = |s: &&Value| s["mac"] == "52:54:00:00:00:01";
    assert_eq!(
        stations.as_array().unwrap().iter().find(station).unwrap()["source"],
        "static"
    );
    // The same for people.
    assert!(
        net("list").contains("br0     kernel  up    stp  1"),
        "{}",
        net("list")
    );
    assert!(net("show br0").contains("isolated"));
    assert!(net("stp br0").contains("designated") || net("stp br0").contains("disabled"));
    assert!(net("fdb show br0").contains("52:54:00:00:00:01  -     v0    static"));
    assert!(net("port list br0").contains("v0"));
    assert!(net("vlan br0").contains("all"));
    net("set br0 --stp off");
    net("port set br0 v0 --flag isolated=off");
    net("fdb remove br0 52:54:00:00:00:01 --port v0");
    net("fdb flush br0");
    net("port remove br0 v0");
    if std::path::Path::new("/dev/net/tun").exists() {
        net("tap add tap0 --bridge br0 --owner 1234 --multi-queue");
        assert_eq!(json("tap list")[0]["owner"], 1234);
        net("tap remove tap0");
    }
    net("delete br0");
    assert_eq!(json("list"), Value::Array(Vec::new()));

    assert!(fails("show br0", 2).contains("ostler net host list"));
    assert!(fails("create br0 --stp rstp", 2).contains("Open vSwitch"));
    assert!(fails("create sixteen-letters-", 2).contains("interface's name"));
    assert!(fails("create br1 --ovs", 1).contains("/nonexistent/db.sock"));
    fails("create br1 --max-age 7 --vlan-filtering maybe", 2);
    assert!(!ip("link").contains(" br1"));
}

#[test]
fn networks_by_the_command_line() {
    const NAME: &str = "networks_by_the_command_line";
    if !std::path::Path::new("/usr/sbin/nft").exists() {
        eprintln!("SKIPPED {NAME}: needs nft, which is in Debian's package nftables");
        return;
    }
    if !enter(NAME) {
        return;
    }
    net("network create lan --address 10.9.0.1/24 --ports 20000-20999 --stp stp");
    net("network create dmz --address 10.8.0.1/24 --forward route --out eth0");
    let shown = json("network list");
    assert_eq!(
        shown[1],
        serde_json::json!({
            "name": "lan", "forward": "nat", "address": "10.9.0.1/24",
            "ports": { "first": 20000, "last": 20999 }, "out": null
        })
    );
    assert_eq!(json("show lan")["stp"]["protocol"], "stp");
    assert!(ip("address show dev lan").contains("inet 10.9.0.1/24 brd 10.9.0.255"));
    net("network set lan --forward isolated");
    let shown = net("network list");
    assert!(
        shown.contains("dmz      route     10.8.0.1/24  -      eth0"),
        "{shown}"
    );
    assert!(
        shown.contains("lan      isolated  10.9.0.1/24  -      -"),
        "{shown}"
    );

    // A bridge that has no rules yet.
    net("create br0");
    assert!(fails("network set br0 --forward open", 2).contains("no address"));
    ip("address add 10.7.0.1/24 dev br0");
    net("network set br0 --forward open");
    assert_eq!(json("network list")[0]["forward"], "open");

    for name in ["lan", "dmz", "br0"] {
        net(&format!("network delete {name}"));
    }
    assert_eq!(json("network list"), Value::Array(Vec::new()));
    assert_eq!(json("list"), Value::Array(Vec::new()));
    assert!(fails("network delete lan", 2).contains("network list"));
    fails("network create lan --address 10.9.0.1", 2);
    assert!(
        fails(
            "network create lan --address 10.9.0.1/24 --forward route --ports 1-2",
            2
        )
        .contains("nat")
    );
    fails("network create lan --address 10.9.0.1/24 --forward bridge", 2);
    assert!(!ip("link").contains("lan:"));
}

fn answered(line: &str, answer: &str) -> Output {
    let mut child = command(line)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn an_uplink_is_kept_only_after_a_yes() {
    if !enter("an_uplink_is_kept_only_after_a_yes") {
        return;
    }
    ip("link add eth0 type veth peer name far");
    ip("link set far up");
    ip("link set eth0 up");
    ip("address add 10.1.0.2/24 dev eth0");
    ip("route add default via 10.1.0.1");
    net("create br0");
    for answer in ["", "no\n"] {
        let output = answered("uplink join br0 eth0", answer);
        assert!(!output.status.success(), "{output:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("nobody confirmed"),
            "{output:?}"
        );
        assert!(ip("route").contains("default via 10.1.0.1 dev eth0"));
    }
    let output = answered("uplink join br0 eth0", "yes\n");
    assert!(output.status.success(), "{output:?}");
    assert!(ip("route").contains("default via 10.1.0.1 dev br0"));
    assert!(ip("address show dev br0").contains("10.1.0.2/24"));
    net("uplink leave br0 eth0");
    assert!(ip("route").contains("default via 10.1.0.1 dev eth0"));
}
