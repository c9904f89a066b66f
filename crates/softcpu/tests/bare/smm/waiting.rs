//! What comes while a CPU is in system management mode, or sleeps.

use std::time::{Duration, Instant};

use ostler_accel::{Exit, ExitCause, KickSource, MpState, SmiTarget};
use ostler_bus::Msi;

use super::{COUNT, Machine, count_handler};
use crate::common::{CODE, guest_code};
use crate::prepared::prepared;

/// A message to CPU `id` with delivery mode and vector `data`.
fn message(id: u64, data: u32) -> Msi {
    Msi {
        address: 0xfee0_0000 | id << 12,
        data,
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(240), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

guest_code!(
    nesting,
    "smm_nesting_begin",
    "smm_nesting_end",
    ".code16",
    "inc dword ptr [0x7000]",
    "cmp dword ptr [0x7000], 1",
    "jne 2f",
    // Three at once: one of them waits, the others are the same.
    "mov al, 3",
    "out 0xb2, al",
    "nop",
    // It has not come yet.
    "mov eax, [0x7000]",
    "mov [0x7004], eax",
    "2: rsm",
    ".code64",
);

#[test]
fn an_smi_in_system_management_mode_waits_for_its_end_and_is_one() {
    let machine = Machine::new(1, &nesting());
    machine.bare.write(CODE, &[0xb0, 1, 0xe6, 0xb2, 0xe6, 0xf4]);
    let after = machine.run_from(&machine.bare.long_mode(0));
    assert_eq!((machine.count(), machine.word(COUNT + 4)), (2, 1));
    assert!(!after.smm.active && !after.smm.pending);
    assert_eq!(after.gpr[0] as u8, 1);
}

guest_code!(
    halting,
    "smm_halting_begin",
    "smm_halting_end",
    ".code16",
    "inc dword ptr [0x7000]",
    "mov edi, 0x3fec9",
    "mov al, [edi]",
    "mov [0x7004], al",
    "cmp dword ptr [0x7000], 2",
    "jne 2f",
    // The second time it is not to halt again.
    "mov byte ptr [edi], 0",
    "2: rsm",
    ".code64",
);

#[test]
fn hlt_goes_on_after_an_smi_unless_its_handler_says_otherwise() {
    let machine = Machine::new(1, &halting());
    // cli; hlt; out 0xf4, al
    machine.bare.write(CODE, &[0xfa, 0xf4, 0xe6, 0xf4]);
    let state = machine.bare.long_mode(0);
    let mut vcpu = machine.bare.vcpu(0);
    vcpu.set_state(&state).unwrap();
    let stats = vcpu.stats();
    let halts = |count| stats.exits(ExitCause::Halt) >= count;
    std::thread::scope(|scope| {
        let running = scope.spawn(|| machine.run(0, &mut *vcpu));
        wait_for("HLT", || halts(1));
        machine.smi(SmiTarget::All);
        wait_for("the first SMI, and HLT again", || {
            machine.count() == 1 && halts(2)
        });
        machine.smi(SmiTarget::All);
        assert!(running.join().unwrap().is_some());
    });
    assert_eq!(machine.count(), 2);
    assert_eq!(machine.word(COUNT + 4) & 0xff, 1, "it was halted");
}

guest_code!(
    non_maskable,
    "smm_nmi_begin",
    "smm_nmi_end",
    ".code16",
    "inc dword ptr [0x7000]",
    // The chipset sends an NMI now.
    "out 0xb3, al",
    "nop",
    "nop",
    "mov eax, [0x7004]",
    "mov [0x7008], eax",
    "rsm",
    ".code64",
);

#[test]
fn an_nmi_waits_for_the_end() {
    let machine = Machine::new(1, &non_maskable());
    // The handler of interrupts: inc dword ptr [0x7004]; iretq
    let code = [
        0xb0, 1, 0xe6, 0xb2, 0xe6, 0xf4, 0x90, 0x90, 0xff, 0x04, 0x25, 0x04, 0x70, 0, 0, 0x48, 0xcf,
    ];
    machine.bare.write(CODE, &code);
    let mut vcpu = machine.bare.vcpu(0);
    vcpu.set_state(&prepared(&machine.bare, CODE + 8)).unwrap();
    loop {
        match vcpu.run().unwrap() {
            Exit::PortWrite { port: 0xb2, .. } => machine.smi(SmiTarget::One(0)),
            Exit::PortWrite { port: 0xb3, .. } => machine.bare.vm.signal(message(0, 4 << 8)),
            Exit::PortWrite { port: 0xf4, .. } => break,
            exit => panic!("unexpected {exit:?}"),
        }
    }
    assert_eq!(machine.word(COUNT + 8), 0, "none in system management mode");
    assert_eq!(machine.word(COUNT + 4), 1, "one after it");
}

#[test]
fn init_and_start_up_wait_for_the_end() {
    let machine = Machine::new(2, &non_maskable());
    machine.bare.write(CODE, &[0xb0, 1, 0xe6, 0xb2, 0xeb, 0xfe]);
    // Where the start-up IPI leads: mov al, 0x77; out 0xf4, al
    machine.bare.write(0x1_2000, &[0xb0, 0x77, 0xe6, 0xf4]);
    let _first = machine.bare.vcpu(0);
    let mut vcpu = machine.bare.vcpu(1);
    let mut state = machine.bare.long_mode(1);
    state.smm.base = 0x3_0000;
    vcpu.set_state(&state).unwrap();
    let end = loop {
        match vcpu.run().unwrap() {
            Exit::PortWrite { port: 0xb2, .. } => machine.smi(SmiTarget::One(1)),
            Exit::PortWrite { port: 0xb3, .. } => {
                machine.bare.vm.signal(message(1, 5 << 8 | 1 << 14));
                machine.bare.vm.signal(message(1, 6 << 8 | 0x12));
            }
            Exit::PortWrite { port: 0xf4, data, .. } => break data[0],
            exit => panic!("unexpected {exit:?}"),
        }
    };
    assert_eq!(end, 0x77);
    assert_eq!(machine.count(), 1, "the handler came to its end");
    let after = vcpu.state().unwrap();
    assert_eq!(after.cr0 & 1, 0, "real mode");
    assert!(!after.smm.active && after.smm.base == 0x3_0000);
}

guest_code!(
    send_smi,
    "smm_send_begin",
    "smm_send_end",
    "mov ecx, 0x1b",
    "rdmsr",
    "or eax, 0xc00",
    "wrmsr",
    "mov ecx, 0x80f",
    "mov eax, 0x1ff",
    "xor edx, edx",
    "wrmsr",
    // SMI to CPU 1, then to itself.
    "mov ecx, 0x830",
    "mov edx, 1",
    "mov eax, 0x4200",
    "wrmsr",
    "2: cmp dword ptr [0x7000], 1",
    "jne 2b",
    "xor edx, edx",
    "wrmsr",
    "out 0xf4, al",
);

#[test]
fn an_interprocessor_interrupt_can_be_an_smi() {
    let machine = Machine::new(2, &count_handler());
    machine.bare.write(CODE, &send_smi());
    // cli; l: hlt; jmp l
    machine.bare.write(0x2_0000, &[0xfa, 0xf4, 0xeb, 0xfd]);
    let mut second = machine.bare.vcpu(1);
    let mut state = machine.bare.long_mode(1);
    state.rip = 0x2_0000;
    // Each CPU needs its own place for what it saves.
    state.smm.base = 0x5_0000;
    machine.bare.write(0x5_8000, &count_handler());
    // x2APIC mode, so that its id is 1.
    state.apic_base |= 3 << 10;
    second.set_state(&state).unwrap();
    let kick = second.kicker();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            loop {
                if let Exit::Kicked = second.run().unwrap() {
                    return second.state().unwrap();
                }
            }
        });
        machine.run_from(&machine.bare.long_mode(0));
        kick.kick(KickSource::Device);
        let state = waiting.join().unwrap();
        assert_eq!((state.mp, state.smm.active), (MpState::Halted, false));
    });
    assert_eq!(machine.count(), 2);
}

#[test]
fn a_state_in_system_management_mode_goes_on_elsewhere() {
    let machine = Machine::new(1, &non_maskable());
    machine.bare.write(CODE, &[0xb0, 1, 0xe6, 0xb2, 0xe6, 0xf4]);
    let mut vcpu = machine.bare.vcpu(0);
    vcpu.set_state(&machine.bare.long_mode(0)).unwrap();
    loop {
        match vcpu.run().unwrap() {
            Exit::PortWrite { port: 0xb2, .. } => machine.smi(SmiTarget::One(0)),
            Exit::PortWrite { port: 0xb3, .. } => vcpu.kicker().kick(KickSource::Device),
            Exit::Kicked => break,
            exit => panic!("unexpected {exit:?}"),
        }
    }
    machine.smi(SmiTarget::All);
    let state = vcpu.state().unwrap();
    assert!(state.smm.active && state.smm.pending && state.events.nmi_masked);
    // Another virtual machine over the same memory.
    let other = Machine::over(machine.bare.ram.clone(), 1, &non_maskable());
    other.bare.write(COUNT, &1u32.to_le_bytes());
    let after = other.run_from(&state);
    assert_eq!(other.count(), 2, "what was pending came too");
    assert!(!after.smm.active && !after.smm.pending && !after.events.nmi_masked);
    assert_eq!((after.gpr[0], after.cr3), (1, machine.bare.long_mode(0).cr3));
}
