//! The whole platform, driven through its two address maps as a guest's exits would.

use std::sync::Arc;

use crate::bench::{kernel, machine};
use ostler_accel::{ExternalInterrupts, MpState};
use ostler_bus::Msi;
use ostler_machine::{Error, MachineEvent};

const LEVEL: u64 = 1 << 15;

#[test]
fn the_chipset_is_found_by_ports_and_by_ecam() {
    let bench = machine(kernel(), 1);
    assert_eq!(bench.config(0, 0), 0x29c0_8086);
    assert_eq!(bench.config(31, 0), 0x2918_8086);
    assert_eq!(bench.config(16, 0), 0x000c_1b36);
    assert_eq!(bench.config(9, 0), 0xffff_ffff);
    assert_eq!(bench.readl(0xb000_0000), 0x29c0_8086);
    assert_eq!(bench.readl(0xb000_0000 + (31 << 15)), 0x2918_8086);
}

#[test]
fn the_guest_can_move_the_configuration_window_and_the_power_block() {
    let bench = machine(kernel(), 1);
    bench.writel(0xb000_0060, 0xe000_0001);
    assert_eq!(bench.readl(0xb000_0000), 0xffff_ffff);
    assert_eq!(bench.readl(0xe000_0000), 0x29c0_8086);
    bench.writel(0xe000_0000 + (31 << 15) + 0x40, 0x1001);
    assert_eq!(bench.inl(0x608), 0xffff_ffff);
    assert!(bench.inl(0x1008) <= 0xff_ffff);
    bench.machine.reset().unwrap();
    assert_eq!(bench.readl(0xb000_0000), 0x29c0_8086);
    assert!(bench.inl(0x608) <= 0xff_ffff);
}

#[test]
fn serial_output_and_interrupts_reach_the_outside() {
    let bench = machine(kernel(), 1);
    for byte in b"hi" {
        bench.outb(0x3f8, *byte);
    }
    assert_eq!(*bench.outside.output.lock().unwrap(), b"hi");
    bench.ioapic(4, 0x34);
    bench.outb(0x3f9, 1);
    assert_eq!(bench.machine.serial_input(b"x"), 1);
    assert_eq!(
        *bench.vm.messages.lock().unwrap(),
        [Msi {
            address: 0xfee0_0000,
            data: 0x4034
        }]
    );
    assert_eq!(bench.inb(0x3f8), b'x');
}

#[test]
fn the_power_button_raises_a_level_interrupt_until_it_is_cleared() {
    let bench = machine(kernel(), 1);
    bench.ioapic(9, LEVEL | 0x29);
    assert_eq!(bench.vm.pins.lock().unwrap()[9].msi.data, 0xc029);
    bench.outb(0xb2, 2);
    assert_eq!(bench.inb(0x604) & 1, 1, "ACPI mode");
    bench.machine.ports().write(0x602, &0x100u16.to_le_bytes());
    bench.machine.power_button();
    bench.machine.end_of_interrupt(0x29);
    assert_eq!(bench.vm.messages.lock().unwrap().len(), 2);
    bench.machine.ports().write(0x600, &0x100u16.to_le_bytes());
    bench.machine.end_of_interrupt(0x29);
    assert_eq!(bench.vm.messages.lock().unwrap().len(), 2);
}

#[test]
fn the_ways_to_end_are_told_apart() {
    let bench = machine(kernel(), 1);
    bench
        .machine
        .ports()
        .write(0x604, &(7u16 << 10 | 1 << 13).to_le_bytes());
    bench.outb(0xcf9, 0x0e);
    bench.outb(0x64, 0xfe);
    bench.outb(0x505, 1);
    bench.outl(0xf4, 5);
    assert_eq!(
        *bench.outside.events.lock().unwrap(),
        [
            MachineEvent::PowerOff,
            MachineEvent::Reset,
            MachineEvent::Reset,
            MachineEvent::Panic,
            MachineEvent::DebugExit(5)
        ]
    );
}

/// Sets the 8259 pair up with vectors 0x30 and 0x38 and the given mask, as PC kernels do.
fn set_up_pics(bench: &crate::bench::Bench, mask: u8) -> Arc<dyn ExternalInterrupts> {
    for (port, values) in [(0x20, [0x11, 0x30, 4, 1]), (0xa0, [0x11, 0x38, 2, 1])] {
        bench.outb(port, values[0]);
        for value in &values[1..] {
            bench.outb(port + 1, *value);
        }
    }
    bench.outb(0x21, mask);
    bench.vm.external.lock().unwrap().clone().unwrap()
}

#[test]
fn the_timer_interrupts_through_the_8259_pair() {
    let bench = machine(kernel(), 1);
    let external = set_up_pics(&bench, 0xfe);
    bench.outb(0x43, 0x34);
    bench.outb(0x40, 0x9c);
    bench.outb(0x40, 0x2e);
    while !external.pending() {
        std::thread::yield_now();
    }
    assert_eq!(external.acknowledge(), Some(0x30));
    assert!(!external.pending());
    drop(bench);
    assert_eq!(external.acknowledge(), None, "the machine is gone");
}

#[test]
fn a_one_shot_that_ends_while_it_is_masked_is_remembered() {
    for mode in [0x30, 0x38] {
        let bench = machine(kernel(), 1);
        let external = set_up_pics(&bench, 0xff);
        bench.outb(0x43, mode);
        bench.outb(0x40, 20);
        bench.outb(0x40, 0);
        // Until the counter has wrapped: it is read by latching it.
        loop {
            bench.outb(0x43, 0);
            let count = u16::from(bench.inb(0x40)) | u16::from(bench.inb(0x40)) << 8;
            if count > 20 {
                break;
            }
        }
        assert!(!external.pending());
        bench.outb(0x21, 0xfe);
        assert!(external.pending());
        assert_eq!(external.acknowledge(), Some(0x30));
    }
}

#[test]
fn the_test_device_drives_lines_and_they_are_shared() {
    let bench = machine(kernel(), 1);
    bench.ioapic(20, LEVEL | 0x50);
    bench.outb(0x2000 + 20, 1);
    bench.outb(0x2000 + 20, 1);
    assert_eq!(bench.vm.messages.lock().unwrap().len(), 1);
    bench.outb(0x2000 + 20, 0);
    bench.machine.end_of_interrupt(0x50);
    assert_eq!(bench.vm.messages.lock().unwrap().len(), 1);
}

#[test]
fn every_cpu_but_the_first_waits() {
    let bench = machine(kernel(), 4);
    assert_eq!(bench.machine.boot_state(0).mp, MpState::Runnable);
    for cpu in 1..4 {
        assert_eq!(bench.machine.boot_state(cpu).mp, MpState::Uninitialized);
    }
}

#[test]
fn a_machine_that_is_dropped_frees_its_memory() {
    let bench = machine(kernel(), 1);
    let (ram, vm) = (Arc::downgrade(&bench.ram), Arc::downgrade(&bench.vm));
    drop(bench);
    assert!(ram.upgrade().is_none() && vm.upgrade().is_none());
}

#[test]
fn a_wrong_number_of_cpus_is_one_clear_error() {
    for cpus in [0, 241, u32::MAX] {
        let built = std::panic::catch_unwind(|| machine(kernel(), cpus));
        assert!(built.is_err());
    }
    let text = Error::Cpus(1000).to_string();
    assert_eq!(text, "a guest can have 1 to 240 CPUs, not 1000");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(30))]

    #[test]
    fn any_accesses_leave_the_machine_standing(
        accesses in proptest::collection::vec(
            (0u8..4, 0u64..0x1_0000, proptest::collection::vec(proptest::prelude::any::<u8>(), 1..=8)), 0..400)
    ) {
        let bench = machine(kernel(), 2);
        for (kind, place, mut data) in accesses {
            let width = data.len();
            let port_width = if width >= 4 { 4 } else if width == 3 { 2 } else { width };
            match kind {
                0 => { bench.machine.ports().read(place, &mut data[..port_width]); }
                1 => { bench.machine.ports().write(place, &data[..port_width]); }
                2 => { bench.machine.memory().read(0xfec0_0000 + place % 0x1000, &mut data); }
                _ => { bench.machine.memory().write(0xb000_0000 + place * 16, &data); }
            }
        }
        bench.machine.reset().unwrap();
        proptest::prop_assert_eq!(bench.config(0, 0), 0x29c0_8086);
    }
}
