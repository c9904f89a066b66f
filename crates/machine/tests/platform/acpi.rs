//! The ACPI tables as a guest finds them, read by ACPICA's compiler.

use std::process::Command;

use crate::bench::{Parts, kernel, machine};
use crate::tables::{source_overrides, tables};

#[test]
fn every_table_is_found_and_adds_up() {
    let bench = machine(kernel(), 4);
    let all = tables(&bench);
    let signatures: Vec<&[u8]> = all.iter().map(|table| &table[..4]).collect();
    assert_eq!(signatures, [b"FACP", b"APIC", b"MCFG", b"WAET", b"DSDT", b"XSDT"]);
    for table in &all {
        assert_eq!(
            table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)),
            0,
            "{:?}",
            &table[..4]
        );
    }
    let local_apics = all[1][44..].windows(2).filter(|pair| *pair == [0, 8]).count();
    assert_eq!(local_apics, 4);
}

#[test]
fn the_madt_says_which_isa_interrupts_are_elsewhere_or_level_triggered() {
    // Active high; edge, or level.
    const EDGE: u16 = 0x5;
    const LEVEL: u16 = 0xd;
    assert_eq!(
        source_overrides(&machine(kernel(), 2)),
        [(0, 2, EDGE), (9, 9, LEVEL), (10, 10, LEVEL), (11, 11, LEVEL)]
    );
}

#[test]
fn the_largest_machine_has_room_for_its_tables() {
    tables(&machine(kernel(), 240));
    let parts = Parts {
        cpus: 240,
        boot_cpus: Some(1),
        ..Parts::default()
    };
    tables(&parts.build().unwrap());
}

#[test]
fn iasl_reads_every_table_and_compiles_the_dsdt_again() {
    if Command::new("iasl").arg("-v").output().is_err() {
        eprintln!(
            "SKIPPED iasl_reads_every_table_and_compiles_the_dsdt_again: iasl (acpica-tools) is not installed"
        );
        return;
    }
    // With everything that the tables can describe.
    let parts = Parts {
        cpus: 3,
        boot_cpus: Some(2),
        generation_id: Some([7; 16]),
        ..Parts::default()
    };
    let bench = parts.build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for table in tables(&bench) {
        let name = String::from_utf8_lossy(&table[..4]).to_lowercase();
        let path = folder.path().join(&name).with_extension("aml");
        std::fs::write(&path, &table).unwrap();
        let disassembled = Command::new("iasl").arg("-d").arg(&path).output().unwrap();
        let text = String::from_utf8_lossy(&disassembled.stderr).into_owned()
            + &String::from_utf8_lossy(&disassembled.stdout);
        assert!(
            disassembled.status.success() && !text.contains("Error"),
            "{name}: {text}"
        );
        if name == "dsdt" {
            let source = path.with_extension("dsl");
            let compiled = Command::new("iasl")
                .args(["-ve", "-tc"])
                .arg(&source)
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&compiled.stdout).into_owned()
                + &String::from_utf8_lossy(&compiled.stderr);
            let content = std::fs::read_to_string(&source).unwrap();
            assert!(
                compiled.status.success() && text.contains(" 0 Errors"),
                "{text}\n{content}"
            );
        }
    }
}
