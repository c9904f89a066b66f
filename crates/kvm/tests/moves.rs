//! A guest's state moves between virtual machines of both accelerators, and the guest goes on as if nothing had happened.

mod common;

use ostler_accel::model::{self, Topology, features};
use ostler_accel::{Accelerator, Msr, VmConfig, reset_state};
use ostler_guest::{Guest, all, demanding, play_helped};
use ostler_kvm::Kvm;
use ostler_softcpu::vm::SoftCpu;

fn moving_guests() -> Vec<Guest> {
    let guests: Vec<_> = all()
        .into_iter()
        .chain(demanding())
        .filter(|guest| ["state", "whole-state"].contains(&guest.name))
        .collect();
    assert_eq!(guests.len(), 2);
    guests
}

fn move_between(test: &str, choose: impl for<'a> Fn(&'a Kvm, &'a SoftCpu) -> [&'a dyn Accelerator; 2]) {
    let kvm = match Kvm::open() {
        Ok(kvm) => kvm,
        Err(error) => return eprintln!("SKIPPED {test}: {error}"),
    };
    let soft = SoftCpu::default();
    let [from, to] = choose(&kvm, &soft);
    for guest in moving_guests() {
        let report = play_helped(from, to, &guest, &common::emulator).unwrap();
        println!("{}: {report:?}", guest.name);
    }
}

#[test]
fn a_guest_moves_from_kvm_to_the_software_cpu() {
    move_between("a_guest_moves_from_kvm_to_the_software_cpu", |kvm, soft| {
        [kvm, soft]
    });
}

#[test]
fn a_guest_moves_from_the_software_cpu_to_kvm() {
    move_between("a_guest_moves_from_the_software_cpu_to_kvm", |kvm, soft| {
        [soft, kvm]
    });
}

#[test]
fn a_guest_moves_from_kvm_to_kvm() {
    move_between("a_guest_moves_from_kvm_to_kvm", |kvm, _| [kvm, kvm]);
}

/// Also that of a guest which is younger than a second, and for all CPUs alike.
#[test]
fn a_guest_moves_with_its_tsc() {
    const TSC: u32 = 0x10;
    const YOUNG: u64 = 1 << 28;
    let kvm = match Kvm::open() {
        Ok(kvm) => kvm,
        Err(error) => return eprintln!("SKIPPED a_guest_moves_with_its_tsc: {error}"),
    };
    let vm = kvm
        .create_vm(VmConfig {
            cpus: 2,
            slots: Vec::new(),
        })
        .unwrap();
    let leaves = kvm.supported_cpuid().unwrap();
    let mut cpus = [0, 1].map(|cpu| vm.create_vcpu(cpu, &leaves).unwrap());
    for (vcpu, id) in cpus.iter_mut().zip(0..) {
        let mut state = reset_state(id);
        state.msrs.push(Msr {
            index: TSC,
            value: YOUNG,
        });
        vcpu.set_state(&state).unwrap();
    }
    let mut least = YOUNG;
    for vcpu in &mut cpus {
        let state = vcpu.state().unwrap();
        let now = state.msrs.iter().find(|msr| msr.index == TSC).unwrap().value;
        assert!(
            (least..1 << 60).contains(&now),
            "{now:#x}, not {least:#x} or a little more"
        );
        least = now;
    }
}

#[test]
fn a_guest_moves_between_two_software_cpus() {
    let soft = SoftCpu::default();
    for guest in moving_guests() {
        play_helped(&soft, &soft, &guest, &common::emulator).unwrap();
    }
}

#[test]
fn both_accelerators_promise_the_same_paravirtual_features() {
    const LEAF: u32 = 0x4000_0001;
    let offered = |accelerator: &dyn Accelerator| {
        let supported = accelerator.supported_cpuid().unwrap();
        let leaves = model::build("max", &supported, Topology { cpus: 1 }, 0).unwrap();
        features::find(&leaves, LEAF, 0).map_or(0, |leaf| leaf.eax)
    };
    let soft = offered(&SoftCpu::default());
    assert_eq!(soft, model::PARAVIRTUAL_FEATURES);
    match Kvm::open() {
        Ok(kvm) => assert_eq!(offered(&kvm) & !soft, 0),
        Err(error) => eprintln!("SKIPPED both_accelerators_promise_the_same_paravirtual_features: {error}"),
    }
}

/// This very program, run by a kernel with working KVM.
#[test]
fn guests_move_in_a_host_made_in_software() {
    const NAME: &str = "guests_move_in_a_host_made_in_software";
    if let Some(console) = common::in_software_host(NAME, "a_guest_moves") {
        assert!(console.contains("5 passed"), "{console}");
        assert!(console.contains("avx: true"), "{console}");
    }
}
