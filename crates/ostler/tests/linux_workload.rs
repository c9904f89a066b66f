//! A guest that checks itself: the same programs must print the same natively and in the guest.

mod support;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use support::{Guest, busybox, guest_folder};

const WORKLOAD: &str = include_str!("support/workload.sh");

/// What the workload prints on the host, with the guest's own busybox and an empty environment.
fn natively() -> String {
    let folder = tempfile::tempdir().unwrap();
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let installed = Command::new(busybox())
        .args(["--install", "-s"])
        .arg(&bin)
        .status()
        .unwrap();
    assert!(installed.success());
    let script = folder.path().join("workload.sh");
    fs::write(&script, WORKLOAD).unwrap();
    let output = Command::new(busybox())
        .arg("sh")
        .arg(&script)
        .arg(megabytes_to_hash())
        .env_clear()
        .env("PATH", &bin)
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn in_a_guest(cpus: u32, rounds: Duration) {
    assert!(guest_folder().exists());
    let expected = natively();
    assert_eq!(expected.lines().count(), 8, "{expected}");
    let started = Instant::now();
    loop {
        let script = format!(
            "mount -t tmpfs tmpfs /tmp; cd /tmp\n\
             sh /workload.sh {} >/tmp/printed 2>&1\n\
             echo BEGIN workload; cat /tmp/printed; echo END workload\n",
            megabytes_to_hash()
        );
        let outcome = Guest::new(cpus)
            .script_with(&script, &[("workload.sh", WORKLOAD.as_bytes())])
            .run(Duration::from_secs(900));
        outcome.assert_clean();
        assert_eq!(outcome.section("workload"), expected);
        if started.elapsed() >= rounds {
            return;
        }
    }
}

fn nightly() -> bool {
    std::env::var_os("OSTLER_NIGHTLY").is_some()
}

/// The full 256 MiB in the nightly mode; the ordinary run has to end in minutes.
fn megabytes_to_hash() -> &'static str {
    if nightly() { "256" } else { "16" }
}

/// One round in the ordinary run; twenty minutes for each number of CPUs, an hour in all, in the nightly mode.
fn rounds() -> Duration {
    Duration::from_secs(if nightly() { 20 * 60 } else { 0 })
}

#[test]
fn prints_the_same_with_1_cpu() {
    in_a_guest(1, rounds());
}

#[test]
fn prints_the_same_with_2_cpus() {
    in_a_guest(2, rounds());
}

#[test]
fn prints_the_same_with_8_cpus() {
    in_a_guest(8, rounds());
}
