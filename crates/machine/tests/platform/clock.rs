//! The real-time clock and its memory, through ports 0x70 and 0x71.

use crate::bench::{Bench, Parts, eventually, kernel, machine};

fn cmos(bench: &Bench, index: u8) -> u8 {
    bench.outb(0x70, index);
    bench.inb(0x71)
}

fn set_cmos(bench: &Bench, index: u8, value: u8) {
    bench.outb(0x70, index);
    bench.outb(0x71, value);
}

fn word(bench: &Bench, index: u8) -> u32 {
    u32::from(cmos(bench, index)) | u32::from(cmos(bench, index + 1)) << 8
}

fn of_memory(bytes: u64, cpus: u32) -> Result<Bench, ostler_memory::Error> {
    let parts = Parts {
        ram: ostler_memory::allocate(bytes, Default::default())?,
        cpus,
        ..Parts::default()
    };
    Ok(parts.build().unwrap())
}

#[test]
fn memory_and_cpus_are_where_firmware_looks() {
    // The machine's bytes; then in units of 1 KiB above 1 MiB, of 64 KiB above 16 MiB, of 64 KiB above 4 GiB.
    for (bytes, extended, above_16m, above_4g) in [
        (20 << 20, 19 << 10, 4 << 4, 0),
        (64 << 20, 63 << 10, 48 << 4, 0),
        (512 << 20, 0xffff, 496 << 4, 0),
        // Memory from 0xb0000000 on lies above 4 GiB instead.
        (4 << 30, 0xffff, (0xb000 - 0x100), 0x5000),
        (40 << 30, 0xffff, (0xb000 - 0x100), (40 << 14) - 0xb000),
    ] {
        let bench = match of_memory(bytes, 7) {
            Ok(bench) => bench,
            Err(error) => {
                eprintln!("SKIPPED memory_and_cpus_are_where_firmware_looks ({bytes} bytes): {error}");
                continue;
            }
        };
        assert_eq!(word(&bench, 0x15), 640, "conventional memory");
        assert_eq!((word(&bench, 0x17), word(&bench, 0x30)), (extended, extended));
        assert_eq!(word(&bench, 0x34), above_16m, "{bytes:#x}");
        let above = word(&bench, 0x5b) | u32::from(cmos(&bench, 0x5d)) << 16;
        assert_eq!(above, above_4g, "{bytes:#x}");
        assert_eq!(cmos(&bench, 0x5f), 6, "CPUs beside the first");
    }
    assert_eq!(cmos(&of_memory(64 << 20, 1).unwrap(), 0x5f), 0);
    assert_eq!(cmos(&of_memory(64 << 20, 240).unwrap(), 0x5f), 239);
}

const A: u8 = 0x0a;
const B: u8 = 0x0b;
const C: u8 = 0x0c;

const PERIODIC: u8 = 0x40;
const ALARM: u8 = 0x20;
const UPDATE: u8 = 0x10;
const HOURS_24: u8 = 0x02;
const RAISED: u8 = 0x80;

#[test]
fn its_interrupts_are_irq_8() {
    let bench = machine(kernel(), 1);
    bench.ioapic(8, 0x38);
    let external = bench.set_up_pics(0xfb);
    set_cmos(&bench, A, 0x26);
    // Every alarm byte matches every time.
    for index in [1, 3, 5] {
        set_cmos(&bench, index, 0xff);
    }
    for enabled in [PERIODIC, UPDATE, ALARM] {
        cmos(&bench, C);
        bench.messages();
        set_cmos(&bench, B, HOURS_24 | enabled);
        for _ in 0..2 {
            eventually("the clock's interrupt", || {
                !bench.vm.messages.lock().unwrap().is_empty()
            });
            assert_eq!(bench.messages()[0].data, 0x4038);
            assert!(external.pending());
            assert_eq!(external.acknowledge(), Some(0x38));
            bench.outb(0xa0, 0x20);
            bench.outb(0x20, 0x20);
            // Nothing comes before the guest has looked.
            assert_eq!(cmos(&bench, C) & (RAISED | enabled), RAISED | enabled);
        }
        set_cmos(&bench, B, HOURS_24);
    }
}

#[test]
fn a_reset_silences_it_and_keeps_its_memory() {
    let bench = machine(kernel(), 1);
    set_cmos(&bench, 0x40, 0x77);
    set_cmos(&bench, B, HOURS_24 | PERIODIC | UPDATE);
    bench.machine.reset().unwrap();
    assert_eq!(cmos(&bench, B), HOURS_24);
    assert_eq!(cmos(&bench, 0x40), 0x77);
    cmos(&bench, C);
    bench.ioapic(8, 0x38);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(bench.messages().is_empty());
}
