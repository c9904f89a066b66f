//! The keyboard controller on the bus: ports 0x60 and 0x64, IRQ 1 and IRQ 12.

use std::sync::{Arc, Mutex};

use ostler_bus::{Device, InterruptLine};

use super::i8042::{I8042, Request};
use crate::registers::lock;
use crate::{MachineEvent, MachineEvents};

/// The controller with its interrupts.
pub struct I8042Bus {
    chip: Mutex<I8042>,
    keyboard: Arc<dyn InterruptLine>,
    aux: Arc<dyn InterruptLine>,
    events: Arc<dyn MachineEvents>,
}

impl I8042Bus {
    /// A controller in its reset state.
    pub fn new(
        keyboard: Arc<dyn InterruptLine>,
        aux: Arc<dyn InterruptLine>,
        events: Arc<dyn MachineEvents>,
    ) -> Arc<Self> {
        Arc::new(Self {
            chip: Mutex::default(),
            keyboard,
            aux,
            events,
        })
    }

    /// Back to the reset state.
    pub fn reset(&self) {
        self.access(|chip| *chip = I8042::default());
    }

    fn access<R>(&self, access: impl FnOnce(&mut I8042) -> R) -> R {
        let mut chip = lock(&self.chip);
        let result = access(&mut chip);
        self.keyboard.set(chip.keyboard_interrupt());
        self.aux.set(chip.aux_interrupt());
        result
    }

    fn write(&self, data: &[u8], write: impl FnOnce(&mut I8042, u8) -> Option<Request>) {
        let Some(&value) = data.first() else { return };
        if self.access(|chip| write(chip, value)) == Some(Request::Reset) {
            self.events.notify(MachineEvent::Reset);
        }
    }
}

/// Port 0x60.
pub struct DataPort(pub Arc<I8042Bus>);

impl Device for DataPort {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(self.0.access(I8042::read_data));
    }

    fn write(&self, _: u64, data: &[u8]) {
        self.0.write(data, I8042::write_data);
    }
}

/// Port 0x64: commands written, status read.
pub struct CommandPort(pub Arc<I8042Bus>);

impl Device for CommandPort {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(self.0.access(|chip| chip.status()));
    }

    fn write(&self, _: u64, data: &[u8]) {
        self.0.write(data, I8042::write_command);
    }
}
