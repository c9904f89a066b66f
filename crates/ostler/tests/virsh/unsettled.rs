//! A daemon that is killed after a guest's process runs and before the guest has all that its definition asks for: the next daemon gives
//! it the rest.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::json;

use crate::console::Console;
use crate::setup::{Host, field, linux_with, wait_until};
use crate::support::qmp::Qmp;

/// Most starts until one is caught in the middle.
const TRIES: u32 = 100;

/// What comes after the start of the process: a cable that is out, less memory, statistics of it, pins, and CPUs behind a gap.
fn guest(host: &Host) -> String {
    let devices = "<interface type='user'><mac address='52:54:00:00:00:0a'/><link state='down'/></interface>\
         <memballoon model='virtio'><stats period='2'/></memballoon>";
    let script = "insmod /virtio_balloon.ko\ncd /root\nsetsid cttyhack sh -l\n";
    let vcpus: String = (0..4)
        .map(|id| {
            let enabled = if id == 1 { "no" } else { "yes" };
            format!(
                "<vcpu id='{id}' enabled='{enabled}' hotpluggable='{}'/>",
                if id == 0 { "no" } else { "yes" }
            )
        })
        .collect();
    linux_with(host, "late", devices, script, &["virtio_balloon"])
        .replace(
            "<memory unit='MiB'>256</memory>",
            "<memory unit='MiB'>256</memory><currentMemory unit='MiB'>192</currentMemory>",
        )
        .replace(
            "<vcpu>2</vcpu>",
            &format!(
                "<vcpu current='3'>4</vcpu><vcpus>{vcpus}</vcpus><cputune><vcpupin vcpu='0' cpuset='0'/>\
                 <vcpupin vcpu='3' cpuset='0'/><emulatorpin cpuset='0'/></cputune>"
            ),
        )
}

/// The control socket of the only guest, once somebody answers there; none if the guest has come to nothing.
fn answering(host: &Host) -> Option<PathBuf> {
    let mut found = None;
    wait_until("the guest's process answers", || {
        let entries = std::fs::read_dir(host.path("run/guests")).unwrap().flatten();
        let Some(path) = entries.map(|entry| entry.path().join("control")).next() else {
            return false;
        };
        let Ok(stream) = UnixStream::connect(&path) else {
            return false;
        };
        let mut greeting = String::new();
        let read = BufReader::new(stream).read_line(&mut greeting);
        found = Some(path).filter(|_| read.is_ok_and(|length| length > 0));
        true
    });
    found
}

/// The CPUs that the guest's process has, with the host's CPUs that each may run on.
fn threads(qmp: &mut Qmp) -> Vec<(u64, String)> {
    let cpus = qmp.execute("query-cpus-fast", json!({}));
    let allowed = |thread: u64| {
        let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap();
        field(&status, "Cpus_allowed_list").to_owned()
    };
    let cpu = |cpu: &serde_json::Value| {
        (
            cpu["cpu-index"].as_u64().unwrap(),
            allowed(cpu["thread-id"].as_u64().unwrap()),
        )
    };
    cpus.as_array().unwrap().iter().map(cpu).collect()
}

/// Starts the guest, and kills the daemon in the middle of that. False if the guest had come to nothing or had everything.
fn catch_in_the_middle(host: &mut Host) -> bool {
    let mut start = host.command("start late");
    let mut virsh = start.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let control = answering(host);
    // What it is doing is not done further; the guest's process goes on.
    host.hold();
    let Some(control) = control else {
        host.kill();
        virsh.wait().unwrap();
        return false;
    };
    let mut qmp = Qmp::connect(&control);
    wait_until("the guest runs", || {
        qmp.execute("query-status", json!({}))["running"] == true
    });
    host.kill();
    let answered = virsh.wait().unwrap().success();
    let there = threads(&mut qmp);
    let is_unfinished = there.iter().map(|(cpu, _)| *cpu).collect::<Vec<_>>() == [0];
    assert!(!(answered && is_unfinished), "{there:?}");
    is_unfinished
}

#[test]
fn what_a_killed_daemon_owed_a_guest_is_given_by_the_next() {
    let mut host = Host::start();
    let file = host.xml("late.xml", &guest(&host));
    host.virsh(&format!("define {file}"));
    let mut tries = 1;
    while !catch_in_the_middle(&mut host) {
        assert!(tries < TRIES, "no start was caught in the middle");
        tries += 1;
        host.start_again();
        // One that was killed too early may have left nothing.
        let _ = host.run("destroy late");
        host.wait_for_state("late", "shut off");
    }
    eprintln!("caught in the middle of start {tries}");
    host.start_again();
    assert_eq!(host.virsh("domstate late").trim(), "running");
    let folder = std::fs::read_dir(host.path("run/guests"))
        .unwrap()
        .next()
        .unwrap();
    let folder = folder.unwrap().path();
    assert!(!folder.join("unsettled").exists());
    let mut qmp = Qmp::connect(&folder.join("control"));
    let there = threads(&mut qmp);
    let numbers: Vec<u64> = there.iter().map(|(cpu, _)| *cpu).collect();
    assert_eq!(numbers, [0, 2, 3]);
    assert_eq!((&*there[0].1, &*there[2].1), ("0", "0"));
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    assert_eq!(there[1].1 == "0", online.trim() == "0", "{there:?}");
    let period = json!({ "path": "/machine/peripheral/balloon", "property": "guest-stats-polling-interval" });
    assert_eq!(qmp.execute("qom-get", period), 2);
    drop(qmp);
    let dump = host.virsh("dumpxml late");
    assert!(
        dump.contains("<vcpu id='1' enabled='no'") && dump.contains("<vcpu id='3' enabled='yes'"),
        "{dump}"
    );
    let mut console = Console::open(&host, "late");
    console.expect("# ");
    console.shell("ip link set eth0 up");
    console.shell_until("cat /sys/class/net/eth0/carrier", "0");
    // Linux numbers CPUs as it sees them.
    console.shell_until("cat /sys/devices/system/cpu/present", "0-2");
    wait_until("the balloon is as the definition has it", || {
        field(&host.virsh("dominfo late"), "Used memory") == "196608 KiB"
    });
    // What is changed from now on is not undone by the next one.
    drop(console);
    host.virsh("setmem late 229376 --live");
    host.virsh("domif-setlink late 52:54:00:00:00:0a up");
    host.kill_and_restart();
    let mut console = Console::open(&host, "late");
    console.expect("# ");
    console.shell_until("cat /sys/class/net/eth0/carrier", "1");
    wait_until("the balloon is as it was asked to be", || {
        field(&host.virsh("dominfo late"), "Used memory") == "229376 KiB"
    });
    host.virsh("destroy late");
}
