//! SMBIOS 3.0 structures with the entry points of 3.0 and 2.8 (DMTF DSP0134).

use super::{Area, Description, checksum};
use crate::Error;

/// Writes both entry points and the structures.
pub fn install(machine: &Description, pointers: &mut Area, tables: &mut Area) -> Result<(), Error> {
    let structures = structures(machine);
    let at = tables.place(&structures.bytes, 16)?;
    pointers.place(&entry_3_0(at, &structures), 16)?;
    pointers.place(&entry_2_8(at as u32, &structures), 16)?;
    Ok(())
}

/// Both as files for firmware, which places the structures itself: the entry point of 2.8 and the structures.
pub fn files(machine: &Description) -> (Vec<u8>, Vec<u8>) {
    let structures = structures(machine);
    (entry_2_8(0, &structures), structures.bytes)
}

struct Structures {
    bytes: Vec<u8>,
    count: u16,
    largest: usize,
}

impl Structures {
    /// Adds a structure: its formatted part after the header, and its strings (numbered from 1).
    fn add(&mut self, kind: u8, formatted: &[u8], strings: &[&str]) {
        let start = self.bytes.len();
        self.bytes.extend([kind, 4 + formatted.len() as u8]);
        self.bytes.extend((0x100 * u16::from(kind)).to_le_bytes());
        self.bytes.extend(formatted);
        for string in strings {
            self.bytes.extend(string.as_bytes());
            self.bytes.push(0);
        }
        if strings.is_empty() {
            self.bytes.push(0);
        }
        self.bytes.push(0);
        self.count += 1;
        self.largest = self.largest.max(self.bytes.len() - start);
    }
}

fn structures(machine: &Description) -> Structures {
    let mut all = Structures {
        bytes: Vec::new(),
        count: 0,
        largest: 0,
    };
    let version = env!("CARGO_PKG_VERSION");
    let name = machine.machine_type.name();
    let megabytes = (ostler_memory::total_size(machine.ram) + machine.more_memory) >> 20;

    if !machine.firmware {
        // 0: firmware. Its characteristics say: none of the old ones, a virtual machine.
        let mut firmware = vec![1, 2, 0x00, 0xf0, 3, 0];
        firmware.extend((1u64 << 3).to_le_bytes());
        firmware.extend([0, 0x10, 0xff, 0xff, 0xff, 0xff]);
        all.add(0, &firmware, &["Ostler", version, "01/01/2026"]);
    }
    // 1: system; no serial number, an unset UUID, woken by the power switch.
    let mut system = vec![1, 2, 3, 0];
    system.extend([0; 16]);
    system.extend([6, 0, 0]);
    all.add(1, &system, &["Ostler", name, version]);
    // 3: enclosure, of type "other", all states safe.
    all.add(
        3,
        &[1, 1, 2, 0, 0, 3, 3, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0],
        &["Ostler", version],
    );
    // 4: one socket with all CPUs as cores.
    let cpus = machine.present_cpus() as u8;
    let mut processor = vec![1, 3, 1, 2];
    processor.extend([0; 8]); // CPUID is the better source
    processor.extend([3, 0, 0, 0, 0, 0, 0, 0, 0x41, 1]);
    processor.extend([0xff; 6]); // no cache structures
    processor.extend([0, 0, 0, cpus, cpus, cpus, 0x04, 0x00, 0x01, 0x00]);
    all.add(4, &processor, &["CPU 0", "Ostler", version]);
    // 16, 17: one memory array with one device.
    let mut array = vec![3, 3, 6];
    array.extend(0x8000_0000u32.to_le_bytes());
    array.extend([0xfe, 0xff, 1, 0]);
    array.extend((megabytes << 20).to_le_bytes());
    all.add(16, &array, &[]);
    all.add(17, &memory_device(megabytes), &["DIMM 0", "Ostler"]);
    // 32: the last boot went well.
    all.add(32, &[0, 0, 0, 0, 0, 0, 0], &[]);
    all.add(127, &[], &[]);
    all
}

fn memory_device(megabytes: u64) -> Vec<u8> {
    let array: u16 = 0x1000;
    let mut device = array.to_le_bytes().to_vec();
    device.extend([0xfe, 0xff]); // no error information
    device.extend([0xff; 4]); // widths unknown
    let extended = megabytes >= 0x7fff;
    device.extend((if extended { 0x7fff } else { megabytes as u16 }).to_le_bytes());
    device.extend([9, 0, 1, 0, 7]); // a DIMM of RAM
    device.extend([2, 0, 0, 0]);
    device.extend([2, 0, 0, 0, 0]); // manufacturer; no serial number, tag, part number, rank
    device.extend((if extended { megabytes as u32 } else { 0 }).to_le_bytes());
    device.extend([0; 8]);
    device
}

fn entry_3_0(at: u64, structures: &Structures) -> Vec<u8> {
    let mut entry = b"_SM3_".to_vec();
    entry.extend([0, 24, 3, 0, 0, 1, 0]);
    entry.extend((structures.bytes.len() as u32).to_le_bytes());
    entry.extend(at.to_le_bytes());
    entry[5] = checksum(&entry);
    entry
}

fn entry_2_8(at: u32, structures: &Structures) -> Vec<u8> {
    let mut entry = b"_SM_".to_vec();
    entry.extend([0, 31, 2, 8]);
    entry.extend((structures.largest as u16).to_le_bytes());
    entry.extend([0; 6]);
    entry.extend(b"_DMI_");
    entry.push(0);
    entry.extend((structures.bytes.len() as u16).to_le_bytes());
    entry.extend(at.to_le_bytes());
    entry.extend(structures.count.to_le_bytes());
    entry.push(0x28);
    entry[21] = checksum(&entry[16..]);
    entry[4] = checksum(&entry);
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MachineType;
    use ostler_bus::Range;

    #[test]
    fn structures_follow_each_other_and_entry_points_add_up() {
        let ram = ostler_memory::allocate(64 << 20, Default::default()).unwrap();
        let nothing = Range::new(0, 0);
        let windows = ostler_pci::Windows {
            io: nothing,
            memory32: nothing,
            memory64: nothing,
        };
        let all = structures(&Description {
            ram: &ram,
            machine_type: MachineType::default(),
            cpus: &[true, true, false],
            cpu_hotplug: true,
            windows,
            ecam: nothing,
            serial: true,
            generation_id: false,
            suspend: false,
            display: false,
            firmware: false,
            more_memory: 0,
        });
        let (mut at, mut kinds) = (0, Vec::new());
        while at < all.bytes.len() {
            kinds.push(all.bytes[at]);
            at += usize::from(all.bytes[at + 1]);
            at += all.bytes[at..]
                .windows(2)
                .position(|pair| pair == [0, 0])
                .unwrap()
                + 2;
        }
        assert_eq!(at, all.bytes.len());
        assert_eq!(kinds, [0, 1, 3, 4, 16, 17, 32, 127]);
        assert_eq!(kinds.len(), usize::from(all.count));
        let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!(sum(&entry_3_0(0xf1000, &all)), 0);
        let entry = entry_2_8(0xf1000, &all);
        assert_eq!((entry.len(), sum(&entry), sum(&entry[16..])), (31, 0, 0));
    }
}
