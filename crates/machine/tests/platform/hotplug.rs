//! Hotplug from the owner's call to the guest's registers and back.

use std::sync::Arc;

use ostler_bus::Msi;

use crate::bench::{Bench, kernel, machine};
use crate::card::Card;

/// The port of hotplug slot 0, and the bus behind it.
const PORT: u32 = 16;
const BUS: u32 = 1;

const LINK_STATUS: u32 = 0x12;
const SLOT_CONTROL: u32 = 0x18;
const SLOT_STATUS: u32 = 0x1a;
const LINK_ACTIVE: u16 = 1 << 13;

const ATTENTION: u16 = 1;
const PRESENCE_CHANGED: u16 = 1 << 3;
const PRESENT: u16 = 1 << 6;
const LINK_CHANGED: u16 = 1 << 8;
/// Slot control: tell of the button, of presence, at all; power and attention indicators off; power off.
const LISTEN: u16 = 1 | 1 << 3 | 1 << 5;
const LIGHTS_OFF: u16 = 0b11 << 6 | 0b11 << 8;
const POWER_OFF: u16 = 1 << 10;

/// What a guest's hotplug driver does with the port.
struct Driver {
    bench: Bench,
    express: u32,
}

impl Driver {
    fn new() -> Self {
        let bench = machine(kernel(), 1);
        let express = capability(&bench, 0x10);
        Self { bench, express }
    }

    fn register(&self, offset: u32) -> u16 {
        let at = self.express + offset;
        (self.bench.config(PORT, at) >> (8 * (at & 2))) as u16
    }

    fn control(&self, value: u16) {
        let at = self.express + SLOT_CONTROL;
        self.bench.set_config(0, PORT, at, value.to_le_bytes());
    }

    /// Clears the events that are up, and returns them.
    fn take_events(&self) -> u16 {
        let events = self.register(SLOT_STATUS) & !PRESENT;
        let at = self.express + SLOT_STATUS;
        self.bench.set_config(0, PORT, at, events.to_le_bytes());
        events
    }

    fn is_present(&self) -> bool {
        let (slot, link) = (self.register(SLOT_STATUS), self.register(LINK_STATUS));
        assert_eq!(slot & PRESENT != 0, link & LINK_ACTIVE != 0);
        slot & PRESENT != 0
    }

    fn card_id(&self) -> u32 {
        self.bench.config_on(BUS, 0, 0)
    }
}

/// Offset of a capability of the port.
fn capability(bench: &Bench, id: u8) -> u32 {
    let mut at = bench.config(PORT, 0x34) & 0xff;
    while at != 0 {
        let [found, next, ..] = bench.config(PORT, at).to_le_bytes();
        if found == id {
            return at;
        }
        at = next.into();
    }
    panic!("no capability {id:#x}");
}

/// The whole way; `heard` says how many interrupts came since the last time.
fn plug_use_unplug(driver: &Driver, heard: impl Fn() -> usize) {
    let machine = &driver.bench.machine;
    driver.control(LISTEN | LIGHTS_OFF | POWER_OFF);
    assert!(!driver.is_present());
    assert_eq!(driver.card_id(), u32::MAX);
    assert_eq!(heard(), 0);

    let card = Card::new(0);
    machine.plug(0, card.clone()).unwrap();
    assert!(machine.plug(0, Card::new(0)).is_err(), "occupied");
    assert_eq!(heard(), 1);
    assert!(driver.is_present());
    assert_eq!(driver.take_events(), PRESENCE_CHANGED | LINK_CHANGED);
    assert_eq!(heard(), 0, "the event is over");

    // Power on, then what an enumerating guest does: a BAR inside the port's window, memory decoding on.
    driver.control(LISTEN | LIGHTS_OFF);
    assert_eq!(driver.card_id(), 0x5678_1234);
    let window = (driver.bench.config(PORT, 0x20) & 0xfff0) << 16;
    driver.bench.set_config(BUS, 0, 0x10, window.to_le_bytes());
    driver.bench.set_config(BUS, 0, 4, [2, 0]);
    assert_eq!(driver.bench.readl(window.into()), 0xa0a0_a0a0);

    machine.request_unplug(0).unwrap();
    assert_eq!(heard(), 1);
    assert_eq!(driver.take_events(), ATTENTION);
    assert_eq!(heard(), 0);
    assert!(driver.is_present(), "the guest decides when");
    assert_eq!(driver.bench.readl(window.into()), 0xa0a0_a0a0);

    driver.control(LISTEN | LIGHTS_OFF | POWER_OFF);
    assert!(!driver.is_present());
    assert_eq!(driver.card_id(), u32::MAX);
    assert_eq!(driver.bench.readl(window.into()), u32::MAX);
    assert_eq!(heard(), 1, "presence changed");
    assert_eq!(driver.take_events(), PRESENCE_CHANGED | LINK_CHANGED);
    assert_eq!(heard(), 0);
    let gone = Arc::downgrade(&card);
    drop(card);
    assert!(gone.upgrade().is_none(), "nothing holds the device any more");
}

#[test]
fn a_device_comes_and_goes_by_message() {
    let driver = Driver::new();
    let msi = capability(&driver.bench, 0x05);
    for (offset, value) in [(4, 0xfee0_1000u32), (8, 0), (12, 0x61)] {
        driver
            .bench
            .set_config(0, PORT, msi + offset, value.to_le_bytes());
    }
    driver.bench.set_config(0, PORT, msi + 2, [1, 0]);
    // The pin must stay silent.
    driver.bench.ioapic(20, 1 << 15 | 0x50);
    for _ in 0..2 {
        plug_use_unplug(&driver, || {
            let messages = driver.bench.messages();
            let expected = Msi {
                address: 0xfee0_1000,
                data: 0x61,
            };
            assert!(messages.iter().all(|msi| *msi == expected), "{messages:?}");
            messages.len()
        });
    }
}

#[test]
fn a_device_comes_and_goes_by_pin() {
    let driver = Driver::new();
    // INTA of slot 16.
    driver.bench.ioapic(20, 1 << 15 | 0x50);
    for _ in 0..2 {
        plug_use_unplug(&driver, || {
            let messages = driver.bench.messages();
            assert!(messages.iter().all(|msi| msi.data == 0xc050), "{messages:?}");
            // A level: while the event is up, it is sent again after its end.
            driver.bench.machine.end_of_interrupt(0x50);
            let again = driver.bench.messages().len();
            assert_eq!(again, messages.len());
            messages.len()
        });
    }
}

#[test]
fn the_port_is_silent_until_the_guest_listens_and_other_slots_do_not_exist() {
    let driver = Driver::new();
    driver.bench.ioapic(20, 1 << 15 | 0x50);
    let machine = &driver.bench.machine;
    machine.plug(0, Card::new(0)).unwrap();
    assert!(driver.bench.messages().is_empty());
    driver.control(LISTEN | LIGHTS_OFF | POWER_OFF);
    assert_eq!(driver.bench.messages().len(), 1, "the event that is up is told");
    for slot in [4, 15, 255] {
        let error = machine.plug(slot, Card::new(0)).err().unwrap();
        assert!(matches!(error, ostler_machine::Error::Pci(_)), "{error}");
        assert!(machine.request_unplug(slot).is_err());
    }
}

#[test]
fn a_plugged_device_outlives_a_reset_of_the_machine() {
    let driver = Driver::new();
    driver.bench.machine.plug(3, Card::new(0)).unwrap();
    driver.bench.machine.reset().unwrap();
    assert_eq!(driver.bench.config_on(4, 0, 0), 0x5678_1234);
    let bar = driver.bench.config_on(4, 0, 0x10) & !0xf;
    assert_eq!(driver.bench.readl(bar.into()), 0xa0a0_a0a0);
}
