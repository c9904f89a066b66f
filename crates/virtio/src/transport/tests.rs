//! The transport as a driver sees it: through BARs and configuration space.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use ostler_bus::{Device, Doorbell, DoorbellRegistry, InterruptLine, Msi, MsiSink};
use ostler_pci::{BarKind, BarSpec, PciFunction, regs};
use proptest::prelude::*;
use vmm_sys_util::eventfd::EventFd;

use super::layout::{DEVICE, ISR, MSIX_BAR, NOTIFY, REGISTER_BAR, REGISTER_SIZE};
use super::{Platform, VirtioPci};
use crate::device::DeviceKind;
use crate::rng::RngDevice;
use crate::testing::{Driver, ram};

#[derive(Default)]
struct Fabric {
    sent: Mutex<Vec<Msi>>,
    bells: Mutex<Vec<Doorbell>>,
}

impl MsiSink for Fabric {
    fn signal(&self, msi: Msi) {
        self.sent.lock().unwrap().push(msi);
    }
    fn connect(&self, _: &EventFd, _: Option<Msi>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl DoorbellRegistry for Fabric {
    fn add(&self, doorbell: Doorbell, _: &EventFd) -> io::Result<()> {
        self.bells.lock().unwrap().push(doorbell);
        Ok(())
    }
    fn remove(&self, doorbell: Doorbell, _: &EventFd) -> io::Result<()> {
        self.bells.lock().unwrap().retain(|other| *other != doorbell);
        Ok(())
    }
}

#[derive(Default)]
struct Wire(AtomicBool, AtomicU32);
impl InterruptLine for Wire {
    fn set(&self, level: bool) {
        self.0.store(level, Ordering::SeqCst);
        self.1.fetch_add(u32::from(level), Ordering::SeqCst);
    }
}

struct Rig {
    fabric: Arc<Fabric>,
    wire: Arc<Wire>,
    function: Arc<VirtioPci>,
    registers: Arc<dyn Device>,
    driver: Driver,
}

impl Rig {
    fn new() -> Self {
        let fabric = Arc::new(Fabric::default());
        let driver = Driver::new(ram(), 0x10000, 64);
        let platform = Platform {
            ram: driver.ram.clone(),
            msi: fabric.clone(),
            doorbells: fabric.clone(),
        };
        let function = VirtioPci::new(Box::new(RngDevice::new()), &platform).unwrap();
        let wire = Arc::new(Wire::default());
        function.connect_intx(wire.clone());
        let registers = function.bar(REGISTER_BAR).unwrap();
        Self {
            fabric,
            wire,
            function,
            registers,
            driver,
        }
    }

    fn status(&self) -> u8 {
        let mut byte = [0];
        self.registers.read(0x14, &mut byte);
        byte[0]
    }

    fn set_status(&self, status: u8) {
        self.registers.write(0x14, &[status]);
    }

    fn write(&self, offset: u64, value: u16) {
        self.registers.write(offset, &value.to_le_bytes());
    }

    /// Everything up to, but without, DRIVER_OK.
    fn set_up(&self) {
        self.set_status(0);
        self.set_status(3);
        self.registers.write(0x08, &1u32.to_le_bytes());
        self.registers.write(0x0c, &1u32.to_le_bytes());
        self.set_status(0x0b);
        assert_eq!(self.status(), 0x0b);
        self.write(0x10, 0);
        self.write(0x16, 0);
        self.write(0x18, self.driver.settings.size);
        self.write(0x1a, 1);
        self.registers
            .write(0x20, &self.driver.settings.descriptors.to_le_bytes());
        self.registers
            .write(0x28, &self.driver.settings.available.to_le_bytes());
        self.registers
            .write(0x30, &self.driver.settings.used.to_le_bytes());
        self.write(0x1c, 1);
    }

    fn enable_msix(&self) {
        let capability = self.capability(regs::CAP_MSIX, None);
        self.function.config_write(capability + 2, &[0, 0x80]);
        let table = self.function.bar(MSIX_BAR).unwrap();
        for vector in 0..2u64 {
            table.write(16 * vector, &0xfee0_0000u64.to_le_bytes());
            table.write(16 * vector + 8, &(0x40 + vector).to_le_bytes());
        }
    }

    /// Offset of a capability, of a virtio configuration type if given.
    fn capability(&self, id: u8, kind: Option<u8>) -> u16 {
        let config = self.function.config();
        let mut at = u16::from(config.u8(regs::CAPABILITIES));
        while at != 0 {
            if config.u8(at) == id && kind.is_none_or(|kind| config.u8(at + 3) == kind) {
                return at;
            }
            at = config.u8(at + 1).into();
        }
        panic!("no capability {id:#x}");
    }

    fn kick(&self) {
        self.registers.write(NOTIFY, &[0, 0]);
    }
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..20_000 {
        if condition() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("{what} did not come within 20 seconds");
}

#[test]
fn a_modern_driver_brings_the_device_up_with_msix() {
    let mut rig = Rig::new();
    let config = rig.function.config();
    assert_eq!(config.u32(0), 0x1044_1af4);
    rig.enable_msix();
    rig.set_up();
    rig.set_status(0x0f);
    assert_eq!(rig.status(), 0x0f);
    rig.driver.add(&[(0x4_0000, 64, true)]);
    rig.kick();
    assert_eq!(rig.driver.wait_used(), (0, 64));
    eventually("the message", || {
        *rig.fabric.sent.lock().unwrap()
            == [Msi {
                address: 0xfee0_0000,
                data: 0x41,
            }]
    });
    assert!(!rig.wire.0.load(Ordering::SeqCst));
}

#[test]
fn without_msix_the_line_rises_and_the_isr_lowers_it() {
    let mut rig = Rig::new();
    rig.set_up();
    rig.set_status(0x0f);
    rig.driver.add(&[(0x4_0000, 64, true)]);
    rig.kick();
    eventually("the line", || rig.wire.0.load(Ordering::SeqCst));
    assert_ne!(rig.function.config().u16(regs::STATUS) & regs::STATUS_INTX, 0);
    let mut isr = [0; 4];
    rig.registers.read(ISR, &mut isr);
    assert_eq!(isr, [1, 0, 0, 0]);
    assert!(!rig.wire.0.load(Ordering::SeqCst));
    rig.registers.read(ISR, &mut isr);
    assert_eq!(isr, [0; 4]);
}

#[test]
fn a_broken_queue_shows_needs_reset_and_a_reset_mends_it() {
    let mut rig = Rig::new();
    rig.enable_msix();
    rig.set_up();
    rig.set_status(0x0f);
    rig.driver.set_available_index(1000);
    rig.kick();
    eventually("needs reset", || rig.status() == 0x4f);
    eventually("the configuration interrupt", || {
        rig.fabric.sent.lock().unwrap().iter().any(|m| m.data == 0x40)
    });
    let driver = Driver::new(rig.driver.ram.clone(), 0x3_0000, 64);
    rig.driver = driver;
    rig.set_up();
    rig.set_status(0x0f);
    assert_eq!(rig.status(), 0x0f);
    rig.driver.add(&[(0x6_0000, 32, true)]);
    rig.kick();
    assert_eq!(rig.driver.wait_used(), (0, 32));
}

#[test]
fn bad_rings_are_found_when_the_driver_starts_the_device() {
    for (offset, value) in [
        (0x18u64, 24u64),
        (0x18, 0),
        (0x18, 512),
        (0x20, 8),
        (0x28, 0xfee0_0000),
        (0x30, 2),
    ] {
        let rig = Rig::new();
        rig.set_up();
        rig.set_status(0);
        rig.set_status(3);
        rig.registers.write(0x08, &1u32.to_le_bytes());
        rig.registers.write(0x0c, &1u32.to_le_bytes());
        rig.set_status(0x0b);
        rig.registers.write(0x20, &0x10000u64.to_le_bytes());
        rig.registers.write(0x28, &0x18000u64.to_le_bytes());
        rig.registers.write(0x30, &0x1a000u64.to_le_bytes());
        let width = if offset == 0x18 { 2 } else { 8 };
        rig.registers.write(offset, &value.to_le_bytes()[..width]);
        rig.write(0x1c, 1);
        rig.set_status(0x0f);
        assert_eq!(rig.status(), 0x4f, "{offset:#x} = {value:#x}");
    }
}

#[test]
fn kicks_at_wrong_times_do_nothing() {
    let mut rig = Rig::new();
    rig.kick();
    rig.set_up();
    rig.driver.add(&[(0x4_0000, 64, true)]);
    rig.kick();
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(rig.driver.used(), None, "before DRIVER_OK");
    rig.set_status(0x8f);
    rig.kick();
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(rig.driver.used(), None, "FAILED with DRIVER_OK starts nothing");
    rig.set_up();
    rig.set_status(0x0f);
    assert_eq!(
        rig.driver.wait_used(),
        (0, 64),
        "what was offered before is found without a kick"
    );
    rig.registers.write(NOTIFY + 4 * 1000, &[0, 0]);
}

#[test]
fn kicks_while_the_device_is_reset_do_no_harm() {
    let mut rig = Rig::new();
    let (registers, over) = (rig.registers.clone(), AtomicBool::new(false));
    let base = rig.driver.settings.descriptors;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    registers.write(NOTIFY, &[0, 0]);
                }
            });
        }
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..100 {
                rig.driver.write(base, &[0; 0xb000]);
                rig.driver = Driver::new(rig.driver.ram.clone(), base, 64);
                rig.set_up();
                rig.set_status(0x0f);
                rig.driver.add(&[(0x4_0000, 64, true)]);
                assert_eq!(rig.driver.wait_used(), (0, 64), "round {round}");
                match round % 2 {
                    0 => rig.set_status(0),
                    _ => rig.function.reset(),
                }
                assert_eq!(rig.status(), 0);
                // Offered to a device that has been reset, with kicks coming all the time.
                rig.driver.add(&[(0x5_0000, 64, true)]);
                std::thread::yield_now();
                assert_eq!(rig.driver.used(), None, "round {round}");
                assert_eq!(rig.driver.read(0x5_0000, 64), [0; 64]);
            }
        }));
        over.store(true, Ordering::SeqCst);
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn doorbells_follow_the_bar() {
    let rig = Rig::new();
    rig.function.bar_moved(REGISTER_BAR, Some(0x8000_0000_0000));
    assert_eq!(rig.fabric.bells.lock().unwrap()[0].address, 0x8000_0000_3000);
    rig.function.bar_moved(REGISTER_BAR, Some(0x9000_0000_0000));
    assert_eq!(rig.fabric.bells.lock().unwrap()[0].address, 0x9000_0000_3000);
    assert_eq!(rig.fabric.bells.lock().unwrap().len(), 1);
    rig.function.bar_moved(REGISTER_BAR, None);
    assert!(rig.fabric.bells.lock().unwrap().is_empty());
}

#[test]
fn registers_can_be_reached_through_configuration_space() {
    let rig = Rig::new();
    let window = rig.capability(regs::CAP_VENDOR, Some(5));
    let aim = |offset: u32, len: u32| {
        rig.function.config_write(window + 4, &[REGISTER_BAR as u8]);
        rig.function.config_write(window + 8, &offset.to_le_bytes());
        rig.function.config_write(window + 12, &len.to_le_bytes());
    };
    aim(0x14, 1);
    rig.function.config_write(window + 16, &[3, 0, 0, 0]);
    assert_eq!(rig.status(), 3);
    let mut value = [0; 4];
    rig.function.config_read(window + 16, &mut value);
    assert_eq!(value, [3, 0, 0, 0]);
    for (offset, len) in [
        (0x15, 2),
        (0x3ffe, 4),
        (u32::MAX, 1),
        (0, 3),
        (0, u32::MAX),
        (0, 0),
    ] {
        aim(offset, len);
        rig.function.config_write(window + 16, &[0; 4]);
        rig.function.config_read(window + 16, &mut value);
    }
    assert_eq!(rig.status(), 3, "invalid windows reach nothing");
}

/// What installed guests know of the device's PCI function. A change here breaks the ABI of machine type ostler-q35-1: it needs a
/// new machine type, and this one stays.
#[test]
fn the_functions_of_machine_version_1() {
    let rig = Rig::new();
    let config = rig.function.config();
    let words = [0x00, 0x08, 0x2c, 0x3c].map(|at| config.u32(at));
    assert_eq!(words, [0x1044_1af4, 0x00ff_0001, 0x1100_1af4, 0x0000_0100]);
    let bars = config.bars().map(|bar| bar.map(|bar| (bar.kind, bar.size)));
    let memory32 = Some((BarKind::Memory32, 0x1000));
    let registers = Some((BarSpec::memory64(0x4000).kind, 0x4000));
    assert_eq!(bars, [None, memory32, None, None, registers, None]);

    // Capability, virtio structure, its BAR, offset and length.
    let mut capabilities = Vec::new();
    let mut at = u16::from(config.u8(regs::CAPABILITIES));
    while at != 0 {
        let id = config.u8(at);
        capabilities.push(match id {
            regs::CAP_VENDOR => (
                id,
                config.u8(at + 3),
                config.u8(at + 4),
                config.u32(at + 8),
                config.u32(at + 12),
            ),
            // Vectors, the BAR and offset of their table and their pending bits.
            _ => (
                id,
                config.u16(at + 2) as u8,
                0,
                config.u32(at + 4),
                config.u32(at + 8),
            ),
        });
        at = config.u8(at + 1).into();
    }
    let vendor = |kind, bar, offset, len| (regs::CAP_VENDOR, kind, bar, offset, len);
    let expected = [
        (regs::CAP_MSIX, 1, 0, 0x001, 0x801),
        vendor(1, 4, 0x0000, 0x3c),
        vendor(2, 4, 0x3000, 4),
        vendor(3, 4, 0x1000, 1),
        vendor(4, 4, 0x2000, 0x1000),
        vendor(5, 0, 0, 0),
    ];
    assert_eq!(capabilities, expected, "{capabilities:#x?}");

    for (kind, id, class) in [
        (DeviceKind::Net, 1, 0x02_0000),
        (DeviceKind::Block, 2, 0x01_0000),
        (DeviceKind::Console, 3, 0x07_8000),
        (DeviceKind::Rng, 4, 0x00_ff00),
    ] {
        assert_eq!((kind.id(), kind.pci_class()), (id, class));
    }
}

#[test]
fn a_platform_reset_brings_back_the_state_after_power_on() {
    let rig = Rig::new();
    rig.enable_msix();
    rig.set_up();
    rig.set_status(0x0f);
    rig.function.reset();
    assert_eq!(rig.status(), 0);
    assert_eq!(rig.function.config().u16(regs::COMMAND), 0);
    rig.driver.set_available_index(1000);
    rig.kick();
    assert_eq!(rig.status(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_register_access_is_survived(
        ops in proptest::collection::vec((0..REGISTER_SIZE + 16, 0usize..4, any::<u64>(), any::<bool>()), 0..80)
    ) {
        let rig = Rig::new();
        rig.set_up();
        for (offset, width, value, near) in ops {
            let offset = if near { offset % 0x40 } else { offset };
            let width = 1 << width;
            let mut data = [0; 8];
            rig.registers.read(offset, &mut data[..width]);
            rig.registers.write(offset, &value.to_le_bytes()[..width]);
            rig.registers.read(DEVICE + offset % 64, &mut data[..width]);
        }
        rig.set_up();
        rig.set_status(0x0f);
        prop_assert_eq!(rig.status(), 0x0f, "a reset brings it back");
    }

    #[test]
    fn any_configuration_access_is_survived(
        ops in proptest::collection::vec((0u16..0x140, 1usize..5, any::<u32>()), 0..80)
    ) {
        let rig = Rig::new();
        for (offset, width, value) in ops {
            rig.function.config_write(offset, &value.to_le_bytes()[..width]);
            rig.function.config_read(offset, &mut [0; 4][..width]);
        }
        prop_assert_eq!(rig.function.config().u32(0), 0x1044_1af4);
    }
}
