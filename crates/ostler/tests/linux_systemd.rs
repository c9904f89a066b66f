//! Debian 12 with systemd, on a disk made by `tools/guest-disk`, with the system's own kernel and initrd.

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use support::{Guest, Running, assert_fsck_clean, guest_folder};

/// For anything but the hour of stress. The nextest profile ends a hang before.
const LIMIT: Duration = Duration::from_secs(600);

/// A guest that runs, and its disk.
struct System {
    guest: Running,
    disk: PathBuf,
    _folder: tempfile::TempDir,
}

impl System {
    /// Boots with 2 CPUs and a fresh copy of the disk to the login prompt, and logs in. `None` where there is no such disk.
    fn boot(test: &str) -> Option<Self> {
        let made = guest_folder().join("debian");
        if !made.join("recipe").exists() {
            eprintln!("SKIPPED {test}: no system disk under target/guest/debian; ./test makes it, as root");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk.img");
        let copied = Command::new("cp")
            .arg("--sparse=always")
            .args([&made.join("disk.img"), &disk])
            .status();
        assert!(copied.unwrap().success(), "the disk is copied");
        let guest = Guest::new(2)
            .kernel(&made.join("vmlinuz"))
            .initrd(&made.join("initrd.img"))
            // systemd gives up on a device after 90 seconds, which a busy host may need.
            .append("root=/dev/vda rw systemd.default_timeout_start_sec=600")
            .memory("1G")
            .args(["--accel", "soft"])
            .args(["--disk", disk.to_str().unwrap()]);
        let mut guest = guest.spawn();
        guest.expect("\nostler-debian login: ", LIMIT);
        guest.type_in("root\n");
        guest.expect("root@ostler-debian:~# ", LIMIT);
        // What the kernel says of a busy host is not to come between what the programs print; its errors are looked at in the end.
        guest.type_in("dmesg -n 1\n");
        guest.expect("root@ostler-debian:~# ", LIMIT);
        Some(Self {
            guest,
            disk,
            _folder: folder,
        })
    }

    /// Runs `command` in the shell, and leaves what it prints in the section `name` of the console.
    fn shell(&mut self, name: &str, command: &str, limit: Duration) {
        self.guest
            .type_in(&format!("echo BEGIN {name}; {command}; echo END {name}\n"));
        self.guest.expect(&format!("\nEND {name}\n"), limit);
    }

    /// Looks at the state of the system, powers it off, and looks at what is left. Returns the console.
    fn end(mut self) -> support::Outcome {
        self.shell(
            "state",
            "echo $(systemctl is-system-running --wait), failed: $(systemctl --failed --no-legend --plain)",
            LIMIT,
        );
        self.shell("errors", "dmesg --level emerg,alert,crit,err", LIMIT);
        self.guest.type_in("poweroff\n");
        let outcome = self.guest.wait(LIMIT);
        outcome.assert_clean();
        assert_eq!(outcome.section("state"), "running, failed:\n");
        assert_eq!(outcome.section("errors"), "");
        let console = &outcome.console;
        assert!(console.contains("reboot: Power down"), "{console}");
        assert_fsck_clean(&self.disk);
        outcome
    }
}

/// Adds up the squares' inverses.
const PROGRAM: &str = "int printf(const char *, ...); int main(void) { double sum = 0; \
                       for (double n = 1; n < 1e6; n++) sum += 1 / (n * n); return printf(\"sum %.9f\\n\", sum) != 16; }";

#[test]
fn debian_boots_to_its_login_and_apt_gcc_and_ssh_work() {
    let Some(mut system) = System::boot("debian_boots_to_its_login_and_apt_gcc_and_ssh_work") else {
        return;
    };
    system.shell("cpus", "nproc", LIMIT);
    system.shell("update", "apt-get update", LIMIT);
    // One program and two libraries.
    system.shell("install", "apt-get install -y jq", LIMIT);
    system.shell("jq", "dpkg --audit; echo '[3, 9, 30]' | jq -M add", LIMIT);
    system.shell(
        "gcc",
        &format!("echo '{PROGRAM}' | gcc -O2 -x c -o program - && ./program; echo status $?"),
        LIMIT,
    );
    let key = "~/.ssh/id_ed25519";
    system.shell(
        "ssh",
        &format!(
            "ssh-keygen -q -t ed25519 -N '' -f {key} && cp {key}.pub ~/.ssh/authorized_keys && \
             ssh -o StrictHostKeyChecking=no -o LogLevel=ERROR localhost 'id -un; hostname'"
        ),
        LIMIT,
    );
    let outcome = system.end();
    assert_eq!(outcome.section("cpus"), "2\n");
    assert_eq!(outcome.section("jq"), "42\n");
    assert_eq!(outcome.section("gcc"), "sum 1.644933067\nstatus 0\n");
    assert_eq!(outcome.section("ssh"), "root\nostler-debian\n");
}

#[test]
fn stress_ng_finds_no_failure() {
    let Some(mut system) = System::boot("stress_ng_finds_no_failure") else {
        return;
    };
    // An hour in the nightly mode; the ordinary run has to end in minutes.
    let seconds = if std::env::var_os("OSTLER_NIGHTLY").is_some() {
        3600
    } else {
        30
    };
    system.shell(
        "stress",
        &format!(
            "stress-ng --cpu 2 --vm 2 --vm-bytes 256M --switch 2 --signal 2 --fork 2 --verify --timeout {seconds}; \
             echo status $?"
        ),
        LIMIT + Duration::from_secs(seconds),
    );
    let outcome = system.end();
    let said = outcome.section("stress");
    assert!(said.ends_with("\nstatus 0\n"), "{said}");
    assert!(said.contains("] successful run completed in "), "{said}");
    for bad in ["fail:", "error:", "warn:"] {
        assert!(!said.contains(bad), "{bad} in {said}");
    }
}
