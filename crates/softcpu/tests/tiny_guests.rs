//! The tiny guests and the probe on the software CPU.

use ostler_accel::probe;
use ostler_softcpu::vm::SoftCpu;

#[test]
fn every_tiny_guest_does_as_it_should() {
    let failures: Vec<String> = ostler_guest::all()
        .iter()
        .chain(&ostler_guest::strict())
        .filter_map(|guest| ostler_guest::play(&SoftCpu::default(), guest).err())
        .map(|error| error.to_string())
        .collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn the_probe_gives_a_speed() {
    let speed = probe::measure(&SoftCpu::default()).unwrap();
    println!("{speed}");
    assert!(speed.0 > 0.01, "{speed}");
}
