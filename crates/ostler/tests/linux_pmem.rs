//! Files of the host that are memory of real Linux (virtio-pmem).

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use support::qmp::Qmp;
use support::{Guest, assert_fsck_clean, guest_folder};

const LIMIT: Duration = Duration::from_secs(240);
const MEGABYTE: u64 = 1 << 20;
const SIZE: u64 = 64 * MEGABYTE;
/// The driver, after what it stands on.
const MODULES: [&str; 5] = ["libnvdimm", "nd_btt", "nd_pmem", "nd_virtio", "virtio_pmem"];

/// Loads the drivers.
const LOAD: &str = "
dmesg -n 1
for module in libnvdimm nd_btt nd_pmem nd_virtio virtio_pmem; do insmod /$module.ko; done
until [ -b /dev/pmem0 ]; do usleep 50000; done
mkdir -p /memory
";

/// Writes through the page tables, not by way of the page cache, and runs a program where it lies.
const WRITE: &str = "
mount -t ext4 -o dax=always /dev/pmem0 /memory || mount -t ext4 -o dax /dev/pmem0 /memory
grep -o 'ext4 .*dax[a-z=]*' /proc/mounts
cp /bin/busybox /memory/busybox
/memory/busybox echo a program of the memory runs
yes 'the quick brown fox' | head -c $((16 << 20)) >/memory/file
sync
echo written $(md5sum </memory/file)
read line </dev/console
umount /memory
dmesg -n 8; dmesg
";

/// Reads what another guest wrote, and tries to overwrite it.
const READ: &str = "
mount -t ext4 -o ro,dax /dev/pmem0 /memory
echo found $(md5sum </memory/file)
umount /memory
head -c 4096 /dev/urandom >/noise
dd if=/noise of=/dev/pmem0 bs=4096 seek=256 conv=fsync 2>/dev/null; echo tried
echo 3 >/proc/sys/vm/drop_caches
mount -t ext4 -o ro,dax /dev/pmem0 /memory
echo found again $(md5sum </memory/file)
dmesg -n 8; dmesg
";

/// What md5sum says of what the guest writes.
fn sum() -> String {
    let text = "the quick brown fox\n".repeat((16 << 20) / 20 + 1);
    let mut child = Command::new("md5sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&text.as_bytes()[..16 << 20]).unwrap();
    drop(input);
    let said = child.wait_with_output().unwrap().stdout;
    String::from_utf8(said).unwrap().split(' ').next().unwrap().into()
}

fn modules() -> Vec<(String, Vec<u8>)> {
    let versions = fs::read_dir(guest_folder().join("root/lib/modules")).unwrap();
    let version: PathBuf = versions.map(|entry| entry.unwrap().path()).next().unwrap();
    let drivers = version.join("kernel/drivers/nvdimm");
    let read = |name: &str| fs::read(drivers.join(format!("{name}.ko"))).unwrap();
    let files = MODULES.iter().map(|name| (format!("{name}.ko"), read(name)));
    files.collect()
}

fn with_drivers(guest: Guest, script: &str) -> Guest {
    let modules = modules();
    let files: Vec<(&str, &[u8])> = modules.iter().map(|(name, bytes)| (&**name, &**bytes)).collect();
    guest.script_with(&format!("{LOAD}{script}"), &files)
}

/// A file system with pages for blocks, as DAX wants it.
fn make_file_system(path: &Path) {
    fs::File::create(path).unwrap().set_len(SIZE).unwrap();
    let made = Command::new("/sbin/mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-b", "4096"])
        .arg(path)
        .status()
        .unwrap();
    assert!(made.success());
}

/// A file in the file system, as the host finds it there.
fn read_from(image: &Path, file: &str) -> Vec<u8> {
    let read = Command::new("/sbin/debugfs")
        .args(["-R", &format!("cat {file}")])
        .arg(image)
        .output()
        .unwrap();
    read.stdout
}

#[test]
fn what_a_guest_writes_to_memory_is_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("memory");
    make_file_system(&image);
    let sum = sum();
    let pmem = image.display().to_string();
    let mut guest = Guest::new(2).args(["--pmem", &pmem]);
    let control = guest.path_option("--control", "", "control");
    let mut guest = with_drivers(guest, WRITE).spawn();
    guest.expect("a program of the memory runs\n", LIMIT);
    guest.expect(&format!("written {sum} "), LIMIT);
    assert!(
        guest
            .console()
            .lines()
            .any(|line| line.starts_with("ext4 ") && line.contains("dax")),
        "mounted by DAX:\n{}",
        guest.console()
    );
    // The guest still has it mounted: what it synchronized is in the file.
    let text = read_from(&image, "/file");
    assert_eq!(text.len(), 16 << 20);
    assert!(text.starts_with(b"the quick brown fox\nthe quick"));
    let mut qmp = Qmp::connect(&control);
    let devices = qmp.execute("query-memory-devices", json!({}));
    assert_eq!(devices[0]["type"], "virtio-pmem", "{devices}");
    assert_eq!(devices[0]["data"]["size"], SIZE);
    let stats = qmp.execute("x-ostler-stats", json!({}));
    let mut counted = stats["devices"].as_array().unwrap().iter();
    let device = counted.find(|device| device["name"] == "pmem0").unwrap();
    let counters = &device["counters"];
    assert!(counters["requests"].as_u64().unwrap() > 0, "no flush: {device}");
    assert_eq!(counters["errors"], 0, "{device}");
    guest.type_in("on\n");
    guest.wait(LIMIT).assert_clean();
    assert_fsck_clean(&image);

    let before = fs::read(&image).unwrap();
    let only_read = format!("{pmem},readonly");
    let guest = with_drivers(Guest::new(1).args(["--pmem", &only_read]), READ);
    let mut guest = guest.spawn();
    guest.expect(&format!("found {sum} "), LIMIT);
    guest.expect("tried\n", LIMIT);
    guest.expect(&format!("found again {sum} "), LIMIT);
    guest.wait(LIMIT).assert_clean();
    assert!(before == fs::read(&image).unwrap(), "the file is as it was");
}
