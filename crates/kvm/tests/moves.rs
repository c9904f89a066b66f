//! A guest's state moves between the two accelerators, and the guest goes on as if nothing had happened.

use ostler_accel::Accelerator;
use ostler_guest::{Guest, all, play_moving};
use ostler_kvm::Kvm;
use ostler_softcpu::vm::SoftCpu;

fn moving_guest() -> Guest {
    all()
        .into_iter()
        .find(|guest| guest.name == "state")
        .expect("the catalogue has a guest that moves")
}

fn move_between(test: &str, play: impl Fn(&dyn Accelerator, &dyn Accelerator)) {
    match Kvm::open() {
        Ok(kvm) => play(&kvm, &SoftCpu::default()),
        Err(error) => eprintln!("SKIPPED {test}: {error}"),
    }
}

#[test]
fn a_guest_moves_from_kvm_to_the_software_cpu() {
    move_between("a_guest_moves_from_kvm_to_the_software_cpu", |kvm, soft| {
        play_moving(kvm, soft, &moving_guest()).unwrap();
    });
}

#[test]
fn a_guest_moves_from_the_software_cpu_to_kvm() {
    move_between("a_guest_moves_from_the_software_cpu_to_kvm", |kvm, soft| {
        play_moving(soft, kvm, &moving_guest()).unwrap();
    });
}
