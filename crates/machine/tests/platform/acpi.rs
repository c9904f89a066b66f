//! The ACPI tables as a guest finds them, read by ACPICA's compiler.

use std::process::Command;

use crate::bench::{Bench, kernel, machine};
use vm_memory::{Bytes, GuestAddress};

fn read(bench: &Bench, gpa: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bench.ram.read_slice(&mut bytes, GuestAddress(gpa)).unwrap();
    bytes
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// The table at `gpa`, whole.
fn table(bench: &Bench, gpa: u64) -> Vec<u8> {
    let len = number(&read(bench, gpa + 4, 4)) as usize;
    read(bench, gpa, len)
}

/// All tables that the RSDP leads to, by signature.
fn tables(bench: &Bench) -> Vec<Vec<u8>> {
    let rsdp = (0xe0000..0x100000)
        .step_by(16)
        .find(|&gpa| read(bench, gpa, 8) == b"RSD PTR ")
        .unwrap();
    let xsdt = table(bench, number(&read(bench, rsdp + 24, 8)));
    let mut all: Vec<Vec<u8>> = xsdt[36..]
        .chunks(8)
        .map(|address| table(bench, number(address)))
        .collect();
    let fadt = all.iter().find(|table| table.starts_with(b"FACP")).unwrap();
    let (facs, dsdt) = (number(&fadt[36..40]), number(&fadt[140..148]));
    assert_eq!(number(&fadt[40..44]), dsdt);
    all.push(table(bench, dsdt));
    assert_eq!(&read(bench, facs, 4), b"FACS");
    all.push(xsdt);
    all
}

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
fn the_largest_machine_has_room_for_its_tables() {
    tables(&machine(kernel(), 240));
}

#[test]
fn iasl_reads_every_table_and_compiles_the_dsdt_again() {
    if Command::new("iasl").arg("-v").output().is_err() {
        eprintln!(
            "SKIPPED iasl_reads_every_table_and_compiles_the_dsdt_again: iasl (acpica-tools) is not installed"
        );
        return;
    }
    let bench = machine(kernel(), 3);
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
