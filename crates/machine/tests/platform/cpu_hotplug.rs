//! CPUs that come and go, as the guest's ACPI methods see it.

use std::sync::{Arc, Mutex};

use ostler_machine::{CpuOutcome, Error, OstReport};

use crate::bench::{Bench, Parts};
use crate::tables::tables;

const REGISTERS: u64 = 0xcd8;
const GPE_STATUS: u64 = 0x620;
const CPU_EVENT: u32 = 1 << 2;

fn parts() -> Parts {
    Parts {
        cpus: 4,
        boot_cpus: Some(2),
        ..Parts::default()
    }
}

fn machine() -> Bench {
    parts().build().unwrap()
}

fn write(bench: &Bench, port: u64, bytes: &[u8]) {
    bench.machine.ports().write(port, bytes);
}

fn dword(bench: &Bench, port: u64) -> u32 {
    let mut bytes = [0; 4];
    bench.machine.ports().read(port, &mut bytes);
    u32::from_le_bytes(bytes)
}

/// Takes the event that waits, as the guest's interrupt handler does.
fn take_event(bench: &Bench) -> bool {
    let there = dword(bench, GPE_STATUS) & CPU_EVENT != 0;
    write(bench, GPE_STATUS, &CPU_EVENT.to_le_bytes());
    there
}

/// Status of CPU `cpu`.
fn status(bench: &Bench, cpu: u32) -> u8 {
    write(bench, REGISTERS, &cpu.to_le_bytes());
    let mut byte = [0];
    bench.machine.ports().read(REGISTERS + 4, &mut byte);
    byte[0]
}

/// The flags of each local APIC in the MADT.
fn flags(bench: &Bench) -> Vec<u8> {
    let madt = &tables(bench)[1];
    let entries = madt[44..].chunks(8).take_while(|entry| entry[..2] == [0, 8]);
    entries.map(|entry| entry[4]).collect()
}

#[test]
fn the_guest_hears_of_a_cpu_that_comes_and_ejects_one_that_is_to_leave() {
    let bench = machine();
    assert_eq!(
        flags(&bench),
        [1, 1, 2, 2],
        "those that can come are online capable"
    );
    let seen = Arc::new(Mutex::new(Vec::new()));
    let its_seen = seen.clone();
    bench
        .machine
        .listen_to_cpus(move |outcome| its_seen.lock().unwrap().push(outcome));
    assert!(!take_event(&bench));
    assert!(bench.machine.insert_cpu(3));
    assert!(!bench.machine.insert_cpu(3) && !bench.machine.insert_cpu(4));
    assert!(take_event(&bench));
    assert_eq!((status(&bench, 2), status(&bench, 3)), (0, 1 | 2));
    write(&bench, REGISTERS + 4, &[2]);
    assert_eq!(status(&bench, 3), 1);

    assert!(bench.machine.request_cpu_removal(3));
    assert!(!bench.machine.request_cpu_removal(0) && !bench.machine.request_cpu_removal(2));
    assert!(take_event(&bench));
    assert_eq!(status(&bench, 3), 1 | 4);
    for byte in [4, 8] {
        write(&bench, REGISTERS + 4, &[byte]);
    }
    assert_eq!(*seen.lock().unwrap(), [CpuOutcome::Ejected(3)]);
    assert_eq!(bench.machine.cpus(), [true, true, false, false]);
    for (command, value) in [(1u8, 3u32), (2, 0)] {
        write(&bench, REGISTERS + 5, &[command]);
        write(&bench, REGISTERS + 8, &value.to_le_bytes());
    }
    assert_eq!(seen.lock().unwrap().last(), Some(&CpuOutcome::Reported));
    let report = OstReport { event: 3, status: 0 };
    assert_eq!(bench.machine.take_cpu_reports(), [(3, report)]);
}

#[test]
fn a_guest_that_starts_over_finds_the_cpus_that_are_there() {
    let bench = machine();
    bench.machine.insert_cpu(3);
    bench.machine.request_cpu_removal(1);
    bench.machine.reset().unwrap();
    assert_eq!(flags(&bench), [1, 1, 2, 1]);
    assert_eq!((status(&bench, 1), status(&bench, 3)), (1, 1), "nothing waits");
    // The number of CPUs in the clock's memory, less one.
    write(&bench, 0x70, &[0x5f]);
    let mut count = [0];
    bench.machine.ports().read(0x71, &mut count);
    assert_eq!(count, [2]);
}

#[test]
fn without_room_for_more_there_are_no_registers() {
    let bench = Parts {
        boot_cpus: Some(4),
        ..parts()
    }
    .build()
    .unwrap();
    assert!(!bench.machine.has_cpu_hotplug() && !bench.machine.request_cpu_removal(1));
    assert_eq!(dword(&bench, REGISTERS + 4), u32::MAX, "no one is there");
    for start in [0, 5] {
        let parts = Parts {
            boot_cpus: Some(start),
            ..parts()
        };
        assert!(matches!(parts.build(), Err(Error::BootCpus { most: 4, .. })));
    }
}

#[test]
fn odd_accesses_to_the_registers_are_survived() {
    let bench = machine();
    for offset in 0..14 {
        for len in [1, 2, 3, 4, 5, 8, 12] {
            write(&bench, REGISTERS + offset, &vec![0xff; len]);
            bench.machine.ports().read(REGISTERS + offset, &mut vec![0; len]);
        }
    }
    assert!(bench.machine.has_cpu(0));
}
