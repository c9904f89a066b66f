//! Where a guest's threads run, and what clients are told that guests can have.

use std::fs;

use crate::setup::{Host, linux};

#[test]
fn threads_run_where_they_are_pinned() {
    let host = Host::start();
    let pinned = linux("pinned", "").replace(
        "<os>",
        "<cputune><vcpupin vcpu='1' cpuset='0'/><emulatorpin cpuset='0'/></cputune><os>",
    );
    let file = host.xml("guest.xml", &pinned);
    host.virsh(&format!("define {file}"));
    assert!(host.virsh("emulatorpin pinned").contains("0\n"));
    host.virsh("start pinned");
    let allowed = || -> Vec<String> {
        let text = host.virsh("vcpuinfo pinned --pretty");
        let affinity = text.lines().filter_map(|line| line.strip_prefix("CPU Affinity:"));
        affinity.map(|list| list.trim().to_owned()).collect()
    };
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    let seen = allowed();
    assert!(seen[1].starts_with("0 ") || seen[1] == "0", "{seen:?}");
    host.virsh("vcpupin pinned 0 0 --live");
    assert!(
        allowed().iter().all(|list| list.starts_with("0 ") || list == "0"),
        "{:?}",
        allowed()
    );
    host.virsh(&format!("vcpupin pinned 1 {} --live --config", online.trim()));
    if online.trim() != "0" {
        assert!(!allowed()[1].starts_with("0 ("), "{:?}", allowed());
    }
    host.virsh("emulatorpin pinned 0 --config");
    let dump = host.virsh("dumpxml pinned --inactive");
    assert!(
        !dump.contains("<vcpupin") && dump.contains("<emulatorpin cpuset='0'/>"),
        "{dump}"
    );
    let live = host.virsh("dumpxml pinned");
    assert!(live.contains("<vcpupin vcpu='0' cpuset='0'/>"), "{live}");
    host.refused("vcpupin pinned 7 0 --live");
    host.virsh("destroy pinned");
    let impossible =
        linux("nowhere", "").replace("<os>", "<cputune><vcpupin vcpu='0' cpuset='1000'/></cputune><os>");
    let file = host.xml("nowhere.xml", &impossible);
    let said = host.refused(&format!("create {file}"));
    assert!(said.contains("1000"), "{said}");
    assert_eq!(host.virsh("list --all --name").trim(), "pinned");
}

#[test]
fn what_guests_can_have_is_told() {
    let host = Host::start();
    let told = host.virsh("domcapabilities --virttype qemu");
    for text in [
        "<domain>qemu</domain>",
        "<machine>ostler-q35-2</machine>",
        "<value>sata</value>",
        "<arch>x86_64</arch>",
    ] {
        assert!(told.contains(text), "{text}: {told}");
    }
    assert!(host.refused("domcapabilities --arch s390x").contains("s390x"));
    assert!(host.refused("domcapabilities --machine pc").contains("pc"));
    let told = host.virsh("capabilities");
    assert!(
        told.contains("<machine maxCpus=") && told.contains("canonical='ostler-q35-2'"),
        "{told}"
    );
    assert!(host.virsh("cpu-models x86_64").contains("x86-64-v2"));
}
