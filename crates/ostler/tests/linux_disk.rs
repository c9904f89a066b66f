//! A real Linux guest and its virtio disk, checked by foreign tools on the host.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use support::process::{guest_process, moved_by_process, moved_by_threads};
use support::{Guest, OSTLER, assert_fsck_clean, make_ext4};

const LIMIT: Duration = Duration::from_secs(180);

#[test]
fn files_survive_a_power_off_and_the_file_system_is_clean() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk.img");
    make_ext4(&disk, 128);
    let disk_option = disk.to_str().unwrap();

    let first = Guest::new(2).args(["--disk", disk_option]).script(
        "mount -t ext4 /dev/vda /mnt || exit\n\
         mkdir /mnt/tree && cp -a /bin /lib /mnt/tree/\n\
         head -c 20000000 /dev/urandom >/mnt/random\n\
         (cd /mnt && find . -type f | sort | xargs sha256sum) >/tmp/sums; cp /tmp/sums /mnt/sums\n\
         echo BEGIN sums; sha256sum </mnt/sums; wc -l </mnt/sums; echo END sums\n\
         umount /mnt\n",
    );
    let first = first.run(LIMIT);
    first.assert_clean();
    assert_fsck_clean(&disk);

    let second = Guest::new(2).args(["--disk", disk_option]).script(
        "mount -t ext4 /dev/vda /mnt || exit\n\
         echo BEGIN sums; sha256sum </mnt/sums; wc -l </mnt/sums; echo END sums\n\
         cd /mnt && sha256sum -c sums >/tmp/checked 2>&1 || grep -v OK /tmp/checked\n\
         test $(grep -c OK /tmp/checked) = $(wc -l <sums) && echo \"all $(grep -c OK /tmp/checked) files are whole\"\n\
         cd /; umount /mnt\n",
    );
    let second = second.run(LIMIT);
    second.assert_clean();
    assert_eq!(second.section("sums"), first.section("sums"));
    assert!(second.console.contains("files are whole"), "{}", second.console);
    assert_fsck_clean(&disk);
}

#[test]
fn a_read_only_disk_is_never_written() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk.img");
    fs::write(&disk, vec![0x5a; 1 << 20]).unwrap();
    let option = format!("{},readonly", disk.display());
    let outcome = Guest::new(1).args(["--disk", &option]).script(
        "echo BEGIN ro; cat /sys/block/vda/ro; cat /sys/block/vda/size\n\
         dd if=/dev/zero of=/dev/vda bs=512 count=1 conv=fsync 2>/dev/null && echo written || echo refused\n\
         echo END ro\n",
    );
    let outcome = outcome.run(LIMIT);
    outcome.assert_clean();
    assert_eq!(outcome.section("ro"), "1\n2048\nrefused\n");
    assert!(fs::read(&disk).unwrap().iter().all(|&byte| byte == 0x5a));
}

#[test]
fn the_block_device_does_what_it_offers() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk.img");
    fs::write(&disk, vec![0xff; 8 << 20]).unwrap();
    let outcome = Guest::new(2).args(["--disk", disk.to_str().unwrap()]).script(
        "echo BEGIN block\n\
         test $(cat /sys/block/vda/queue/discard_max_bytes) -gt 0 && echo discards\n\
         test $(cat /sys/block/vda/queue/write_zeroes_max_bytes) -gt 0 && echo zeroes\n\
         cat /sys/block/vda/queue/write_cache\n\
         test -n \"$(cat /sys/block/vda/serial)\" && echo serial\n\
         blkdiscard -o 1048576 -l 1048576 /dev/vda && echo discarded\n\
         echo END block\n",
    );
    let outcome = outcome.run(LIMIT);
    outcome.assert_clean();
    assert_eq!(
        outcome.section("block"),
        "discards\nzeroes\nwrite back\nserial\ndiscarded\n"
    );
    let bytes = fs::read(&disk).unwrap();
    assert!(
        bytes[1 << 20..2 << 20].iter().all(|&byte| byte == 0),
        "discarded blocks of a file read as zeroes"
    );
    assert_eq!(bytes.iter().filter(|&&byte| byte == 0xff).count(), 7 << 20);
}

#[test]
fn linux_asks_for_zeroes_instead_of_writing_them() {
    const PROGRAM: &str = "/usr/bin/fallocate";
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk.img");
    fs::write(&disk, vec![0xff; 8 << 20]).unwrap();
    // The host's program with its libraries: busybox's knows no ranges of zeroes.
    let libraries = ostler_guest_image::shared_libraries(PROGRAM.as_ref()).unwrap();
    let files: Vec<_> = std::iter::once(PROGRAM.into())
        .chain(libraries)
        .map(|path| (path.to_str().unwrap().to_owned(), fs::read(&path).unwrap()))
        .collect();
    let files: Vec<_> = files
        .iter()
        .map(|(path, contents)| (path.as_str(), contents.as_slice()))
        .collect();
    // Zeroes that keep their place, and a hole, for which Linux has no way but to ask.
    let script = format!(
        "{PROGRAM} --zero-range -o 1M -l 2M /dev/vda && {PROGRAM} --punch-hole -o 4M -l 2M /dev/vda && echo zeroed\n\
         read line </dev/console\n"
    );
    let mut guest = Guest::new(1).args(["--disk", disk.to_str().unwrap()]);
    let control = guest.path_option("--control", "", "control");
    let mut guest = guest.script_with(&script, &files).spawn();
    guest.expect("zeroed\n", LIMIT);
    let statistics = statistics(&control);
    let counters = counters_of_disk(&statistics);
    assert!(counters["requests"].as_u64() >= Some(2), "{counters}");
    // Two ranges of 16 bytes, and no sector.
    assert!(counters["bytes-from-guest"].as_u64() < Some(512), "{counters}");
    guest.type_in("\n");
    guest.wait(LIMIT).assert_clean();
    let bytes = fs::read(&disk).unwrap();
    let zero = |megabyte: usize| [1, 2, 4, 5].contains(&megabyte);
    for (megabyte, bytes) in bytes.chunks(1 << 20).enumerate() {
        let wanted = if zero(megabyte) { 0 } else { 0xff };
        assert!(bytes.iter().all(|&byte| byte == wanted), "megabyte {megabyte}");
    }
}

/// The statistics that `ostler top --json` shows.
fn statistics(control: &Path) -> Value {
    let shown = Command::new(OSTLER)
        .args(["top", "--json"])
        .arg(control)
        .output()
        .unwrap();
    serde_json::from_slice(&shown.stdout).unwrap_or_else(|e| panic!("{e}: {shown:?}"))
}

/// Doorbells that the CPUs rang, and requests that the disk's worker completed.
fn doorbells_and_requests(statistics: &Value) -> (u64, u64) {
    let cpus = statistics["vcpus"].as_array().unwrap();
    let doorbells = cpus.iter().map(|cpu| cpu["exits"]["doorbell"].as_u64().unwrap());
    let requests = counters_of_disk(statistics)["requests"].as_u64().unwrap();
    (doorbells.sum(), requests)
}

fn counters_of_disk(statistics: &Value) -> &Value {
    let devices = statistics["devices"].as_array().unwrap();
    let disk = devices.iter().find(|device| device["kind"] == "block").unwrap();
    &disk["counters"]
}

/// `TMPFS_MAGIC` of linux/magic.h.
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

#[test]
fn no_cpu_thread_does_the_disks_io() {
    const NAME: &str = "no_cpu_thread_does_the_disks_io";
    const MEGABYTES: u64 = 64;
    // Not the usual temporary folder: tmpfs does not account for what io_uring writes.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    if rustix::fs::statfs(folder.path()).unwrap().f_type == TMPFS_MAGIC {
        eprintln!(
            "SKIPPED {NAME}: target/tmp is on a tmpfs, which does not account for what io_uring writes"
        );
        return;
    }
    let mut guest = Guest::new(2).args(["--accel", "soft"]).append("quiet");
    let disk = folder.path().join("disk.img");
    fs::File::create(&disk).unwrap().set_len(MEGABYTES << 20).unwrap();
    guest = guest.args(["--disk", disk.to_str().unwrap()]);
    let control = guest.path_option("--control", "", "control");
    let mut guest = guest.spawn();
    guest.expect("# ", LIMIT);
    let process = guest_process(guest.child.id());
    let Some(process_before) = moved_by_process(process) else {
        eprintln!("SKIPPED {NAME}: this host's kernel does not tell what a process reads and writes");
        return;
    };
    let cpus_before = moved_by_threads(process, "vcpu");
    let before = doorbells_and_requests(&statistics(&control));
    guest.type_in(&format!(
        "dd if=/dev/zero of=/dev/vda bs=1M count={MEGABYTES} oflag=direct && echo writ''ten\n"
    ));
    guest.expect("written\n", LIMIT);
    let cpus_after = moved_by_threads(process, "vcpu");
    let process_after = moved_by_process(process).unwrap();
    let after = doorbells_and_requests(&statistics(&control));

    assert_eq!(
        cpus_after.keys().map(String::as_str).collect::<Vec<_>>(),
        ["vcpu0", "vcpu1"]
    );
    for (name, now) in &cpus_after {
        let then = cpus_before.get(name).copied().unwrap_or_default();
        // Eight bytes for each event that wakes a worker, and nothing else.
        let moved = now.written - then.written + now.read - then.read;
        assert!(moved < 1 << 20, "{name} moved {moved} bytes");
    }
    let written = process_after.written - process_before.written;
    assert!(written >= MEGABYTES << 20, "the process wrote {written} bytes");
    assert!(after.0 > before.0, "doorbells: {before:?}, then {after:?}");
    // Requests are of a megabyte at most.
    assert!(
        after.1 - before.1 >= MEGABYTES,
        "requests: {before:?}, then {after:?}"
    );
    guest.type_in("poweroff -f\n");
    guest.wait(LIMIT).assert_clean();
}
