//! A real Linux guest and what its memory balloon and its watchdog do on the host.

mod support;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::process::guest_process;
use support::qmp::Qmp;
use support::{Guest, Running, guest_folder};

const LIMIT: Duration = Duration::from_secs(300);
const MEGABYTE: u64 = 1 << 20;

/// The kernel module `name` of the guest below `folder`.
fn module(folder: &Path, name: &str) -> Vec<u8> {
    let versions = folder.join("root/lib/modules");
    let version = fs::read_dir(&versions).unwrap().next().unwrap().unwrap().path();
    let file = version.join("kernel/drivers").join(name);
    fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Bytes of memory that the host keeps for a process.
fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Waits until `condition` holds.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Touches 96 MiB of memory; when it is told to, it lets them go, and does it again.
const MEMORY: &str = "
dmesg -n 1
insmod /virtio_balloon.ko
use_memory() {
	yes hay | dd bs=1M count=96 iflag=fullblock 2>/dev/null >/used
	sha256sum </used | cut -c 1-64
}
echo first $(use_memory)
read line </dev/console
rm /used
echo let go
read line </dev/console
echo second $(use_memory)
rm /used
dmesg -n 8; dmesg
";
/// SHA-256 of 96 MiB of hay.
const SUM: &str = "65d2ec44b6e09d90ac43c06371b25a8cdd35b299a043c0bdafcdb5e1cb3b507c";

/// A guest of 512 MiB with a balloon, and its control socket.
fn with_balloon(options: &str) -> (Running, Qmp) {
    let mut guest = Guest::new(2).args(["--balloon", options]).memory("512M");
    let control = guest.path_option("--control", "", "control");
    let driver = module(&guest_folder(), "virtio/virtio_balloon.ko");
    let mut guest = guest
        .script_with(MEMORY, &[("virtio_balloon.ko", &driver)])
        .spawn();
    guest.expect("first ", LIMIT);
    let qmp = Qmp::connect(&control);
    (guest, qmp)
}

/// The sum that the guest said after `word`.
fn sum_after(guest: &Running, word: &str) -> String {
    let console = guest.console();
    let rest = console.split(&format!("{word} ")).nth(1).unwrap();
    rest.lines().next().unwrap().to_owned()
}

#[test]
fn a_balloon_makes_the_process_smaller_and_the_guest_gets_its_memory_back() {
    let (mut guest, mut qmp) = with_balloon("on,free-page-reporting=off");
    guest.type_in("on\n");
    guest.expect("let go\n", LIMIT);
    assert_eq!(sum_after(&guest, "first"), SUM);
    let process = guest_process(guest.child.id());
    let before = resident(process);
    assert_eq!(
        qmp.execute("query-balloon", json!({})),
        json!({ "actual": 512 * MEGABYTE })
    );

    qmp.execute("balloon", json!({ "value": 192 * MEGABYTE }));
    let small = json!({ "actual": 192 * MEGABYTE });
    let mut events = Vec::new();
    while events.last() != Some(&small) {
        events.push(qmp.event("BALLOON_CHANGE")["data"].take());
    }
    assert_eq!(qmp.execute("query-balloon", json!({})), small);
    // The guest had touched 96 MiB that it does not use any more, and the balloon has most of what is left.
    until("a smaller process", || resident(process) + 80 * MEGABYTE < before);
    eprintln!(
        "resident: {} MiB before, {} MiB after, {} events",
        before >> 20,
        resident(process) >> 20,
        events.len()
    );
    assert_eq!(qmp.line("info balloon"), "balloon: actual=192\r\n");

    let balloon = "/machine/peripheral/balloon";
    let get = |qmp: &mut Qmp| -> Value {
        qmp.execute("qom-get", json!({ "path": balloon, "property": "guest-stats" }))
    };
    let interval = json!({ "path": balloon, "property": "guest-stats-polling-interval", "value": 1 });
    qmp.execute("qom-set", interval);
    let mut said = Value::Null;
    until("statistics", || {
        said = get(&mut qmp);
        // What is in the balloon is not free.
        let free = said["stats"]["stat-free-memory"].as_u64().unwrap();
        said["last-update"].as_u64().unwrap() > 0 && free < 192 * MEGABYTE
    });
    // A guest that may take pages back counts them as its own.
    let total = said["stats"]["stat-total-memory"].as_u64().unwrap();
    assert!((400 * MEGABYTE..512 * MEGABYTE).contains(&total), "{said}");

    qmp.line("balloon 512");
    until("an empty balloon", || {
        qmp.execute("query-balloon", json!({}))["actual"] == 512 * MEGABYTE
    });
    guest.type_in("more\n");
    guest.expect("second ", LIMIT);
    guest.expect(&format!("second {SUM}\n"), LIMIT);
    guest.wait(LIMIT).assert_clean();
}

#[test]
fn what_a_guest_lets_go_is_the_hosts_at_once() {
    let (mut guest, mut qmp) = with_balloon("on");
    let process = guest_process(guest.child.id());
    guest.expect(&format!("first {SUM}\n"), LIMIT);
    // Measured while the guest has it: it goes within seconds.
    let before = resident(process);
    guest.type_in("on\n");
    until("a smaller process", || resident(process) + 64 * MEGABYTE < before);
    eprintln!(
        "resident: {} MiB, later {} MiB",
        before >> 20,
        resident(process) >> 20
    );
    assert!(before > 96 * MEGABYTE, "the guest had used its memory");
    assert_eq!(
        qmp.execute("query-balloon", json!({}))["actual"],
        512 * MEGABYTE,
        "nothing is in the balloon"
    );
    guest.type_in("more\n");
    guest.expect(&format!("second {SUM}\n"), LIMIT);
    guest.wait(LIMIT).assert_clean();
}

/// Kicks the watchdog for longer than it waits, then no more; a guest that was reset by it says so and ends.
const DOG: &str = "
insmod /watchdog.ko
insmod /i6300esb.ko heartbeat=4
echo boot status $(cat /sys/class/watchdog/watchdog0/bootstatus)
[ $(cat /sys/class/watchdog/watchdog0/bootstatus) = 0 ] || exit
exec 3>/dev/watchdog
echo kicking
for kick in 1 2 3 4 5 6 7 8 9; do echo >&3; sleep 1; done
echo no more kicks
sleep 1000
";

/// A guest with a watchdog, and its control socket.
fn with_watchdog(option: &str) -> (Running, Qmp) {
    let mut guest = Guest::pc(1).args(["--watchdog", option]).reboots();
    let control = guest.path_option("--control", "", "control");
    let pc = guest_folder().join("pc");
    let files = ["watchdog", "i6300esb"]
        .map(|name| (format!("{name}.ko"), module(&pc, &format!("watchdog/{name}.ko"))));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (&**name, &**bytes)).collect();
    let mut guest = guest.script_with(DOG, &files).spawn();
    guest.expect("boot status 0\n", LIMIT);
    let qmp = Qmp::connect(&control);
    (guest, qmp)
}

#[test]
fn a_guest_that_does_not_kick_its_watchdog_is_reset() {
    let (mut guest, mut qmp) = with_watchdog("action=reset");
    let happened = qmp.event("WATCHDOG");
    assert_eq!(happened["data"], json!({ "action": "reset" }));
    let reset = qmp.event("RESET");
    assert_eq!(reset["data"], json!({ "guest": true, "reason": "guest-reset" }));
    guest.expect("no more kicks\n", LIMIT);
    // WDIOF_CARDRESET: the driver can tell the next boot why there was a reset.
    guest.expect("boot status 32\n", LIMIT);
    guest.wait(LIMIT).assert_clean();
}

#[test]
fn a_watchdog_does_not_count_while_the_guest_is_held_and_can_pause_it() {
    let (mut guest, mut qmp) = with_watchdog("action=reset");
    guest.expect("kicking\n", LIMIT);
    qmp.execute("stop", json!({}));
    qmp.execute("watchdog-set-action", json!({ "action": "pause" }));
    // Longer than its two stages together.
    std::thread::sleep(Duration::from_secs(6));
    assert!(!guest.console().contains("no more kicks"));
    qmp.execute("cont", json!({}));
    qmp.event("RESUME");
    let next = qmp.next_event();
    assert_eq!(
        (&next["event"], &next["data"]["action"]),
        (&json!("WATCHDOG"), &json!("pause"))
    );
    qmp.event("STOP");
    assert_eq!(qmp.execute("query-status", json!({}))["status"], "paused");
    guest.expect("no more kicks\n", LIMIT);
    qmp.execute("quit", json!({}));
    assert!(guest.wait(LIMIT).status.success());
}

/// Looks for the generation ID by ACPI, as Debian's kernel has no driver for it, and reads it again once it has changed.
const GENERATION: &str = "
dmesg -n 1
id() { echo $(devmem 0xfed50000 64) $(devmem 0xfed50008 64); }
device=/sys/bus/acpi/devices/OSTL0001:00
echo BEGIN device; cat $device/path $device/hid $device/status; cat $device/modalias; echo END device
echo BEGIN first; id; echo END first
devmem 0xfed50000 64 0
echo BEGIN unchanged; id; echo END unchanged
echo events $(awk '{print $1}' /sys/firmware/acpi/interrupts/gpe05)
while [ $(awk '{print $1}' /sys/firmware/acpi/interrupts/gpe05) = 0 ]; do usleep 20000; done
echo BEGIN second; id; echo END second
";

#[test]
fn a_guest_finds_its_generation_id_and_hears_when_it_changes() {
    let guid = "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87";
    let mut guest = Guest::new(1).args(["--vm-generation-id", guid]);
    let control = guest.path_option("--control", "", "control");
    let mut guest = guest.script(GENERATION).spawn();
    guest.expect("events 0\n", LIMIT);
    let mut qmp = Qmp::connect(&control);
    assert_eq!(
        qmp.execute("query-vm-generation-id", json!({})),
        json!({ "guid": guid })
    );
    let new = "00112233-4455-6677-8899-aabbccddeeff";
    qmp.execute("x-ostler-set-vm-generation-id", json!({ "guid": new }));
    assert_eq!(
        qmp.execute("query-vm-generation-id", json!({})),
        json!({ "guid": new })
    );
    let outcome = guest.wait(LIMIT);
    outcome.assert_clean();
    let first = "0x4BF6D1D1324E6EAF 0x87FB916CBBB941BF\n";
    assert_eq!(outcome.section("first"), first);
    assert_eq!(outcome.section("unchanged"), first, "a guest cannot write it");
    assert_eq!(
        outcome.section("second"),
        "0x6677445500112233 0xFFEEDDCCBBAA9988\n"
    );
    let device = outcome.section("device");
    assert!(device.starts_with("\\_SB_.VGEN\nOSTL0001\n15\n"), "{device}");
    assert!(
        device.contains("VM_Gen_Counter") || device.contains("VM_GEN_COUNTER"),
        "{device}"
    );
}
