//! Entries for fuzzers: what a guest writes to configuration space, BARs, slots and vectors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ostler_bus::testing::{Input, Silent};
use ostler_bus::{AddressMap, Device, InterruptLine, Range};

use crate::config::{ConfigSpace, Identity};
use crate::intx::Intx;
use crate::{BarSpec, Location, MsiCapability, Msix, PciFunction, Pin, Root, RootConfig, RootPort, Windows};

/// Vectors of a card, behind BAR 1.
const VECTORS: u16 = 5;
/// A chip that no BAR may cover.
const CHIP: u64 = 0xe000_0000;
const CHIP_ANSWER: u8 = 0xcc;
/// Root ports, from this device on.
const FIRST_PORT: u8 = 5;
const PORTS: u8 = 3;

/// Registers that answer every byte with a number of their own.
struct Registers(u8);

impl Device for Registers {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(self.0);
    }
    fn write(&self, _: u64, _: &[u8]) {}
}

/// A function with every kind of BAR, MSI, MSI-X and a pin.
struct Card {
    config: ConfigSpace,
    msi: MsiCapability,
    msix: Arc<Msix>,
    intx: Intx,
    answer: u8,
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
            .bar(1, BarSpec::memory32(Msix::region_size(VECTORS)))
            .bar(2, BarSpec::memory64(0x4000))
            .bar(4, BarSpec::io(0x20));
        builder.interrupt_pin(Pin::A);
        let msi = MsiCapability::new(&mut builder, Arc::new(Silent));
        let msix = Arc::new(Msix::new(&mut builder, 1, VECTORS, Arc::new(Silent)));
        Arc::new(Self {
            config: builder.build(),
            msi,
            msix,
            intx: Intx::new(),
            answer,
        })
    }
}

impl PciFunction for Card {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }
    fn config_write(&self, offset: u16, data: &[u8]) {
        self.config.write(offset, data);
        self.msix.config_written(&self.config);
        self.intx.config_written(&self.config);
    }
    fn bar(&self, index: usize) -> Option<Arc<dyn Device>> {
        match index {
            1 => Some(self.msix.clone()),
            _ => Some(Arc::new(Registers(self.answer))),
        }
    }
    fn bar_moved(&self, _: usize, _: Option<u64>) {}
    fn connect_intx(&self, line: Arc<dyn InterruptLine>) {
        self.intx.connect(line);
    }
    fn reset(&self) {
        self.config.reset();
        self.msix.reset();
        self.intx.set(&self.config, false);
    }
}

struct Bench {
    memory: Arc<AddressMap>,
    ports: Arc<AddressMap>,
    root: Arc<Root>,
    config_ports: Arc<dyn Device>,
    ecam: Arc<dyn Device>,
    cards: Vec<Arc<Card>>,
    ejected: Arc<AtomicBool>,
}

impl Bench {
    fn new() -> Self {
        let (memory, ports) = (Arc::new(AddressMap::new()), Arc::new(AddressMap::new()));
        let chip = Arc::new(Registers(CHIP_ANSWER));
        memory
            .insert(Range::new(CHIP, 0x1000), chip)
            .expect("the map is empty");
        let root = Root::new(RootConfig {
            memory: memory.clone(),
            ports: ports.clone(),
            windows: Windows {
                io: Range::new(0x1000, 0xf000),
                memory32: Range::new(0xc000_0000, 0x3000_0000),
                memory64: Range::new(0x80_0000_0000, 0x40_0000_0000),
            },
        });
        let cards: Vec<_> = (1..4).map(|answer| Card::new(answer << 4)).collect();
        for (device, card) in (1..).zip(&cards[..2]) {
            let line = Some(Arc::new(Silent) as Arc<dyn InterruptLine>);
            root.add(Location::device(device), card.clone(), line)
                .expect("the place is free");
        }
        let ejected = Arc::new(AtomicBool::new(false));
        for number in 0..PORTS {
            let port = RootPort::new(number.into(), Arc::new(Silent));
            let seen = ejected.clone();
            port.listen(move |_| seen.store(true, Ordering::Relaxed));
            root.add_port(
                Location::device(FIRST_PORT + number),
                port,
                Some(Arc::new(Silent)),
            )
            .expect("the place is free");
        }
        root.plug(Location::device(FIRST_PORT), cards[2].clone(), None, true)
            .expect("the slot is empty");
        root.assign_resources().expect("there is room");
        Self {
            config_ports: root.config_ports(None),
            ecam: root.ecam(),
            memory,
            ports,
            root,
            cards,
            ejected,
        }
    }

    /// An address in configuration space that has something behind it in most cases.
    fn address(input: &mut Input<'_>) -> u64 {
        let (place, offset) = (input.u8(), input.u16());
        let (bus, device) = (u64::from(place >> 4 & 3), u64::from(place & 0xf));
        let offset = if offset & 0x8000 == 0 {
            offset & 0xff
        } else {
            offset & 0xfff
        };
        bus << 20 | device << 15 | u64::from(offset)
    }

    fn step(&self, input: &mut Input<'_>) {
        let step = input.u8();
        let slot = Location::device(FIRST_PORT + (step >> 4) % (PORTS + 1));
        match step & 0xf {
            0..=5 => {
                let address = Self::address(input);
                input.access(&*self.ecam, address, 8);
            }
            6 => {
                let address = Self::address(input);
                let word = 1 << 31 | (address >> 20) << 16 | (address >> 12 & 0xff) << 8 | address & 0xfc;
                self.config_ports.write(0, &(word as u32).to_le_bytes());
                input.access(&*self.config_ports, 4 + (address & 3), 4);
            }
            7 => {
                let offset = u64::from(input.u8() & 7);
                input.access(&*self.config_ports, offset, 4);
            }
            8 => {
                let ranges = self.memory.ranges();
                let range = input.pick(&ranges);
                let offset = u64::from(input.u16()) % range.len;
                let mut data = [0; 8];
                let width = 1 << (input.u8() & 3);
                self.memory
                    .write(range.base + offset, &input.u64().to_le_bytes()[..width]);
                self.memory.read(range.base + offset, &mut data[..width]);
            }
            9 => {
                let _ = self
                    .root
                    .plug(slot, Card::new(0x40), Some(Arc::new(Silent)), step >> 7 != 0);
            }
            10 => {
                let _ = self.root.pull(slot);
            }
            11 => {
                if let Ok(port) = self.root.port(slot) {
                    port.press_attention();
                    port.power();
                }
            }
            12 => {
                let card = &self.cards[usize::from(input.u8()) % self.cards.len()];
                let vector = input.u8();
                card.msi.trigger(&card.config);
                card.msix.trigger(vector.into());
                card.intx.set(&card.config, vector & 1 != 0);
            }
            13 => self.root.reset(),
            14 => {
                // Numbers of buses that the guest chose may leave no room.
                let _ = self.root.assign_resources();
            }
            _ => self.root.settle(),
        }
    }

    /// Nothing lies over the chip or outside of the windows, and no two things in one place.
    fn check(&self) {
        let mut data = [0];
        assert!(self.memory.read(CHIP, &mut data));
        assert_eq!(data, [CHIP_ANSWER], "a BAR lies over a chip");
        for (map, first) in [(&self.memory, 0xc000_0000), (&self.ports, 0x1000)] {
            let ranges = map.ranges();
            assert!(
                ranges.iter().all(|range| range.base >= first),
                "a BAR lies over RAM"
            );
            let apart = |pair: &[Range]| pair[0].base + (pair[0].len - 1) < pair[1].base;
            assert!(ranges.windows(2).all(apart), "two BARs in one place");
        }
    }
}

/// A guest's accesses to configuration space by both ways, BARs wherever it lays them, slots, vectors, and what management does
/// with the slots meanwhile.
pub fn topology(input: &[u8]) {
    let mut input = Input::new(input);
    let bench = Bench::new();
    for _ in 0..512 {
        if input.is_over() {
            break;
        }
        bench.step(&mut input);
        bench.check();
    }
    let _ = bench.ejected.load(Ordering::Relaxed);
    // Whatever it was, a reset brings everything back.
    bench.root.reset();
    bench.root.assign_resources().expect("there is room");
    for card in &bench.cards[..2] {
        let base = card.config.decoded_bar(0).expect("firmware gave it an address");
        let mut data = [0];
        assert!(bench.memory.read(base, &mut data));
        assert_eq!(data, [card.answer]);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_fuzzers_found_is_survived() {
        ostler_corpus::replay("pci-topology", super::topology);
    }
}
