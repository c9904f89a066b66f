//! A machine with everything on its board, whose guest accesses ports and memory in any order.

use std::sync::{Arc, LazyLock};

use ostler_bus::testing::Input;
use vm_memory::{Bytes, GuestAddress};

use super::bench::{Bench, Parts};
use crate::layout::{FW_CFG, GENERATION_ID, IOAPIC_BASE, PCI_CONFIG_PORTS, PM_BASE};
use crate::{Blob, Boot, Firmware, FirmwareChip, SerialBackend, Variables};

/// Bytes of RAM.
const RAM: u64 = 4 << 20;
/// Bytes of each flash chip.
const FLASH: usize = 64 << 10;

struct Nowhere;

impl SerialBackend for Nowhere {
    fn output(&self, _: &[u8]) {}
    fn input_room(&self) {}
}

/// Made once: what is between two inputs is a reset, as for a guest.
static BENCH: LazyLock<Bench> = LazyLock::new(|| {
    let firmware = Firmware {
        code: Blob::Bytes(vec![0xf4; FLASH]),
        chip: FirmwareChip::Flash(Variables {
            contents: Blob::Bytes(vec![0xff; FLASH]),
            file: None,
        }),
        physical_bits: 40,
        boot_order: vec![crate::disk_path(
            &crate::Places::default(),
            crate::PciAddress::root(1),
        )],
        boot_menu: None,
        debug: Some(Arc::new(Nowhere)),
        smm: false,
    };
    let parts = Parts {
        boot: Some(Boot::Firmware(firmware)),
        cpus: 2,
        boot_cpus: Some(1),
        ram: ostler_memory::allocate(RAM, Default::default()).expect("4 MiB of RAM are there"),
        watchdog: true,
        generation_id: Some([7; 16]),
        suspend: true,
        ..Parts::default()
    };
    parts.build().expect("the host has a thread")
});

/// Ports with something behind them: the first of each chip, and the last.
const PORTS: [u64; 40] = [
    0x20,
    0x21,
    0xa0,
    0xa1,
    0x40,
    0x41,
    0x42,
    0x43,
    0x60,
    0x61,
    0x64,
    0x70,
    0x71,
    0x80,
    0x92,
    0xb2,
    0xb3,
    0x3f8,
    0x3f9,
    0x3fa,
    0x3fb,
    0x3fc,
    0x3fd,
    0x3fe,
    0x3ff,
    0x402,
    0x4d0,
    0x4d1,
    0x505,
    FW_CFG,
    FW_CFG + 1,
    FW_CFG + 4,
    FW_CFG + 8,
    PM_BASE,
    PM_BASE + 4,
    PM_BASE + 8,
    PM_BASE + 0x20,
    PM_BASE + 0x28,
    PCI_CONFIG_PORTS,
    0xcf9,
];

/// One input with its machine.
struct Guest(&'static Bench);

impl Guest {
    /// Guest-physical addresses with something behind them.
    fn windows(input: &mut Input<'_>) -> u64 {
        let flash = (1 << 32) - 2 * FLASH as u64;
        let base = input.pick(&[
            IOAPIC_BASE,
            IOAPIC_BASE + 0x10,
            GENERATION_ID,
            flash,
            flash + FLASH as u64,
            0xc_0000,
            0xf_0000,
            0xff00_0000,
        ]);
        base + u64::from(input.u16())
    }

    /// A word of configuration space: the host bridge, the LPC bridge, the watchdog, the root ports.
    fn configuration(&self, input: &mut Input<'_>) {
        let (device, register) = (u32::from(input.u8()), u32::from(input.u8()));
        let device = [0, 31, 1, 16, 17, device >> 3 & 31][(device & 7) as usize % 6];
        let word = 1 << 31 | device << 11 | register & 0xfc;
        let ports = self.0.machine.ports();
        ports.write(PCI_CONFIG_PORTS, &word.to_le_bytes());
        let how = input.u8();
        let width = [1, 2, 4][usize::from(how & 3) % 3];
        let at = PCI_CONFIG_PORTS + 4 + u64::from(register & 3);
        if how & 4 == 0 {
            ports.read(at, &mut [0; 4][..width]);
        } else {
            ports.write(at, &input.u32().to_le_bytes()[..width]);
        }
    }

    fn port(&self, port: u64, input: &mut Input<'_>) {
        let how = input.u8();
        let width = [1, 2, 4, 1][usize::from(how & 3)];
        if how & 4 == 0 {
            self.0.machine.ports().read(port, &mut [0; 4][..width]);
        } else {
            self.0
                .machine
                .ports()
                .write(port, &input.u32().to_le_bytes()[..width]);
        }
    }

    fn step(&self, input: &mut Input<'_>) {
        match input.u8() & 0xf {
            0..=4 => {
                let port = input.pick(&PORTS);
                self.port(port, input);
            }
            5 => {
                let port = u64::from(input.u16());
                self.port(port, input);
            }
            6 => {
                let port = input.pick(&PORTS);
                self.0.machine.ports().write(port, &[input.u8()]);
            }
            7 | 8 => {
                let address = Self::windows(input);
                let how = input.u8();
                let width = 1 << (how & 3);
                if how & 4 == 0 {
                    self.0.machine.memory().read(address, &mut [0; 8][..width]);
                } else {
                    self.0
                        .machine
                        .memory()
                        .write(address, &input.u64().to_le_bytes()[..width]);
                }
            }
            9 | 10 => self.configuration(input),
            11 => {
                // What fw_cfg reads and writes by itself.
                let (at, count) = (u64::from(input.u16()) << 4, input.u8());
                let _ = self.0.ram.write_slice(input.take(count.into()), GuestAddress(at));
            }
            12 => {
                // A transfer of fw_cfg: its structure is big-endian at 0x1000.
                let mut transfer = [0; 16];
                let control = u32::from(input.u8() & 0x3f) | u32::from(input.u16()) << 16;
                transfer[..4].copy_from_slice(&control.to_be_bytes());
                transfer[4..8].copy_from_slice(&u32::from(input.u16()).to_be_bytes());
                transfer[8..].copy_from_slice(&(u64::from(input.u16()) << 4).to_be_bytes());
                let _ = self.0.ram.write_slice(&transfer, GuestAddress(0x1000));
                self.0.machine.ports().write(FW_CFG + 4, &[0; 4]);
                self.0.machine.ports().write(FW_CFG + 8, &0x1000u32.to_be_bytes());
            }
            13 => {
                let what = input.u8();
                let count = input.u8();
                match what & 7 {
                    0 => self.0.machine.power_button(),
                    1 => {
                        self.0.machine.set_generation_id([what; 16]);
                    }
                    2 => self.0.machine.end_of_interrupt(input.u8()),
                    3 => {
                        let _ = self.0.machine.request_unplug(what >> 3);
                    }
                    4 => self.0.machine.cpus_held(),
                    5 => self.0.machine.cpus_run(),
                    6 => self.0.machine.wake().expect("firmware loads nothing"),
                    _ => {
                        self.0.machine.serial_input(input.take(count.into()));
                    }
                }
            }
            14 => {
                let external = self
                    .0
                    .vm
                    .external
                    .lock()
                    .ok()
                    .and_then(|external| external.clone());
                if let Some(external) = external {
                    external.pending();
                    external.acknowledge();
                }
            }
            _ => self.0.machine.reset().expect("firmware loads nothing"),
        }
    }
}

/// A guest's accesses to the chips: interrupt controllers, timer, clock, keyboard, serial port, power management, fw_cfg, flash,
/// IOAPIC, watchdog, generation ID, shadow memory, bridges.
pub fn chips(input: &[u8]) {
    let mut input = Input::new(input);
    let bench = &*BENCH;
    let guest = Guest(bench);
    for _ in 0..512 {
        if input.is_over() {
            break;
        }
        guest.step(&mut input);
    }
    // The next input comes to the same machine: nothing piles up.
    bench.messages();
    bench.outside.output.lock().expect("nobody panicked").clear();
    bench.outside.events.lock().expect("nobody panicked").clear();
    // Whatever it was, a reset brings the host bridge and the processor's first instruction back.
    bench.machine.reset().expect("firmware loads nothing");
    let (ports, mut id) = (bench.machine.ports(), [0; 4]);
    ports.write(PCI_CONFIG_PORTS, &(1u32 << 31).to_le_bytes());
    ports.read(PCI_CONFIG_PORTS + 4, &mut id);
    assert_eq!(
        u16::from_le_bytes([id[0], id[1]]),
        0x8086,
        "the host bridge is there"
    );
    assert_eq!(bench.machine.boot_state(0).rip, 0xfff0);
}
