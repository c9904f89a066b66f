//! What `doctor` and `top` show.

use std::process::Command;

use serde_json::Value;

use crate::tiny::{Kernel, OSTLER, Tiny};

#[test]
fn the_doctor_finds_everything_that_it_looks_for() {
    let output = Command::new(OSTLER).args(["doctor", "--json"]).output().unwrap();
    assert!(output.status.success());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let names: Vec<_> = findings.iter().map(|f| f["name"].as_str().unwrap()).collect();
    for name in [
        "cpu-flags",
        "kvm-modules",
        "dev-kvm",
        "taps",
        "vhost-net",
        "io-uring",
        "userfaultfd",
        "huge-pages",
        "user-namespaces",
        "kernel-bridge",
    ] {
        assert!(names.contains(&name), "{name} is missing in {names:?}");
    }
    for finding in findings {
        let hurts = finding["verdict"] == "bad";
        let command = finding["remedy"]["command"].as_str();
        assert!(
            !hurts || command.is_some_and(|c| c.starts_with("sudo ") || c.starts_with("echo ")),
            "no remedy: {finding}"
        );
    }
    let fast = report["kvm-mips"].as_f64().is_some_and(|mips| mips > 100.0);
    assert_eq!(report["auto"]["accelerator"], if fast { "kvm" } else { "soft" });
    assert!(
        report["cpu-models"]
            .as_array()
            .unwrap()
            .iter()
            .any(|model| model == "max")
    );

    let text = Command::new(OSTLER).arg("doctor").output().unwrap();
    assert!(String::from_utf8_lossy(&text.stdout).contains("--accel auto takes"));
}

#[test]
fn the_selftest_says_what_it_ran_and_what_it_skipped() {
    let output = Command::new(OSTLER)
        .args(["doctor", "--selftest"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    let [.., kvm, soft] = text.lines().collect::<Vec<_>>()[..] else {
        panic!("two lines at the end: {text}");
    };
    assert!(soft.starts_with("selftest: the software CPU: all "), "{text}");
    let opens = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok();
    let expected = if opens {
        "selftest: KVM: all "
    } else {
        "selftest: KVM: SKIPPED, nothing is shown of it ("
    };
    assert!(kvm.starts_with(expected), "{text}");
}

#[test]
fn top_shows_exits_by_cause_and_times() {
    let mut tiny = Tiny::new(Kernel::new().print("up\n").halt()).args(&["--cpus", "2"]);
    let control = tiny.path_option("--control", "", "control");
    let mut guest = tiny.spawn();
    guest.expect("up\n");
    let output = Command::new(OSTLER)
        .args(["top", "--json"])
        .arg(&control)
        .output()
        .unwrap();
    let stats: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(stats["accelerator"], "soft");
    assert_eq!(stats["vcpus"].as_array().unwrap().len(), 2);
    assert!(
        stats["vcpus"][0]["exits"]["port-write"].as_u64().unwrap() >= 3,
        "{stats}"
    );
    assert!(stats["vcpus"][0]["time-ns"]["guest"].is_u64(), "{stats}");
    assert_eq!(stats["devices"][0]["kind"], "rng");
    assert_eq!(stats["consoles"][0]["output-bytes"], 3);

    let mut live = Command::new(OSTLER)
        .arg("top")
        .arg(&control)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut client = crate::control::Client::connect(&control);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    client.say(r#"{"execute":"quit"}"#);
    let mut text = String::new();
    std::io::Read::read_to_string(live.stdout.as_mut().unwrap(), &mut text).unwrap();
    assert!(live.wait().unwrap().success());
    assert!(
        text.contains("vcpu1") && text.contains("port-write") && text.contains("the guest is over"),
        "{text}"
    );
    assert!(
        text.contains("TLB misses/s") && text.contains("hottest"),
        "{text}"
    );

    let refused = Command::new(OSTLER)
        .args(["top", "/nonexistent"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
}
