//! A machine with everything on its board, whose guest accesses ports and memory in any order.

use std::io;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use ostler_accel::{CpuidLeaf, Error, ExternalInterrupts, IoapicPin, Vcpu, Vm};
use ostler_bus::testing::Input;
use ostler_bus::{Doorbell, DoorbellRegistry, Msi, MsiSink};
use ostler_memory::{GuestRam, RamSlot};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::layout::{FW_CFG, GENERATION_ID, IOAPIC_BASE, PCI_CONFIG_PORTS, PM_BASE};
use crate::{
    Blob, Boot, Firmware, FirmwareChip, Machine, MachineConfig, MachineEvent, MachineEvents, MachineType,
    SerialBackend, Variables,
};

/// Bytes of RAM.
const RAM: u64 = 4 << 20;
/// Bytes of each flash chip.
const FLASH: usize = 64 << 10;

/// A virtual machine without CPUs, which has the 8259's output.
#[derive(Default)]
struct NoCpus(Mutex<Option<Arc<dyn ExternalInterrupts>>>);

impl MsiSink for NoCpus {
    fn signal(&self, _: Msi) {}
    fn connect(&self, _: &EventFd, _: Option<Msi>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl DoorbellRegistry for NoCpus {
    fn add(&self, _: Doorbell, _: &EventFd) -> io::Result<()> {
        Ok(())
    }
    fn remove(&self, _: Doorbell, _: &EventFd) -> io::Result<()> {
        Ok(())
    }
}

impl Vm for NoCpus {
    fn create_vcpu(&self, _: u32, _: &[CpuidLeaf]) -> Result<Box<dyn Vcpu>, Error> {
        Err(Error::Unsupported("this machine has no CPUs".into()))
    }
    fn set_slots(&self, _: Vec<RamSlot>) -> Result<(), Error> {
        Ok(())
    }
    fn set_ioapic_pins(&self, _: &[IoapicPin]) -> Result<(), Error> {
        Ok(())
    }
    fn set_external_interrupts(&self, source: Arc<dyn ExternalInterrupts>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(source);
    }
    fn external_interrupt_raised(&self) {}
    fn set_dirty_log(&self, _: bool) -> Result<(), Error> {
        Ok(())
    }
    fn sync_dirty(&self) -> Result<(), Error> {
        Ok(())
    }
    fn clock(&self) -> Result<u64, Error> {
        Ok(0)
    }
    fn set_clock(&self, _: u64) -> Result<(), Error> {
        Ok(())
    }
}

struct Outside;

impl SerialBackend for Outside {
    fn output(&self, _: &[u8]) {}
    fn input_room(&self) {}
}

impl MachineEvents for Outside {
    fn notify(&self, _: MachineEvent) {}
}

struct Bench {
    machine: Machine,
    vm: Arc<NoCpus>,
    ram: Arc<GuestRam>,
}

/// Made once: what is between two inputs is a reset, as for a guest.
static BENCH: LazyLock<Bench> = LazyLock::new(|| {
    let (vm, outside) = (Arc::new(NoCpus::default()), Arc::new(Outside));
    let ram = ostler_memory::allocate(RAM, Default::default()).expect("4 MiB of RAM are there");
    let firmware = Firmware {
        code: Blob::Bytes(vec![0xf4; FLASH]),
        chip: FirmwareChip::Flash(Variables {
            contents: Blob::Bytes(vec![0xff; FLASH]),
            file: None,
        }),
        physical_bits: 40,
        boot_order: vec![crate::disk_path(0)],
        boot_menu: None,
        debug: Some(outside.clone()),
        smm: false,
    };
    let machine = Machine::build(MachineConfig {
        machine_type: MachineType::default(),
        ram: ram.clone(),
        vm: vm.clone(),
        cpus: 2,
        boot_cpus: 1,
        boot: Boot::Firmware(firmware),
        functions: Vec::new(),
        sata: None,
        display: None,
        watchdog: true,
        generation_id: Some([7; 16]),
        serial: Some(outside.clone()),
        events: outside,
        debug_exit: Some(0xf4),
        test_device: true,
    });
    Bench {
        machine: machine.expect("the host has a thread"),
        vm,
        ram,
    }
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

impl Bench {
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
        let ports = self.machine.ports();
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
            self.machine.ports().read(port, &mut [0; 4][..width]);
        } else {
            self.machine
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
                self.machine.ports().write(port, &[input.u8()]);
            }
            7 | 8 => {
                let address = Self::windows(input);
                let how = input.u8();
                let width = 1 << (how & 3);
                if how & 4 == 0 {
                    self.machine.memory().read(address, &mut [0; 8][..width]);
                } else {
                    self.machine
                        .memory()
                        .write(address, &input.u64().to_le_bytes()[..width]);
                }
            }
            9 | 10 => self.configuration(input),
            11 => {
                // What fw_cfg reads and writes by itself.
                let (at, count) = (u64::from(input.u16()) << 4, input.u8());
                let _ = self.ram.write_slice(input.take(count.into()), GuestAddress(at));
            }
            12 => {
                // A transfer of fw_cfg: its structure is big-endian at 0x1000.
                let mut transfer = [0; 16];
                let control = u32::from(input.u8() & 0x3f) | u32::from(input.u16()) << 16;
                transfer[..4].copy_from_slice(&control.to_be_bytes());
                transfer[4..8].copy_from_slice(&u32::from(input.u16()).to_be_bytes());
                transfer[8..].copy_from_slice(&(u64::from(input.u16()) << 4).to_be_bytes());
                let _ = self.ram.write_slice(&transfer, GuestAddress(0x1000));
                self.machine.ports().write(FW_CFG + 4, &[0; 4]);
                self.machine.ports().write(FW_CFG + 8, &0x1000u32.to_be_bytes());
            }
            13 => {
                let what = input.u8();
                let count = input.u8();
                match what & 7 {
                    0 => self.machine.power_button(),
                    1 => {
                        self.machine.set_generation_id([what; 16]);
                    }
                    2 => self.machine.end_of_interrupt(input.u8()),
                    3 => {
                        let _ = self.machine.request_unplug(what >> 3);
                    }
                    4 => self.machine.cpus_held(),
                    5 => self.machine.cpus_run(),
                    _ => {
                        self.machine.serial_input(input.take(count.into()));
                    }
                }
            }
            14 => {
                let external = self.vm.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if let Some(external) = external {
                    external.pending();
                    external.acknowledge();
                }
            }
            _ => self.machine.reset().expect("firmware loads nothing"),
        }
    }
}

/// A guest's accesses to the chips: interrupt controllers, timer, clock, keyboard, serial port, power management, fw_cfg, flash,
/// IOAPIC, watchdog, generation ID, shadow memory, bridges.
pub fn chips(input: &[u8]) {
    let mut input = Input::new(input);
    let bench = &*BENCH;
    for _ in 0..512 {
        if input.is_over() {
            break;
        }
        bench.step(&mut input);
    }
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
