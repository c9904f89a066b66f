//! The connection, and what the host is.

use std::fs;

use crate::setup::{Host, field, linux};

#[test]
fn every_way_to_connect_works() {
    let host = Host::start();
    let name = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    assert_eq!(host.virsh("hostname").trim(), name);
    for mode in ["legacy", "direct", "auto"] {
        let query = format!("socket={}&mode={mode}", host.path("sock").display());
        let output = host.command_at(&query, "hostname").output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), name, "{mode}");
    }
    assert!(host.virsh("uri").starts_with("qemu+unix:///system"));
    let version = host.virsh("version --daemon");
    assert!(version.contains("Running hypervisor: QEMU 7.2.0\n"), "{version}");
    assert!(version.contains("Running against daemon: 9.0.0\n"), "{version}");
    // Pings each second, of which two may be lost, over a command that lasts.
    let kept = host
        .command("-k 1 -K 2 event --event lifecycle --timeout 4")
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&kept.stdout).contains("event loop timed out"),
        "{kept:?}"
    );
    let wrong = format!("socket={}", host.path("nothing").display());
    assert!(
        !host
            .command_at(&wrong, "hostname")
            .output()
            .unwrap()
            .status
            .success()
    );
}

#[test]
fn the_host_is_what_its_kernel_says() {
    let host = Host::start();
    let info = host.virsh("nodeinfo");
    let cpus = std::thread::available_parallelism().unwrap().get().to_string();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let total = field(&meminfo, "MemTotal").replace(" kB", " KiB");
    assert_eq!(field(&info, "Memory size"), total);
    assert_eq!(field(&info, "CPU model"), "x86_64");
    let map = host.virsh("nodecpumap");
    assert_eq!(field(&map, "CPUs online"), field(&info, "CPU(s)"));
    // Whoever runs this may be kept to fewer CPUs than there are.
    assert!(field(&info, "CPU(s)").parse::<u32>().unwrap() >= cpus.parse().unwrap());
    assert_eq!(field(&host.virsh("nodememstats"), "total"), total);
    let idle = |text: String| field(&text, "idle").parse::<u64>().unwrap();
    let (before, after) = (idle(host.virsh("nodecpustats")), idle(host.virsh("nodecpustats")));
    assert!(before > 0 && after >= before);
    assert!(host.virsh("freecell").contains("KiB"));
    let free = host.virsh("freecell --all");
    let free: u64 = field(&free, "Total").trim_end_matches(" KiB").parse().unwrap();
    let total: u64 = total.trim_end_matches(" KiB").parse().unwrap();
    assert!(0 < free && free < total, "{free} of {total}");
    let capabilities = host.virsh("capabilities");
    assert!(capabilities.contains("<domain type='qemu'/>"), "{capabilities}");
    assert_eq!(host.virsh("list --all --name").trim(), "");
}

#[test]
fn what_is_not_there_is_told_as_such() {
    let host = Host::start();
    let unsupported = "this function is not supported by the connection driver";
    host.virsh(&format!("define {}", host.xml("web.xml", &linux("web", ""))));
    host.virsh("start web --paused");
    let port = host.xml(
        "port.xml",
        "<networkport><owner><name>web</name></owner></networkport>",
    );
    let interface = host.xml("if.xml", "<interface type='bridge' name='br7'/>");
    let snapshot = host.xml("snapshot.xml", "<domainsnapshot/>");
    for command in [
        "nwfilter-list",
        "nwfilter-binding-list",
        "save web /nowhere",
        "managedsave web",
        "dump web /nowhere",
        &format!("snapshot-create web {snapshot}"),
        &format!("net-port-create default {port}"),
        &format!("iface-define {interface}"),
        "iface-destroy lo",
    ] {
        let said = host.refused(command);
        assert!(said.contains(unsupported), "{command}: {said}");
    }
    host.virsh("destroy web");
    for command in ["net-define", "pool-define"] {
        let said = host.refused(&format!("{command} {port} --validate"));
        assert!(said.contains("leave --validate out"), "{said}");
    }
    let said = host.refused("start nobody");
    assert!(said.contains("failed to get domain 'nobody'"), "{said}");
    let said = host.refused("-r create /dev/null");
    assert!(said.contains("read only access prevents"), "{said}");
}
