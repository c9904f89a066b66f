//! What comes to a guest on KVM and goes: a file of the host that is memory (virtio-pmem), a folder of the host (virtio-fs), a CPU, and
//! memory (virtio-mem). One guest has them all, in the host made in software, where this program drives it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ostler_guest_image::{SoftwareHost, standard};
use serde_json::{Value, json};

use super::support::process::listens;
use super::support::qmp::Qmp;
use super::support::{Guest, assert_fsck_clean, guest_folder};

const NAME: &str = "devices_come_and_go_on_kvm_in_a_host_made_in_software";
/// The test that runs in the host.
const INSIDE: &str = "devices::a_guest_on_kvm_has_what_comes_and_goes";
/// The guest's drivers.
const MODULES: [&str; 5] = ["nd_pmem", "virtio_pmem", "virtio_mem", "fuse", "virtiofs"];
/// Programs of this machine that the host has too.
const PROGRAMS: [&str; 3] = ["/sbin/mke2fs", "/sbin/debugfs", "/sbin/e2fsck"];

const LIMIT: Duration = Duration::from_secs(240);
const MEGABYTE: u64 = 1 << 20;
const MORE: u64 = 128 * MEGABYTE;
/// Less than the guest's script takes notice of.
const REST: u64 = 8 * MEGABYTE;
/// Bytes that the guest writes into memory that is a file.
const WRITTEN: usize = 4 << 20;

/// The emulation that the host is made by fails the more often the longer a host lives: this guest has one of its own, and runs at night.
#[test]
fn devices_come_and_go_on_kvm_in_a_host_made_in_software() {
    if std::env::var_os("OSTLER_NIGHTLY").is_none() {
        eprintln!("SKIPPED {NAME}: it takes two minutes; ./test --nightly does so");
        return;
    }
    if !SoftwareHost::is_possible() {
        eprintln!("SKIPPED {NAME}: qemu-system-x86_64 is not installed");
        return;
    }
    let script = include_str!("devices-host.sh").replace("INSIDE", INSIDE);
    let console = with_devices(super::host()).run(&script, super::LIMIT).unwrap();
    println!("{console}");
    assert!(console.contains("DEVICES-STATUS 0\n"), "{console}");
    assert!(console.contains("test result: ok. 1 passed"), "{console}");
}

/// Adds what [`INSIDE`] needs, all of it where it is on this machine, for the paths are built in.
fn with_devices(host: SoftwareHost) -> SoftwareHost {
    let folder = guest_folder();
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = target.canonicalize().unwrap().join("target/guest");
    let at = |name: &str| target.join(name).display().to_string();
    let initrd = standard(&folder.join("root"), &MODULES).unwrap();
    let here = format!("{}/here", env!("CARGO_MANIFEST_DIR"));
    let mut host = host
        .program("bin/tests", &std::env::current_exe().unwrap())
        .and_then(|host| host.file(&at("vmlinuz"), &folder.join("vmlinuz")))
        .unwrap()
        .contents(&at("initrd.img"), initrd)
        .contents(&here, Vec::new());
    let virtiofsd = ostler_launch::porter::find_virtiofsd();
    let programs = PROGRAMS.iter().map(PathBuf::from).chain(virtiofsd);
    for program in programs {
        host = host.program(&program.display().to_string(), &program).unwrap();
    }
    host
}

/// A file system with pages for blocks, as DAX wants it.
fn make_file_system(path: &Path) {
    fs::File::create(path).unwrap().set_len(64 * MEGABYTE).unwrap();
    let made = Command::new(PROGRAMS[0])
        .args(["-q", "-F", "-t", "ext4", "-b", "4096"])
        .arg(path)
        .status()
        .unwrap();
    assert!(made.success());
}

/// What md5sum says of a file.
fn sum(path: &Path) -> String {
    let input = fs::File::open(path).unwrap();
    let output = Command::new("md5sum").stdin(input).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    said.split(' ').next().unwrap().to_owned()
}

/// A virtiofsd that ends with the guest's connection.
struct Virtiofsd(Child);

impl Virtiofsd {
    /// Starts one for `folder`. The host's root cannot be pivoted, as it is what the kernel unpacked: the folder is left for by chroot.
    fn start(program: &Path, folder: &Path, socket: &Path) -> Self {
        let child = Command::new(program)
            .arg(format!("--socket-path={}", socket.display()))
            .args(["-o", "sandbox=chroot", "-o"])
            .arg(format!("source={}", folder.display()))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut started = Self(child);
        let begun = Instant::now();
        while !listens(socket) {
            let ended = started.0.try_wait().unwrap();
            assert!(begun.elapsed() < LIMIT && ended.is_none(), "virtiofsd: {ended:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        started
    }
}

impl Drop for Virtiofsd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks the guest to have `bytes` more, and waits until it does.
fn grow_to(qmp: &mut Qmp, bytes: u64) {
    let wish = json!({ "path": "vmem0", "property": "requested-size", "value": bytes });
    qmp.execute("qom-set", wish);
    while qmp.event("MEMORY_DEVICE_SIZE_CHANGE")["data"]["size"] != bytes {}
}

/// The cores that are there, and what a CPU is called.
fn cores(qmp: &mut Qmp) -> (Vec<u64>, Value) {
    let places = qmp.execute("query-hotpluggable-cpus", json!({}));
    let places = places.as_array().unwrap();
    let there = places.iter().filter(|place| place.get("qom-path").is_some());
    let core = |place: &Value| place["props"]["core-id"].as_u64().unwrap();
    let mut cores: Vec<u64> = there.map(core).collect();
    cores.sort_unstable();
    (cores, places[0]["type"].clone())
}

#[test]
#[ignore = "runs in the host made in software: devices_come_and_go_on_kvm_in_a_host_made_in_software has it run there"]
fn a_guest_on_kvm_has_what_comes_and_goes() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("memory");
    make_file_system(&image);
    let shared = folder.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::copy("/bin/busybox", shared.join("from-host")).unwrap();
    let of_host = sum(&shared.join("from-host"));
    let socket = folder.path().join("virtiofsd");
    let virtiofsd = ostler_launch::porter::find_virtiofsd();
    let virtiofsd = virtiofsd.map(|program| Virtiofsd::start(&program, &shared, &socket));

    let mut guest = Guest::new(1)
        .cpus("1,max=2")
        .memory("256M,max=512M")
        .args(["--accel", "kvm", "--cpu", "x86-64-v2"])
        .args([Path::new("--pmem"), &image]);
    if virtiofsd.is_some() {
        guest = guest.args(["--fs", &format!("tag=src,socket={}", socket.display())]);
    }
    let control = guest.path_option("--control", "", "control");
    let mut guest = guest.script(include_str!("devices.sh")).spawn();

    guest.expect("a program of the memory runs\nwritten ", LIMIT);
    assert!(
        guest
            .console()
            .lines()
            .any(|line| line.starts_with("ext4 ") && line.contains("dax")),
        "mounted by DAX:\n{}",
        guest.console()
    );
    let mut qmp = Qmp::connect(&control);
    guest.expect("alone: present 0\n", LIMIT);
    if virtiofsd.is_some() {
        let of_guest = sum(&shared.join("from-guest"));
        guest.expect(&format!("host {of_host} "), LIMIT);
        guest.expect(&format!("guest {of_guest} "), LIMIT);
        assert!(shared.join("renamed").exists() && !shared.join("from-host").exists());
    } else {
        println!("SKIPPED a folder of the host: no virtiofsd on this machine");
    }

    let (there, driver) = cores(&mut qmp);
    assert_eq!(there, [0]);
    let cpu = json!({ "driver": driver, "id": "more", "socket-id": 0, "core-id": 1, "thread-id": 0 });
    qmp.execute("device_add", cpu);
    guest.expect("at work on CPU 1\ncounted to 2000\nin use: online 0-1\n", LIMIT);
    assert_eq!(cores(&mut qmp).0, [0, 1]);
    qmp.execute("device_del", json!({ "id": "more" }));
    qmp.event("DEVICE_DELETED");
    assert_eq!(cores(&mut qmp).0, [0]);
    guest.expect("gone: present 0\nsmall\n", LIMIT);

    grow_to(&mut qmp, MORE);
    let summary = qmp.execute("query-memory-size-summary", json!({}));
    assert_eq!(summary["plugged-memory"], MORE, "{summary}");
    guest.expect("filled 209715200\nlet go\n", LIMIT);
    // The guest takes itself for small, and waits all the same.
    grow_to(&mut qmp, REST);
    guest.expect("small again\n", LIMIT);
    grow_to(&mut qmp, 0);

    let stats = qmp.execute("x-ostler-stats", json!({}));
    assert_eq!(stats["accelerator"], "kvm");
    let mut devices = stats["devices"].as_array().unwrap().iter();
    let memory = devices.find(|device| device["name"] == "pmem0").unwrap();
    assert!(
        memory["counters"]["requests"].as_u64() > Some(0),
        "no flush: {memory}"
    );
    guest.type_in("on\n");
    guest.wait(LIMIT).assert_clean();

    assert_fsck_clean(&image);
    let file = Command::new(PROGRAMS[1])
        .args(["-R", "cat /file"])
        .arg(&image)
        .output()
        .unwrap()
        .stdout;
    let line = b"the quick brown fox\n";
    assert_eq!(file.len(), WRITTEN);
    assert!(file.chunks(line.len()).all(|chunk| line.starts_with(chunk)));
}
