//! RSM where it may not be, and into states that no processor can be in.

use std::time::Duration;

use ostler_accel::{Exit, KickSource, SmiTarget};
use ostler_memory::vm_memory::{Bytes, GuestAddress};

use super::{COUNT, Machine, count_handler};
use crate::common::{Bare, CODE, guest_code, run_to_end};
use crate::prepared::run;

/// What a handler puts in the place of the saved state.
const OTHER: u64 = 0x6_0000;

#[test]
fn rsm_is_no_instruction_outside() {
    // rsm; jmp to itself; the handler at byte 4: mov rsi, [rsp]; out 0xf4, al
    let code = [0x0f, 0xaa, 0xeb, 0xfe, 0x48, 0x8b, 0x34, 0x24, 0xe6, 0xf4];
    let (bare, state) = run(&code, 4);
    assert_eq!(state.gpr[6], CODE, "#UD of the instruction");
    drop(bare);
}

#[test]
fn without_system_management_mode_an_smi_is_lost() {
    let bare = Bare::new(1);
    bare.write(0x3_8000, &count_handler());
    bare.write(COUNT, &[0; 4]);
    bare.write(CODE, &[0x90, 0xe6, 0xf4]);
    let mut vcpu = bare.vcpu(0);
    vcpu.set_state(&bare.long_mode(0)).unwrap();
    bare.vm.system_management().unwrap().raise_smi(SmiTarget::All);
    run_to_end(&mut *vcpu);
    let mut count = [0; 4];
    bare.ram.read_slice(&mut count, GuestAddress(COUNT)).unwrap();
    assert_eq!(count, [0; 4]);
    assert!(!vcpu.state().unwrap().smm.active);
}

guest_code!(
    replace_state,
    "smm_replace_begin",
    "smm_replace_end",
    ".code16",
    "mov esi, 0x60000",
    "mov edi, 0x3fe00",
    "mov ecx, 512",
    ".byte 0x67",
    "rep movsb",
    "rsm",
    ".code64",
);

/// out 0xb2, al; out 0xf4, al, after mov al, 1.
const ONE_SMI: [u8; 6] = [0xb0, 1, 0xe6, 0xb2, 0xe6, 0xf4];

/// A machine whose handler resumes another state than the one that was saved: that with a `change`.
fn replacing(change: impl FnOnce(&mut [u8; 512])) -> Machine {
    let first = Machine::new(1, &count_handler());
    first.bare.write(CODE, &ONE_SMI);
    first.run_from(&first.bare.long_mode(0));
    let mut saved = [0; 512];
    let at = GuestAddress(super::SAVED);
    first.bare.ram.read_slice(&mut saved, at).unwrap();
    change(&mut saved);
    let machine = Machine::new(1, &replace_state());
    machine.bare.write(CODE, &ONE_SMI);
    machine.bare.write(OTHER, &saved);
    machine
}

fn is_resumed(change: impl FnOnce(&mut [u8; 512])) -> bool {
    let machine = replacing(change);
    let mut vcpu = machine.bare.vcpu(0);
    vcpu.set_state(&machine.bare.long_mode(0)).unwrap();
    machine.run(0, &mut *vcpu).is_some()
}

#[test]
fn a_state_that_no_processor_has_shuts_down() {
    assert!(is_resumed(|_| {}), "the state itself is a good one");
    // Offsets from 0xfe00, as in APM vol. 2, table 10-1.
    let bad: [(&str, usize, u64); 9] = [
        ("CR0: PG without PE", 0x158, 0x8000_0010),
        ("CR0: NW without CD", 0x158, 0xa005_0033),
        ("CR0: upper half", 0x158, 1 << 32 | 0x8005_0033),
        ("CR4: reserved bits", 0x148, 1 << 63 | 0x6b0),
        ("CR4: long mode without PAE", 0x148, 0x690),
        ("CR3: beyond physical addresses", 0x150, 1 << 62),
        ("EFER: reserved bits", 0x0d0, 1 << 50 | 0xd01),
        ("RFLAGS: VM in long mode", 0x170, 1 << 17 | 2),
        ("DR7: upper half", 0x160, 1 << 40),
    ];
    for (what, at, value) in bad {
        let resumed = is_resumed(|saved| saved[at..at + 8].copy_from_slice(&value.to_le_bytes()));
        assert!(!resumed, "{what}");
    }
    assert!(!is_resumed(|saved| saved.fill(0xff)), "all ones");
}

/// A simple generator: the same states each time.
fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

#[test]
fn random_states_harm_nobody() {
    let mut seed = 0x1234_5678_9abc_def1;
    for round in 0..120 {
        let machine = replacing(|saved| {
            // A few fields, so that many states are possible ones.
            for _ in 0..=round % 6 {
                let at = (next(&mut seed) % 64) as usize * 8;
                let value = match next(&mut seed) % 3 {
                    0 => next(&mut seed),
                    1 => next(&mut seed) & 0xffff_ffff,
                    _ => 1 << (next(&mut seed) % 64),
                };
                saved[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
        });
        let mut vcpu = machine.bare.vcpu(0);
        vcpu.set_state(&machine.bare.long_mode(0)).unwrap();
        let kick = vcpu.kicker();
        std::thread::scope(|scope| {
            let (stop, stopped) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || {
                // What runs wild is brought back.
                while stopped.recv_timeout(Duration::from_millis(20)).is_err() {
                    kick.kick(KickSource::Device);
                }
            });
            let mut kicks = 0;
            for _ in 0..1000 {
                match vcpu.run().unwrap() {
                    Exit::PortWrite { port: 0xb2, .. } => machine.smi(SmiTarget::All),
                    Exit::PortWrite { port: 0xf4, .. } | Exit::Shutdown => break,
                    Exit::PortRead { data, .. } | Exit::MmioRead { data, .. } => data.fill(0xff),
                    Exit::Kicked if kicks == 2 => break,
                    Exit::Kicked => kicks += 1,
                    _ => {}
                }
            }
            stop.send(()).unwrap();
        });
    }
}
