use std::io;
use std::sync::atomic::AtomicU64;

use ostler_bus::{Msi, MsiSink, Range};
use proptest::prelude::*;
use vmm_sys_util::eventfd::EventFd;

use super::*;
use crate::bar::BarSpec;
use crate::config::{ConfigSpace, Identity};

struct NoSink;
impl MsiSink for NoSink {
    fn signal(&self, _: Msi) {}
    fn connect(&self, _: &EventFd, _: Option<Msi>) -> io::Result<()> {
        Ok(())
    }
}

/// Registers that answer every byte with a number of their own.
struct Registers(u8);
impl Device for Registers {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(self.0);
    }
    fn write(&self, _: u64, _: &[u8]) {}
}

/// A function with a 32-bit BAR 0, a 64-bit BAR 2 and ports in BAR 4.
struct Card {
    config: ConfigSpace,
    answer: u8,
    moves: AtomicU64,
}

impl Card {
    fn new(answer: u8) -> Arc<Self> {
        let mut builder = ConfigSpace::type0(Identity {
            vendor: 0x1234,
            device: answer.into(),
            ..Identity::default()
        });
        builder
            .bar(0, BarSpec::memory32(0x1000))
            .bar(2, BarSpec::memory64(0x4000))
            .bar(4, BarSpec::io(0x20));
        Arc::new(Self {
            config: builder.build(),
            answer,
            moves: AtomicU64::new(0),
        })
    }
}

impl PciFunction for Card {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }
    fn bar(&self, index: usize) -> Option<Arc<dyn Device>> {
        Some(Arc::new(Registers(self.answer + index as u8)))
    }
    fn bar_moved(&self, _: usize, _: Option<u64>) {
        self.moves.fetch_add(1, Ordering::Relaxed);
    }
    fn connect_intx(&self, _: Arc<dyn InterruptLine>) {}
    fn reset(&self) {
        self.config.reset();
    }
}

const PORT: Location = Location::device(5);

struct Rig {
    memory: Arc<AddressMap>,
    ports: Arc<AddressMap>,
    root: Arc<Root>,
    cards: Vec<Arc<Card>>,
}

impl Rig {
    /// Two cards on bus 0 (answers 0x10 and 0x20), an empty root port in slot 5, a chip at 0xe0000000.
    fn new() -> Self {
        let (memory, ports) = (Arc::new(AddressMap::new()), Arc::new(AddressMap::new()));
        memory
            .insert(Range::new(0xe000_0000, 0x1000), Arc::new(Registers(0xcc)))
            .unwrap();
        let windows = Windows {
            io: Range::new(0x1000, 0xf000),
            memory32: Range::new(0xc000_0000, 0x3000_0000),
            memory64: Range::new(0x80_0000_0000, 0x40_0000_0000),
        };
        let root = Root::new(RootConfig {
            memory: memory.clone(),
            ports: ports.clone(),
            windows,
        });
        let cards = vec![Card::new(0x10), Card::new(0x20)];
        for (device, card) in (1..).zip(&cards) {
            root.add(Location::device(device), card.clone(), None).unwrap();
        }
        root.add_port(PORT, RootPort::new(5, Arc::new(NoSink)), None)
            .unwrap();
        Self {
            memory,
            ports,
            root,
            cards,
        }
    }

    fn at(&self, gpa: u64) -> u8 {
        let mut byte = [0];
        self.memory.read(gpa, &mut byte);
        byte[0]
    }

    fn write(&self, bus: u8, device: u8, offset: u16, value: u32) {
        self.root
            .config_write(bus, Location::device(device), offset, &value.to_le_bytes());
    }

    fn enable(&self, bus: u8, device: u8) {
        self.root
            .config_write(bus, Location::device(device), regs::COMMAND, &[3, 0]);
    }
}

#[test]
fn a_bar_is_reached_where_the_guest_puts_it() {
    let rig = Rig::new();
    rig.write(0, 1, 0x10, 0xd000_0000);
    assert_eq!(rig.at(0xd000_0000), 0xff, "decoding is off");
    rig.enable(0, 1);
    assert_eq!(rig.at(0xd000_0fff), 0x10);
    rig.write(0, 1, 0x10, 0xd100_0123);
    assert_eq!((rig.at(0xd000_0000), rig.at(0xd100_0000)), (0xff, 0x10));
    rig.write(0, 1, 0x18, 0x1000_0000);
    rig.write(0, 1, 0x1c, 0x81);
    assert_eq!(rig.at(0x81_1000_3fff), 0x12);
    rig.write(0, 1, 0x20, 0xe000);
    let mut byte = [0];
    rig.ports.read(0xe01f, &mut byte);
    assert_eq!(byte, [0x14]);
    rig.root
        .config_write(0, Location::device(1), regs::COMMAND, &[0, 0]);
    assert_eq!((rig.at(0xd100_0000), rig.at(0x81_1000_0000)), (0xff, 0xff));
}

#[test]
fn a_bar_over_ram_a_chip_or_another_bar_harms_nobody() {
    let rig = Rig::new();
    rig.enable(0, 1);
    rig.enable(0, 2);
    for outside in [0x10_0000, 0xfee0_0000, 0xf000_0000, 0xffff_f000, 0xbfff_f000] {
        rig.write(0, 1, 0x10, outside);
        assert_eq!(
            rig.at(outside.into()),
            0xff,
            "{outside:#x} is not forwarded to PCI"
        );
    }
    rig.write(0, 1, 0x10, 0xe000_0000);
    assert_eq!(rig.at(0xe000_0000), 0xcc, "the chip stays");
    rig.write(0, 1, 0x10, 0xd000_0000);
    rig.write(0, 2, 0x10, 0xd000_0000);
    assert_eq!(rig.at(0xd000_0000), 0x10, "who was first stays");
    rig.write(0, 1, 0x10, 0xd200_0000);
    assert_eq!(
        (rig.at(0xd000_0000), rig.at(0xd200_0000)),
        (0x20, 0x10),
        "the other one appears"
    );
    rig.write(0, 1, 0x10, u32::MAX);
    rig.write(0, 1, 0x18, u32::MAX);
    rig.write(0, 1, 0x1c, u32::MAX);
    assert_eq!(rig.at(0xd000_0000), 0x20, "sizing with decoding on");
}

#[test]
fn assignment_gives_every_bar_a_place_and_survives_reset() {
    let rig = Rig::new();
    let card = Card::new(0x30);
    rig.root.plug(PORT, card.clone(), None, true).unwrap();
    for _ in 0..2 {
        rig.root.assign_resources().unwrap();
        for card in rig.cards.iter().chain([&card]) {
            for index in [0, 2] {
                let base = card.config.decoded_bar(index).unwrap();
                assert_eq!(rig.at(base), card.answer + index as u8, "at {base:#x}");
            }
        }
        rig.root.reset();
        assert_eq!(card.config.bar_address(0), Some(0));
    }
    rig.root.assign_resources().unwrap();
    let mut id = [0; 4];
    rig.root.config_read(1, Location::device(0), 0, &mut id);
    assert_eq!(id, [0x34, 0x12, 0x30, 0]);
    rig.root.config_read(1, Location::device(1), 0, &mut id);
    assert_eq!(id, [0xff; 4], "a link has one device");
}

#[test]
fn a_device_behind_a_port_needs_the_ports_windows() {
    let rig = Rig::new();
    let card = Card::new(0x30);
    rig.root.plug(PORT, card.clone(), None, true).unwrap();
    rig.root.assign_resources().unwrap();
    let base = card.config.decoded_bar(0).unwrap();
    rig.write(0, 5, regs::MEMORY_BASE, 0x0000_fff0);
    assert_eq!(rig.at(base), 0xff, "the window is closed");
    let window = (base >> 16) as u32 & 0xfff0;
    rig.write(0, 5, regs::MEMORY_BASE, window << 16 | window);
    assert_eq!(rig.at(base), 0x30);
    rig.root.config_write(0, PORT, regs::COMMAND, &[0, 0]);
    assert_eq!(rig.at(base), 0xff, "the port forwards nothing");
    rig.root.config_write(0, PORT, regs::COMMAND, &[7, 0]);
    assert_eq!(rig.at(base), 0x30);
    rig.write(0, 5, regs::PRIMARY_BUS, 0x00_07_07_00);
    let mut id = [0; 2];
    rig.root.config_read(7, Location::device(0), 0, &mut id);
    assert_eq!(id, [0x34, 0x12], "the bus got another number");
    assert!(rig.root.pull(PORT).unwrap().is_some());
    assert_eq!(rig.at(base), 0xff);
    rig.root.config_read(7, Location::device(0), 0, &mut id);
    assert_eq!(id, [0xff; 2]);
}

#[test]
fn places_are_checked() {
    let rig = Rig::new();
    let card = || Card::new(0x40);
    let bad = Location {
        device: 32,
        function: 0,
    };
    assert_eq!(
        rig.root.add(bad, card(), None),
        Err(Error::BadLocation {
            device: 32,
            function: 0
        })
    );
    assert_eq!(
        rig.root.add(Location::device(1), card(), None),
        Err(Error::Taken {
            device: 1,
            function: 0
        })
    );
    assert_eq!(
        rig.root.plug(Location::device(1), card(), None, true),
        Err(Error::NoPort(1))
    );
    rig.root.plug(PORT, card(), None, false).unwrap();
    assert_eq!(
        rig.root.plug(PORT, card(), None, false),
        Err(Error::SlotOccupied(5))
    );
}

#[test]
fn function_0_tells_of_others() {
    let rig = Rig::new();
    let several = || rig.cards[0].config.u8(regs::HEADER_TYPE) & regs::HEADER_MULTIFUNCTION != 0;
    assert!(!several());
    let beside = Location {
        device: 1,
        function: 5,
    };
    rig.root.add(beside, Card::new(0x50), None).unwrap();
    assert!(several());
    rig.root.reset();
    assert!(several(), "that is not the guest's to change");
    assert_eq!(rig.cards[1].config.u8(regs::HEADER_TYPE), 0);
}

/// I/O ports are for those that need them, before there are windows for ports without a device.
#[test]
fn many_ports_leave_io_to_those_with_devices() {
    let rig = Rig::new();
    for device in 6..31 {
        rig.root
            .add_port(
                Location::device(device),
                RootPort::new(device.into(), Arc::new(NoSink)),
                None,
            )
            .unwrap();
    }
    let card = Card::new(0x30);
    rig.root
        .plug(Location::device(30), card.clone(), None, true)
        .unwrap();
    rig.root.assign_resources().unwrap();
    assert!(card.config.decoded_bar(4).is_some());
}

#[test]
fn ports_and_ecam_reach_the_same_registers() {
    let rig = Rig::new();
    struct Latch(AtomicU64);
    impl Device for Latch {
        fn read(&self, _: u64, data: &mut [u8]) {
            data.fill(self.0.load(Ordering::Relaxed) as u8);
        }
        fn write(&self, _: u64, data: &[u8]) {
            self.0.store(data[0].into(), Ordering::Relaxed);
        }
    }
    let latch = Arc::new(Latch(AtomicU64::new(0)));
    let (ports, ecam) = (rig.root.config_ports(Some(latch.clone())), rig.root.ecam());
    let mut word = [0; 4];
    ports.read(4, &mut word);
    assert_eq!(word, [0xff; 4], "not enabled");
    ports.write(0, &0x8000_1000u32.to_le_bytes());
    ports.read(4, &mut word);
    assert_eq!(word, [0x34, 0x12, 0x20, 0]);
    let mut byte = [0];
    ports.read(6, &mut byte);
    assert_eq!(byte, [0x20]);
    ecam.read(2 << 15, &mut word);
    assert_eq!(word, [0x34, 0x12, 0x20, 0]);
    ecam.write((2 << 15) + 0x3c, &[9]);
    ports.write(0, &0x8000_103cu32.to_le_bytes());
    ports.read(4, &mut byte);
    assert_eq!(byte, [9]);
    ports.write(1, &[6]);
    assert_eq!(
        latch.0.load(Ordering::Relaxed),
        6,
        "0xcf9 is the reset control register"
    );
    ports.read(0, &mut word);
    assert_eq!(word, 0x8000_103cu32.to_le_bytes());
    ecam.read(1 << 28, &mut word);
    ecam.read((200 << 20) | 0xfff, &mut word);
    assert_eq!(word, [0xff; 4]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever is written, each address answers at most one device and everything comes back after a reset.
    #[test]
    fn any_configuration_writes_are_survived(
        ops in proptest::collection::vec((0u8..3, 0u8..7, prop_oneof![0u16..0x40, 0u16..0x1000], 1usize..5, any::<u32>()), 0..120)
    ) {
        let rig = Rig::new();
        rig.root.plug(PORT, Card::new(0x30), None, true).unwrap();
        rig.root.assign_resources().unwrap();
        let (ports, ecam) = (rig.root.config_ports(None), rig.root.ecam());
        for (bus, device, offset, width, value) in ops {
            let bytes = value.to_le_bytes();
            let address = u64::from(bus) << 20 | u64::from(device) << 15 | u64::from(offset);
            ecam.write(address, &bytes[..width]);
            ecam.read(address, &mut [0; 4][..width]);
            ports.write(u64::from(offset) % 8, &bytes[..width]);
            ports.read(u64::from(offset) % 8, &mut [0; 4][..width]);
        }
        prop_assert_eq!(rig.at(0xe000_0000), 0xcc);
        rig.root.reset();
        rig.root.assign_resources().unwrap();
        for card in &rig.cards {
            let base = card.config.decoded_bar(0).unwrap();
            prop_assert_eq!(rig.at(base), card.answer);
        }
    }
}
