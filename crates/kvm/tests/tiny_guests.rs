//! The tiny guests and the probe on the host's /dev/kvm, whether it runs on hardware or merely emulates.

use std::time::Instant;

use ostler_accel::{Accelerator, probe};
use ostler_kvm::Kvm;

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
