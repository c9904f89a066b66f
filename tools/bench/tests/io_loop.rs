//! `./bench loop`, with few operations on ours alone: every row is there, and exits are counted where they have to be.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// By the devices of a PC, and by virtio.
const PAIRS: [(&str, &str); 3] = [
    ("read-ahci", "read-virtio"),
    ("echo-e1000e", "echo-virtio"),
    ("stream-e1000e", "stream-virtio"),
];

/// The median of `what` for one `operation`.
fn median(results: &Value, what: &str, operation: &str) -> f64 {
    let rows = results["rows"].as_array().unwrap();
    let row = rows
        .iter()
        .find(|row| row["contender"] == "soft" && row["what"] == what);
    let row = row.unwrap_or_else(|| panic!("no row {what}: {results:#}"));
    let side = &row["values"][operation];
    assert_eq!(
        side["samples"].as_array().map(Vec::len),
        Some(1),
        "{what}, {operation}"
    );
    side["median"].as_f64().unwrap()
}

/// How often one `operation` reads or writes `register`.
fn touches(results: &Value, operation: &str, how: &str, register: &str) -> f64 {
    let all = results["registers"].as_array().unwrap();
    let of = all
        .iter()
        .find(|of| of["contender"] == "soft" && of["operation"] == operation);
    let registers = of.unwrap()["registers"].as_array().unwrap();
    let found = registers
        .iter()
        .find(|found| found["register"] == register && found["how"] == how);
    found.map_or(0.0, |found| found["times"].as_f64().unwrap())
}

#[test]
fn the_loop_is_counted_by_cause_for_every_device() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for needed in [
        "target/release/ostler",
        "target/guest/pc/initrd.img",
        "target/guest-programs/release/ostler-guest-bench",
    ] {
        assert!(root.join(needed).exists(), "no {needed}: ./test puts it there");
    }
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("loop.json");
    let output = Command::new(env!("CARGO_BIN_EXE_ostler-bench"))
        .args(["loop", "--quick", "--ours-only", "--json"])
        .arg(&json)
        .current_dir(&root)
        .output()
        .unwrap();
    let (shown, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{shown}\n{errors}");
    let results: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();

    // Everything is in every column of the table for people.
    let rows: Vec<&str> = shown
        .lines()
        .filter(|line| line.starts_with("| software CPU: "))
        .collect();
    assert_eq!(rows.len(), 15, "{shown}");
    assert!(rows.iter().all(|row| !row.contains(" - ")), "{shown}");

    let reads = |operation| median(&results, "exits to user mode: MMIO read", operation);
    let writes = |operation| median(&results, "exits to user mode: MMIO write", operation);
    let doorbells = |operation| median(&results, "doorbells, no exit to user mode", operation);
    for (pc, virtio) in PAIRS {
        for operation in [pc, virtio] {
            for what in ["microseconds", "guest instructions"] {
                assert!(
                    median(&results, what, operation) > 0.0,
                    "{what}, {operation}: {shown}"
                );
            }
        }
        // The difference that virtio makes: none of its registers is touched, but the doorbell.
        assert!(writes(pc) > 0.0, "{pc}: {shown}");
        assert!(!shown.contains("virtio 0x"), "{virtio}: {shown}");
    }
    for operation in ["read-virtio", "echo-virtio"] {
        assert!(doorbells(operation) > 0.0, "{operation}: {shown}");
    }
    // A command is issued by one write, and its end is told by one that clears a bit.
    for register in ["AHCI PxCI", "AHCI PxIS", "AHCI IS"] {
        let times = touches(&results, "read-ahci", "mmio-write", register);
        assert!((0.9..1.5).contains(&times), "{register}: {times}; {shown}");
    }
    assert!(reads("read-ahci") >= 1.0, "{shown}");
    let tail = touches(&results, "echo-e1000e", "mmio-write", "e1000e TDT0");
    assert!((0.9..1.5).contains(&tail), "TDT0: {tail}; {shown}");
    for operation in ["read-ahci", "read-virtio", "echo-e1000e", "echo-virtio"] {
        assert!(
            median(&results, "interrupts delivered", operation) > 0.0,
            "{operation}: {shown}"
        );
    }
}
