//! The watchdog as a PCI function, as QEMU has it (8086:25ab): its registers in BAR 0, what starts it in configuration space.

use std::sync::{Arc, Mutex, Weak};

use ostler_bus::{Device, InterruptLine};
use ostler_pci::{BarSpec, ConfigSpace, Identity, PciFunction};

use super::i6300esb::{CONFIG, CONFIG_BITS, I6300Esb, LOCK, LOCK_BITS, LOCKED, SIZE};
use crate::registers::{lock, read_dwords, write_dwords};
use crate::timers::{Clock, TimerClient, TimerId, Timers};
use crate::{MachineEvent, MachineEvents};

/// The function.
pub struct Watchdog {
    me: Weak<Self>,
    config: ConfigSpace,
    chip: Mutex<I6300Esb>,
    clock: Clock,
    timers: Timers,
    timer: TimerId,
    events: Arc<dyn MachineEvents>,
}

impl Watchdog {
    /// A watchdog that does not run.
    pub fn new(clock: Clock, timers: Timers, events: Arc<dyn MachineEvents>) -> Arc<Self> {
        let mut builder = ConfigSpace::type0(Identity {
            vendor: 0x8086,
            device: 0x25ab,
            revision: 0,
            // A system peripheral of no other class.
            class: 0x08_8000,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        builder.bar(0, BarSpec::memory32(SIZE));
        builder.put_u16(CONFIG, 0, CONFIG_BITS);
        builder.put_u8(LOCK, 0, LOCK_BITS);
        let config = builder.build();
        Arc::new_cyclic(|me: &Weak<Self>| {
            let timer = timers.register(me.clone());
            Self {
                me: me.clone(),
                config,
                chip: Mutex::default(),
                clock,
                timers,
                timer,
                events,
            }
        })
    }

    /// The CPUs are held: time stands still.
    pub fn hold(&self) {
        self.change(I6300Esb::hold);
    }

    /// The CPUs run again.
    pub fn go_on(&self) {
        self.change(I6300Esb::go_on);
    }

    fn change<R>(&self, change: impl FnOnce(&mut I6300Esb, u64) -> R) -> R {
        let mut chip = lock(&self.chip);
        let result = change(&mut chip, self.clock.now());
        self.timers.set(self.timer, chip.deadline());
        result
    }
}

impl TimerClient for Watchdog {
    fn expired(&self) {
        let ran_out = self.change(|chip, now| {
            let ran_out = chip.note_time(now);
            if ran_out {
                self.config.set(CONFIG, &[0, 0]);
                self.config.set(LOCK, &[0]);
            }
            ran_out
        });
        if ran_out {
            self.events.notify(MachineEvent::Watchdog);
        }
    }
}

impl Device for Watchdog {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let chip = lock(&self.chip);
        read_dwords(offset, data, |register| chip.read(register));
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.change(|chip, now| {
            write_dwords(offset, data, |register, written| {
                chip.write(register, written, now)
            });
        });
    }
}

impl PciFunction for Watchdog {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        self.change(|chip, now| {
            let before = self.config.u8(LOCK);
            self.config.write(offset, data);
            if before & LOCKED != 0 {
                self.config.set(LOCK, &[before]);
            }
            chip.configure(self.config.u16(CONFIG), self.config.u8(LOCK), now);
        });
    }

    fn bar(&self, index: usize) -> Option<Arc<dyn Device>> {
        let me = self.me.upgrade().filter(|_| index == 0)?;
        Some(me)
    }

    fn bar_moved(&self, _: usize, _: Option<u64>) {}

    fn connect_intx(&self, _: Arc<dyn InterruptLine>) {}

    fn reset(&self) {
        self.change(|chip, _| {
            self.config.reset();
            chip.reset();
        });
    }
}
