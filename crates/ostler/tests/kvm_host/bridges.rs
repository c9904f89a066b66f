//! What this machine's kernel may lack: the VLANs of the kernel's bridge, Open vSwitch's data path in the kernel, and vhost-net at both,
//! in hosts made in software with three Linux guests on KVM.

use std::path::{Path, PathBuf};
use std::process::Command;

use ostler_guest_image::{SoftwareHost, overlay, shared_libraries_in};
use serde_json::Value;

use super::support::lan::vlan_modules;
use super::support::{OSTLER, guest_folder};
use super::{Boot, LIMIT, tiny_kernel};

/// Where `./test` unpacks Debian's Open vSwitch.
fn open_vswitch() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/open-vswitch/root");
    root.join("usr/sbin/ovsdb-server").exists().then_some(root)
}

/// Adds Open vSwitch's programs with their libraries and an empty database, below `ovs`.
fn with_open_vswitch(mut host: SoftwareHost, root: &Path) -> SoftwareHost {
    let folders = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|folder| root.join(folder));
    let mut known = Vec::new();
    for program in [
        "usr/sbin/ovsdb-server",
        "usr/lib/openvswitch-switch/ovs-vswitchd",
        "usr/bin/ovs-vsctl",
    ] {
        let program = root.join(program);
        for library in shared_libraries_in(&program, &folders).unwrap() {
            if !known.contains(&library) {
                let name = library.file_name().unwrap().to_str().unwrap();
                host = host.file(&format!("ovs/lib/{name}"), &library).unwrap();
                known.push(library);
            }
        }
        let name = program.file_name().unwrap().to_str().unwrap();
        host = host.file(&format!("ovs/{name}"), &program).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let schema = root.join("usr/share/openvswitch/vswitch.ovsschema");
    let made = Command::new(root.join("usr/bin/ovsdb-tool"))
        .env("LD_LIBRARY_PATH", std::env::join_paths(&folders).unwrap())
        .env("OVS_RUNDIR", folder.path())
        .arg("create")
        .args([&folder.path().join("conf.db"), &schema])
        .status()
        .unwrap();
    assert!(made.success());
    host.file("ovs/conf.db", &folder.path().join("conf.db"))
        .and_then(|host| host.file("ovs/vswitch.ovsschema", &schema))
        .unwrap()
}

/// What three guests at a bridge found.
fn assert_three_guests(boot: &Boot) {
    for (word, received) in [("PING ", 3), ("APART ", 0), ("TO-FIRST ", 3), ("TO-SECOND ", 3)] {
        let begin = format!("3 packets transmitted, {received} packets received");
        assert!(boot.line(word).starts_with(&begin), "{}", boot.0);
    }
    assert_eq!(boot.line("SENT "), boot.line("ARRIVED "));
    assert_eq!(boot.line("CARD-ERRORS "), "0");
    // The kernel moves the frames of all guests.
    assert_eq!(boot.line("THREADS "), "3", "{}", boot.0);
    let bridge: Value = serde_json::from_str(boot.line("BRIDGE ")).unwrap();
    let vlans = |name: &str| -> Value {
        let mut ports = bridge["ports"].as_array().unwrap().iter();
        ports.find(|port| port["name"] == name).unwrap()["vlans"].clone()
    };
    assert_eq!(vlans("tap1")["pvid"], 10);
    assert_eq!(vlans("tap2")["pvid"], 20);
    assert_eq!(vlans("tap3")["tagged"], "10,20");
}

/// The host with what three guests need, but for the bridge; `None` if this machine cannot make it.
fn host(test: &str) -> Option<SoftwareHost> {
    if !SoftwareHost::is_possible() {
        eprintln!("SKIPPED {test}: qemu-system-x86_64 is not installed");
        return None;
    }
    let Some(modules) = vlan_modules() else {
        eprintln!("SKIPPED {test}: needs the modules of Debian's guest kernel under target/guest");
        return None;
    };
    let folder = guest_folder();
    let mut initrd = std::fs::read(folder.join("initrd.img")).unwrap();
    let modules: Vec<(&str, &[u8])> = modules
        .iter()
        .map(|(name, bytes)| (&name[..], &bytes[..]))
        .collect();
    initrd.extend(overlay(include_str!("three-guests.sh"), &modules));
    let host = SoftwareHost::new(&folder.join("root"))
        .program("bin/ostler", OSTLER.as_ref())
        .and_then(|host| host.file("guest/vmlinuz", &folder.join("vmlinuz")))
        .unwrap();
    Some(
        host.contents("guest/initrd.img", initrd)
            .contents("guest/tiny", tiny_kernel()),
    )
}

/// Runs the host with a bridge that `script` makes. Returns what its console showed.
fn run(host: SoftwareHost, script: &str) -> String {
    let script = format!("{}{script}", include_str!("bridges.sh"));
    let console = host.run(&script, LIMIT).unwrap();
    println!("{console}");
    assert!(!console.contains("FAILED "), "{console}");
    assert_three_guests(&Boot::find(&console, "bridge"));
    console
}

#[test]
fn three_guests_at_a_bridge_with_vlans_in_a_host_made_in_software() {
    let Some(host) = host("three_guests_at_a_bridge_with_vlans_in_a_host_made_in_software") else {
        return;
    };
    run(host.modules(&["bridge"]), include_str!("kernel-bridge.sh"));
}

#[test]
fn three_guests_at_open_vswitch_in_a_host_made_in_software() {
    const NAME: &str = "three_guests_at_open_vswitch_in_a_host_made_in_software";
    let Some(root) = open_vswitch() else {
        eprintln!("SKIPPED {NAME}: needs Debian's Open vSwitch in target/open-vswitch, which ./test fetches");
        return;
    };
    let Some(host) = host(NAME) else {
        return;
    };
    let host = with_open_vswitch(host.modules(&["openvswitch"]), &root);
    let console = run(host, include_str!("open-vswitch.sh"));
    assert!(console.contains("\nDATA-PATH kernel\n"), "{console}");
}
