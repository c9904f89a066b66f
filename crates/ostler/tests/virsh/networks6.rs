//! Networks with addresses of IPv6.

use crate::networks::lan;
use crate::setup::{Host, LIMIT};
use crate::support::Guest;
use crate::support::lan::dhclient;

const SIX: &str = "00:03:00:01:52:54:00:77:00:06";

/// A network of both families, with a range, a reservation by DUID and a name of IPv6.
fn both(dhcp: &str) -> String {
    let names = "<dns><host ip='fd00:77::9'><hostname>printer</hostname></host></dns>";
    let ip = format!("<ip family='ipv6' address='fd00:77::1' prefix='64'>{dhcp}</ip></network>");
    lan("lan", "virbr7", names).replace("</network>", &ip)
}

fn dhcp() -> String {
    format!(
        "<dhcp><range start='fd00:77::100' end='fd00:77::1ff'/><host id='{SIX}' name='six' ip='fd00:77::6'/></dhcp>"
    )
}

#[test]
fn a_network_of_both_families_is_defined_and_changed() {
    let mut host = Host::start();
    host.virsh(&format!("net-define {}", host.xml("lan.xml", &both(&dhcp()))));
    host.virsh("net-start lan");
    let xml = host.virsh("net-dumpxml lan");
    for part in [
        "family='ipv6'",
        "address='fd00:77::1'",
        SIX,
        "start='fd00:77::100'",
    ] {
        assert!(xml.contains(part), "{part}: {xml}");
    }
    let router = |host: &Host| host.net("lan", &["show"])["routers"][0].clone();
    let shown = router(&host);
    assert_eq!(shown["address6"], "fd00:77::1/64", "{shown:#}");
    assert_eq!(shown["reservations"], 1, "{shown:#}");
    // The <ip> of IPv6 is the second one.
    let part = host.xml("part.xml", "<host name='seven' ip='fd00:77::7'/>");
    host.virsh(&format!(
        "net-update lan add ip-dhcp-host --parent-index 1 --live --config {part}"
    ));
    assert_eq!(router(&host)["reservations"], 2);
    let part = host.xml("part.xml", "<range start='fd00:77::300' end='fd00:77::3ff'/>");
    host.virsh(&format!(
        "net-update lan add ip-dhcp-range --parent-index 1 --live {part}"
    ));
    host.kill_and_restart();
    assert!(host.virsh("net-dumpxml lan").contains("fd00:77::300"));
    assert!(!host.virsh("net-dumpxml lan --inactive").contains("fd00:77::300"));
    for (words, xml, says) in [
        (
            "add ip-dhcp-host --parent-index 1",
            "<host id='zz' ip='fd00:77::8'/>",
            "is no DUID",
        ),
        (
            "add ip-dhcp-host --parent-index 0",
            "<host id='0:1:2:3' ip='10.77.0.8'/>",
            "belongs to DHCPv6",
        ),
        (
            "add ip-dhcp-range --parent-index 1",
            "<range start='fd00:78::1' end='fd00:78::2'/>",
            "is not within network",
        ),
    ] {
        let before = host.virsh("net-dumpxml lan");
        let part = host.xml("part.xml", xml);
        let said = host.refused(&format!("net-update lan {words} --live --config {part}"));
        assert!(said.contains(says), "{words}: {said}");
        assert_eq!(host.virsh("net-dumpxml lan"), before);
    }
    for (with, instead, says) in [
        ("prefix='64'", "prefix='80'", "prefix='64'"),
        (
            "family='ipv6'",
            "family='ipv4'",
            "no address of the family 'ipv4'",
        ),
    ] {
        let xml = both("").replace(with, instead).replace(">lan<", ">other<");
        let said = host.refused(&format!("net-define {}", host.xml("other.xml", &xml)));
        assert!(said.contains(says), "{said}");
    }
}

/// A DHCPv6 client that others wrote, in a guest: first as nobody, then by its DUID.
#[test]
fn a_guest_gets_addresses_of_ipv6_that_virsh_shows() {
    let Some(mut files) = dhclient() else {
        eprintln!(
            "SKIPPED a_guest_gets_addresses_of_ipv6_that_virsh_shows: needs Debian's dhclient in target/dhclient, which ./test fetches"
        );
        return;
    };
    let mut host = Host::start();
    host.virsh(&format!("net-define {}", host.xml("lan.xml", &both(&dhcp()))));
    host.virsh("net-start lan");
    files.push((
        "told",
        b"#!/bin/sh\necho $reason $new_ip6_address $new_dhcp6_name_servers $new_dhcp6_domain_search\n\
          case $reason in BOUND6) ip -6 address add $new_ip6_address/128 dev $interface ;; esac\n"
            .to_vec(),
    ));
    files.push(("none.conf", Vec::new()));
    let duid: String = SIX
        .split(':')
        .map(|byte| format!("\\{:03o}", u8::from_str_radix(byte, 16).unwrap()))
        .collect();
    files.push(("six", format!("default-duid \"{duid}\";\n").into_bytes()));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, &bytes[..])).collect();
    let script = "dmesg -n 5; ip link set lo up; ip link set eth0 up; mkdir -p /etc\n\
        tries=0; until ip -6 address show dev eth0 scope link | grep inet6 | grep -qv tentative; do\n\
        tries=$((tries + 1)); [ $tries -lt 600 ] || break; usleep 200000; done\n\
        ask() { dhclient -6 -1 -v -cf /none.conf -pf /pid -sf /told \"$@\" eth0 2>&1; }\n\
        echo BEGIN range; ask -lf /leases; ask -r -lf /leases; echo END range\n\
        ip -6 address flush dev eth0 scope global\n\
        echo BEGIN reserved; ask -lf /six; ip -6 -o address show dev eth0; echo END reserved\n\
        echo nameserver fd00:77::1 >/etc/resolv.conf\n\
        echo BEGIN names; nslookup -type=aaaa printer.lan.test; nslookup -type=aaaa six.lan.test; echo END names\n\
        while ip -6 address show dev eth0 | grep -q tentative; do usleep 200000; done\n\
        ip -6 route add fd00:77::/64 dev eth0\n\
        echo BEGIN ping; ping -6 -c 1 -W 20 fd00:77::1; echo END ping\n\
        echo asked; read line </dev/console\n";
    let control = host.path("run/switch-lan.sock");
    let net = format!("switch={},mac=52:54:00:77:00:61", control.display());
    let mut guest = Guest::new(1)
        .args(["--accel", "soft", "--name", "vm", "--net", &net])
        .script_with(script, &files)
        .spawn();
    guest.expect("asked", LIMIT);
    host.kill_and_restart();
    let leases = host.virsh("net-dhcp-leases lan");
    let lease = leases.lines().find(|line| line.contains("ipv6"));
    let lease: Vec<&str> = lease
        .unwrap_or_else(|| panic!("{leases}"))
        .split_whitespace()
        .collect();
    assert_eq!(
        lease[2..],
        ["52:54:00:77:00:61", "ipv6", "fd00:77::6/64", "six", SIX],
        "{leases}"
    );
    guest.type_in("\n");
    let outcome = guest.wait(LIMIT);
    outcome.assert_clean();
    for (section, parts) in [
        ("range", &["BOUND6 fd00:77::1", "fd00:77::1 lan.test."][..]),
        ("reserved", &["BOUND6 fd00:77::6 fd00:77::1 lan.test."]),
        ("names", &["fd00:77::9\n", "fd00:77::6\n"]),
        ("ping", &["1 packets transmitted, 1 packets received"]),
    ] {
        let said = outcome.section(section);
        for part in parts {
            assert!(said.contains(part), "{part} in {section}: {said}");
        }
    }
    // Who is given an address makes none of its own.
    let made = outcome.section("reserved").matches("inet6 fd00:77:").count();
    assert_eq!(made, 1, "{}", outcome.section("reserved"));
}
