//! What a real Linux guest finds on the platform.

mod support;

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use support::qmp::Qmp;
use support::{Guest, Outcome, guest_folder};

const LIMIT: Duration = Duration::from_secs(240);

/// Virtio features, by bit number (virtio 1.2, 6).
const INDIRECT: usize = 28;
const EVENT_INDEX: usize = 29;
const VERSION_1: usize = 32;

/// Looks at everything in one boot. Each section is one promise.
const LOOK: &str = "
section() { name=$1; shift; echo BEGIN $name; \"$@\" 2>&1; echo END $name; }
features() { for d in /sys/bus/virtio/devices/*; do echo $(cat $d/device) $(cat $d/features); done; }
clocks() {
	cd /sys/devices/system/clocksource/clocksource0
	cat current_clocksource
	for clock in acpi_pm kvm-clock; do
		echo $clock >current_clocksource
		before=$(cut -d. -f1 /proc/uptime); sleep 2; after=$(cut -d. -f1 /proc/uptime)
		echo $(cat current_clocksource) $((after - before))
	done
}
dmi() { cd /sys/class/dmi/id; cat sys_vendor product_name bios_vendor; }
rtc() { cat /sys/class/rtc/rtc0/name /sys/class/rtc/rtc0/hctosys /sys/class/rtc/rtc0/since_epoch; date +%s; }
random() { cat /sys/class/misc/hw_random/rng_current; dd if=/dev/hwrng bs=64 count=1 2>/dev/null | hexdump -v -e '1/1 \"%02x\"'; echo; }
flags() { sed -n 's/^flags[^:]*: //p' /proc/cpuinfo | sort | uniq -c; }
timers() { sed -n 's/^Clock Event Device: //p' /proc/timer_list; }
shpc() { for s in /sys/bus/pci/slots/*; do echo $(basename $s) $(cat $s/address $s/power); done; }
section slots shpc
section ports sh -c 'dmesg | grep -c \"pciehp: Slot #\"'
section clocks-there cat /sys/devices/system/clocksource/clocksource0/available_clocksource
section clocks clocks
section dmi dmi
section rtc rtc
section features features
section block-queues ls /sys/block/vda/mq
section block-serial sh -c 'cat /sys/block/vda/serial; echo'
section random random
section cpus nproc
section flags flags
section timers timers
section errors sh -c 'dmesg -r | grep \"^<[0-3]>\"'
";

#[test]
fn linux_finds_the_whole_platform() {
    let mut guest = Guest::new(2).args(["--accel", "soft"]);
    let disk = guest.folder.path().join("disk.img");
    fs::write(&disk, vec![0; 8 << 20]).unwrap();
    let peer = guest.folder.path().join("net");
    let _network = UnixListener::bind(&peer).unwrap();
    guest = guest
        .args(["--disk", disk.to_str().unwrap()])
        .args(["--net", &format!("socket={}", peer.display())]);
    let started = seconds();
    let outcome = guest.append("quiet").script(LOOK).run(LIMIT);
    outcome.assert_clean();
    assert_eq!(outcome.section("errors"), "");

    // Four empty root ports with native hotplug, on buses of their own.
    assert_eq!(
        outcome.section("slots"),
        "1 0000:01:00 0\n2 0000:02:00 0\n3 0000:03:00 0\n4 0000:04:00 0\n"
    );
    assert_eq!(outcome.section("ports"), "4\n");
    assert_eq!(outcome.section("dmi"), "Ostler\nostler-q35-1\nOstler\n");
    assert_eq!(outcome.section("block-serial"), "disk0\n");
    assert_eq!(words(&outcome, "block-queues"), ["0", "1"]);
    assert_eq!(outcome.section("cpus"), "2\n");
    assert_clocks(&outcome);
    assert_date(&outcome, started);
    assert_features(&outcome);
    assert_random(&outcome);
    assert_cpu(&outcome);
}

/// Linux takes the TSC, which is constant; the ACPI timer and the KVM clock run as well, no slower than time itself.
fn assert_clocks(outcome: &Outcome) {
    let there = words(outcome, "clocks-there");
    for clock in ["tsc", "kvm-clock", "acpi_pm"] {
        assert!(there.contains(&clock.into()), "no {clock} in {there:?}");
    }
    let used = outcome.section("clocks");
    let mut lines = used.lines();
    assert_eq!(lines.next(), Some("tsc"));
    for clock in ["acpi_pm", "kvm-clock"] {
        let (name, passed) = lines.next().unwrap().split_once(' ').unwrap();
        assert_eq!(name, clock);
        // Whole seconds are cut off at both ends, and the machine may be busy.
        assert!((1..60).contains(&passed.parse::<u32>().unwrap()), "{used}");
    }
}

/// The battery-backed clock is the host's, and Linux sets its own by it.
fn assert_date(outcome: &Outcome, started: u64) {
    let rtc = outcome.section("rtc");
    let lines: Vec<_> = rtc.lines().collect();
    assert!(lines[0].starts_with("rtc_cmos"), "{rtc}");
    assert_eq!(lines[1], "1", "the system's clock was set from it");
    for shown in &lines[2..4] {
        let shown: u64 = shown.parse().unwrap();
        assert!((started - 2..=seconds() + 2).contains(&shown), "{rtc}");
    }
}

/// Says the seconds of both clocks, then sets the real-time clock an hour forward, and says them again after a reset.
const SET_CLOCK: &str = "
clocks() { echo clocks $(cat /sys/class/rtc/rtc0/since_epoch) $(date +%s); }
clocks
if [ $(date +%Y) = 2031 ]; then poweroff -f; fi
date -s '2031-02-03 04:05:06' >/dev/null
hwclock -w -u
clocks
reboot -f
";

#[test]
fn the_clock_starts_as_it_is_told_and_what_the_guest_sets_stays_and_is_told() {
    // The zone has no summer time.
    let mut guest = Guest::new(1)
        .reboots()
        .env("TZ", "Asia/Kolkata")
        .args(["--rtc", "localtime"]);
    let control = guest.path_option("--control", "", "control");
    let mut guest = guest.append("quiet").script(SET_CLOCK).spawn();
    let started = seconds();
    guest.expect("clocks ", LIMIT);
    let mut qmp = Qmp::connect(&control);
    let told = qmp.event("RTC_CHANGE");
    assert_eq!(told["data"]["qom-path"], "/machine/rtc");
    let shown = qmp.execute("qom-get", json!({ "path": "/machine", "property": "rtc-time" }));
    let date = ["tm_year", "tm_mon", "tm_mday", "tm_hour"].map(|part| shown[part].as_i64().unwrap());
    assert_eq!(date, [131, 1, 3, 4], "{shown}");
    guest.expect_times("clocks ", 3, LIMIT);
    let outcome = guest.wait(LIMIT);
    outcome.assert_clean();

    let clocks = outcome
        .console
        .lines()
        .filter_map(|line| line.strip_prefix("clocks "));
    let clocks: Vec<u64> = clocks
        .flat_map(str::split_whitespace)
        .map(|n| n.parse().unwrap())
        .collect();
    let ended = seconds();
    let (kolkata, set) = (19_800, 1_927_857_906);
    for shown in &clocks[..2] {
        assert!(
            (started + kolkata - 2..=ended + kolkata + 2).contains(shown),
            "{clocks:?}"
        );
    }
    for shown in &clocks[2..] {
        assert!((set..=set + ended - started + 2).contains(shown), "{clocks:?}");
    }
    assert_eq!(clocks.len(), 6, "{}", outcome.console);
    let forward = (set - kolkata).abs_diff(told["data"]["offset"].as_u64().unwrap());
    assert!((started - 2..=ended + 2).contains(&forward), "{told}");
}

fn assert_features(outcome: &Outcome) {
    let features = outcome.section("features");
    let of = |kind: &str| {
        features
            .lines()
            .find_map(|line| line.strip_prefix(kind))
            .unwrap_or_else(|| panic!("no device {kind} in {features}"))
            .trim()
    };
    for (name, kind) in [("network", "0x0001"), ("block", "0x0002"), ("rng", "0x0004")] {
        for bit in [INDIRECT, EVENT_INDEX, VERSION_1] {
            assert_eq!(&of(kind)[bit..=bit], "1", "{name}, feature {bit}: {features}");
        }
    }
}

fn assert_random(outcome: &Outcome) {
    let random = outcome.section("random");
    let (source, bytes) = random.trim().split_once('\n').unwrap();
    assert!(source.starts_with("virtio_rng"), "{random}");
    assert_eq!(bytes.len(), 128, "{random}");
    let values: std::collections::HashSet<_> = bytes.as_bytes().chunks(2).collect();
    // 64 random bytes with fewer than 20 different ones do not happen.
    assert!(values.len() >= 20, "{random}");
}

fn assert_cpu(outcome: &Outcome) {
    let flags = outcome.section("flags");
    let mut both = flags.split_whitespace();
    assert_eq!(both.next(), Some("2"), "both CPUs have the same flags: {flags}");
    let flags: Vec<_> = both.collect();
    for flag in [
        "arat",
        "tsc_deadline_timer",
        "tsc_adjust",
        "constant_tsc",
        "nonstop_tsc",
        "x2apic",
        "hypervisor",
        "lm",
        "nx",
        "pdpe1gb",
        "pcid",
        "smep",
        "smap",
        "umip",
        "rdrand",
        "rdtscp",
        "cx16",
        "sse4_2",
        "popcnt",
    ] {
        assert!(flags.contains(&flag), "no {flag} in {flags:?}");
    }
    for flag in ["vmx", "svm", "monitor"] {
        assert!(!flags.contains(&flag), "{flag} is never offered");
    }
    let timers = words(outcome, "timers");
    let deadline = timers.iter().filter(|name| *name == "lapic-deadline").count();
    assert_eq!(deadline, 2, "one in each CPU: {timers:?}");
}

/// Reads a disk without message-signalled interrupts and returns the lines of /proc/interrupts of its device, before
/// and after.
fn interrupts_without_msi(append: &str) -> [String; 2] {
    let mut guest = Guest::new(2);
    let disk = guest.folder.path().join("disk.img");
    let contents: Vec<u8> = (0..8u32 << 20).map(|n| (n ^ n >> 11 ^ n >> 17) as u8).collect();
    fs::write(&disk, contents).unwrap();
    let expected = sha256(&disk);
    guest = guest.args(["--disk", disk.to_str().unwrap()]).append(append);
    let outcome = guest
        .script(
            "device=$(basename $(readlink /sys/block/vda/device))\n\
             echo BEGIN before; grep -w $device /proc/interrupts; echo END before\n\
             echo BEGIN sum; dd if=/dev/vda bs=64k iflag=direct 2>/dev/null | sha256sum; echo END sum\n\
             echo BEGIN after; grep -w $device /proc/interrupts; echo END after\n\
             echo BEGIN other; grep -c MSI /proc/interrupts; echo END other\n",
        )
        .run(LIMIT);
    outcome.assert_clean();
    assert_eq!(outcome.section("sum"), format!("{expected}  -\n"));
    assert_eq!(
        outcome.section("other"),
        "0\n",
        "no message-signalled interrupt is in use"
    );
    ["before", "after"].map(|name| outcome.section(name).trim().to_owned())
}

/// Interrupts in a line of /proc/interrupts of a guest with two CPUs.
fn counted(line: &str) -> u64 {
    let counts = line.split_whitespace().skip(1).take(2);
    counts.map(|count| count.parse::<u64>().unwrap()).sum()
}

#[test]
fn a_disk_works_over_a_level_pin_of_the_ioapic() {
    let [before, after] = interrupts_without_msi("pci=nomsi");
    assert!(after.contains("IO-APIC") && after.contains("-fasteoi"), "{after}");
    let gsi: u32 = after.split(':').next().unwrap().trim().parse().unwrap();
    assert!((16..24).contains(&gsi), "{after}");
    assert!(counted(&after) > counted(&before), "{before}\n{after}");
}

#[test]
fn a_disk_works_over_the_8259_pair() {
    let [before, after] = interrupts_without_msi("noapic pci=nomsi");
    assert!(after.contains("XT-PIC"), "{after}");
    let irq: u32 = after.split(':').next().unwrap().trim().parse().unwrap();
    assert!(irq < 16, "{after}");
    assert!(counted(&after) > counted(&before), "{before}\n{after}");
}

#[test]
fn an_elf_kernel_boots_by_pvh() {
    const NAME: &str = "an_elf_kernel_boots_by_pvh";
    if Command::new("lz4").arg("--version").output().is_err() {
        eprintln!("SKIPPED {NAME}: lz4, which unpacks Debian's kernel, is not installed");
        return;
    }
    let guest = Guest::new(2);
    let kernel = guest.folder.path().join("vmlinux");
    fs::write(&kernel, unpacked_kernel(guest.folder.path())).unwrap();
    let outcome = guest
        .kernel(&kernel)
        .append("ostler.word")
        .script("echo BEGIN pvh; cat /proc/sys/kernel/bootloader_type; grep -o ostler.word /proc/cmdline; nproc; echo END pvh\n")
        .run(LIMIT);
    outcome.assert_clean();
    // Linux's PVH entry states loader type 0xb0 outside Xen; a bzImage's loader states its own.
    assert_eq!(outcome.section("pvh"), "176\nostler.word\n2\n");
}

/// The ELF kernel inside Debian's bzImage (Documentation/x86/boot.rst: setup_sects, payload_offset, payload_length).
fn unpacked_kernel(folder: &std::path::Path) -> Vec<u8> {
    const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
    let image = fs::read(guest_folder().join("vmlinuz")).unwrap();
    let word = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize;
    let setup = (usize::from(image[0x1f1]) + 1) * 512;
    let payload = &image[setup + word(0x248)..][..word(0x24c)];
    assert_eq!(
        payload[..4],
        LZ4_LEGACY,
        "Debian packs its kernel in another way now: teach this test"
    );
    // The last four bytes are the unpacked size, after the end of the LZ4 stream.
    let (stream, size) = payload.split_at(payload.len() - 4);
    let packed = folder.join("payload");
    fs::write(&packed, stream).unwrap();
    let unpacked = Command::new("lz4")
        .arg("-dc")
        .stdin(Stdio::from(fs::File::open(&packed).unwrap()))
        .output()
        .unwrap();
    assert!(
        unpacked.status.success(),
        "lz4: {}",
        String::from_utf8_lossy(&unpacked.stderr)
    );
    assert_eq!(
        unpacked.stdout.len(),
        u32::from_le_bytes(size.try_into().unwrap()) as usize
    );
    unpacked.stdout
}

fn sha256(file: &std::path::Path) -> String {
    let output = Command::new("sha256sum").arg(file).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    said.split_whitespace().next().unwrap().to_owned()
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn words(outcome: &Outcome, section: &str) -> Vec<String> {
    outcome
        .section(section)
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}
