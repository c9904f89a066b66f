//! Guests: Linux on the software CPU, started, watched and ended by virsh.

use std::fs;

use crate::console::Console;
use crate::setup::{Host, Listener, field, linux, wait_until};

/// The guest's process, by its name in a listing.
pub fn process_of(name: &str) -> u32 {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.ends_with(&format!("vmm\0--\0{name}\0")))
        })
        .unwrap_or_else(|| panic!("no process of {name}"))
}

#[test]
fn linux_starts_outlives_the_daemon_and_shuts_down() {
    let mut host = Host::start();
    let disk = host.path("disk.img");
    fs::write(&disk, vec![0; 4 << 20]).unwrap();
    let device = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/><target dev='vda' bus='virtio'/></disk>",
        disk.display()
    );
    // A name that no other test has: the guest's process is found by it.
    let name = format!("long-lived-{}", std::process::id());
    let file = host.xml("guest.xml", &linux(&name, &device));
    host.virsh(&format!("define {file}"));
    // With its UUID, so that it can be defined again.
    let file = host.xml("guest.xml", &host.virsh(&format!("dumpxml {name}")));
    let define = || {
        host.virsh(&format!("define {file}"));
    };
    let events = Listener::start(&host, "event --all --loop --timeout 3600", define);
    assert!(host.virsh(&format!("start {name}")).contains("started"));
    assert_eq!(host.virsh("list --name").trim(), name);
    assert_eq!(host.virsh(&format!("domid {name}")).trim(), "1");
    assert!(
        host.virsh(&format!("dumpxml {name}"))
            .starts_with("<domain type='qemu' id='1'>")
    );
    assert!(host.refused(&format!("start {name}")).contains("already active"));
    let pid = process_of(&name);

    let mut console = Console::open(&host, &name);
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    console.type_in(
        "echo type''d; nproc; dd if=/dev/vda of=/dev/null bs=64k count=8 2>/dev/null; echo read''y\n",
    );
    console.expect("typed\n2\nready\n");
    // One at a time, unless it is taken by force.
    Console::open(&host, &name).expect("Active console session exists");

    let counted = host.virsh(&format!("domblkstat {name} vda"));
    let read: u64 = field(&counted.replace("vda rd_bytes ", "rd_bytes:"), "rd_bytes")
        .parse()
        .unwrap();
    assert!(read >= 512 << 10, "{counted}");
    let stats = host.virsh(&format!("domstats {name}"));
    for line in [
        "state.state=1",
        "vcpu.current=2",
        "block.count=1",
        "block.0.name=vda",
        "block.0.capacity=4194304",
    ] {
        assert!(stats.contains(&format!("  {line}\n")), "{line}: {stats}");
    }
    // CPU time is that of the process, give or take what passes between two looks.
    let seconds = || -> f64 {
        let text = host.virsh(&format!("dominfo {name}"));
        field(&text, "CPU time").trim_end_matches('s').parse().unwrap()
    };
    let (before, theirs, after) = (seconds(), crate::support::process::cpu_seconds(pid), seconds());
    assert!(
        before <= theirs + 0.1 && theirs <= after + 0.1 && before > 0.0,
        "{before} {theirs} {after}"
    );
    let vcpus = host.virsh(&format!("vcpuinfo {name}"));
    assert_eq!(vcpus.matches("State:          running").count(), 2, "{vcpus}");
    assert!(
        host.virsh(&format!("cpu-stats {name} --total"))
            .contains("cpu_time")
    );
    assert!(
        host.virsh(&format!("dommemstat {name}"))
            .contains("actual 262144")
    );
    console.leave();

    // The daemon dies; the guest does not, nor what it says.
    host.virsh(&format!("suspend {name}"));
    assert_eq!(
        host.virsh(&format!("domstate {name} --reason")).trim(),
        "paused (user)"
    );
    let told = events.until("Suspended Paused");
    let told: Vec<_> = told
        .iter()
        .filter(|line| *line != "Defined Updated" && !line.ends_with("KiB"))
        .collect();
    assert_eq!(told, ["Resumed Unpaused", "Started Booted", "Suspended Paused"]);
    drop(events);
    host.kill_and_restart();
    assert_eq!(process_of(&name), pid);
    assert_eq!(host.virsh(&format!("domstate {name}")).trim(), "paused");
    assert_eq!(host.virsh(&format!("domid {name}")).trim(), "1");
    host.virsh(&format!("resume {name}"));
    assert_eq!(host.virsh(&format!("domstate {name}")).trim(), "running");
    let mut console = Console::open(&host, &name);
    // What was there before, from the guest's own process.
    console.expect("typed\n2\nready\n");
    console.type_in("echo still''here\n");
    console.expect("stillhere\n");
    let pause = || {
        host.virsh(&format!("suspend {name}"));
        host.virsh(&format!("resume {name}"));
    };
    let events = Listener::start(
        &host,
        &format!("event --event lifecycle --domain {name} --loop --timeout 3600"),
        pause,
    );
    host.virsh(&format!("shutdown {name}"));
    host.wait_for_state(&name, "shut off");
    console.wait();
    assert_eq!(
        host.virsh(&format!("domstate {name} --reason")).trim(),
        "shut off (shutdown)"
    );
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists() || is_zombie(pid));
    assert_eq!(fs::read_dir(host.path("run/guests")).unwrap().count(), 0);
    let told = events.until("Stopped Shutdown");
    let last: Vec<_> = told
        .iter()
        .filter(|line| *line != "Suspended Paused" && *line != "Resumed Unpaused")
        .collect();
    assert_eq!(
        last,
        ["Shutdown Finished after guest request", "Stopped Shutdown"]
    );
    assert!(host.end_daemon().success());
}

fn is_zombie(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|text| text.contains(") Z "))
}

#[test]
fn transient_guests_pauses_resets_and_the_axe() {
    let mut host = Host::start();
    let file = host.xml("guest.xml", &linux("short", ""));
    assert!(
        host.virsh(&format!("create {file} --paused"))
            .contains("Domain 'short' created")
    );
    assert_eq!(
        host.virsh("domstate short --reason").trim(),
        "paused (starting up)"
    );
    assert_eq!(field(&host.virsh("dominfo short"), "Persistent"), "no");
    assert!(host.refused("autostart short").contains("transient"));
    host.virsh("resume short");
    let mut console = Console::open(&host, "short");
    console.expect("OSTLER-GUEST-UP");
    // A reset is another boot of the same run.
    host.virsh("reset short");
    console.expect("OSTLER-GUEST-UP");
    wait_until("the guest boots again", || {
        console.catch_up();
        console.text().matches("OSTLER-GUEST-UP").count() == 2
    });
    assert_eq!(host.virsh("domid short").trim(), "1");
    // Somebody with force takes the console.
    let mut other = Console::open(&host, "short --force");
    other.expect("OSTLER-GUEST-UP");
    console.expect("another client took the console");
    // A reboot is another process of the same run.
    host.virsh("reboot short");
    other.wait();
    wait_until("the guest can be talked to again", || {
        let answer = host.command("domcontrol short").output().unwrap();
        answer.status.success() && answer.stdout.starts_with(b"ok")
    });
    Console::open(&host, "short").expect("OSTLER-GUEST-UP");
    assert_eq!(host.virsh("domid short").trim(), "1");
    // What a transient guest is while it runs is all there is of it.
    host.kill_and_restart();
    assert_eq!(host.virsh("list --name --transient").trim(), "short");
    assert!(host.virsh("destroy short").contains("destroyed"));
    assert_eq!(host.virsh("list --all --name").trim(), "");
    assert!(host.refused("domstate short").contains("failed to get domain"));

    // A guest whose process dies is told as such.
    host.virsh(&format!("define {file}"));
    host.virsh("start short");
    let mut status = None;
    wait_until("the guest's process is found", || {
        status = fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let line = fs::read_to_string(entry.path().join("cmdline")).ok()?;
            let cwd = fs::read_link(entry.path().join("fd/2")).ok()?;
            (line.ends_with("vmm\0--\0short\0") && cwd.starts_with(host.folder.path()))
                .then(|| entry.file_name().to_str().unwrap().parse::<i32>().unwrap())
        });
        status.is_some()
    });
    let pid = rustix::process::Pid::from_raw(status.unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    host.wait_for_state("short", "shut off");
    assert_eq!(host.virsh("domstate short --reason").trim(), "shut off (crashed)");
    // It starts again as if nothing had been; and an end of the daemon in good order leaves it, too.
    host.virsh("start short");
    assert!(host.end_daemon().success());
    host.start_again();
    assert_eq!(host.virsh("domstate short").trim(), "running");
    host.virsh("destroy short");
    assert_eq!(
        host.virsh("domstate short --reason").trim(),
        "shut off (destroyed)"
    );
}

#[test]
fn what_cannot_be_had_is_refused_and_leaves_nothing() {
    let host = Host::start();
    for (interface, says) in [
        (
            "<interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/></interface>",
            ["unsupported configuration", "<interface>"],
        ),
        // The kernel makes none there.
        (
            "<interface type='direct'><source dev='lo'/></interface>",
            ["making the macvtap", "on lo failed"],
        ),
    ] {
        let file = host.xml("net.xml", &linux("net", interface));
        let said = host.refused(&format!("create {file}"));
        assert!(says.iter().all(|word| said.contains(word)), "{said}");
    }
    let missing = linux("gone", "").replace("/vmlinuz", "/nothing");
    let file = host.xml("gone.xml", &missing);
    let said = host.refused(&format!("create {file}"));
    assert!(said.contains("nothing\""), "{said}");
    let no_kernel = linux("bad", "").replace("/vmlinuz", "/initrd.img");
    let file = host.xml("bad.xml", &no_kernel);
    let said = host.refused(&format!("create {file}"));
    assert!(said.contains("the guest does not start"), "{said}");
    assert_eq!(host.virsh("list --all --name").trim(), "");
    assert_eq!(fs::read_dir(host.path("run/guests")).unwrap().count(), 0);
}
