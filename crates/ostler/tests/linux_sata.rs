//! A real Linux guest with its own drivers for AHCI, SATA disks and CD-ROM drives, checked by foreign tools on the host.

mod support;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ostler_disk::open::{DiskOptions, open};
use serde_json::{Value, json};
use support::process::{guest_process, moved_by_process, moved_by_threads};
use support::qmp::Qmp;
use support::{Guest, Running, assert_fsck_clean, make_ext4};

const LIMIT: Duration = Duration::from_secs(300);

fn sata(path: &Path) -> [String; 2] {
    ["--disk".into(), format!("{},bus=sata", path.display())]
}

/// `script` once the guest has `drive`: Linux still looks for drives when the script begins.
fn after(drive: &str, script: &str) -> String {
    format!("n=0; while [ ! -e {drive} ] && [ $n -lt 200 ]; do n=$((n+1)); usleep 100000; done\n{script}")
}

fn sha256(path: &Path) -> String {
    let said = Command::new("sha256sum").arg(path).output().unwrap();
    assert!(said.status.success(), "{said:?}");
    String::from_utf8(said.stdout).unwrap()[..64].to_owned()
}

#[test]
fn files_on_a_sata_disk_are_whole_and_the_file_system_is_clean() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk.img");
    make_ext4(&disk, 128);
    let outcome = Guest::pc(2).args(sata(&disk)).script(&after("/dev/sda",
        "mount -t ext4 /dev/sda /mnt || exit\n\
         mkdir /mnt/tree && cp -a /bin /lib /mnt/tree/\n\
         head -c 20000000 /dev/urandom >/mnt/random\n\
         echo BEGIN sum; sha256sum </mnt/random | cut -c 1-64; echo END sum\n\
         umount /mnt\n\
         mount -t ext4 /dev/sda /mnt; echo BEGIN again; sha256sum </mnt/random | cut -c 1-64; echo END again; umount /mnt\n\
         echo BEGIN driver; dmesg | grep -o 'NCQ (depth 32)'; basename $(readlink /sys/bus/pci/devices/0000:00:1f.2/driver)\n\
         cat /sys/block/sda/device/queue_depth; cat /sys/block/sda/queue/write_cache; echo END driver\n\
         echo BEGIN interrupts; grep ahci /proc/interrupts; echo END interrupts\n\
         echo BEGIN errors; dmesg | grep -E 'ata[0-9].*(exception|failed|error|reset|timeout)'; echo END errors\n",
    ));
    let outcome = outcome.run(LIMIT);
    outcome.assert_clean();
    assert_eq!(
        outcome.section("driver"),
        "NCQ (depth 32)\nahci\n32\nwrite back\n"
    );
    assert_eq!(outcome.section("errors"), "");
    assert!(
        outcome.section("interrupts").contains("PCI-MSI"),
        "{}",
        outcome.console
    );
    assert_eq!(outcome.section("again"), outcome.section("sum"));
    assert_fsck_clean(&disk);
    // The same file out of the image, by a foreign reader.
    let dumped = folder.path().join("random");
    let dump = format!("dump /random {}", dumped.display());
    let said = Command::new("/sbin/debugfs")
        .args(["-R", &dump])
        .arg(&disk)
        .output()
        .unwrap();
    assert!(said.status.success(), "{said:?}");
    assert_eq!(outcome.section("sum").trim(), sha256(&dumped));
}

#[test]
fn interrupts_by_the_pin_and_commands_one_by_one_do_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk.img");
    make_ext4(&disk, 64);
    let outcome = Guest::pc(1)
        .args(sata(&disk))
        .append("pci=nomsi")
        .script(&after("/dev/sda",
            "echo 1 >/sys/block/sda/device/queue_depth\n\
             mount -t ext4 /dev/sda /mnt || exit\n\
             head -c 5000000 /dev/urandom >/mnt/random; sync\n\
             echo BEGIN sum; sha256sum </mnt/random | cut -c 1-64; echo END sum; umount /mnt\n\
             echo BEGIN depth; cat /sys/block/sda/device/queue_depth; echo END depth\n\
             echo BEGIN interrupts; grep ahci /proc/interrupts; echo END interrupts\n\
             echo BEGIN errors; dmesg | grep -E 'ata[0-9].*(exception|failed|error|reset|timeout)'; echo END errors\n",
        ));
    let outcome = outcome.run(LIMIT);
    outcome.assert_clean();
    assert!(
        outcome.section("interrupts").contains("IO-APIC"),
        "{}",
        outcome.console
    );
    assert_eq!(outcome.section("depth"), "1\n");
    assert_eq!(outcome.section("errors"), "");
    assert_fsck_clean(&disk);
    let dumped = folder.path().join("random");
    let dump = format!("dump /random {}", dumped.display());
    Command::new("/sbin/debugfs")
        .args(["-R", &dump])
        .arg(&disk)
        .output()
        .unwrap();
    assert_eq!(outcome.section("sum").trim(), sha256(&dumped));
}

#[test]
fn a_cdrom_mounts_and_its_files_are_whole() {
    const NAME: &str = "a_cdrom_mounts_and_its_files_are_whole";
    let folder = tempfile::tempdir().unwrap();
    let (source, iso) = (folder.path().join("source"), folder.path().join("cd.iso"));
    fs::create_dir(&source).unwrap();
    for (name, len) in [
        ("empty", 0),
        ("one", 1),
        ("block", 2048),
        ("odd", 1_000_003),
        ("large", 8 << 20),
    ] {
        let bytes: Vec<u8> = (0..len).map(|at: u64| (at * at / 7 + at) as u8).collect();
        fs::write(source.join(name), bytes).unwrap();
    }
    let made = Command::new("genisoimage")
        .args(["-quiet", "-R", "-V", "OSTLER", "-o"])
        .args([&iso, &source])
        .status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED {NAME}: this machine has no genisoimage");
        return;
    }
    let before = sha256(&iso);
    let outcome = Guest::pc(1).args(["--cdrom", iso.to_str().unwrap()]).script(&after("/dev/sr0",
        "mount -t iso9660 -o ro /dev/sr0 /mnt || exit\n\
         echo BEGIN sums; cd /mnt; sha256sum *; cd /; echo END sums\n\
         umount /mnt\n\
         echo BEGIN drive; cat /sys/block/sr0/removable /sys/block/sr0/size; cat /sys/block/sr0/device/vendor\n\
         dd if=/dev/zero of=/dev/sr0 bs=2048 count=1 2>/dev/null && echo written || echo refused\n\
         echo END drive\n",
    ));
    let outcome = outcome.run(LIMIT);
    outcome.assert_clean();
    let expected: String = ["block", "empty", "large", "odd", "one"]
        .map(|name| format!("{}  {name}\n", sha256(&source.join(name))))
        .concat();
    assert_eq!(outcome.section("sums"), expected);
    let sectors = fs::metadata(&iso).unwrap().len() / 512;
    assert_eq!(
        outcome.section("drive"),
        format!("1\n{sectors}\nOSTLER  \nrefused\n")
    );
    assert_eq!(sha256(&iso), before);
}

/// Gives the CD-ROM drive another medium by a descriptor of it.
fn change_medium(qmp: &mut Qmp, image: &Path) {
    let file = File::open(image).unwrap();
    qmp.execute_with("add-fd", json!({ "fdset-id": 5 }), &file);
    qmp.execute(
        "blockdev-change-medium",
        json!({ "id": "disk0", "filename": "/dev/fdset/5", "format": "raw" }),
    );
    qmp.execute("remove-fd", json!({ "fdset-id": 5 }));
}

fn drive(qmp: &mut Qmp) -> Value {
    qmp.execute("query-block", json!({}))[0].take()
}

/// Has the guest's shell wait until its drive holds `image`, or nothing.
fn until_guest_sees(guest: &mut Running, image: Option<&Path>, mark: &str) {
    let wanted = image.map_or("none".into(), sha256);
    guest.type_in(&format!("until_is {wanted}; echo s''een {mark}\n"));
    guest.expect(&format!("seen {mark}\n"), LIMIT);
}

#[test]
fn media_come_and_go_and_the_guest_ejects() {
    let mut guest = Guest::pc(2).append("quiet");
    let control = guest.path_option("--control", "", "control");
    let media: Vec<_> = (1..=3u8)
        .map(|byte| {
            let path = guest.folder.path().join(format!("{byte}.iso"));
            // Of different sizes, too.
            let blocks = 512 * usize::from(byte);
            let bytes: Vec<u8> = (0..blocks * 2048).map(|at| (at / 2048) as u8 ^ byte).collect();
            fs::write(&path, bytes).unwrap();
            path
        })
        .collect();
    let mut guest = guest.args(["--cdrom", media[0].to_str().unwrap()]).spawn();
    guest.expect("# ", LIMIT);
    // A drive without a medium cannot be opened.
    guest.type_in(
        "set_auto() { echo $2 >/proc/sys/dev/cdrom/auto$1; }; set_auto close 0\n\
         sum() { if (: </dev/sr0) 2>/dev/null; then sha256sum </dev/sr0 | cut -c 1-64; else echo none; fi; }\n\
         until_is() { while [ \"$(sum)\" != $1 ]; do usleep 50000; done; }\n",
    );
    let mut qmp = Qmp::connect(&control);
    until_guest_sees(&mut guest, Some(&media[0]), "1");

    // Out: nobody has it any more. In, and another one in its place.
    qmp.execute("eject", json!({ "device": "disk0" }));
    let moved = |qmp: &mut Qmp| qmp.event("DEVICE_TRAY_MOVED")["data"]["tray-open"] == true;
    assert!(moved(&mut qmp));
    until_guest_sees(&mut guest, None, "2");
    drop(open(&media[0], DiskOptions::default()).expect("nobody has the medium"));
    for (round, image) in [&media[1], &media[2], &media[0], &media[1]]
        .into_iter()
        .enumerate()
    {
        change_medium(&mut qmp, image);
        if round > 0 {
            assert!(moved(&mut qmp));
        }
        assert!(!moved(&mut qmp));
        until_guest_sees(&mut guest, Some(image), &format!("round {round}"));
        assert_eq!(drive(&mut qmp)["tray_open"], false);
    }
    assert!(open(&media[1], DiskOptions::default()).is_err(), "it is locked");
    drop(open(&media[2], DiskOptions::default()).expect("nobody has the medium"));

    // While the guest has it open the tray is locked.
    guest.type_in("exec 3</dev/sr0; echo l''ocked\n");
    guest.expect("locked\n", LIMIT);
    assert_eq!(drive(&mut qmp)["locked"], true);
    assert_eq!(
        qmp.refused("eject", json!({ "device": "disk0" }))["desc"],
        "Device 'disk0' is locked and force was not specified, wait for tray to open and try again"
    );
    until_guest_sees(&mut guest, Some(&media[1]), "3");
    guest.type_in("exec 3<&-; echo un''locked\n");
    guest.expect("unlocked\n", LIMIT);
    assert_eq!(drive(&mut qmp)["locked"], false);

    // The guest opens and closes it itself: at the last close of the drive, and at the next one that opens it.
    guest.type_in("set_auto eject 1; : </dev/sr0; set_auto eject 0; echo eje''cted\n");
    guest.expect("ejected\n", LIMIT);
    assert!(moved(&mut qmp));
    assert_eq!(drive(&mut qmp)["tray_open"], true);
    guest.type_in("set_auto close 1; : </dev/sr0; set_auto close 0; echo clo''sed\n");
    guest.expect("closed\n", LIMIT);
    assert!(!moved(&mut qmp));
    until_guest_sees(&mut guest, Some(&media[1]), "4");

    // By force, under its hands.
    guest.type_in("exec 3</dev/sr0; echo op''ened\n");
    guest.expect("opened\n", LIMIT);
    qmp.execute("eject", json!({ "device": "disk0", "force": true }));
    guest.type_in("exec 3<&-\n");
    until_guest_sees(&mut guest, None, "5");
    change_medium(&mut qmp, &media[2]);
    until_guest_sees(&mut guest, Some(&media[2]), "6");
    guest.type_in("echo errors $(dmesg | grep -cE 'ata[0-9].*(exception|failed|reset|timeout)')\n");
    guest.expect("errors 0\n", LIMIT);
    guest.type_in("poweroff -f\n");
    guest.wait(LIMIT).assert_clean();
}

#[test]
fn a_read_only_sata_disk_is_never_written() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk.img");
    fs::write(&disk, vec![0x5a; 1 << 20]).unwrap();
    let option = format!("{},bus=sata,readonly", disk.display());
    let outcome = Guest::pc(1).args(["--disk", &option]).script(&after(
        "/dev/sda",
        "dmesg -n 1; echo BEGIN ro; cat /sys/block/sda/size\n\
         dd if=/dev/zero of=/dev/sda bs=512 count=1 conv=fsync 2>/dev/null && echo written || echo refused\n\
         dd if=/dev/sda bs=512 count=1 2>/dev/null | tr -d Z | wc -c\n\
         echo END ro\n",
    ));
    let outcome = outcome.run(LIMIT);
    outcome.assert_clean();
    assert_eq!(outcome.section("ro"), "2048\nrefused\n0\n");
    assert!(fs::read(&disk).unwrap().iter().all(|&byte| byte == 0x5a));
}

#[test]
fn a_sata_disk_trims() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk.img");
    fs::write(&disk, vec![0xff; 8 << 20]).unwrap();
    let before = fs::metadata(&disk).unwrap().blocks();
    let outcome = Guest::pc(1).args(sata(&disk)).script(&after(
        "/dev/sda",
        "echo BEGIN trim\n\
         test $(cat /sys/block/sda/queue/discard_max_bytes) -gt 0 && echo discards\n\
         blkdiscard -o 1048576 -l 2097152 /dev/sda && echo discarded\n\
         cat /sys/block/sda/queue/rotational\n\
         echo END trim\n",
    ));
    let outcome = outcome.run(LIMIT);
    outcome.assert_clean();
    assert_eq!(outcome.section("trim"), "discards\ndiscarded\n0\n");
    let bytes = fs::read(&disk).unwrap();
    assert!(bytes[1 << 20..3 << 20].iter().all(|&byte| byte == 0));
    assert_eq!(bytes.iter().filter(|&&byte| byte == 0xff).count(), 6 << 20);
    let after = fs::metadata(&disk).unwrap().blocks();
    assert_eq!(before - after, (2 << 20) / 512, "the host has the space back");
}

#[test]
fn no_cpu_thread_does_a_sata_disks_io() {
    const NAME: &str = "no_cpu_thread_does_a_sata_disks_io";
    const MEGABYTES: u64 = 32;
    // Not the usual temporary folder: it may be a tmpfs, which does not account for what io_uring writes.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let disk = folder.path().join("disk.img");
    File::create(&disk).unwrap().set_len(MEGABYTES << 20).unwrap();
    let guest = Guest::pc(2).args(["--accel", "soft"]).append("quiet");
    let mut guest = guest.args(sata(&disk)).spawn();
    guest.expect("# ", LIMIT);
    let process = guest_process(guest.child.id());
    if moved_by_process(process).is_none() {
        eprintln!("SKIPPED {NAME}: this host's kernel does not tell what a process reads and writes");
        return;
    }
    let before = moved_by_threads(process, "vcpu");
    guest.type_in(&format!(
        "dd if=/dev/zero of=/dev/sda bs=1M count={MEGABYTES} oflag=direct && echo writ''ten\n"
    ));
    guest.expect("written\n", LIMIT);
    let after = moved_by_threads(process, "vcpu");
    assert_eq!(
        after.keys().map(String::as_str).collect::<Vec<_>>(),
        ["vcpu0", "vcpu1"]
    );
    for (name, now) in &after {
        let then = before.get(name).copied().unwrap_or_default();
        // Eight bytes for each event that wakes a worker, and nothing else.
        let moved = now.written - then.written + now.read - then.read;
        assert!(moved < 1 << 20, "{name} moved {moved} bytes");
    }
    guest.type_in("poweroff -f\n");
    guest.wait(LIMIT).assert_clean();
}
