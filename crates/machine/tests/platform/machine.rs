//! The whole platform, driven through its two address maps as a guest's exits would.

use std::sync::Arc;

use crate::bench::{Bench, Parts, Synthetic, eventually, kernel, machine};
use ostler_accel::{MpState, SyntheticConnection, SyntheticSource};
use ostler_bus::Msi;
use ostler_machine::{Error, MachineEvent};
use proptest::prelude::*;
use vm_memory::Bytes;

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

#[test]
fn the_timer_interrupts_through_the_8259_pair() {
    let bench = machine(kernel(), 1);
    let external = bench.set_up_pics(0xfe);
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

/// A flat Multiboot kernel.
fn multiboot() -> Vec<u8> {
    const AT: u32 = 0x10_0000;
    const FLAGS: u32 = 1 << 16;
    const MAGIC: u32 = 0x1bad_b002;
    let sum = 0u32.wrapping_sub(MAGIC).wrapping_sub(FLAGS);
    [MAGIC, FLAGS, sum, AT, AT, 0, 0, AT + 32]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .chain([0xf4])
        .collect()
}

#[test]
fn a_multiboot_kernel_finds_the_timer_as_a_bios_leaves_it() {
    let bench = machine(multiboot(), 1);
    let masks = |bench: &Bench| [0x21, 0xa1].map(|port| bench.inb(port));
    let external = bench.vm.external.lock().unwrap().clone().unwrap();
    for _ in 0..2 {
        assert_eq!(masks(&bench), [0xfa, 0xff], "the timer and the second chip");
        // The second tick comes when the first was ended, as the handler in real mode does.
        for _ in 0..2 {
            eventually("the tick", || external.pending());
            assert_eq!(external.acknowledge(), Some(8));
            bench.outb(0x20, 0x20);
        }
        bench.outb(0x21, 0xff);
        bench.machine.reset().unwrap();
    }
    assert_eq!(
        masks(&machine(kernel(), 1)),
        [0, 0],
        "no other protocol promises that"
    );
}

#[test]
fn a_one_shot_that_ends_while_it_is_masked_is_remembered() {
    for mode in [0x30, 0x38] {
        let bench = machine(kernel(), 1);
        let external = bench.set_up_pics(0xff);
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
fn the_test_device_makes_synthetic_connections() {
    let bench = Parts::default().build_with_synthetic().unwrap();
    let to = |vcpu, sint| SyntheticSource { vcpu, sint };
    let messages = SyntheticConnection::Messages;
    let events = SyntheticConnection::Events;
    for (written, call) in [
        (0x0001_0203, Synthetic::Open(to(2, 3))),
        (0x0003_0203, Synthetic::Raise(to(2, 3))),
        (0x0002_0203, Synthetic::Close(to(2, 3))),
        (0x1104_0108, Synthetic::Connect(messages(0x11), to(1, 8))),
        (0x1105_0000, Synthetic::Disconnect(messages(0x11))),
        (0x2106_0109, Synthetic::Connect(events(0x21), to(1, 9))),
        (0xff07_0000, Synthetic::Disconnect(events(0xff))),
        // What is not there is asked for, refused, and the guest goes on.
        (0x0101_ffff, Synthetic::Open(to(255, 255))),
        (0x0104_ff00, Synthetic::Connect(messages(1), to(255, 0))),
    ] {
        bench.outl(0x3000, written);
        let calls = bench.vm.synthetic.as_ref().unwrap();
        let calls = std::mem::take(&mut *calls.lock().unwrap());
        assert_eq!(calls, [call], "{written:#x}");
    }
    for unknown in [0, 0x0008_0000, 0x11ff_0101, u32::MAX] {
        bench.outl(0x3000, unknown);
    }
    // Another width, another port of the four.
    for (port, data) in [
        (0x3000, &[3, 2, 1][..]),
        (0x3000, &[3, 2]),
        (0x3000, &[0, 0, 1, 0, 0, 0, 0, 0]),
        (0x3001, &[3, 2, 1, 0]),
        (0x3003, &[1]),
    ] {
        bench.machine.ports().write(port, data);
    }
    let calls = bench.vm.synthetic.as_ref().unwrap();
    assert!(calls.lock().unwrap().is_empty());
    assert_eq!(bench.inl(0x3000), 0);
}

#[test]
fn without_synthetic_interrupts_their_port_does_nothing() {
    let bench = machine(kernel(), 1);
    for command in 0..=255 {
        bench.outl(0x3000, command << 16);
    }
    assert_eq!(bench.inl(0x3000), 0);
    assert!(bench.messages().is_empty());
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
    for cpus in [0, 241, 1000, u32::MAX] {
        let parts = Parts {
            cpus,
            ..Parts::default()
        };
        let error = parts.build().err().unwrap();
        assert!(matches!(error, Error::Cpus(given) if given == cpus));
        assert_eq!(
            error.to_string(),
            format!("a guest can have 1 to 240 CPUs, not {cpus}")
        );
    }
}

#[test]
fn what_is_for_tests_is_off_by_default() {
    let parts = Parts {
        test_devices: false,
        ..Parts::default()
    };
    let bench = parts.build().unwrap();
    let ports = [
        0xf4..0xf8,
        0xe0..0xe4,
        0xe8..0xe9,
        0x2000..0x2018,
        0x3000..0x3004,
        0x501..0x502,
    ];
    for port in ports.into_iter().flatten() {
        let mut byte = [0];
        assert!(!bench.machine.ports().read(port, &mut byte), "{port:#x}");
        assert_eq!(byte, [0xff]);
        assert!(!bench.machine.ports().write(port, &[1]), "{port:#x}");
    }
    for gpa in [0xff00_0000, 0xff00_fff8] {
        bench.writel(gpa, 5);
        assert_eq!(bench.readl(gpa), 0xffff_ffff);
    }
    assert!(bench.outside.events.lock().unwrap().is_empty());
    bench.ioapic(20, LEVEL | 0x50);
    bench.outb(0x2000 + 20, 1);
    assert!(bench.messages().is_empty());
}

#[test]
fn pam_and_smram_registers_keep_what_their_masks_let_through() {
    let bench = machine(kernel(), 1);
    let registers = || -> Vec<u8> {
        (0x90..0x9f)
            .map(|at| (bench.config(0, at) >> (8 * (at & 3))) as u8)
            .collect()
    };
    let reset = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x02, 0x38];
    assert_eq!(registers(), reset);
    for at in 0x90..0x9f {
        bench.set_config(0, 0, at, [0xff]);
    }
    assert_eq!(
        registers(),
        [
            0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33, 0, 0, 0, 0, 0, 0, 0x72, 0xbf
        ]
    );
    // They switch nothing: the shadowed area is RAM all the time.
    let at = vm_memory::GuestAddress(0xf_8000);
    bench.ram.write_obj(0x1234_5678u32, at).unwrap();
    bench.set_config(0, 0, 0x90, [0]);
    assert_eq!(bench.ram.read_obj::<u32>(at).unwrap(), 0x1234_5678);
    bench.machine.reset().unwrap();
    assert_eq!(registers(), reset);
}

/// Ports with something behind them, so that most accesses do not end in the void.
fn any_port() -> impl Strategy<Value = u64> {
    let registered = prop::sample::select(vec![
        (0x20, 2),
        (0x40, 4),
        (0x60, 5),
        (0x70, 2),
        (0x92, 1),
        (0xa0, 2),
        (0xb2, 2),
        (0xe0, 9),
        (0xf4, 4),
        (0x3f8, 8),
        (0x4d0, 2),
        (0x505, 1),
        (0x510, 12),
        (0x600, 0x80),
        (0xcf8, 8),
        (0x2000, 24),
    ]);
    prop_oneof![
        8 => (registered, any::<u64>()).prop_map(|((base, len), place)| base + place % len),
        1 => 0u64..0x1_0000,
    ]
}

/// The IOAPIC, the test device's memory, and the configuration spaces of functions that exist.
fn any_memory() -> impl Strategy<Value = u64> {
    let functions = prop::sample::select(vec![0u64, 16, 17, 18, 19, 31]);
    prop_oneof![
        2 => 0xfec0_0000u64..0xfec0_0050,
        1 => 0xff00_0000u64..0xff01_0004,
        6 => (functions, prop_oneof![0u64..0x100, 0u64..0x1000])
            .prop_map(|(device, offset)| 0xb000_0000 + (device << 15) + offset),
        1 => any::<u64>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_accesses_leave_the_machine_standing(
        accesses in prop::collection::vec(
            (any::<bool>(), any::<bool>(), any_port(), any_memory(), prop::collection::vec(any::<u8>(), 8), 0u32..4),
            0..400,
        )
    ) {
        let bench = machine(kernel(), 2);
        for (on_ports, is_write, port, gpa, mut data, width) in accesses {
            let map = if on_ports { bench.machine.ports() } else { bench.machine.memory() };
            let (place, width) = if on_ports { (port, width.min(2)) } else { (gpa, width) };
            let data = &mut data[..1 << width];
            if is_write {
                map.write(place, data);
            } else {
                map.read(place, data);
            }
        }
        bench.machine.reset().unwrap();
        prop_assert_eq!(bench.config(0, 0), 0x29c0_8086);
        prop_assert_eq!(bench.readl(0xb000_0000), 0x29c0_8086);
        prop_assert_eq!(bench.config(31, 0), 0x2918_8086);
    }
}
