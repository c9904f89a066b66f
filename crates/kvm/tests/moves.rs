//! A guest's state moves between virtual machines of both accelerators, and the guest goes on as if nothing had happened.

mod common;

use ostler_accel::model::{self, Topology, features};
use ostler_accel::{Accelerator, CpuState, Msr, VmConfig, reset_state};
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

/// The state of a vCPU of this model with `msrs` and these bits in EFER, taken through KVM and given back.
fn moved(kvm: &Kvm, model: &str, efer: u64, msrs: &[Msr]) -> CpuState {
    let leaves = model::build(model, &kvm.supported_cpuid().unwrap(), Topology { cpus: 1 }, 0).unwrap();
    let one_cpu = || {
        let vm = kvm
            .create_vm(VmConfig {
                cpus: 1,
                slots: Vec::new(),
            })
            .unwrap();
        let vcpu = vm.create_vcpu(0, &leaves).unwrap();
        (vm, vcpu)
    };
    let mut state = reset_state(0);
    state.msrs.extend(msrs);
    state.efer |= efer;
    let ((_from, mut from), (_to, mut to)) = (one_cpu(), one_cpu());
    from.set_state(&state).unwrap();
    to.set_state(&from.state().unwrap()).unwrap();
    let there = to.state().unwrap();
    // A reset forgets all of it.
    to.set_state(&reset_state(0)).unwrap();
    let reset = to.state().unwrap();
    assert_eq!(reset.efer, 0);
    for msr in msrs {
        assert!(!reset.msrs.contains(msr), "{:#x} after a reset", msr.index);
    }
    there
}

#[test]
fn a_guest_moves_with_the_registers_of_hypervs_interface() {
    const NAME: &str = "a_guest_moves_with_the_registers_of_hypervs_interface";
    let kvm = match Kvm::open() {
        Ok(kvm) => kvm,
        Err(error) => return eprintln!("SKIPPED {NAME}: {error}"),
    };
    if model::hyperv::names_in(&kvm.supported_cpuid().unwrap()).count() == 0 {
        return eprintln!("SKIPPED {NAME}: this host's KVM has nothing of Hyper-V's interface");
    }
    // The guest's identity, the page of messages, a source of interrupts, and a timer that does not run.
    let msrs = [
        (0x4000_0000, 0x8100_0000_0001_0203),
        (0x4000_0083, 0x5001),
        (0x4000_0092, 0x52),
        (0x4000_00b0, 0x2_0002),
        (0x4000_00b1, 0x1234_5678),
    ]
    .map(|(index, value)| Msr { index, value });
    let model = "max,hv-vpindex,hv-synic,hv-time,hv-stimer";
    let there = moved(&kvm, model, 0, &msrs);
    for msr in msrs {
        assert!(there.msrs.contains(&msr), "{:#x}: {:x?}", msr.index, there.msrs);
    }
}

#[test]
fn a_guest_moves_that_can_run_guests_and_is_in_none() {
    const NAME: &str = "a_guest_moves_that_can_run_guests_and_is_in_none";
    const SVME: u64 = 1 << 12;
    let kvm = match Kvm::open() {
        Ok(kvm) => kvm,
        Err(error) => return eprintln!("SKIPPED {NAME}: {error}"),
    };
    if !model::has_feature(&kvm.supported_cpuid().unwrap(), "svm") {
        return eprintln!("SKIPPED {NAME}: this host's KVM has no SVM for guests");
    }
    let saved_host = Msr {
        index: 0xc001_0117,
        value: 0x7000,
    };
    let there = moved(&kvm, "max,+svm", SVME, &[saved_host]);
    assert!(there.msrs.contains(&saved_host), "{:x?}", there.msrs);
    assert_ne!(there.efer & SVME, 0);
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
        assert!(console.contains("7 passed"), "{console}");
        assert!(console.contains("avx: true"), "{console}");
    }
}
