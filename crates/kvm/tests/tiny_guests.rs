//! The tiny guests and the probe on the host's /dev/kvm, whether it runs on hardware or merely emulates.

mod common;

use std::time::Instant;

use ostler_accel::{Accelerator, probe};
use ostler_kvm::Kvm;

/// How often the guests that sleep are played by the test that looks for interrupts that come at a bad moment.
const ROUNDS: usize = 15;

/// KVM, or `None` with the reason printed.
fn kvm(test: &str) -> Option<Kvm> {
    match Kvm::open() {
        Ok(kvm) => Some(kvm),
        Err(error) => {
            eprintln!("SKIPPED {test}: {error}");
            None
        }
    }
}

#[test]
fn every_tiny_guest_does_as_it_should() {
    let Some(kvm) = kvm("every_tiny_guest_does_as_it_should") else {
        return;
    };
    let mut failures = Vec::new();
    for guest in ostler_guest::all() {
        let start = Instant::now();
        match ostler_guest::play(&kvm, &guest) {
            Ok(()) => println!("{}: {:?}", guest.name, start.elapsed()),
            Err(error) => failures.push(error.to_string()),
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn no_interrupt_is_missed() {
    let Some(kvm) = kvm("no_interrupt_is_missed") else {
        return;
    };
    let guests: Vec<_> = ostler_guest::all()
        .into_iter()
        .filter(|guest| ["timer", "x2apic", "messages", "external"].contains(&guest.name))
        .collect();
    assert_eq!(guests.len(), 4);
    for _ in 0..ROUNDS {
        for guest in &guests {
            ostler_guest::play(&kvm, guest).unwrap();
        }
    }
}

#[test]
fn no_interrupt_comes_while_they_are_off() {
    let Some(kvm) = kvm("no_interrupt_comes_while_they_are_off") else {
        return;
    };
    for guest in &ostler_guest::strict() {
        for _ in 0..ROUNDS {
            ostler_guest::play(&kvm, guest).unwrap();
        }
    }
}

#[test]
fn an_instruction_that_kvm_cannot_emulate_is_handed_over() {
    const NAME: &str = "an_instruction_that_kvm_cannot_emulate_is_handed_over";
    let Some(kvm) = kvm(NAME) else { return };
    let guest = ostler_guest::demanding()
        .into_iter()
        .find(|guest| guest.name == "hand-over")
        .unwrap();
    let report = ostler_guest::play_helped(&kvm, &kvm, &guest, &common::emulator).unwrap();
    println!("{} instructions handed over", report.handed_over);
    if host_has_virtualization() {
        println!("this host's processor executes them itself");
    } else {
        assert!(report.handed_over >= 1);
    }
}

/// True if the processor runs guests; without that, a KVM that is there all the same emulates them.
fn host_has_virtualization() -> bool {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let mut words = cpuinfo.split_whitespace();
    words.any(|word| word == "vmx" || word == "svm")
}

#[test]
fn the_probe_gives_a_speed() {
    let Some(kvm) = kvm("the_probe_gives_a_speed") else {
        return;
    };
    let start = Instant::now();
    let speed = probe::measure(&kvm).unwrap();
    println!("{speed}, measured in {:?}", start.elapsed());
    assert!(speed.0 > 0.01, "{speed}");
    assert_eq!(kvm.kind().name(), "kvm");
}

/// This very program, run by a kernel with working KVM.
#[test]
fn kvm_works_in_a_host_made_in_software() {
    const NAME: &str = "kvm_works_in_a_host_made_in_software";
    let arguments = "--exact every_tiny_guest_does_as_it_should the_probe_gives_a_speed \
                     an_instruction_that_kvm_cannot_emulate_is_handed_over";
    let Some(console) = common::in_software_host(NAME, arguments) else {
        return;
    };
    let natively = "0 instructions handed over\nthis host's processor executes them itself";
    assert!(console.contains(natively), "{console}");
}
