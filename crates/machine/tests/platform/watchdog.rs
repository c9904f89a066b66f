//! The watchdog and the VM generation ID, as a guest reaches them.

use ostler_machine::MachineEvent;

use crate::bench::{Bench, Parts, eventually};
use crate::tables::tables;

/// The first slot, as there are no other devices.
const SLOT: u32 = 1;
const BUS: u32 = 0;
const GENERATION_ID: u64 = 0xfed5_0000;

fn with_watchdog() -> Bench {
    let parts = Parts {
        watchdog: true,
        ..Parts::default()
    };
    parts.build().unwrap()
}

/// Where its registers are.
fn registers(bench: &Bench) -> u64 {
    assert_eq!(bench.config(SLOT, 0), 0x25ab_8086);
    assert_eq!(bench.config(SLOT, 8) >> 8, 0x08_8000);
    bench.set_config(BUS, SLOT, 4, 2u16.to_le_bytes());
    u64::from(bench.config(SLOT, 0x10) & !0xf)
}

fn write_word(bench: &Bench, at: u64, value: u16) {
    bench.machine.memory().write(at, &value.to_le_bytes());
}

/// Sets both stages to the shortest time.
fn set_shortest(bench: &Bench, base: u64) {
    for (register, value) in [(0, 1), (4, 1)] {
        write_word(bench, base + 0xc, 0x80);
        write_word(bench, base + 0xc, 0x86);
        bench.writel(base + register, value);
    }
}

fn happened(bench: &Bench) -> Vec<MachineEvent> {
    bench.outside.events.lock().unwrap().clone()
}

#[test]
fn a_watchdog_that_runs_out_says_so_once_and_remembers_it_over_a_reset() {
    let bench = with_watchdog();
    let base = registers(&bench);
    set_shortest(&bench, base);
    bench.set_config(BUS, SLOT, 0x60, 7u16.to_le_bytes());
    assert_eq!(bench.readl(base + 0xc), 0);
    bench.set_config(BUS, SLOT, 0x68, [2]);
    eventually("the watchdog's event", || !happened(&bench).is_empty());
    assert_eq!(happened(&bench), [MachineEvent::Watchdog]);
    assert_eq!(bench.config(SLOT, 0x68) & 0xff, 0, "it is off again");
    assert_eq!(bench.config(SLOT, 0x60) & 0xffff, 0);
    bench.machine.reset().unwrap();
    let base = registers(&bench);
    assert_eq!(bench.readl(base + 0xc), 0x1200);
    // Accesses in odd widths, over its end, and to what is not there.
    for (offset, len) in [(0xe, 8), (0xd, 3), (3, 2), (8, 1)] {
        let mut bytes = [0xff; 8];
        bench.machine.memory().read(base + offset, &mut bytes[..len]);
        bench.machine.memory().write(base + offset, &bytes[..len]);
    }
    assert_eq!(happened(&bench).len(), 1);
}

#[test]
fn a_watchdog_that_is_locked_cannot_be_stopped_and_waits_while_the_cpus_are_held() {
    let bench = with_watchdog();
    let base = registers(&bench);
    set_shortest(&bench, base);
    bench.machine.cpus_held();
    bench.set_config(BUS, SLOT, 0x68, [3]);
    for bytes in [[0], [1], [4]] {
        bench.set_config(BUS, SLOT, 0x68, bytes);
    }
    bench.set_config(BUS, SLOT, 0x68, [0; 4]);
    assert_eq!(bench.config(SLOT, 0x68) & 0xff, 3);
    assert_eq!(happened(&bench), []);
    bench.machine.cpus_run();
    eventually("the watchdog's event", || {
        happened(&bench) == [MachineEvent::Watchdog]
    });
}

#[test]
fn a_machine_has_neither_unless_asked() {
    let bench = Parts::default().build().unwrap();
    assert_eq!(bench.config(SLOT, 0), u32::MAX);
    assert!(!bench.machine.memory().read(GENERATION_ID, &mut [0]));
    assert!(!bench.machine.set_generation_id([1; 16]));
}

#[test]
fn a_new_generation_id_is_in_its_page_and_raises_its_event_once() {
    const GPE0: u64 = 0x620;
    const EVENT: u32 = 1 << 5;
    let id: [u8; 16] = std::array::from_fn(|at| at as u8 + 1);
    let parts = Parts {
        generation_id: Some(id),
        ..Parts::default()
    };
    let bench = parts.build().unwrap();
    let read = |offset: u64, len: usize| {
        let mut bytes = vec![0xff; len];
        assert!(bench.machine.memory().read(GENERATION_ID + offset, &mut bytes));
        bytes
    };
    bench.writel(GENERATION_ID, 0);
    assert_eq!(read(0, 8), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(read(13, 8), [14, 15, 16, 0, 0, 0, 0, 0]);
    assert_eq!(read(0xffc, 4), [0; 4]);
    assert!(bench.machine.set_generation_id(id));
    assert_eq!(bench.inl(GPE0), 0, "that is no news");
    assert!(bench.machine.set_generation_id([9; 16]));
    assert_eq!(read(8, 8), [9; 8]);
    assert_eq!(bench.inl(GPE0), EVENT);
    bench.outl(GPE0, EVENT);
    assert_eq!(bench.inl(GPE0), 0);
    let tables = tables(&bench);
    let dsdt = tables.iter().find(|table| table.starts_with(b"DSDT")).unwrap();
    for name in [&b"OSTL0001"[..], b"VM_Gen_Counter", b"_E05"] {
        assert!(dsdt.windows(name.len()).any(|bytes| bytes == name), "{name:?}");
    }
}
