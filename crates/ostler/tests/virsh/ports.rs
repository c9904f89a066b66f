//! Ports of networks: the cards of guests that are connected, and the names that they told.

use std::process::Command;

use crate::console::Console;
use crate::setup::{Host, linux};

/// The UUIDs that `virsh net-port-list` shows.
fn ports(host: &Host, network: &str) -> Vec<String> {
    let list = host.virsh(&format!("net-port-list {network}"));
    let uuids = list.lines().map(str::trim).filter(|line| line.len() == 36);
    uuids.map(str::to_owned).collect()
}

#[test]
fn a_networks_ports_are_its_guests_cards() {
    let mut host = Host::start();
    let network = "<network><name>lan</name><bridge name='virbr7'/><domain name='lan.test'/>\
        <portgroup name='red'><vlan><tag id='10'/></vlan><bandwidth><inbound average='1000'/></bandwidth></portgroup>\
        <ip address='10.77.0.1' netmask='255.255.255.0'><dhcp><range start='10.77.0.50' end='10.77.0.60'/></dhcp></ip></network>";
    host.virsh(&format!("net-define {}", host.xml("lan.xml", network)));
    host.virsh("net-start lan");
    assert!(ports(&host, "lan").is_empty());
    let card = |mac: &str, more: &str| {
        format!("<interface type='network'><mac address='{mac}'/><source network='lan'{more}/></interface>")
    };
    let one = linux("one", &card("52:54:00:77:02:01", ""));
    host.virsh(&format!("create {}", host.xml("one.xml", &one)));
    let two = linux("two", &card("52:54:00:77:02:02", " portgroup='red'"));
    host.virsh(&format!("create {} --paused", host.xml("two.xml", &two)));

    let both = ports(&host, "lan");
    assert_eq!(both.len(), 2);
    assert!(ports(&host, "default").is_empty());
    let of_one = &["<mac address='52:54:00:77:02:01'/>"][..];
    let of_two = &[
        "<name>two</name>",
        "<group>red</group>",
        "<tag id='10'/>",
        "<inbound average='1000'/>",
    ];
    let mut ones = Vec::new();
    // They are listed by their UUIDs.
    for uuid in &both {
        let xml = host.virsh(&format!("net-port-dumpxml lan {uuid}"));
        let is_one = xml.contains("<name>one</name>");
        ones.extend(is_one.then(|| uuid.clone()));
        let wanted = if is_one { of_one } else { of_two };
        for text in wanted.iter().chain(&["<plug type='network' bridge='virbr7'/>"]) {
            assert!(xml.contains(text), "{text}: {xml}");
        }
        assert!(xml.contains(&format!("<uuid>{uuid}</uuid>")), "{xml}");
        let schema = "/usr/share/libvirt/schemas/networkport.rng";
        let file = host.xml("port.xml", &xml);
        let checked = Command::new("xmllint")
            .args(["--noout", "--relaxng", schema, &file])
            .output();
        let checked = checked.expect("xmllint (package libxml2-utils) runs");
        assert!(checked.status.success(), "{checked:?}");
    }
    assert_eq!(ones.len(), 1);
    // virsh says so, and succeeds.
    let other = host
        .command(&format!("net-port-dumpxml default {}", both[0]))
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&other.stderr).contains("failed to get network port"),
        "{other:?}"
    );
    assert_eq!(String::from_utf8_lossy(&other.stdout).trim(), "");
    host.kill_and_restart();
    assert_eq!(ports(&host, "lan"), both);

    // A guest that got an address told its name.
    let said = host.refused("domhostname one --source lease");
    assert!(said.contains("no hostname found for domain one"), "{said}");
    let mut console = Console::open(&host, "one");
    console.expect("# ");
    let ask = "ip link set eth0 up; udhcpc -i eth0 -s /bin/true -q -n -t 20 -x hostname:speaker >/dev/null 2>&1; echo $?";
    console.shell_until(ask, "0");
    assert_eq!(host.virsh("domhostname one --source lease").trim(), "speaker");
    assert!(host.virsh("domifaddr one --source lease").contains("10.77.0.5"));

    host.virsh("destroy one");
    let left: Vec<String> = both.iter().filter(|uuid| !ones.contains(uuid)).cloned().collect();
    assert_eq!(ports(&host, "lan"), left);
    host.virsh("net-destroy lan");
    assert!(ports(&host, "lan").is_empty());
    host.virsh("destroy two");
}
