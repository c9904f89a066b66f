//! Network interfaces of the host, which are looked at.

use std::process::Command;

use crate::setup::{Host, wait_until};

#[test]
fn interfaces_of_the_host_are_shown_as_they_are() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED interfaces_of_the_host_are_shown_as_they_are: a network namespace needs root");
        return;
    }
    let host = Host::start_in_namespace(
        "mount -t sysfs sysfs /sys; ip link set lo up; ip link add br7 address 52:54:00:07:00:01 type bridge forward_delay 400; \
         ip link add left address 52:54:00:07:00:02 type veth peer name right; ip link set left master br7; ip link set left up; \
         ip link set right up; ip link set br7 up; ip link add off address 52:54:00:07:00:03 type bridge",
    );
    let rows = |options: &str| -> Vec<String> {
        let list = host.virsh(&format!("iface-list {options}"));
        let rows = list.lines().skip(2).filter(|line| !line.trim().is_empty());
        rows.map(|row| row.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    };
    let right = host.in_namespace("cat /sys/class/net/right/address");
    let right = format!("right active {}", right.trim());
    let (bridge, lo) = ("br7 active 52:54:00:07:00:01", "lo active 00:00:00:00:00:00");
    let off = "off inactive 52:54:00:07:00:03";
    // The port is its bridge's, whose carrier the kernel notices a little later.
    wait_until("the bridge is up", || rows("") == [bridge, lo, &right]);
    assert_eq!(rows("--inactive"), [off]);
    assert_eq!(rows("--all"), [bridge, lo, off, &right]);
    assert_eq!(host.virsh("iface-mac br7").trim(), "52:54:00:07:00:01");
    assert_eq!(host.virsh("iface-name 52:54:00:07:00:03").trim(), "off");
    let xml = host.virsh("iface-dumpxml br7");
    assert!(xml.contains("<bridge stp='off' delay='4.000'>"), "{xml}");
    assert!(xml.contains("name='left'"), "{xml}");
    for name in ["br7", "right", "off", "lo"] {
        let file = host.xml("interface.xml", &host.virsh(&format!("iface-dumpxml {name}")));
        let schema = "/usr/share/libvirt/schemas/interface.rng";
        let checked = Command::new("xmllint")
            .args(["--noout", "--relaxng", schema, &file])
            .output();
        let checked = checked.expect("xmllint (package libxml2-utils) runs");
        assert!(checked.status.success(), "{name}: {checked:?}");
    }
    assert!(host.virsh("iface-dumpxml right").contains("state='up'"));
    for command in ["iface-dumpxml nothing", "iface-mac nothing"] {
        let said = host.refused(command);
        assert!(said.contains("Interface not found"), "{said}");
    }
    // What changes them is not virsh's.
    assert!(
        host.refused("iface-destroy off")
            .contains("not supported by the connection driver")
    );
    let device = host.virsh("nodedev-dumpxml net_off_52_54_00_07_00_03");
    assert!(device.contains("<interface>off</interface>"), "{device}");
}
