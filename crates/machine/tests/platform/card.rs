//! A PCI function for tests: a BAR of each kind, and an interrupt pin that the test drives.

use std::sync::Arc;

use ostler_bus::{Device, InterruptLine};
use ostler_pci::{BarSpec, ConfigSpace, Identity, Intx, PciFunction, Pin};

pub struct Card {
    config: ConfigSpace,
    intx: Intx,
}

impl Card {
    /// A function that uses `pin` (0 is INTA).
    pub fn new(pin: u8) -> Arc<Self> {
        let mut builder = ConfigSpace::type0(Identity {
            vendor: 0x1234,
            device: 0x5678,
            class: 0xff_0000,
            ..Identity::default()
        });
        builder
            .bar(0, BarSpec::memory32(0x1000))
            .bar(2, BarSpec::memory64(0x4000))
            .bar(4, BarSpec::io(0x20));
        builder.interrupt_pin(Pin::from_number(pin + 1).unwrap());
        Arc::new(Self {
            config: builder.build(),
            intx: Intx::new(),
        })
    }

    /// Raises or lowers the pin.
    pub fn interrupt(&self, level: bool) {
        self.intx.set(&self.config, level);
    }
}

/// Registers that answer with the number of their BAR.
struct Registers(u8);

impl Device for Registers {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(self.0);
    }
    fn write(&self, _: u64, _: &[u8]) {}
}

impl PciFunction for Card {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }
    fn bar(&self, index: usize) -> Option<Arc<dyn Device>> {
        Some(Arc::new(Registers(0xa0 + index as u8)))
    }
    fn bar_moved(&self, _: usize, _: Option<u64>) {}
    fn connect_intx(&self, line: Arc<dyn InterruptLine>) {
        self.intx.connect(line);
    }
    fn reset(&self) {
        self.config.reset();
        self.intx.set(&self.config, false);
    }
}
