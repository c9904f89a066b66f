//! The sleep state S3: falling asleep, what wakes, and how the machine is then.

use std::sync::Arc;

use ostler_accel::MpState;
use ostler_machine::{FirmwareChip, MachineEvent};
use ostler_pci::PciFunction;
use vm_memory::{Bytes, GuestAddress};

use crate::bench::{Bench, Parts, eventually};
use crate::card::Card;
use crate::firmware::{firmware, parts};
use crate::tables::{number, read, tables};

const PM1_STATUS: u64 = 0x600;
const PM1_ENABLE: u64 = 0x602;
const PM1_CONTROL: u64 = 0x604;
const RTC_EVENT: u16 = 1 << 10;
const POWER_BUTTON: u16 = 1 << 8;
const WAKE: u16 = 1 << 15;
/// SLP_EN with SLP_TYP 1, as kvm-unit-tests writes it.
const SLEEP: u16 = 0x2400;
const FIXED_RTC: u64 = 1 << 6;
const WAKING_VECTOR: u64 = 12;
const CS: usize = 1;

fn with_sleep() -> Bench {
    let functions: Vec<Arc<dyn PciFunction>> = vec![Card::new(0)];
    let parts = Parts {
        cpus: 2,
        functions,
        suspend: true,
        ..Parts::default()
    };
    parts.build().unwrap()
}

impl Bench {
    fn outw(&self, port: u64, value: u16) {
        self.machine.ports().write(port, &value.to_le_bytes());
    }

    fn inw(&self, port: u64) -> u16 {
        self.inl(port) as u16
    }

    fn happened(&self) -> Vec<MachineEvent> {
        std::mem::take(&mut *self.outside.events.lock().unwrap())
    }

    fn facs(&self) -> u64 {
        let all = tables(self);
        let fadt = all.iter().find(|table| table.starts_with(b"FACP")).unwrap();
        number(&fadt[36..40])
    }

    fn set_waking_vector(&self, vector: u32) {
        let at = GuestAddress(self.facs() + WAKING_VECTOR);
        self.ram.write_obj(vector, at).unwrap();
    }

    fn fall_asleep(&self) {
        assert!(!self.machine.is_asleep());
        self.outw(PM1_CONTROL, SLEEP);
        assert!(self.machine.is_asleep());
        assert_eq!(self.happened(), [MachineEvent::Suspend]);
        self.outw(PM1_CONTROL, SLEEP);
        assert_eq!(self.happened(), [], "it sleeps already");
    }

    /// An alarm each second.
    fn set_alarm(&self) {
        for (index, value) in [(1, 0xc0), (3, 0xc0), (5, 0xc0), (0x0b, 0x22)] {
            self.outb(0x70, index);
            self.outb(0x71, value);
        }
    }

    fn is_described(&self) -> (bool, bool) {
        let all = tables(self);
        let of = |name: &[u8]| all.iter().find(|table| table.starts_with(name)).unwrap();
        let state = of(b"DSDT").windows(4).any(|name| name == b"_S3_");
        let alarm = number(&of(b"FACP")[112..116]) & FIXED_RTC == 0;
        (state, alarm)
    }
}

#[test]
fn the_tables_have_the_state_where_the_machine_has_it() {
    assert_eq!(with_sleep().is_described(), (true, true));
    let without = Parts::default().build().unwrap();
    assert_eq!(without.is_described(), (false, false));
    without.outw(PM1_CONTROL, SLEEP);
    assert_eq!(without.happened(), []);
    assert!(!without.machine.is_asleep());
}

#[test]
fn an_alarm_wakes_the_guest_where_it_wants_and_memory_is_as_it_was() {
    let bench = with_sleep();
    bench
        .ram
        .write_obj(0x1234_5678u32, GuestAddress(0x2_0000))
        .unwrap();
    bench
        .ram
        .write_obj(0x9abc_def0u32, GuestAddress(0x10_0000))
        .unwrap();
    bench.set_waking_vector(0x9_1238);
    let bar = bench.config(1, 0x10);
    assert_ne!(bar, 0);
    bench.outw(PM1_ENABLE, RTC_EVENT);
    bench.fall_asleep();
    bench.set_alarm();
    eventually("the wish to wake", || {
        !bench.outside.events.lock().unwrap().is_empty()
    });
    assert_eq!(bench.happened(), [MachineEvent::WakeUp]);
    assert!(bench.machine.is_asleep(), "until it is woken");
    bench.machine.wake().unwrap();
    assert!(!bench.machine.is_asleep());

    let first = bench.machine.boot_state(0);
    let code = first.segments[CS];
    assert_eq!((code.selector, code.base, first.rip), (0x9123, 0x9_1230, 8));
    assert_eq!((first.cr0 & 1, first.mp), (0, MpState::Runnable));
    assert_ne!(bench.machine.boot_state(1).mp, MpState::Runnable);
    assert_eq!(
        bench.inw(PM1_STATUS) & (WAKE | RTC_EVENT | POWER_BUTTON),
        WAKE | RTC_EVENT
    );
    assert_eq!(bench.inw(PM1_ENABLE), 0);
    for (gpa, value) in [(0x2_0000, 0x1234_5678), (0x10_0000, 0x9abc_def0)] {
        assert_eq!(number(&read(&bench, gpa, 4)), value);
    }
    assert_eq!(bench.config(1, 0x10) & !0xf, 0, "the card was reset");
    assert_eq!(
        bench.readl(0xb000_0000),
        0x29c0_8086,
        "configuration space is there"
    );
    bench.outb(0x70, 0x0b);
    assert_eq!(bench.inb(0x71), 2, "the alarm is off");
    assert_eq!(bench.happened(), []);
}

#[test]
fn an_alarm_that_is_not_enabled_does_not_wake_and_the_power_button_does() {
    let bench = with_sleep();
    bench.set_waking_vector(0x1000);
    bench.fall_asleep();
    bench.set_alarm();
    bench.outb(0x70, 0x0c);
    eventually("the alarm", || bench.inb(0x71) & 0x20 != 0);
    assert_eq!(bench.happened(), []);
    bench.machine.power_button();
    bench.machine.power_button();
    assert_eq!(bench.happened(), [MachineEvent::WakeUp], "once is enough");
    bench.machine.wake().unwrap();
    assert_eq!(
        bench.inw(PM1_STATUS) & (WAKE | RTC_EVENT | POWER_BUTTON),
        WAKE | POWER_BUTTON
    );
    let first = bench.machine.boot_state(0);
    assert_eq!((first.segments[CS].selector, first.rip), (0x100, 0));
    // And again.
    bench.outw(PM1_STATUS, WAKE | POWER_BUTTON);
    bench.fall_asleep();
    bench.machine.power_button();
    assert_eq!(bench.happened(), [MachineEvent::WakeUp]);
}

#[test]
fn an_alarm_that_rang_before_is_not_slept_through() {
    let bench = with_sleep();
    bench.set_alarm();
    bench.outw(PM1_ENABLE, RTC_EVENT);
    eventually("the alarm", || bench.isa_requests() & 1 << 8 != 0);
    bench.outw(PM1_CONTROL, SLEEP);
    assert_eq!(bench.happened(), [MachineEvent::Suspend, MachineEvent::WakeUp]);
}

#[test]
fn a_guest_that_says_nowhere_to_wake_it_starts_anew() {
    for vector in [0, 0x10_0000, u32::MAX] {
        let bench = with_sleep();
        let start = bench.machine.boot_state(0);
        bench.ram.write_obj(0u32, GuestAddress(0x10_0000)).unwrap();
        bench.set_waking_vector(vector);
        bench.fall_asleep();
        bench.machine.wake().unwrap();
        assert_eq!(bench.machine.boot_state(0).rip, start.rip);
        assert_eq!(number(&read(&bench, bench.facs() + WAKING_VECTOR, 4)), 0);
        assert_ne!(bench.config(1, 0x10) & !0xf, 0, "the card has its address");
    }
}

#[test]
fn a_reset_ends_the_sleep() {
    let bench = with_sleep();
    bench.outw(PM1_ENABLE, RTC_EVENT);
    bench.fall_asleep();
    bench.machine.reset().unwrap();
    assert!(!bench.machine.is_asleep());
    assert_eq!(bench.inw(PM1_STATUS) & WAKE, 0);
    bench.machine.power_button();
    assert_eq!(bench.happened(), []);
    bench.fall_asleep();
}

#[test]
fn a_bios_that_is_woken_finds_itself_in_shadow_ram_and_the_reason() {
    let parts = Parts {
        suspend: true,
        ..parts(firmware(FirmwareChip::Rom))
    };
    let bench = parts.build().unwrap();
    assert_eq!(bench.files()["etc/system-states"], [0x80, 0, 0, 0x81, 2, 0x80]);
    // The power block where SeaBIOS puts it, and shadow RAM that is written and read.
    bench.set_config(0, 31, 0x40, 0x601u32.to_le_bytes());
    bench.set_config(0, 31, 0x44, [0x80]);
    bench.set_config(0, 0, 0x90, [0x30]);
    bench.store(0xf_1234, 0x5a);
    assert_eq!(bench.load(0xf_1234), 0x5a);
    bench.fall_asleep();
    bench.machine.wake().unwrap();
    assert_eq!(bench.load(0xf_1234), 0x5a);
    assert_eq!(bench.machine.boot_state(0).rip, 0xfff0);
    bench.outb(0x70, 0x0f);
    assert_eq!(bench.inb(0x71), 0xfe);
}
