//! IPv6 on bridges of the kernel's, each test in a network namespace of its own.

use std::io::Write;
use std::net::{Ipv6Addr, TcpListener};

use crate::console::Console;
use crate::kernel_networks::{ON_BRIDGE, UUID, can, interfaces};
use crate::namespaces::{Namespace, ip};
use crate::networks::{card, lan};
use crate::setup::{Host, linux};

const OUTSIDE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 2);
/// The host's address on the link, made of the bridge's card.
const ROUTER: &str = "fe80::5054:ff:fe77:7777";

/// A host outside with a server that says who connected to it. It knows no way to the network.
fn outside() -> Namespace {
    let outside = Namespace::new();
    ip(&format!(
        "link add out type veth peer name eth0 netns {}",
        outside.path()
    ));
    ip("address add fd00:99::1/64 dev out nodad");
    ip("link set out up");
    outside.ip(&format!("address add {OUTSIDE}/64 dev eth0 nodad"));
    outside.ip("link set eth0 up");
    let listener = outside.within(|| TcpListener::bind((OUTSIDE, 7)).unwrap());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let from = client.peer_addr().unwrap().ip();
            let _ = client.write_all(format!("from {from}\n").as_bytes());
        }
    });
    outside
}

fn both(forward: &str) -> String {
    let inside = format!("{UUID}{ON_BRIDGE}{forward}<mac address='52:54:00:77:77:77'/>");
    let six = "<ip family='ipv6' address='fd00:77::1' prefix='64'/></network>";
    lan("lan", "virbr7", &inside).replace("</network>", six)
}

/// A guest whose kernel has made itself an address of the network's prefix.
fn start(host: &Host) -> Console {
    host.virsh(&format!(
        "create {}",
        host.xml("one.xml", &linux("one", &card("lan", 0x41, "/>")))
    ));
    let mut one = Console::open(host, "one");
    one.expect("OSTLER-GUEST-UP");
    one.expect("# ");
    one.shell("ip link set eth0 up");
    one.shell_until(
        "ip -6 -o address show dev eth0 scope global | grep -v tentative | grep -c ' fd00:77::5054:ff:fe77:41/64'",
        "1",
    );
    one
}

#[test]
fn a_network_of_both_families_on_a_bridge_of_the_kernel() {
    if !can("kernel_networks6::a_network_of_both_families_on_a_bridge_of_the_kernel") {
        return;
    }
    let _outside = outside();
    let mut host = Host::start();
    let before = interfaces();
    host.virsh(&format!(
        "net-define {}",
        host.xml("lan.xml", &both("<forward mode='nat'/>"))
    ));
    host.virsh("net-start lan");
    let bridge = ip("-6 address show dev virbr7");
    assert!(
        bridge.contains("fd00:77::1/64") && bridge.contains(ROUTER),
        "{bridge}"
    );
    let mut one = start(&host);
    let route = one.shell("ip -6 route show default");
    assert!(
        route.starts_with(&format!("default via {ROUTER} dev eth0")),
        "{route}"
    );
    for address in ["fd00:77::1".to_owned(), OUTSIDE.to_string()] {
        let ping = format!("ping -6 -c 1 -W 5 {address} >/dev/null && echo reached");
        one.shell_until(&ping, "reached");
    }
    // Outside it has the host's address.
    one.shell_until(&format!("nc -w 10 {OUTSIDE} 7 </dev/null"), "from fd00:99::1");
    // The host believes no router among its guests.
    let heard = std::fs::read_to_string("/proc/sys/net/ipv6/conf/virbr7/accept_ra").unwrap();
    assert_eq!(heard, "0\n");

    // It is found again, and loses nothing by other rules.
    host.kill_and_restart();
    assert!(host.networks("").contains(&"lan".to_owned()));
    let mut one = Console::open(&host, "one");
    one.expect("# ");
    one.shell_until(&format!("nc -w 10 {OUTSIDE} 7 </dev/null"), "from fd00:99::1");
    host.virsh("destroy one");
    host.virsh("net-destroy lan");
    assert_eq!(interfaces(), before);

    // An isolated one has addresses and no way out.
    host.virsh(&format!("net-define {}", host.xml("lan.xml", &both(""))));
    host.virsh("net-start lan");
    let mut one = start(&host);
    one.shell_until(
        "ping -6 -c 1 -W 5 fd00:77::1 >/dev/null && echo reached",
        "reached",
    );
    assert_eq!(one.shell("ip -6 route show default"), "");
    host.virsh("destroy one");
    host.virsh("net-destroy lan");
}

#[test]
fn addresses_of_ipv6_that_cannot_be() {
    if !can("kernel_networks6::addresses_of_ipv6_that_cannot_be") {
        return;
    }
    let host = Host::start();
    let forward = "<forward mode='route'/>";
    let range = "prefix='64'><dhcp><range start='fd00:77::1' end='fd00:77::ff'/></dhcp></ip>";
    let xml = both(forward).replace("prefix='64'/>", range);
    let said = host.refused(&format!("net-define {}", host.xml("lan.xml", &xml)));
    assert!(said.contains("fd00:77::1 is one that a guest gets"), "{said}");
    host.virsh(&format!("net-define {}", host.xml("lan.xml", &both(forward))));
    ip("link add other type bridge");
    ip("address add fd00:77::9/48 dev other nodad");
    let said = host.refused("net-start lan");
    assert!(said.contains("overlaps with fd00:77::9/48"), "{said}");
    assert!(!interfaces().iter().any(|name| name == "virbr7"));
    ip("link delete other");
    host.virsh("net-start lan");
    host.virsh("net-destroy lan");
}
