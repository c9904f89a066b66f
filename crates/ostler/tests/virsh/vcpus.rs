//! CPUs that come and go while a guest runs, and in its definition.

use std::fs;

use serde_json::json;

use crate::console::Console;
use crate::setup::{Host, field, linux, wait_until};
use crate::support::qmp::Qmp;

const PRESENT: &str = "cat /sys/devices/system/cpu/present";

/// A guest that starts with `now` of `most` CPUs.
fn guest(name: &str, now: u32, most: u32) -> String {
    let vcpu = format!("<vcpu current='{now}'>{most}</vcpu>");
    linux(name, "").replace("<vcpu>2</vcpu>", &vcpu)
}

/// How many CPUs there are, or may be.
fn count(host: &Host, options: &str) -> u32 {
    host.virsh(&format!("vcpucount wide {options}"))
        .trim()
        .parse()
        .unwrap()
}

/// Takes CPUs out. A guest may take longer to let them go than the call waits, which is an error then; they go nevertheless.
fn take_out(host: &Host, command: &str, left: u32) {
    let output = host.command(command).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() || said.contains("vcpu unplug request timed out"),
        "{command}: {said}"
    );
    wait_until("the CPUs are gone", || count(host, "--current --live") == left);
}

#[test]
fn cpus_come_and_go_while_the_guest_runs() {
    let mut host = Host::start();
    let pinned = guest("wide", 1, 4).replace("<os>", "<cputune><vcpupin vcpu='2' cpuset='0'/></cputune><os>");
    host.virsh(&format!("define {}", host.xml("wide.xml", &pinned)));
    host.virsh("start wide");
    let figures = host.virsh("vcpucount wide");
    let figures: Vec<Vec<&str>> = figures
        .lines()
        .map(|line| line.split_whitespace().collect())
        .filter(|words: &Vec<&str>| !words.is_empty())
        .collect();
    assert_eq!(
        figures,
        [
            ["maximum", "config", "4"],
            ["maximum", "live", "4"],
            ["current", "config", "1"],
            ["current", "live", "1"],
        ]
    );
    let mut console = Console::open(&host, "wide");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    assert_eq!(console.shell(PRESENT), "0");

    // Two more, which the guest works on. One has its pin.
    host.virsh("setvcpus wide 3 --live");
    console.shell_until(PRESENT, "0-2");
    let work = "for cpu in 1 2; do echo 1 >/sys/devices/system/cpu/cpu$cpu/online; done; \
        taskset 4 cat /proc/self/stat | cut -d' ' -f39";
    assert_eq!(console.shell(work), "2");
    let info = host.virsh("vcpuinfo wide --pretty");
    let numbers: Vec<&str> = info
        .lines()
        .filter_map(|line| line.strip_prefix("VCPU:"))
        .map(str::trim)
        .collect();
    assert_eq!(numbers, ["0", "1", "2"]);
    let mut affinity = info.lines().filter_map(|line| line.strip_prefix("CPU Affinity:"));
    let last = affinity.next_back().unwrap().trim();
    assert!(last == "0" || last.starts_with("0 "), "{info}");
    assert_eq!(field(&host.virsh("dominfo wide"), "CPU(s)"), "3");
    let stats = host.virsh("domstats wide --vcpu");
    for line in ["vcpu.current=3", "vcpu.maximum=4", "vcpu.2.state=1"] {
        assert!(stats.lines().any(|other| other.trim() == line), "{line}: {stats}");
    }
    assert!(!stats.contains("vcpu.3."), "{stats}");
    assert_eq!(count(&host, "--current --config"), 1);
    let dump = host.virsh("dumpxml wide");
    assert!(
        dump.contains("<vcpu current='3' placement='static'>4</vcpu>"),
        "{dump}"
    );

    // One out of the middle, and a daemon that is killed.
    take_out(&host, "setvcpu wide 1 --disable --live", 2);
    console.shell_until(PRESENT, "0,2");
    let stats = host.virsh("domstats wide --vcpu");
    assert!(
        stats.contains("vcpu.2.state=1") && !stats.contains("vcpu.1."),
        "{stats}"
    );
    drop(console);
    host.kill_and_restart();
    let mut console = Console::open(&host, "wide");
    let dump = host.virsh("dumpxml wide");
    assert!(
        dump.contains("<vcpu id='1' enabled='no'") && dump.contains("<vcpu id='2' enabled='yes'"),
        "{dump}"
    );
    host.virsh("setvcpu wide 3 --enable --live");
    console.shell_until(PRESENT, "0,2-3");

    // One goes while no daemon is there.
    drop(console);
    host.kill();
    let folder = fs::read_dir(host.path("run/guests")).unwrap().next().unwrap();
    let mut qmp = Qmp::connect(&folder.unwrap().path().join("control"));
    qmp.execute("device_del", json!({ "id": "vcpu3" }));
    qmp.event("DEVICE_DELETED");
    drop(qmp);
    host.start_again();
    assert_eq!(count(&host, "--current --live"), 2);
    take_out(&host, "setvcpus wide 1 --live", 1);
    let mut console = Console::open(&host, "wide");
    console.shell_until(PRESENT, "0");

    for (command, says) in [
        (
            "setvcpus wide 5 --live",
            "max allowable vcpus for the live domain",
        ),
        (
            "setvcpus wide 5 --config",
            "max allowable vcpus for the persistent domain",
        ),
        ("setvcpus wide 2 --maximum --config --live", "can't be modified"),
        ("setvcpus wide 1 --guest", "agent is not configured"),
        ("vcpucount wide --guest", "agent is not configured"),
        ("guestvcpus wide", "agent is not configured"),
        ("guestvcpus wide 1 --disable", "agent is not configured"),
        ("setvcpu wide 0 --disable --live", "always there"),
        ("setvcpu wide 3 --disable --live", "already in requested state"),
        ("setvcpu wide 4 --enable --live", "beyond"),
    ] {
        let said = host.refused(command);
        assert!(said.contains(says), "{command}: {said}");
    }
    assert_eq!(count(&host, "--current --live"), 1);
    host.virsh("destroy wide");
}

#[test]
fn a_definition_says_which_cpus_there_are_at_the_start() {
    let host = Host::start();
    host.virsh(&format!("define {}", host.xml("wide.xml", &guest("wide", 1, 4))));
    host.virsh("setvcpu wide 2 --enable --config");
    assert_eq!(count(&host, "--current --config"), 2);
    let dump = host.virsh("dumpxml wide");
    assert!(dump.contains("<vcpu id='2' enabled='yes'"), "{dump}");
    // The dump defines the same guest.
    host.virsh(&format!("define {}", host.xml("again.xml", &dump)));
    assert_eq!(host.virsh("dumpxml wide"), dump);
    host.virsh("start wide");
    assert_eq!(count(&host, "--current --live"), 2);
    let stats = host.virsh("domstats wide --vcpu");
    assert!(
        stats.contains("vcpu.2.state=1") && !stats.contains("vcpu.1."),
        "{stats}"
    );
    let mut console = Console::open(&host, "wide");
    console.expect("# ");
    // Linux numbers CPUs as it sees them.
    console.shell_until(PRESENT, "0-1");
    // Fewer CPUs at most: those beyond are gone from the definition, not from the guest.
    host.virsh("setvcpus wide 2 --maximum --config");
    assert_eq!(
        (
            count(&host, "--current --config"),
            count(&host, "--current --live")
        ),
        (1, 2)
    );
    host.virsh("destroy wide");
    // A guest that starts with all that it may have keeps them.
    host.virsh(&format!(
        "create {}",
        host.xml("solid.xml", &guest("solid", 2, 2))
    ));
    let said = host.refused("setvcpus solid 1 --live");
    assert!(said.contains("the CPUs of this guest stay"), "{said}");
    host.virsh("destroy solid");
}
