//! The MP configuration table (Intel MultiProcessor Specification 1.4), for kernels without ACPI.

use super::{Area, Description, checksum};
use crate::Error;
use crate::bridges::topology;
use crate::layout::IOAPIC_BASE;

const LAPIC_BASE: u32 = 0xfee0_0000;
const LAPIC_VERSION: u8 = 0x14;
const IOAPIC_ID: u8 = 0;
const IOAPIC_VERSION: u8 = 0x20;
const PCI_BUS: u8 = 0;
const ISA_BUS: u8 = 1;

/// Entry type and interrupt type.
const IO_INT: [u8; 2] = [3, 0];
const LOCAL_NMI: [u8; 2] = [4, 1];
const LOCAL_EXT_INT: [u8; 2] = [4, 3];
/// Polarity and trigger as the bus has them.
const CONFORMING: u16 = 0;
/// Active high, level: how our PCI lines arrive at the IOAPIC.
const HIGH_LEVEL: u16 = 0xd;
const TO_ALL: u8 = 0xff;

/// Writes the floating pointer and the table.
pub fn install(machine: &Description, pointers: &mut Area, tables: &mut Area) -> Result<(), Error> {
    let at = tables.place(&table(machine.cpus), 16)? as u32;
    let mut pointer = [0u8; 16];
    pointer[..4].copy_from_slice(b"_MP_");
    pointer[4..8].copy_from_slice(&at.to_le_bytes());
    pointer[8] = 1; // length in paragraphs
    pointer[9] = 4; // version 1.4
    pointer[10] = checksum(&pointer);
    pointers.place(&pointer, 16)?;
    Ok(())
}

fn table(cpus: &[bool]) -> Vec<u8> {
    let mut entries = Entries::default();
    let there = (0u8..).zip(cpus).filter(|(_, present)| **present);
    for (cpu, _) in there {
        let flags = if cpu == 0 { 3 } else { 1 };
        entries.add(&[
            0,
            cpu,
            LAPIC_VERSION,
            flags,
            0,
            6,
            0,
            0,
            1,
            2,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        ]);
    }
    entries.bus(PCI_BUS, b"PCI   ");
    entries.bus(ISA_BUS, b"ISA   ");
    let [a, b, c, d] = (IOAPIC_BASE as u32).to_le_bytes();
    entries.add(&[2, IOAPIC_ID, IOAPIC_VERSION, 1, a, b, c, d]);
    for isa in (0..16u8).filter(|isa| *isa != 2) {
        let input = if isa == 0 { 2 } else { isa };
        let flags = if matches!(isa, 9..=11) {
            HIGH_LEVEL
        } else {
            CONFORMING
        };
        entries.interrupt(IO_INT, flags, [ISA_BUS, isa], [IOAPIC_ID, input]);
    }
    for device in 1..32u8 {
        for pin in 0..4u8 {
            let input = topology::gsi(topology::pirq(device, pin));
            entries.interrupt(
                IO_INT,
                HIGH_LEVEL,
                [PCI_BUS, device << 2 | pin],
                [IOAPIC_ID, input],
            );
        }
    }
    entries.interrupt(LOCAL_EXT_INT, CONFORMING, [ISA_BUS, 0], [TO_ALL, 0]);
    entries.interrupt(LOCAL_NMI, CONFORMING, [ISA_BUS, 0], [TO_ALL, 1]);
    entries.finish()
}

#[derive(Default)]
struct Entries {
    bytes: Vec<u8>,
    count: u16,
}

impl Entries {
    fn add(&mut self, entry: &[u8]) {
        self.bytes.extend(entry);
        self.count += 1;
    }

    fn bus(&mut self, id: u8, name: &[u8; 6]) {
        let mut entry = [1, id, 0, 0, 0, 0, 0, 0];
        entry[2..].copy_from_slice(name);
        self.add(&entry);
    }

    /// An assignment of an interrupt, from bus and source to APIC and input.
    fn interrupt(&mut self, [kind, what]: [u8; 2], flags: u16, from: [u8; 2], to: [u8; 2]) {
        let [low, high] = flags.to_le_bytes();
        self.add(&[kind, what, low, high, from[0], from[1], to[0], to[1]]);
    }

    /// The header and all entries.
    fn finish(self) -> Vec<u8> {
        let mut table = Vec::with_capacity(44 + self.bytes.len());
        table.extend(b"PCMP");
        table.extend((44 + self.bytes.len() as u16).to_le_bytes());
        table.extend([4, 0]); // version 1.4, checksum to come
        table.extend(b"OSTLER  ");
        table.extend(b"OSTLERPC    ");
        table.extend([0; 6]); // no OEM table
        table.extend(self.count.to_le_bytes());
        table.extend(LAPIC_BASE.to_le_bytes());
        table.extend([0; 4]); // no extended table
        table.extend(self.bytes);
        table[7] = checksum(&table);
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_counts_and_sums_are_right() {
        let table = table(&[true, true, false, true]);
        assert_eq!(usize::from(u16::from_le_bytes([table[4], table[5]])), table.len());
        assert_eq!(table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        let (mut at, mut count) = (44, 0);
        while at < table.len() {
            at += if table[at] == 0 { 20 } else { 8 };
            count += 1;
        }
        assert_eq!(at, table.len());
        assert_eq!(count, u16::from_le_bytes([table[34], table[35]]));
    }
}
