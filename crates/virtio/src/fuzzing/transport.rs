use std::sync::Arc;

use ostler_bus::testing::{Input, Silent};
use ostler_bus::{Device, InterruptLine};
use ostler_memory::{GuestRam, RamOptions};
use ostler_pci::PciFunction;
use ostler_worker::scripted;
use vm_memory::{Bytes, GuestAddress};

use crate::rng::RngDevice;
use crate::transport::{MSIX_BAR, NOTIFY, REGISTER_BAR, REGISTER_SIZE};
use crate::{Platform, VirtioPci};

const RAM: u64 = 1 << 20;
/// Where a good driver has its rings, and a buffer.
const RINGS: [u64; 3] = [0x1_0000, 0x1_8000, 0x1_a000];
const BUFFER: u64 = 0x4_0000;

struct Bench {
    ram: Arc<GuestRam>,
    function: Arc<VirtioPci>,
    registers: Arc<dyn Device>,
    vectors: Arc<dyn Device>,
}

impl Bench {
    fn new() -> Self {
        let ram = ostler_memory::allocate(RAM, RamOptions::default()).expect("1 MiB of RAM is there");
        let silent = Arc::new(Silent);
        let platform = Platform {
            ram: ram.clone(),
            msi: silent.clone(),
            doorbells: silent.clone(),
        };
        let function = VirtioPci::new(Box::new(RngDevice::new()), &platform).expect("the host has events");
        function.connect_intx(silent as Arc<dyn InterruptLine>);
        Self {
            ram,
            registers: function.bar(REGISTER_BAR).expect("it has registers"),
            vectors: function.bar(MSIX_BAR).expect("it has vectors"),
            function,
        }
    }

    /// What a driver does that does everything right, up to but without DRIVER_OK.
    fn set_up(&self) {
        for (offset, value) in [(0x14, 0u8), (0x14, 1), (0x14, 3)] {
            self.registers.write(offset, &[value]);
        }
        for (offset, value) in [(0x08, 1u32), (0x0c, 1)] {
            self.registers.write(offset, &value.to_le_bytes());
        }
        self.registers.write(0x14, &[0x0b]);
        self.write16(0x10, 0);
        self.write16(0x16, 0);
        self.write16(0x18, 16);
        self.write16(0x1a, 1);
        for (offset, ring) in [0x20, 0x28, 0x30].into_iter().zip(RINGS) {
            self.registers.write(offset, &ring.to_le_bytes());
            self.put(ring, &[0; 256]);
        }
        self.write16(0x1c, 1);
    }

    fn write16(&self, offset: u64, value: u16) {
        self.registers.write(offset, &value.to_le_bytes());
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        let _ = self.ram.write_slice(bytes, GuestAddress(at));
    }

    /// One buffer of 64 bytes at the ring's place `index`.
    fn offer(&self, index: u16) {
        let mut descriptor = BUFFER.to_le_bytes().to_vec();
        descriptor.extend([64, 0, 0, 0, 2, 0, 0, 0]);
        self.put(RINGS[0], &descriptor);
        self.put(RINGS[1] + 4 + 2 * u64::from(index % 16), &[0, 0]);
        self.put(RINGS[1] + 2, &index.wrapping_add(1).to_le_bytes());
    }

    fn used(&self) -> u16 {
        self.ram.read_obj(GuestAddress(RINGS[2] + 2)).expect("it is RAM")
    }

    fn step(&self, input: &mut Input<'_>) {
        match input.u8() & 0xf {
            0..=3 => {
                let offset = u64::from(input.u8()) % 0x40;
                input.access(&*self.registers, offset, 8);
            }
            4 => {
                let offset = u64::from(input.u16()) % (REGISTER_SIZE + 16);
                input.access(&*self.registers, offset, 8);
            }
            5 => {
                let offset = u64::from(input.u16() % 0x1010);
                input.access(&*self.vectors, offset, 8);
            }
            6 | 7 => {
                let offset = u16::from(input.u8()) + 64 * u16::from(input.u8() & 1);
                let (how, value) = (input.u8(), input.u32());
                let width = [1, 2, 4, 3][usize::from(how & 3)];
                if how & 4 == 0 {
                    self.function.config_read(offset, &mut [0; 4][..width]);
                } else {
                    self.function.config_write(offset, &value.to_le_bytes()[..width]);
                }
            }
            8 => self.registers.write(0x14, &[input.u8()]),
            9 => self.set_up(),
            10 => self.registers.write(0x14, &[0x0f]),
            11 => self.offer(input.u16()),
            12 => {
                let (at, count) = (RINGS[usize::from(input.u8() % 3)], input.u8());
                let at = at + u64::from(input.u8());
                self.put(at, input.take(count.into()));
            }
            13 => {
                let base = [None, Some(0x8000_0000_0000), Some(0xc000_0000)];
                let index = [REGISTER_BAR, MSIX_BAR, 0, 7][usize::from(input.u8() & 3)];
                self.function.bar_moved(index, input.pick(&base));
            }
            14 => self.function.reset(),
            _ => self.registers.write(NOTIFY, &[0, 0]),
        }
    }
}

/// A driver of the PCI transport: its registers, vectors, configuration space and doorbells in any order, over an entropy source.
pub fn transport(input: &[u8]) {
    let mut input = Input::new(input);
    scripted::run(|script| {
        let bench = Bench::new();
        for _ in 0..256 {
            if input.is_over() {
                break;
            }
            bench.step(&mut input);
            script.settle();
        }
        // Whatever it was, a reset brings the device back.
        bench.function.reset();
        bench.set_up();
        bench.registers.write(0x14, &[0x0f]);
        bench.offer(0);
        bench.registers.write(NOTIFY, &[0, 0]);
        script.settle();
        script.let_time_pass();
        assert_eq!(bench.used(), 1, "a good driver is served");
        bench.function.reset();
    });
}
