//! Devices of the host, its firmware and its pages, against what /sys says.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::setup::{Host, Listener, field, wait_until};

fn names(host: &Host, arguments: &str) -> BTreeSet<String> {
    let text = host.virsh(&format!("nodedev-list {arguments}"));
    text.split_whitespace().map(str::to_owned).collect()
}

fn entries(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

#[test]
fn devices_are_those_that_the_kernel_shows() {
    let host = Host::start();
    let pci: BTreeSet<String> = entries("/sys/bus/pci/devices")
        .iter()
        .map(|address| format!("pci_{}", address.replace([':', '.'], "_")))
        .collect();
    assert_eq!(names(&host, "--cap pci"), pci);
    assert_eq!(
        names(&host, "--cap usb_device,usb").len(),
        entries("/sys/bus/usb/devices").len()
    );
    let net = names(&host, "--cap net");
    let interfaces = entries("/sys/class/net");
    for interface in &interfaces {
        let folder = Path::new("/sys/class/net").join(interface);
        // A file beside the interfaces, where bonding is loaded.
        if folder.is_dir() {
            let address = fs::read_to_string(folder.join("address")).unwrap();
            let name = format!("net_{interface}_{}", address.trim()).replace([':', '-', '.'], "_");
            assert!(net.contains(&name), "{name} in {net:?}");
        }
    }
    assert_eq!(
        names(&host, "--cap system"),
        BTreeSet::from(["computer".to_owned()])
    );
    for name in names(&host, "--cap storage") {
        let xml = host.virsh(&format!("nodedev-dumpxml {name}"));
        let block = xml
            .split("<block>/dev/")
            .nth(1)
            .unwrap()
            .split('<')
            .next()
            .unwrap();
        let sectors = fs::read_to_string(format!("/sys/block/{block}/size")).unwrap();
        let size = sectors.trim().parse::<u64>().unwrap() * 512;
        assert!(xml.contains(&format!("<size>{size}</size>")), "{xml}");
    }
    let all = names(&host, "");
    assert!(pci.is_subset(&all) && net.is_subset(&all) && all.contains("computer"));
    assert!(host.virsh("nodedev-list --tree").starts_with("computer\n"));
    assert!(names(&host, "--inactive").is_empty());
    let said = host.refused("nodedev-dumpxml pci_ffff_ff_1f_7");
    assert!(said.contains("no node device with matching name"), "{said}");
    let info = host.virsh("nodedev-info computer");
    assert_eq!(field(&info, "Active"), "yes");
    for command in ["nodedev-detach computer", "nodedev-reset computer"] {
        host.refused(command);
    }
}

#[test]
fn what_is_told_of_devices_is_valid_by_libvirts_schema() {
    let host = Host::start();
    let schema = Path::new("/usr/share/libvirt/schemas/nodedev.rng");
    if !schema.exists() {
        println!("SKIPPED what_is_told_of_devices_is_valid_by_libvirts_schema: it needs libvirt0");
        return;
    }
    for name in names(&host, "") {
        let file = host.xml("device.xml", &host.virsh(&format!("nodedev-dumpxml {name}")));
        let output = Command::new("xmllint")
            .arg("--noout")
            .arg("--relaxng")
            .arg(schema)
            .arg(&file)
            .output()
            .expect("xmllint (package libxml2-utils) runs");
        assert!(
            output.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn listeners_hear_of_devices_that_come_and_go() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED listeners_hear_of_devices_that_come_and_go: a network namespace needs root");
        return;
    }
    let host = Host::start_in_namespace("mount -t sysfs sysfs /sys; ip link set lo up");
    // Something that comes with one call and goes with the next. The daemon looks again a moment after the kernel's word, so what
    // lives for less is not told.
    let poke = || {
        host.in_namespace("ip link del poke 2>/dev/null || ip link add poke type bridge");
        std::thread::sleep(Duration::from_millis(300));
    };
    let listener = Listener::start(&host, "nodedev-event --event lifecycle --loop", poke);
    host.in_namespace("ip link add br9 address 52:54:00:07:00:09 type bridge");
    let told = |what: &str| format!("event 'lifecycle' for node device net_br9_52_54_00_07_00_09: {what}");
    listener.until(&told("Created"));
    assert!(
        host.virsh("nodedev-list --cap net")
            .contains("net_br9_52_54_00_07_00_09")
    );
    host.in_namespace("ip link del br9");
    listener.until(&told("Deleted"));
}

#[test]
fn the_firmware_and_pages() {
    let host = Host::start();
    match fs::read_to_string("/sys/class/dmi/id/sys_vendor") {
        Ok(vendor) => assert!(host.virsh("sysinfo").contains(vendor.trim())),
        Err(_) => {
            let said = host.refused("sysinfo");
            assert!(said.contains("SMBIOS information is not available"), "{said}");
        }
    }
    let kib = rustix::param::page_size() / 1024;
    let free = host.virsh(&format!("freepages --cellno 0 --pagesize {kib}"));
    let free: u64 = field(&free, &format!("{kib}KiB")).parse().unwrap();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let total: u64 = field(&meminfo, "MemTotal")
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    assert!(0 < free && free < total / kib as u64, "{free}");
    // Another test may take huge pages meanwhile.
    for folder in entries("/sys/devices/system/node/node0/hugepages") {
        let size = folder.trim_start_matches("hugepages-").trim_end_matches("kB");
        let file = format!("/sys/devices/system/node/node0/hugepages/{folder}/free_hugepages");
        wait_until("what is told is what the kernel says", || {
            let free = host.virsh(&format!("freepages --cellno 0 --pagesize {size}"));
            field(&free, &format!("{size}KiB")) == fs::read_to_string(&file).unwrap().trim()
        });
    }
    let all = host.virsh("freepages --all");
    assert!(all.contains("Node 0:"), "{all}");
    assert!(
        host.refused("freepages --cellno 0 --pagesize 5")
            .contains("no pages of 5 KiB")
    );
    assert!(
        host.refused(&format!("freepages --cellno 99 --pagesize {kib}"))
            .contains("no NUMA node 99")
    );
    // The system's own pages are nobody's to allocate.
    assert!(
        host.refused(&format!("allocpages {kib} 1"))
            .contains("no pages of")
    );
    let said = host.refused("nodesuspend mem 60");
    assert!(said.contains("the host is not suspended by clients"), "{said}");
}
