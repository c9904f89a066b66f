//! Real Linux asleep (ACPI S3): what wakes it, and what works then.

mod support;

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;
use support::process::{cpu_seconds, guest_process};
use support::qmp::Qmp;
use support::{Guest, Outcome};

const LIMIT: Duration = Duration::from_secs(240);

/// Keeps the kernel's notices, which cut into our lines, from the console. Its warnings come.
const QUIET: &str = "echo 5 >/proc/sys/kernel/printk\n";

/// Writes `text` to the disk's sector `sector`, reads it back past all caches, and says what sector 0 holds.
const USE_DISK: &str = "
use_disk() {
	echo $1 | dd of=/dev/vda bs=512 seek=$2 conv=fsync 2>/dev/null
	echo 3 >/proc/sys/vm/drop_caches
	echo disk: $(head -c 7 /dev/vda) $(dd if=/dev/vda bs=512 skip=$2 count=1 2>/dev/null | head -n 1)
}
";

fn guest_with_disk(cpus: u32) -> (Guest, std::path::PathBuf) {
    let guest = Guest::new(cpus);
    let disk = guest.folder.path().join("disk.img");
    let mut contents = b"the end".to_vec();
    contents.resize(1 << 20, 0);
    fs::write(&disk, contents).unwrap();
    (guest.args(["--disk", disk.to_str().unwrap()]), disk)
}

/// As `rtcwake` does it. Two CPUs, a disk, a card and both consoles.
#[test]
fn an_alarm_wakes_a_guest_and_its_disk_card_and_cpus_work() {
    let (mut guest, _) = guest_with_disk(2);
    let virtio = guest.path_option("--console", "file=", "hvc");
    let script = format!(
        "{QUIET}{USE_DISK}
ip link set eth0 up
ip address add 10.0.2.15/24 dev eth0
echo states: $(cat /sys/power/state) $(cat /sys/power/mem_sleep)
use_disk before 1
for round in 1 2; do
	before=$(cat /sys/class/rtc/rtc0/since_epoch)
	echo +15 >/sys/class/rtc/rtc0/wakealarm
	echo mem >/sys/power/state && echo awake $round
	[ $(($(cat /sys/class/rtc/rtc0/since_epoch) - before)) -ge 15 ] && echo slept long enough
	echo cpus: $(nproc)
	use_disk after$round $((round + 1))
	ping -c 3 -W 20 10.0.2.2 >/dev/null && echo card: answers
	echo console: works >/dev/hvc0
done
echo all done; sleep 2
"
    );
    let mut guest = guest.args(["--net", "user"]).script(&script).spawn();
    guest.expect("all done\n", LIMIT);
    let said = fs::read_to_string(virtio).unwrap();
    let outcome = guest.wait(LIMIT);
    outcome.assert_clean();
    assert_eq!(said.matches("console: works").count(), 2, "{said}");
    let console = &outcome.console;
    assert!(console.contains("states: freeze mem"), "{console}");
    assert!(console.contains("[deep]"), "{console}");
    assert!(console.contains("disk: the end before\n"), "{console}");
    for round in [1, 2] {
        assert!(console.contains(&format!("awake {round}\n")), "{console}");
        assert!(
            console.contains(&format!("disk: the end after{round}\n")),
            "{console}"
        );
    }
    for line in ["slept long enough\n", "cpus: 2\n", "card: answers\n"] {
        assert_eq!(console.matches(line).count(), 2, "{line}: {console}");
    }
}

fn status(qmp: &mut Qmp) -> String {
    let status = qmp.execute("query-status", json!({}));
    status["status"].as_str().unwrap().to_owned()
}

/// CPU time, not wall time.
fn assert_idle(parent: u32) {
    let used = || cpu_seconds(parent) + cpu_seconds(guest_process(parent));
    let (before, began) = (used(), Instant::now());
    std::thread::sleep(Duration::from_secs(5));
    let share = (used() - before) / began.elapsed().as_secs_f64();
    assert!(share < 0.05, "a guest that sleeps used {share} of a core");
}

#[test]
fn a_guest_that_sleeps_is_suspended_idle_and_at_its_clients_hands() {
    let (mut guest, disk) = guest_with_disk(2);
    let control = guest.path_option("--control", "", "control");
    let script = format!(
        "{QUIET}{USE_DISK}
for round in 1 2 3; do
	echo going to sleep $round
	echo mem >/sys/power/state && echo awake $round
	use_disk round$round $round
done
# The node is there a moment before it can be opened.
while ! head -c 1 /dev/vdb >/dev/null 2>&1; do usleep 20000; done
echo second disk: $(head -c 6 /dev/vdb)
"
    );
    let mut guest = guest.script(&script).spawn();
    guest.expect("going to sleep 1\n", LIMIT);
    let mut qmp = Qmp::connect(&control);
    let supported = qmp.execute("query-current-machine", json!({}));
    assert_eq!(supported["wakeup-suspend-support"], true);

    // Woken by a client; what it asks meanwhile is answered.
    qmp.event("SUSPEND");
    assert_eq!(status(&mut qmp), "suspended");
    assert_idle(guest.child.id());
    for query in [
        "query-cpus-fast",
        "query-block",
        "query-blockstats",
        "query-pci",
        "x-ostler-stats",
    ] {
        qmp.execute(query, json!({}));
    }
    let registers = json!({ "command-line": "info registers -a" });
    let registers = qmp.execute("human-monitor-command", registers);
    assert!(registers.as_str().unwrap().contains("CPU#1"), "{registers}");
    qmp.execute("stop", json!({}));
    qmp.event("STOP");
    assert_eq!(status(&mut qmp), "paused");
    qmp.execute("cont", json!({}));
    qmp.event("RESUME");
    assert_eq!(status(&mut qmp), "suspended");
    qmp.execute("system_wakeup", json!({}));
    qmp.event("WAKEUP");
    guest.expect("awake 1\n", LIMIT);
    guest.expect("disk: the end round1\n", LIMIT);
    assert_eq!(status(&mut qmp), "running");

    // By its power button, which is nothing more than that to a guest that sleeps.
    qmp.event("SUSPEND");
    qmp.execute("system_powerdown", json!({}));
    qmp.event("POWERDOWN");
    qmp.event("WAKEUP");
    guest.expect("disk: the end round2\n", LIMIT);

    // What is plugged in has to wait. Woken while it is paused, it goes on when it is resumed.
    qmp.event("SUSPEND");
    let image = disk.with_file_name("second.img");
    let mut contents = b"second".to_vec();
    contents.resize(1 << 20, 0);
    fs::write(&image, contents).unwrap();
    let file = fs::File::options().read(true).write(true).open(&image).unwrap();
    qmp.execute_with("add-fd", json!({ "fdset-id": 1 }), &file);
    let below = json!({ "driver": "file", "filename": "/dev/fdset/1" });
    qmp.execute(
        "blockdev-add",
        json!({ "driver": "raw", "node-name": "node", "file": below }),
    );
    let device = json!({ "driver": "virtio-blk-pci", "id": "hp", "drive": "node", "bus": "rp1" });
    let refused = qmp.refused("device_add", device.clone());
    let why = "the guest sleeps: nothing can be plugged in before it is woken";
    assert_eq!(refused["desc"], why);
    qmp.execute("stop", json!({}));
    qmp.execute("system_wakeup", json!({}));
    qmp.event("WAKEUP");
    assert_eq!(status(&mut qmp), "paused");
    qmp.execute("cont", json!({}));
    guest.expect("disk: the end round3\n", LIMIT);
    qmp.execute("device_add", device);
    guest.expect("second disk: second\n", LIMIT);
    guest.wait(LIMIT).assert_clean();
}

/// A guest that was ended or reset in its sleep.
#[test]
fn a_guest_that_sleeps_can_be_reset_and_ended() {
    let mut guest = Guest::new(1).reboots();
    let control = guest.path_option("--control", "", "control");
    let script = format!("{QUIET}echo up; echo mem >/sys/power/state; echo awake\n");
    let mut guest = guest.script(&script).spawn();
    guest.expect("up\n", LIMIT);
    let mut qmp = Qmp::connect(&control);
    qmp.event("SUSPEND");
    qmp.execute("system_reset", json!({}));
    qmp.event("RESET");
    assert_eq!(status(&mut qmp), "running");
    qmp.event("SUSPEND");
    guest.expect_times("up\n", 2, LIMIT);
    qmp.execute("quit", json!({}));
    let Outcome { console, .. } = guest.wait(LIMIT);
    assert!(!console.contains("awake"), "{console}");
}
