//! Limits that guests have or have not, what is counted of them, and what their disks have failed at.

use std::fs;
use std::path::Path;

use crate::console::Console;
use crate::setup::{Host, field, linux, wait_until};

/// Words before and after a colon, line by line.
fn table(text: &str) -> Vec<(String, String)> {
    let rows = text.lines().filter_map(|line| line.split_once(':'));
    rows.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    let pair = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    all.iter().map(pair).collect()
}

#[test]
fn limits_are_shown_as_they_are() {
    let host = Host::start_configured("groups = \"\"\n");
    let devices = "<disk type='file' device='disk'><source file='/d'/><target dev='vda'/>\
         <iotune><total_bytes_sec>1000000</total_bytes_sec><read_iops_sec>0</read_iops_sec></iotune></disk>\
         <interface type='user'><mac address='52:54:00:77:01:01'/>\
         <bandwidth><inbound average='1000' peak='5000' burst='1024'/><outbound average='128'/></bandwidth></interface>";
    let shares = "<cputune><shares>2048</shares></cputune><os>";
    let alpha = linux("alpha", devices).replace("<os>", shares);
    host.virsh(&format!("define {}", host.xml("a.xml", &alpha)));
    host.virsh(&format!(
        "create {} --paused",
        host.xml("b.xml", &linux("beta", ""))
    ));
    for guest in ["alpha", "beta"] {
        let none = ["hard_limit", "soft_limit", "swap_hard_limit"].map(|name| (name, "unlimited"));
        assert_eq!(table(&host.virsh(&format!("memtune {guest}"))), pairs(&none));
        let weights = host.virsh(&format!("blkiotune {guest}"));
        assert_eq!(field(&weights, "weight"), "0");
        assert_eq!(field(&weights, "device_weight"), "");
        let nodes = table(&host.virsh(&format!("numatune {guest}")));
        assert_eq!(nodes, pairs(&[("numa_mode", "strict"), ("numa_nodeset", "")]));
        let scheduler = host.virsh(&format!("schedinfo {guest}"));
        assert_eq!(field(&scheduler, "Scheduler"), "posix");
        let shares = if guest == "alpha" { "2048" } else { "0" };
        assert_eq!(
            (field(&scheduler, "cpu_shares"), field(&scheduler, "vcpu_quota")),
            (shares, "0")
        );
        let events = host.virsh(&format!("perf {guest}"));
        assert!(
            events.lines().filter(|line| line.ends_with(": disabled")).count() > 20,
            "{events}"
        );
        assert!(!events.contains("enabled"), "{events}");
        let threads = host.virsh(&format!("iothreadinfo {guest}"));
        assert!(threads.contains("No IOThreads found"), "{threads}");
        assert!(
            host.refused(&format!("numatune {guest} --mode preferred"))
                .contains("cannot be bound")
        );
    }
    // A daemon that makes no control groups limits nothing.
    for setter in [
        "memtune beta 1000",
        "blkiotune beta --weight 500",
        "schedinfo beta --set cpu_shares=7",
    ] {
        let said = host.refused(setter);
        assert!(said.contains("makes no control groups"), "{setter}: {said}");
    }
    let limited = linux("gamma", "").replace("<os>", shares);
    let said = host.refused(&format!("create {}", host.xml("c.xml", &limited)));
    assert!(said.contains("limits of 'cpu' cannot be set"), "{said}");
    assert!(host.refused("memtune alpha --live").contains("not running"));
    assert!(host.refused("memtune beta --config").contains("persistent"));

    // A card's and a disk's are in the definition.
    let card = table(&host.virsh("domiftune alpha 52:54:00:77:01:01"));
    let wanted = [
        ("inbound.average", "1000"),
        ("inbound.peak", "5000"),
        ("inbound.burst", "1024"),
        ("outbound.average", "128"),
        ("outbound.peak", "0"),
        ("outbound.burst", "0"),
    ];
    assert_eq!(card, pairs(&wanted));
    assert!(
        host.refused("domiftune alpha 52:54:00:77:01:02")
            .contains("no interface")
    );
    let disk = host.virsh("blkdeviotune alpha vda");
    assert_eq!(field(&disk, "total_bytes_sec"), "1000000");
    assert_eq!(field(&disk, "write_iops_sec_max_length"), "0");
    assert!(host.refused("blkdeviotune alpha vdb").contains("vdb"));
    host.virsh("destroy beta");
}

#[test]
fn the_most_cpus_and_the_security_model() {
    let host = Host::start();
    let most: u32 = host.virsh("maxvcpus").trim().parse().unwrap();
    assert!(host.virsh("capabilities").contains(&format!("maxCpus='{most}'")));
    for (count, fits) in [(most, true), (most + 1, false)] {
        let xml = linux("wide", "").replace(">2</vcpu>", &format!(">{count}</vcpu>"));
        let output = host
            .command(&format!("define {}", host.xml("wide.xml", &xml)))
            .output();
        assert_eq!(output.unwrap().status.success(), fits, "{count}");
    }
    let info = host.virsh("dominfo wide");
    assert_eq!(
        (field(&info, "Security model"), field(&info, "Security DOI")),
        ("none", "0")
    );
    // Nothing was saved that would have to be removed.
    let said = host.virsh("managedsave-remove wide");
    assert!(said.contains("no manage"), "{said}");
}

#[test]
fn equal_pages_of_the_host_are_counted_by_its_kernel() {
    let host = Host::start();
    let folder = Path::new("/sys/kernel/mm/ksm");
    if !folder.exists() {
        let said = host.refused("node-memory-tune");
        assert!(said.contains("does not tell"), "{said}");
        return;
    }
    let shown = host.virsh("node-memory-tune");
    for file in ["pages_to_scan", "sleep_millisecs", "merge_across_nodes"] {
        let value = fs::read_to_string(folder.join(file)).unwrap();
        let name = format!("shm_{file}");
        let row = shown.lines().find_map(|line| line.trim().strip_prefix(&name));
        assert_eq!(row.map(str::trim), Some(value.trim()), "{shown}");
    }
}

#[test]
fn a_disk_that_failed_is_named() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED a_disk_that_failed_is_named: a full file system needs root for a mount namespace");
        return;
    }
    let host = Host::start_in_namespace(":");
    let folder = host.path("small");
    let folder = folder.display();
    // A file system with less room than the disk that is on it.
    host.in_namespace(&format!(
        "mkdir {folder} && mount -t tmpfs -o size=256k none {folder} && truncate -s 8M {folder}/disk.img"
    ));
    let disk = format!(
        "<disk type='file' device='disk'><source file='{folder}/disk.img'/><target dev='vda' bus='virtio'/></disk>"
    );
    host.virsh(&format!("create {}", host.xml("full.xml", &linux("full", &disk))));
    assert!(host.virsh("domblkerror full").contains("No errors found"));
    let mut console = Console::open(&host, "full");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    console.type_in("dd if=/dev/zero of=/dev/vda bs=64k count=32; sync; echo DO''NE\n");
    console.expect("DONE");
    wait_until("the error is told", || {
        host.virsh("domblkerror full").contains("vda: unspecified error")
    });
    host.virsh("destroy full");
    assert!(host.refused("domblkerror full").contains("failed to get domain"));
}
