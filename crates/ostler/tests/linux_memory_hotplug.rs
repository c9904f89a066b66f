//! Memory that comes and goes while real Linux runs, by virtio-mem and the control socket.

mod support;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::process::guest_process;
use support::qmp::Qmp;
use support::{Guest, guest_folder};

const LIMIT: Duration = Duration::from_secs(240);
const MEGABYTE: u64 = 1 << 20;
const MORE: u64 = 256 * MEGABYTE;
/// Less than the guest's script takes notice of.
const REST: u64 = 8 * MEGABYTE;
/// What md5sum says of what the guest writes.
const SUM: &str = "389de687afa43563d8b957371b9987c3 -";

/// Says how much memory there is, fills more than half of what comes, and lets it go. The guest ends when it is told to: its total is
/// small before the last block is gone.
const SCRIPT: &str = "
dmesg -n 1
total() { sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo; }
echo online_movable >/sys/devices/system/memory/auto_online_blocks
insmod /virtio_mem.ko
first=$(total)
for round in 1 2; do
	echo small $round
	until [ $(total) -ge $((first + 250000)) ]; do usleep 50000; done
	mkdir -p /t; mount -t tmpfs -o size=400m none /t
	yes 'the quick brown fox' | head -c $((150 << 20)) >/t/file
	echo filled $round: $(md5sum </t/file)
	umount /t
	echo let go $round
	until [ $(total) -le $((first + 20000)) ]; do usleep 50000; done
done
echo small again
read line </dev/console
dmesg -n 8; dmesg
";

fn module() -> Vec<u8> {
    let versions = fs::read_dir(guest_folder().join("root/lib/modules")).unwrap();
    let version: PathBuf = versions.map(|entry| entry.unwrap().path()).next().unwrap();
    fs::read(version.join("kernel/drivers/virtio/virtio_mem.ko")).unwrap()
}

/// Asks the guest to have `bytes` more, and waits until it does.
fn grow_to(qmp: &mut Qmp, bytes: u64) {
    qmp.execute(
        "qom-set",
        json!({ "path": "vmem0", "property": "requested-size", "value": bytes }),
    );
    loop {
        let told = qmp.event("MEMORY_DEVICE_SIZE_CHANGE")["data"].take();
        assert_eq!(told["qom-path"], "/machine/peripheral/vmem0");
        let size = told["size"].as_u64().unwrap();
        assert!(size <= MORE);
        if size == bytes {
            return;
        }
    }
}

/// Bytes of memory that the host keeps for a process.
fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn device(qmp: &mut Qmp) -> Value {
    qmp.execute("query-memory-devices", json!({}))[0]["data"].take()
}

/// Waits for a condition.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < end, "waiting for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn memory_comes_and_goes() {
    let mut guest = Guest::new(2).memory("256M,max=512M").args(["--rng", "off"]);
    let control = guest.path_option("--control", "", "control");
    let mut guest = guest.script_with(SCRIPT, &[("virtio_mem.ko", &module())]).spawn();
    guest.expect("small 1\n", LIMIT);
    let mut qmp = Qmp::connect(&control);
    let seen = device(&mut qmp);
    assert_eq!(
        (&seen["max-size"], &seen["size"], &seen["requested-size"]),
        (&json!(MORE), &json!(0), &json!(0)),
        "{seen}"
    );
    for wrong in [MORE + 2 * MEGABYTE, MEGABYTE] {
        let set = json!({ "path": "vmem0", "property": "requested-size", "value": wrong });
        assert_eq!(qmp.refused("qom-set", set)["class"], "GenericError");
    }
    let process = guest_process(guest.child.id());
    for round in 1..=2 {
        guest.expect(&format!("small {round}\n"), LIMIT);
        grow_to(&mut qmp, MORE);
        assert_eq!(device(&mut qmp)["size"], MORE);
        let summary = qmp.execute("query-memory-size-summary", json!({}));
        assert_eq!(summary["plugged-memory"], MORE, "{summary}");
        guest.expect(&format!("filled {round}: {SUM}\nlet go {round}\n"), LIMIT);
        let before = resident(process);
        if round == 2 {
            // The guest takes itself for small, and waits all the same.
            grow_to(&mut qmp, REST);
            guest.expect("small again\n", LIMIT);
            assert_eq!(device(&mut qmp)["size"], REST);
        }
        grow_to(&mut qmp, 0);
        until("a smaller process", || {
            resident(process) + 100 * MEGABYTE < before
        });
        eprintln!(
            "resident: {} MiB with {} MiB more, {} MiB without",
            before >> 20,
            MORE >> 20,
            resident(process) >> 20
        );
    }
    guest.type_in("on\n");
    guest.wait(LIMIT).assert_clean();
}
