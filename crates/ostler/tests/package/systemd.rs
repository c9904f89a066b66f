//! The package on a Debian whose systemd runs: a guest of our own software CPU, in which the daemon starts guests on its software CPU.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::support::system_disk::debian;
use super::support::{Guest, Running};
use super::{can_make_a_debian, make_a_debian, package, printed};

/// The nextest profile ends a hang before.
const LIMIT: Duration = Duration::from_secs(1800);
const PROMPT: &str = "root@outer:~# ";
const COMMON: &str = include_str!("common.sh");

/// A disk with a Debian to which root logs in by its name, and with the package and the scripts of the test in /srv.
fn make_disk(folder: &Path) -> PathBuf {
    let package = package(&folder.join("package"));
    let root = folder.join("root");
    make_a_debian(&root, "systemd-sysv,udev,libvirt-clients,seabios");
    fs::copy(&package, root.join("srv/ostler.deb")).unwrap();
    for (name, text) in [
        ("first", include_str!("first.sh")),
        ("second", include_str!("second.sh")),
    ] {
        let path = root.join("srv").join(name);
        fs::write(&path, format!("#!/bin/bash\n{COMMON}{text}")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(root.join("etc/hostname"), "outer\n").unwrap();
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost outer\n").unwrap();
    fs::write(root.join("etc/fstab"), "/dev/vda / ext4 errors=remount-ro 0 1\n").unwrap();
    let inside = |words: &[&str]| {
        printed(Command::new("chroot").arg(&root).args(words));
    };
    inside(&["passwd", "--quiet", "--delete", "root"]);
    // So that the first start is like any other.
    let _ = fs::remove_file(root.join("etc/machine-id"));
    inside(&["systemd-machine-id-setup"]);
    let disk = folder.join("disk.img");
    printed(
        Command::new("/sbin/mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-d"])
            .arg(&root)
            .arg(&disk)
            .arg("2G"),
    );
    fs::remove_dir_all(&root).unwrap();
    disk
}

/// Logs in for the `time`th time, and runs the script of this name to its end.
fn log_in_and_run(guest: &mut Running, time: usize, script: &str) {
    guest.expect_times("\nouter login: ", time, LIMIT);
    guest.type_in("root\n");
    guest.expect_times(PROMPT, 2 * time - 1, LIMIT);
    guest.type_in(&format!("/srv/{script}; echo \"{script}:\" $?\n"));
    guest.expect_times(PROMPT, 2 * time, LIMIT);
    let console = guest.console();
    assert!(console.contains(&format!("\n{script}: 0\n")), "{console}");
}

#[test]
fn systemd_runs_what_the_package_brings() {
    const NAME: &str = "systemd_runs_what_the_package_brings";
    if !can_make_a_debian(NAME) {
        return;
    }
    // Its kernel and initrd are those of the system disk.
    let Some(made) = debian(NAME) else { return };
    let folder = tempfile::tempdir().unwrap();
    let disk = make_disk(folder.path());
    let mut guest = Guest::new(2)
        .kernel(&made.join("vmlinuz"))
        .initrd(&made.join("initrd.img"))
        .append("root=/dev/vda rw quiet systemd.default_timeout_start_sec=600")
        .memory("1G")
        .reboots()
        .args(["--accel", "soft", "--disk"])
        .args([&disk])
        .spawn();
    log_in_and_run(&mut guest, 1, "first");
    // No prompt follows.
    guest.type_in("reboot; sleep 1000\n");
    log_in_and_run(&mut guest, 2, "second");
    guest.type_in("poweroff\n");
    let outcome = guest.wait(LIMIT);
    outcome.assert_clean();

    let lines = |name: &str| -> Vec<String> {
        let section = outcome.section(name);
        let lines = section.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.map(str::to_owned).collect()
    };
    assert_eq!(
        lines("install"),
        [
            "active",
            "active",
            "active",
            "inactive",
            "660 root:libvirt",
            "666 root:root"
        ]
    );
    let objects = lines("objects");
    let is_listed = |words: &[&str]| {
        let listed = |line: &String| line.split_whitespace().collect::<Vec<_>>() == words;
        assert!(objects.iter().any(listed), "{words:?} is not in {objects:?}");
    };
    is_listed(&["default", "active", "yes", "yes"]);
    is_listed(&["default", "active", "yes"]);
    assert_eq!(lines("users"), ["qemu:///system"]);
    assert_eq!(
        lines("activation"),
        [
            "inactive", "active", "active", "default", "active", "active", "active"
        ]
    );
    let kept = lines("guest");
    for change in ["a restart", "a kill", "an upgrade"] {
        let line = format!("{change}: the same guest");
        assert!(kept.contains(&line), "{line} is not in {kept:?}");
    }
    assert!(outcome.section("journal").contains("call=DOMAIN_DEFINE_XML"));
    let doctor = outcome.section("doctor");
    for said in ["--accel auto takes the software CPU", "CPU models for --cpu: "] {
        assert!(doctor.contains(said), "{doctor}");
    }
    assert_eq!(lines("failed"), [""; 0]);
    assert_eq!(
        lines("again"),
        ["active", "active", "active", "default", "default"]
    );
    assert_eq!(lines("removed"), ["/var/lib/ostler/guests/inn.xml"]);
}
