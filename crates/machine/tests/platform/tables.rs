//! Reads the tables that describe the machine to its guest, from the guest's memory.

use std::collections::BTreeMap;

use vm_memory::{Bytes, GuestAddress};

use crate::bench::Bench;

pub fn read(bench: &Bench, gpa: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bench.ram.read_slice(&mut bytes, GuestAddress(gpa)).unwrap();
    bytes
}

/// A little-endian number.
pub fn number(bytes: &[u8]) -> u64 {
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

/// Where the BIOS area has a paragraph that begins with `signature`.
fn find(bench: &Bench, signature: &[u8]) -> u64 {
    let mut paragraphs = (0xe0000..0x100000).step_by(16);
    paragraphs
        .find(|&gpa| read(bench, gpa, signature.len()) == signature)
        .unwrap()
}

/// All ACPI tables that the RSDP leads to, by signature.
pub fn tables(bench: &Bench) -> Vec<Vec<u8>> {
    let rsdp = find(bench, b"RSD PTR ");
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

fn acpi(bench: &Bench, signature: &[u8]) -> Vec<u8> {
    let mut all = tables(bench).into_iter();
    all.find(|table| table.starts_with(signature)).unwrap()
}

/// The MADT's interrupt source overrides: ISA interrupt, global interrupt, flags.
pub fn source_overrides(bench: &Bench) -> Vec<(u8, u32, u16)> {
    let madt = acpi(bench, b"APIC");
    let mut found = Vec::new();
    let mut at = 44;
    while at < madt.len() {
        let entry = &madt[at..at + usize::from(madt[at + 1])];
        if entry[0] == 2 {
            assert_eq!(entry[2], 0, "the bus is ISA");
            found.push((
                entry[3],
                number(&entry[4..8]) as u32,
                number(&entry[8..10]) as u16,
            ));
        }
        at += entry.len();
    }
    assert_eq!(at, madt.len());
    found
}

/// What stands for a PCI interrupt: slot, and pin (0 is INTA).
pub type Source = (u8, u8);

/// The routing table `name` in the DSDT (ACPI 6.5, 6.2.13 and 20.2): the interrupt of each pin.
pub fn routes(bench: &Bench, name: &[u8; 4]) -> BTreeMap<Source, u8> {
    let dsdt = acpi(bench, b"DSDT");
    // NameOp, the name, PackageOp.
    let start = [&[0x08], &name[..], &[0x12]].concat();
    let at = dsdt.windows(6).position(|bytes| bytes == start).unwrap();
    let (package, _) = take_package(&dsdt[at + 6..]);
    let (count, mut rest) = (package[0], &package[1..]);
    let mut routes = BTreeMap::new();
    for _ in 0..count {
        assert_eq!(rest[0], 0x12);
        let (entry, behind) = take_package(&rest[1..]);
        rest = behind;
        assert_eq!(entry[0], 4, "address, pin, source, index");
        let (address, entry) = take_integer(&entry[1..]);
        let (pin, entry) = take_integer(entry);
        let (source, entry) = take_integer(entry);
        let (interrupt, entry) = take_integer(entry);
        assert_eq!((address & 0xffff, source, entry), (0xffff, 0, &[][..]));
        let earlier = routes.insert(((address >> 16) as u8, pin as u8), interrupt as u8);
        assert_eq!(earlier, None);
    }
    assert!(rest.is_empty());
    routes
}

/// What follows a PackageOp: its contents after the length, and what comes behind it.
fn take_package(bytes: &[u8]) -> (&[u8], &[u8]) {
    let more = usize::from(bytes[0] >> 6);
    let len = match more {
        0 => usize::from(bytes[0] & 0x3f),
        _ => usize::from(bytes[0] & 0xf) | (number(&bytes[1..=more]) as usize) << 4,
    };
    (&bytes[1 + more..len], &bytes[len..])
}

fn take_integer(bytes: &[u8]) -> (u64, &[u8]) {
    let width = match bytes[0] {
        op @ (0 | 1) => return (op.into(), &bytes[1..]),
        0x0a => 1,
        0x0b => 2,
        0x0c => 4,
        0x0e => 8,
        op => panic!("{op:#x} is no integer"),
    };
    (number(&bytes[1..=width]), &bytes[1 + width..])
}

/// The MP configuration table, header and all.
pub fn mp_table(bench: &Bench) -> Vec<u8> {
    let pointer = read(bench, find(bench, b"_MP_"), 16);
    assert_eq!(pointer.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    assert_eq!(
        &pointer[8..12],
        [1, 4, pointer[10], 0],
        "one paragraph, version 1.4, a table"
    );
    let at = number(&pointer[4..8]);
    let len = number(&read(bench, at + 4, 2)) as usize;
    let table = read(bench, at, len);
    assert_eq!(&table[..4], b"PCMP");
    assert_eq!(table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    table
}

/// The MP table's entries after the header.
pub fn mp_entries(bench: &Bench) -> Vec<Vec<u8>> {
    let table = mp_table(bench);
    let mut entries = Vec::new();
    let mut rest = &table[44..];
    while let Some(&kind) = rest.first() {
        let (entry, behind) = rest.split_at(if kind == 0 { 20 } else { 8 });
        entries.push(entry.to_vec());
        rest = behind;
    }
    assert_eq!(entries.len() as u64, number(&table[34..36]));
    entries
}
