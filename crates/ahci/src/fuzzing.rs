//! Entries for fuzzers: what a driver does with a controller that has a disk and a CD-ROM drive.

use std::sync::Arc;

use ostler_bus::Device;
use ostler_bus::testing::{Input, Silent};
use ostler_disk::memory::{MemoryDisk, Mood};
use ostler_memory::{GuestRam, RamOptions, allocate};
use ostler_pci::PciFunction;
use ostler_worker::scripted;
use vm_memory::{Bytes, GuestAddress};

use crate::{Ahci, DriveKind, DriveOptions};

/// Bytes of RAM.
const RAM: u64 = 2 << 20;
/// Where a good driver has its structures; those of the second port are `PORT_STEP` further.
const LIST: u64 = 0x1_0000;
const RECEIVED: u64 = 0x2_0000;
const TABLES: u64 = 0x4_0000;
const PORT_STEP: u64 = 0x1000;
const DATA: u64 = 0x10_0000;

const PX_CLB: u64 = 0x00;
const PX_FB: u64 = 0x08;
const PX_IS: u64 = 0x10;
const PX_IE: u64 = 0x14;
const PX_CMD: u64 = 0x18;
const PX_SERR: u64 = 0x30;
const PX_SACT: u64 = 0x34;
const PX_CI: u64 = 0x38;
const START_RECEIVE: u32 = 1 << 4 | 1;

/// Commands that drives know (ACS-3, 7), for inputs that do not hit them.
const COMMANDS: [u8; 24] = [
    0x25, 0x35, 0xc8, 0xca, 0x24, 0x34, 0x20, 0x30, 0x60, 0x61, 0xec, 0xa1, 0xa0, 0xe7, 0xea, 0x06, 0x2f,
    0x47, 0xb0, 0xef, 0x08, 0xc6, 0x29, 0x39,
];
/// The same of packets (MMC-6).
const PACKETS: [u8; 20] = [
    0x00, 0x03, 0x12, 0x1a, 0x1b, 0x1e, 0x25, 0x28, 0x43, 0x46, 0x4a, 0x51, 0x52, 0x5a, 0xa8, 0xad, 0xbd,
    0xbe, 0xb9, 0x23,
];

struct Bench {
    ram: Arc<GuestRam>,
    ahci: Arc<Ahci>,
    bar: Arc<dyn Device>,
    disks: [Arc<MemoryDisk>; 2],
}

impl Bench {
    fn new() -> Self {
        let ram = allocate(RAM, RamOptions::default()).expect("2 MiB of RAM are there");
        let disks = [MemoryDisk::new(64 << 10, false), MemoryDisk::new(64 << 10, true)];
        let drives = disks.iter().zip([DriveKind::Disk, DriveKind::Cdrom]);
        let drives = drives.map(|(disk, kind)| DriveOptions {
            kind,
            disk: Some(disk.clone()),
            serial: "serial".into(),
        });
        let ahci = Ahci::new(drives.collect(), ram.clone(), Arc::new(Silent)).expect("the host has events");
        ahci.connect_intx(Arc::new(Silent));
        let bar = ahci.bar(5).expect("it has registers");
        Self {
            ram,
            ahci,
            bar,
            disks,
        }
    }

    fn set_port(&self, port: u64, register: u64, value: u32) {
        self.bar
            .write(0x100 + 0x80 * port + register, &value.to_le_bytes());
    }

    fn port(&self, port: u64, register: u64) -> u32 {
        let mut data = [0; 4];
        self.bar.read(0x100 + 0x80 * port + register, &mut data);
        u32::from_le_bytes(data)
    }

    /// Gives the port its memory, and starts it.
    fn start(&self, port: u64) {
        self.set_port(port, PX_CLB, (LIST + PORT_STEP * port) as u32);
        self.set_port(port, PX_CLB + 4, 0);
        self.set_port(port, PX_FB, (RECEIVED + PORT_STEP * port) as u32);
        self.set_port(port, PX_FB + 4, 0);
        self.set_port(port, PX_SERR, u32::MAX);
        self.set_port(port, PX_IS, u32::MAX);
        self.set_port(port, PX_IE, u32::MAX);
        self.bar.write(4, &2u32.to_le_bytes());
        self.set_port(port, PX_CMD, START_RECEIVE);
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        let _ = self.ram.write_slice(bytes, GuestAddress(at));
    }

    fn table(port: u64, slot: u64) -> u64 {
        TABLES + 0x2_0000 * port + 0x800 * slot
    }

    /// Puts a command into a slot: FIS, packet, list of buffers, header; most of it the input's.
    fn prepare(&self, port: u64, slot: u64, input: &mut Input<'_>) {
        let shape = input.u8();
        let table = Self::table(port, slot);
        let mut fis = [0; 20];
        (fis[0], fis[1], fis[7]) = (0x27, 0x80, 0x40);
        fis[2] = if port == 1 && shape & 1 == 0 {
            0xa0
        } else {
            input.pick(&COMMANDS)
        };
        let rest = input.take(usize::from(shape >> 1 & 7) + 4);
        // LBA and count, which are small as often as not.
        for (byte, at) in rest.iter().zip([4, 12, 3, 5, 13, 11, 7, 6, 8, 9, 10]) {
            fis[at] = *byte;
        }
        self.put(table, &fis);
        if fis[2] == 0xa0 {
            let mut packet = [0; 16];
            packet[0] = input.pick(&PACKETS);
            let rest = input.take(11);
            packet[1..1 + rest.len()].copy_from_slice(rest);
            self.put(table + 0x40, &packet);
        }
        let count = u16::from(shape >> 4 & 3);
        for index in 0..u64::from(count) {
            let (place, len) = (input.u8(), u32::from(input.u16()));
            let address = DATA + u64::from(place) * 0x1000;
            let mut entry = [0; 16];
            entry[..8].copy_from_slice(&address.to_le_bytes());
            entry[12..].copy_from_slice(&(len | 1).to_le_bytes());
            self.put(table + 0x80 + 16 * index, &entry);
        }
        let mut header = [0; 32];
        header[0] = 5 | u8::from(fis[2] == 0xa0) << 5 | shape & 0x40;
        header[2..4].copy_from_slice(&count.to_le_bytes());
        header[8..16].copy_from_slice(&table.to_le_bytes());
        self.put(LIST + PORT_STEP * port + 32 * slot, &header);
        if shape & 0x80 != 0 {
            self.set_port(port, PX_SACT, 1 << slot);
        }
    }

    fn step(&self, input: &mut Input<'_>, script: &scripted::Script) {
        let step = input.u8();
        let port = u64::from(step >> 4 & 1);
        let slot = u64::from(step >> 5);
        match step & 0xf {
            0..=3 => {
                self.prepare(port, slot, input);
                self.set_port(port, PX_CI, 1 << slot);
            }
            4 => self.prepare(port, slot, input),
            5 => self.set_port(port, PX_CI, input.u32()),
            6 => self.start(port),
            7 => {
                let offset = 0x100 + 0x80 * port + u64::from(input.u8() & 0x7f);
                input.access(&*self.bar, offset, 8);
            }
            8 => {
                let offset = u64::from(input.u16()) % 0x500;
                input.access(&*self.bar, offset, 8);
            }
            9 => {
                let base = input.pick(&[LIST, RECEIVED, Self::table(0, 0), Self::table(1, 0), DATA]);
                let offset = u64::from(input.u16() & 0x1fff);
                let count = input.u8();
                self.put(base + offset, input.take(count.into()));
            }
            10 => {
                let (offset, value) = (u16::from(input.u8()), input.u32());
                self.ahci.config_read(offset, &mut [0; 4]);
                self.ahci.config_write(offset, &value.to_le_bytes());
            }
            11 => {
                let mood = input.pick(&[Mood::Willing, Mood::Willing, Mood::Slow, Mood::Broken]);
                self.disks[port as usize].set_mood(mood);
            }
            12 => {
                self.set_port(port, PX_CMD, 1 << 4);
                script.settle();
            }
            _ => script.settle(),
        }
    }
}

/// A driver of a controller: registers, command lists, FIS, packets and buffers in any order, and disks that are slow or broken at
/// times.
pub fn ahci(input: &[u8]) {
    let mut input = Input::new(input);
    scripted::run(|script| {
        let bench = Bench::new();
        (0..2).for_each(|port| bench.start(port));
        script.settle();
        for _ in 0..256 {
            if input.is_over() {
                break;
            }
            bench.step(&mut input, script);
        }
        // Whatever it was, a driver that resets the controller finds drives that answer.
        bench.disks.iter().for_each(|disk| disk.set_mood(Mood::Willing));
        bench.ahci.config_write(4, &7u16.to_le_bytes());
        bench.bar.write(4, &1u32.to_le_bytes());
        script.settle();
        for (port, identify) in [(0, 0xec), (1, 0xa1)] {
            bench.set_port(port, PX_CMD, 0);
            script.settle();
            // As after power-on: the drive is reset by its link (SControl.DET).
            bench.set_port(port, 0x2c, 1);
            bench.set_port(port, 0x2c, 0);
            script.settle();
            bench.start(port);
            script.settle();
            bench.put(
                Bench::table(port, 0),
                &[0x27, 0x80, identify, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0],
            );
            let mut entry = [0; 16];
            entry[..8].copy_from_slice(&DATA.to_le_bytes());
            entry[12..].copy_from_slice(&511u32.to_le_bytes());
            bench.put(Bench::table(port, 0) + 0x80, &entry);
            let mut header = [0; 32];
            (header[0], header[2]) = (5, 1);
            header[8..16].copy_from_slice(&Bench::table(port, 0).to_le_bytes());
            bench.put(LIST + PORT_STEP * port, &header);
            bench.set_port(port, PX_CI, 1);
            script.settle();
            assert_eq!(bench.port(port, PX_CI), 0, "the drive at port {port} answers");
            assert_eq!(bench.port(port, 0x20), 0x50, "the drive at port {port} is ready");
        }
        drop(bench);
    });
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_fuzzers_found_is_survived() {
        ostler_corpus::replay("ahci", super::ahci);
    }
}
