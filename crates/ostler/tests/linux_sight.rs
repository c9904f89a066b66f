//! What `ostler top` tells of a Linux guest on the software CPU.

mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Guest, OSTLER};

const LIMIT: Duration = Duration::from_secs(240);

/// Where [`endless`] is loaded.
const LOADED: u64 = 0x40_0000;
/// Bytes of its headers.
const HEADERS: usize = 64 + 56;

/// A program for Linux that is one jump to itself, behind the headers.
fn endless() -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [2u16, 62] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1u32.to_le_bytes());
    for word in [LOADED + HEADERS as u64, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    // One segment that may be read and executed.
    for word in [1u32, 5] {
        file.extend(word.to_le_bytes());
    }
    let size = HEADERS as u64 + 2;
    for word in [0, LOADED, LOADED, size, size, 4096] {
        file.extend(word.to_le_bytes());
    }
    assert_eq!(file.len(), HEADERS);
    file.extend([0xeb, 0xfe]);
    file
}

/// What `top --json` shows of one second.
fn look(control: &Path) -> Value {
    let output = Command::new(OSTLER)
        .args(["top", "--json", "--hot", "50"])
        .arg(control)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn look_until(control: &Path, what: &str, good: impl Fn(&[Value]) -> bool) -> Value {
    let deadline = Instant::now() + LIMIT;
    loop {
        let seen = look(control);
        if good(seen["hot"]["addresses"].as_array().unwrap()) {
            return seen;
        }
        assert!(Instant::now() < deadline, "waiting for {what}: {seen:#}");
    }
}

/// A counter of the software CPU, of both CPUs together.
fn sum(look: &Value, name: &str) -> u64 {
    let cpus = look["vcpus"].as_array().unwrap();
    cpus.iter()
        .map(|cpu| cpu["software"][name].as_u64().unwrap())
        .sum()
}

#[test]
fn the_hottest_addresses_are_those_that_the_guest_executes() {
    let mut guest = Guest::new(2).args(["--accel", "soft"]);
    let control = guest.path_option("--control", "", "control");
    let script = "dd if=/dev/zero of=/dev/null bs=1 &\n\
                  echo it copies; read line; kill $!\n\
                  /loop &\n\
                  echo it loops; read line\n";
    let mut guest = guest.script_with(script, &[("loop", &endless())]).spawn();

    // Copying byte by byte is system calls, which the kernel itself names, wherever it has put itself.
    guest.expect("it copies\n", LIMIT);
    let copies = look_until(&control, "the path of read and write", |spots| {
        let named = |name: &str| spots.iter().any(|spot| spot["symbol"] == name);
        let shown = [
            "entry_SYSCALL_64",
            "do_syscall_64",
            "vfs_read",
            "vfs_write",
            "read_zero",
            "write_null",
        ];
        shown.into_iter().filter(|name| named(name)).count() >= 3
    });
    for spot in copies["hot"]["addresses"].as_array().unwrap() {
        let (kernel, named) = (spot["privilege"] == "kernel", spot["symbol"].is_string());
        assert!(kernel || !named, "a user's address has no name: {spot}");
        assert_eq!(named, spot["offset"].is_u64(), "{spot}");
        if kernel {
            let address = spot["address"].as_str().unwrap();
            assert!(address.starts_with("0xffff"), "{spot}");
        }
    }

    // A loop of the user's is its address.
    guest.type_in("\n");
    guest.expect("it loops\n", LIMIT);
    let jump = format!("{:#x}", LOADED + HEADERS as u64);
    let loops = look_until(&control, "the loop", |spots| {
        spots.first().is_some_and(|spot| {
            spot["address"] == jump && spot["privilege"] == "user" && spot["share"].as_f64() > Some(0.5)
        })
    });

    // The counters of what it takes have moved.
    for name in [
        "translation-ns",
        "tlb-misses",
        "blocks-decoded",
        "blocks-translated",
        "interpreter-calls",
    ] {
        let (before, after) = (sum(&copies, name), sum(&loops, name));
        assert!(0 < before && before < after, "{name}: {before}, then {after}");
    }
    assert!(
        sum(&loops, "blocks-translated") <= sum(&loops, "blocks-decoded"),
        "{loops:#}"
    );
    assert!(sum(&loops, "cache-bytes") > 0, "{loops:#}");
    let kernel = |cpu: &Value| cpu["time-ns"]["kernel"].as_u64().unwrap();
    let kernel: u64 = loops["vcpus"].as_array().unwrap().iter().map(kernel).sum();
    assert!(sum(&loops, "translation-ns") <= kernel, "{loops:#}");

    guest.type_in("\n");
    guest.wait(LIMIT).assert_clean();
}
