//! Networks on bridges of the kernel's, each test in a network namespace of its own.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::console::Console;
use crate::namespaces::{Namespace, OvsDaemons, enter, ip};
use crate::networks::{card, lan};
use crate::setup::{Host, field, linux, wait_until};

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
pub const UUID: &str = "<uuid>0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9</uuid>";
/// The tap of the network's switch.
const TAP: &str = "dhcp-0a1b2c3d";
pub const ON_BRIDGE: &str = "<metadata><o:backend xmlns:o='urn:ostler:network' kind='bridge'/></metadata>";

/// Moves this thread into a namespace of its own, in which networks can be made.
pub fn can(test: &str) -> bool {
    for (path, package) in [
        ("/usr/sbin/nft", "Debian's package nftables"),
        ("/dev/net/tun", "taps"),
    ] {
        if !Path::new(path).exists() {
            eprintln!("SKIPPED {test}: needs {path} ({package})");
            return false;
        }
    }
    if !enter(test) {
        return false;
    }
    let made = Command::new("ip")
        .args(["link", "add", "probe", "type", "bridge"])
        .output()
        .unwrap();
    if !made.status.success() {
        eprintln!("SKIPPED {test}: this kernel has no bridges: {made:?}");
        return false;
    }
    ip("link delete probe");
    true
}

/// A host outside with a server that says who connected to it.
fn outside() -> Namespace {
    let outside = Namespace::new();
    ip(&format!(
        "link add out type veth peer name eth0 netns {}",
        outside.path()
    ));
    ip("address add 198.51.100.1/24 dev out");
    ip("link set out up");
    outside.ip(&format!("address add {OUTSIDE}/24 dev eth0"));
    outside.ip("link set eth0 up");
    outside.ip("route add 10.77.0.0/24 via 198.51.100.1");
    let listener = outside.within(|| TcpListener::bind((OUTSIDE, 7)).unwrap());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let _ = client.read(&mut [0; 3]);
            let from = client.peer_addr().unwrap();
            let _ = client.write_all(format!("from {from}\n").as_bytes());
        }
    });
    outside
}

/// The interfaces of this thread's namespace.
pub fn interfaces() -> Vec<String> {
    let links: Value = serde_json::from_str(&ip("-j link show")).unwrap();
    let name = |link: &Value| link["ifname"].as_str().unwrap().to_owned();
    links.as_array().unwrap().iter().map(name).collect()
}

fn master(interface: &str) -> Value {
    let links: Value = serde_json::from_str(&ip(&format!("-j link show {interface}"))).unwrap();
    links[0]["master"].clone()
}

fn tables() -> String {
    let output = Command::new("nft").args(["list", "tables"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A guest's shell, once it has asked for an address.
fn ask(host: &Host, guest: &str) -> (Console, String) {
    let mut console = Console::open(host, guest);
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    let got = console.shell(&format!(
        "printf '#!/bin/sh\\n[ \"$1\" = bound ] || exit 0\\nip address add $ip/$mask dev eth0\\n\
         [ -z \"$router\" ] || ip route add default via $router\\necho got $ip via $router dns $dns in $domain\\n' \
         >/lease; chmod +x /lease; ip link set eth0 up; \
         udhcpc -i eth0 -s /lease -q -n -t 20 -x hostname:{guest} 2>&1 | grep got"
    ));
    (console, got)
}

#[test]
fn a_network_with_nat_on_a_bridge_of_the_kernel() {
    if !can("kernel_networks::a_network_with_nat_on_a_bridge_of_the_kernel") {
        return;
    }
    let _outside = outside();
    let mut host = Host::start();
    let forward = format!(
        "{UUID}{ON_BRIDGE}<forward mode='nat' dev='out'><nat><port start='30000' end='30100'/></nat></forward>\
         <mac address='52:54:00:77:77:77'/>"
    );
    let xml = host.xml("lan.xml", &lan("lan", "virbr7", &forward));
    host.virsh(&format!("net-define {xml}"));
    let before = interfaces();
    host.virsh("net-start lan");
    assert_eq!(field(&host.virsh("net-info lan"), "Bridge"), "virbr7");
    let bridge = ip("address show virbr7");
    assert!(
        bridge.contains("52:54:00:77:77:77") && bridge.contains("inet 10.77.0.1/24"),
        "{bridge}"
    );
    assert_eq!(master(TAP), "virbr7");
    assert!(tables().contains("ostler_virbr7"), "{}", tables());

    let guest = linux("one", &card("lan", 0x41, "/>"));
    host.virsh(&format!("create {}", host.xml("one.xml", &guest)));
    assert!(host.virsh("domiflist one").contains("vnet0"));
    assert_eq!(master("vnet0"), "virbr7");
    let (mut one, got) = ask(&host, "one");
    assert_eq!(got, "got 10.77.0.50 via 10.77.0.1 dns 10.77.0.254 in lan.test");
    let reaches = format!("ping -c 1 -W 20 {OUTSIDE} >/dev/null && echo hi | nc {OUTSIDE} 7");
    let from = one.shell(&reaches);
    let port = from
        .strip_prefix("from 198.51.100.1:")
        .unwrap_or_else(|| panic!("{from}"));
    assert!((30000..=30100).contains(&port.parse::<u16>().unwrap()), "{from}");

    // It all goes on without a daemon, and belongs to the next one.
    let pid = host.net("lan", &["show"])["pid"].clone();
    host.kill_and_restart();
    assert_eq!(host.networks(""), ["default", "lan"]);
    assert_eq!(host.net("lan", &["show"])["pid"], pid);
    let leases = host.virsh("net-dhcp-leases lan");
    assert!(
        leases.contains("52:54:00:77:00:41") && leases.contains("10.77.0.50/24"),
        "{leases}"
    );
    assert!(host.virsh("domifaddr one").contains("10.77.0.50/24"));
    let port = host.virsh("net-port-list lan");
    let port = port.lines().nth(2).unwrap().trim();
    let port = host.virsh(&format!("net-port-dumpxml lan {port}"));
    assert!(port.contains("<plug type='network' bridge='virbr7'/>"), "{port}");

    // Who gets which address is changed while it runs; but not whose address the server's is.
    let part = host.xml("part.xml", "<host mac='52:54:00:77:00:42' ip='10.77.0.9'/>");
    host.virsh(&format!("net-update lan add ip-dhcp-host --live {part}"));
    assert_eq!(host.net("lan", &["show"])["routers"][0]["reservations"], 1);
    let part = host.xml("part.xml", "<host mac='52:54:00:77:00:43' ip='10.77.0.254'/>");
    let said = host.refused(&format!("net-update lan add ip-dhcp-host --live {part}"));
    assert!(
        said.contains("10.77.0.254/24 is the address of the network's DHCP server"),
        "{said}"
    );

    // The server is killed: guests keep the network, and there is another one.
    let pid = rustix::process::Pid::from_raw(pid.as_i64().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    wait_until("another server answers", || {
        let answer = host.try_net("lan", &["show"]);
        answer.is_some_and(|answer| answer["pid"] != pid.as_raw_nonzero().get())
    });
    assert_eq!(host.networks(""), ["default", "lan"]);
    assert_eq!(host.net("lan", &["show"])["routers"][0]["reservations"], 1);

    let mut one = Console::open(&host, "one");
    one.expect("# ");
    // Ended, nothing of it is left; started, the guest is at it again.
    host.virsh("net-destroy lan");
    assert!(!tables().contains("ostler_virbr7"), "{}", tables());
    assert_eq!(interfaces().len(), before.len() + 1, "{:?}", interfaces());
    assert_eq!(master("vnet0"), Value::Null);
    host.virsh("net-start lan");
    assert_eq!(master("vnet0"), "virbr7");
    assert!(one.shell(&reaches).starts_with("from 198.51.100.1:"));
    host.virsh("destroy one");
    host.virsh("net-destroy lan");
    assert_eq!(interfaces(), before);
}

#[test]
fn networks_with_route_open_and_none() {
    if !can("kernel_networks::networks_with_route_open_and_none") {
        return;
    }
    let outside = outside();
    let host = Host::start();
    let ping = |address: &str| {
        let mut ping = Command::new("ping");
        ping.args(["-c", "1", "-W", "10", address]);
        outside.within(|| ping.output().unwrap()).status.success()
    };
    let start = |forward: &str| {
        let xml = host.xml("lan.xml", &lan("lan", "virbr7", &format!("{UUID}{forward}")));
        host.virsh(&format!("net-define {xml}"));
        host.virsh("net-start lan");
    };
    start("<forward mode='route'/>");
    let guest = linux("one", &card("lan", 0x51, "/>"));
    host.virsh(&format!("create {}", host.xml("one.xml", &guest)));
    let (mut one, got) = ask(&host, "one");
    assert!(got.starts_with("got 10.77.0.50 via 10.77.0.1"), "{got}");
    // By its own address, in both directions.
    let reaches = format!("echo hi | nc -w 10 {OUTSIDE} 7 | cut -d: -f1");
    one.shell_until(&reaches, "from 10.77.0.50");
    assert!(ping("10.77.0.50"));

    host.virsh("net-destroy lan");
    start("<forward mode='open'/>");
    one.shell_until(&reaches, "from 10.77.0.50");
    assert!(ping("10.77.0.50"));
    // The host's rules are all that counts.
    let table = "table inet mine { chain forward { type filter hook forward priority 0; policy drop; }; }";
    assert!(Command::new("nft").arg(table).status().unwrap().success());
    assert!(!one.shell(&reaches).contains("from"));
    assert!(
        Command::new("nft")
            .arg("delete table inet mine")
            .status()
            .unwrap()
            .success()
    );

    host.virsh("net-destroy lan");
    start(ON_BRIDGE);
    one.shell_until("ping -c 1 -W 10 10.77.0.1 >/dev/null && echo reached", "reached");
    assert!(!one.shell(&reaches).contains("from"));
    host.virsh("destroy one");
    let two = linux("two", &card("lan", 0x52, "/>"));
    host.virsh(&format!("create {}", host.xml("two.xml", &two)));
    let (_two, got) = ask(&host, "two");
    assert!(
        got.starts_with("got 10.77.0.5") && got.contains("via dns 10.77.0.254"),
        "{got}"
    );
    host.virsh("destroy two");
    host.virsh("net-destroy lan");
}

#[test]
fn a_network_of_the_kernel_is_made_whole_or_not_at_all() {
    if !can("kernel_networks::a_network_of_the_kernel_is_made_whole_or_not_at_all") {
        return;
    }
    let mut host = Host::start();
    let xml = lan("lan", "virbr7", &format!("{UUID}<forward mode='route'/>"));
    let file = host.xml("lan.xml", &xml);
    host.virsh(&format!("net-define {file}"));
    let nothing = |host: &Host| {
        assert!(
            !interfaces().iter().any(|name| name == "virbr7"),
            "{:?}",
            interfaces()
        );
        assert!(!tables().contains("ostler_virbr7"), "{}", tables());
        assert!(host.networks("--inactive").contains(&"lan".to_owned()));
    };
    // Somebody has the name of the last thing that is made.
    ip(&format!("link add {TAP} type bridge"));
    let said = host.refused("net-start lan");
    assert!(said.contains("exists already"), "{said}");
    nothing(&host);
    ip(&format!("link delete {TAP}"));
    // Somebody has the bridge, and keeps it.
    ip("link add virbr7 type bridge");
    let said = host.refused("net-start lan");
    assert!(said.contains("`virbr7` exists already"), "{said}");
    host.kill_and_restart();
    ip("link delete virbr7");
    // Somebody has the addresses.
    ip("link add other type bridge");
    ip("address add 10.77.0.9/16 dev other");
    let said = host.refused("net-start lan");
    assert!(said.contains("overlaps with 10.77.0.9/16"), "{said}");
    nothing(&host);
    ip("link delete other");

    // A daemon that was killed finds it whole, or takes the rest away.
    host.virsh("net-start lan");
    host.kill();
    assert!(
        Command::new("nft")
            .args(["flush", "ruleset"])
            .status()
            .unwrap()
            .success()
    );
    ip(&format!("link delete {TAP}"));
    host.start_again();
    assert_eq!(host.networks(""), ["default", "lan"]);
    assert!(tables().contains("ostler_virbr7"), "{}", tables());
    wait_until("the server is at its tap", || {
        let ports = host.try_net("lan", &["port", "list"]);
        interfaces().iter().any(|name| name == TAP)
            && ports.is_some_and(|ports| ports.as_array().unwrap().iter().all(|port| port["up"] == true))
    });
    let pid = host.net("lan", &["show"])["pid"].clone();
    host.kill();
    ip("address flush dev virbr7");
    host.start_again();
    nothing(&host);
    assert!(!interfaces().iter().any(|name| name == TAP));
    wait_until("its server is gone", || {
        !Path::new(&format!("/proc/{pid}")).exists()
    });
    // It starts with the host.
    host.virsh("net-autostart lan");
    host.kill();
    std::fs::remove_file(host.path("run/networks-autostarted")).unwrap();
    host.start_again();
    assert_eq!(host.networks(""), ["default", "lan"]);
    host.virsh("net-destroy lan");
    nothing(&host);
}

/// In its user-space data path, where frames have to be whole.
#[test]
fn a_network_on_a_bridge_of_open_vswitch() {
    const NAME: &str = "kernel_networks::a_network_on_a_bridge_of_open_vswitch";
    if !Path::new("/dev/net/tun").exists() {
        eprintln!("SKIPPED {NAME}: needs /dev/net/tun");
        return;
    }
    let Some(daemons) = OvsDaemons::start(NAME) else {
        return;
    };
    let host = Host::start_with(&[("OVS_RUNDIR", daemons.run())]);
    let xml = "<network><name>wire</name><forward mode='bridge'/><bridge name='ovs0'/><virtualport type='openvswitch'/>\
               <portgroup name='red'><vlan><tag id='10'/></vlan></portgroup>\
               <portgroup name='blue'><vlan><tag id='20'/></vlan></portgroup>\
               <portgroup name='slow'><bandwidth><inbound average='10'/></bandwidth></portgroup></network>";
    host.virsh(&format!("net-define {}", host.xml("wire.xml", xml)));
    let said = host.refused("net-start wire");
    assert!(said.contains("the bridge 'ovs0' cannot be used"), "{said}");
    daemons.command("ovs-vsctl", "add-br ovs0 -- set bridge ovs0 datapath_type=netdev");
    host.virsh("net-start wire");
    let ports = || daemons.command("ovs-vsctl", "list-ports ovs0");
    let start = |name: &str, mac: u8, group: &str| {
        let guest = linux(name, &card("wire", mac, &format!(" portgroup='{group}'/>")));
        host.virsh(&format!("create {}", host.xml("guest.xml", &guest)));
        let mut console = Console::open(&host, name);
        console.expect("OSTLER-GUEST-UP");
        console.expect("# ");
        console.shell(&format!(
            "ip address add 10.77.1.{mac}/24 dev eth0; ip link set eth0 up"
        ));
        console
    };
    let mut one = start("one", 71, "red");
    let mut two = start("two", 72, "red");
    let mut three = start("three", 73, "blue");
    assert_eq!(ports(), "vnet0\nvnet1\nvnet2\n");
    assert_eq!(daemons.command("ovs-vsctl", "get port vnet0 tag").trim(), "10");
    // The same VLAN, also by TCP, whose checksums nobody else computes; and another.
    two.shell_until("ping -c 1 -W 10 10.77.1.71 >/dev/null && echo reached", "reached");
    one.type_in("echo word | nc -l -p 5000\n");
    two.shell_until("nc -w 20 10.77.1.71 5000 </dev/null", "word");
    assert_eq!(
        three.shell("ping -c 1 -W 3 10.77.1.71 >/dev/null || echo alone"),
        "alone"
    );
    // What cannot be there is refused, and leaves nothing.
    let said = host.refused("attach-interface one network wire --model virtio --live");
    assert!(said.contains("there from the guest's start"), "{said}");
    let slow = linux("slow", &card("wire", 74, " portgroup='slow'/>"));
    let said = host.refused(&format!("create {}", host.xml("slow.xml", &slow)));
    assert!(said.contains("no limits of its own"), "{said}");
    assert_eq!(ports(), "vnet0\nvnet1\nvnet2\n");
    host.virsh("destroy two");
    assert_eq!(ports(), "vnet0\nvnet2\n");
    assert!(
        !interfaces().iter().any(|name| name == "vnet1"),
        "{:?}",
        interfaces()
    );
    for name in ["one", "three"] {
        host.virsh(&format!("destroy {name}"));
    }
    assert_eq!(ports(), "");
    host.virsh("net-destroy wire");
    daemons.command("ovs-vsctl", "br-exists ovs0");
}

/// Port groups on a bridge that the network makes, and a card's own VLAN; where the kernel's bridge has no VLANs, they are refused.
#[test]
fn vlans_on_a_bridge_of_the_kernel() {
    const NAME: &str = "kernel_networks::vlans_on_a_bridge_of_the_kernel";
    if !can(NAME) {
        return;
    }
    let host = Host::start();
    let groups = format!(
        "{UUID}{ON_BRIDGE}<portgroup name='red'><vlan><tag id='10'/></vlan></portgroup>\
         <portgroup name='blue'><vlan><tag id='20'/></vlan></portgroup>"
    );
    let file = host.xml("lan.xml", &lan("lan", "virbr7", &groups));
    host.virsh(&format!("net-define {file}"));
    // A bridge that is there already, and looks at no tags.
    ip("link add plain type bridge");
    let there = "<network><name>wire</name><forward mode='bridge'/><bridge name='plain'/></network>";
    host.virsh(&format!("net-create {}", host.xml("wire.xml", there)));
    let tagged = card("wire", 0x64, "/><vlan><tag id='10'/></vlan>");
    let said = host.refused(&format!(
        "create {}",
        host.xml("four.xml", &linux("four", &tagged))
    ));
    assert!(said.contains("no VLANs"), "{said}");
    assert_eq!(
        interfaces()
            .iter()
            .filter(|name| name.starts_with("vnet"))
            .count(),
        0
    );

    let probe = "link add probe type bridge vlan_filtering 1".split(' ');
    if !Command::new("ip").args(probe).output().unwrap().status.success() {
        let said = host.refused("net-start lan");
        assert!(said.contains("VLAN"), "{said}");
        assert!(!interfaces().iter().any(|name| name == "virbr7"));
        eprintln!("SKIPPED {NAME} (in part): this kernel's bridges filter no VLANs");
        return;
    }
    host.virsh("net-start lan");
    let start = |name: &str, mac: u8, group: &str| {
        let guest = linux(name, &card("lan", mac, &format!(" portgroup='{group}'/>")));
        host.virsh(&format!("create {}", host.xml("guest.xml", &guest)));
        let mut console = Console::open(&host, name);
        console.expect("OSTLER-GUEST-UP");
        console.expect("# ");
        console.shell(&format!(
            "ip address add 10.77.1.{mac}/24 dev eth0; ip link set eth0 up"
        ));
        console
    };
    let _one = start("one", 61, "red");
    let mut two = start("two", 62, "red");
    let mut three = start("three", 63, "blue");
    two.shell_until("ping -c 1 -W 10 10.77.1.61 >/dev/null && echo reached", "reached");
    assert_eq!(
        three.shell("ping -c 2 -W 3 10.77.1.61 >/dev/null || echo alone"),
        "alone"
    );
    for name in ["one", "two", "three"] {
        host.virsh(&format!("destroy {name}"));
    }
    host.virsh("net-destroy lan");
}
