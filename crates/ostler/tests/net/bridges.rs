//! Bridges of the kernel's, with what only they have: rules of nftables, and uplinks.

use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use super::Net;
use super::host::{enter, ip};

#[test]
fn bridges_ports_taps_and_stations_by_the_command_line() {
    if !enter("bridges_ports_taps_and_stations_by_the_command_line") {
        return;
    }
    let net = Net::new();
    net.run("create br0 --kind bridge --stp stp --priority 4096");
    ip("link add v0 type veth peer name v1");
    net.run("port add br0 v0 path-cost=77 isolated=on learning=off");
    net.run("fdb br0 add 52:54:00:00:00:01 --port v0");
    let shown = net.json("show br0");
    assert_eq!(shown["kind"], "bridge");
    assert_eq!(shown["stp"]["protocol"], "stp");
    assert_eq!(shown["stp"]["priority"], 4096);
    assert_eq!(shown["ports"][0]["stp"]["path-cost"], 77);
    assert_eq!(shown["ports"][0]["flags"][0], "isolated");
    assert_eq!(net.json("list")[0]["name"], "br0");
    let stations = net.json("fdb br0");
    let station = |s: &&Value| s["mac"] == "52:54:00:00:00:01";
    let stations = stations["stations"].as_array().unwrap();
    assert_eq!(stations.iter().find(station).unwrap()["source"], "static");
    // The same for people.
    let list = net.run("list");
    assert!(
        list.contains("br0      bridge  up    1      stp  1000."),
        "{list}"
    );
    let shown = net.run("show br0");
    assert!(shown.contains("br0 (bridge), up, 1 port, 1 station"), "{shown}");
    assert!(shown.contains("└─ v0  interface  down"), "{shown}");
    assert!(net.run("stp br0").contains("disabled"));
    assert!(
        net.run("fdb br0")
            .contains("52:54:00:00:00:01  -     v0    static")
    );
    assert!(net.run("port list br0").contains("isolated"));
    assert!(net.run("vlan br0").contains("all"));
    net.run("set br0 --stp off");
    net.run("port set br0 v0 isolated=off");
    net.run("fdb br0 remove 52:54:00:00:00:01");
    net.run("fdb br0 flush");
    net.run("port remove br0 v0");
    if Path::new("/dev/net/tun").exists() {
        net.run("tap add tap0 --network br0 --owner 1234 --multi-queue");
        assert_eq!(net.json("tap list")[0]["owner"], 1234);
        let port = net.json("port list br0")[0].clone();
        assert_eq!(
            (&port["kind"], &port["tap"]["owner"]),
            (&"tap".into(), &1234.into())
        );
        // A tap that cannot become a port does not stay.
        net.run("create other --kind switch");
        net.run("port add other tap1 --guest");
        assert!(
            net.fails("tap add tap1 --network other", 2)
                .contains("another port of that name")
        );
        net.fails("tap add tap0 --network br0", 2);
        net.run("tap remove tap0");
        assert_eq!(net.json("tap list"), json!([]));
        net.run("delete other");
    }
    net.run("delete br0");
    assert_eq!(net.json("list"), json!([]));

    assert!(net.fails("show br0", 2).contains("ostler net list"));
    assert!(
        net.fails("create br0 --kind bridge --stp rstp", 2)
            .contains("Open vSwitch")
    );
    assert!(
        net.fails("create sixteen-letters- --kind bridge", 2)
            .contains("interface's name")
    );
    assert!(
        net.fails("create br1 --kind ovs", 1)
            .contains("/nonexistent/db.sock")
    );
    assert!(
        net.fails("create br1 --kind bridge --datapath netdev", 2)
            .contains("only a bridge of Open vSwitch")
    );
    net.fails("create br1 --kind bridge --max-age 7 --vlan-filtering maybe", 2);
    assert!(!ip("link").contains(" br1"));
    net.run("create br1 --kind bridge");
    assert!(
        net.fails("port add br1 v0 mac-limit=5", 2)
            .contains("no setting `mac-limit`")
    );
    assert!(net.fails("port add br1 v0 isolated=9", 2).contains("on or off"));
    assert!(
        net.fails("port add br1 v0 --guest", 2)
            .contains("interfaces of the host")
    );
    assert!(net.fails("leases br1", 2).contains("only switches of ours"));
    assert!(net.fails("mirror list br1", 2).contains("only switches of ours"));
    assert!(
        net.fails("stp br1 set --transmit-hold 5", 2)
            .contains("--transmit-hold")
    );
    assert_eq!(net.json("port list br1"), json!([]));
}

#[test]
fn networks_by_the_command_line() {
    const NAME: &str = "networks_by_the_command_line";
    if !Path::new("/usr/sbin/nft").exists() {
        eprintln!("SKIPPED {NAME}: needs nft, which is in Debian's package nftables");
        return;
    }
    if !enter(NAME) {
        return;
    }
    let net = Net::new();
    net.run("create lan --kind bridge --mode nat --address 10.9.0.1/24 --ports 20000-20999 --stp stp");
    net.run("create dmz --kind bridge --mode route --address 10.8.0.1/24 --out eth0");
    let forward = |name: &str| net.json(&format!("show {name} --seconds 0"))["forward"].clone();
    assert_eq!(
        forward("lan"),
        json!({ "mode": "nat", "address": "10.9.0.1/24", "ports": "20000-20999", "out": null })
    );
    assert_eq!(net.json("list")[1]["forward"], forward("lan"));
    assert_eq!(net.json("stp lan")["stp"]["protocol"], "stp");
    assert!(ip("address show dev lan").contains("inet 10.9.0.1/24 brd 10.9.0.255"));
    net.run("set lan --mode isolated");
    assert_eq!(forward("lan")["mode"], "isolated");
    assert_eq!(
        forward("dmz"),
        json!({ "mode": "route", "address": "10.8.0.1/24", "ports": null, "out": "eth0" })
    );
    let list = net.run("list");
    assert!(
        list.contains("isolated 10.9.0.1/24") && list.contains("route 10.8.0.1/24"),
        "{list}"
    );
    assert!(
        net.run("show dmz --seconds 0")
            .contains("route 10.8.0.1/24 out by eth0")
    );

    // A bridge that has no rules yet.
    net.run("create br0 --kind bridge");
    assert!(net.fails("set br0 --mode open", 2).contains("no address"));
    ip("address add 10.7.0.1/24 dev br0");
    net.run("set br0 --mode open");
    assert_eq!(forward("br0")["mode"], "open");

    // Rules whose bridge somebody else ended go, too.
    ip("link delete dmz");
    for name in ["lan", "dmz", "br0"] {
        net.run(&format!("delete {name}"));
    }
    assert_eq!(net.json("list"), json!([]));
    assert!(net.fails("delete lan", 2).contains("ostler net list"));
    net.fails("create lan --kind bridge --mode nat --address 10.9.0.1", 2);
    let create = "create lan --kind bridge --mode";
    assert!(
        net.fails(&format!("{create} route --address 10.9.0.1/24 --ports 1-2"), 2)
            .contains("nat")
    );
    assert!(net.fails(&format!("{create} nat"), 2).contains("--address"));
    net.fails(&format!("{create} bridge --address 10.9.0.1/24"), 2);
    assert!(!ip("link").contains("lan:"));
}

fn answered(net: &Net, line: &str, answer: &str) -> Output {
    let mut child = net
        .command(line)
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
    let net = Net::new();
    ip("link add eth0 type veth peer name far");
    ip("link set far up");
    ip("link set eth0 up");
    ip("address add 10.1.0.2/24 dev eth0");
    ip("route add default via 10.1.0.1");
    net.run("create br0 --kind bridge");
    for answer in ["", "no\n"] {
        let output = answered(&net, "uplink join br0 eth0", answer);
        assert!(!output.status.success(), "{output:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("nobody confirmed"),
            "{output:?}"
        );
        assert!(ip("route").contains("default via 10.1.0.1 dev eth0"));
    }
    let output = answered(&net, "uplink join br0 eth0", "yes\n");
    assert!(output.status.success(), "{output:?}");
    assert!(ip("route").contains("default via 10.1.0.1 dev br0"));
    assert!(ip("address show dev br0").contains("10.1.0.2/24"));
    net.run("uplink leave br0 eth0");
    assert!(ip("route").contains("default via 10.1.0.1 dev eth0"));
    net.run("create lan --kind switch");
    assert!(
        net.fails("uplink join lan eth0", 2)
            .contains("a bridge of the kernel only")
    );
}
