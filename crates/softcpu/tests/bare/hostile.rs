//! Code that no compiler writes: whatever the bytes are, the engine neither panics nor hangs, and comes back when it is kicked.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::common::{Bare, CODE};
use super::prepared::{prepared, set_gate};
use ostler_accel::{CpuState, Exit, KickSource, Vcpu};
use ostler_memory::RamSlot;
use ostler_softcpu::emulate::Emulator;
use proptest::prelude::*;

fn answer(exit: Exit<'_>) {
    if let Exit::PortRead { data, .. } | Exit::MmioRead { data, .. } = exit {
        data.fill(0xa5);
    }
}

/// Executes up to `steps` instructions from `state`.
fn execute(bare: &Bare, mut state: CpuState, steps: usize) -> CpuState {
    let cpuid = ostler_accel::Accelerator::supported_cpuid(&ostler_softcpu::vm::SoftCpu::default()).unwrap();
    let mut emulator = Emulator::new(0, RamSlot::all_of(&bare.ram), &cpuid);
    for _ in 0..steps {
        match emulator.execute_one(&state, &mut answer) {
            Ok(done) => state = done.state,
            // A state that the guest reached must be one that can be taken over again.
            Err(error) => panic!("{error}"),
        }
    }
    state
}

/// Exits and kicks after which enough has been seen.
const EXITS: usize = 200;
const KICKS: usize = 3;

/// What ended [`drive`].
#[derive(Debug, Default)]
pub struct Driven {
    /// Exits to devices.
    pub exits: usize,
    /// A triple fault.
    pub shutdown: bool,
}

/// Runs `vcpu` for a while, with someone who kicks it every few milliseconds: an end comes by triple fault, by many exits, or by some
/// kicks. The state at the end is one that a vCPU can take.
pub fn drive(vcpu: &mut dyn Vcpu) -> Driven {
    let kicker = vcpu.kicker();
    let over = AtomicBool::new(false);
    let mut driven = Driven::default();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                kicker.kick(KickSource::Control);
                thread::sleep(Duration::from_millis(2));
            }
        });
        let mut kicks = 0;
        while driven.exits < EXITS && kicks < KICKS && !driven.shutdown {
            match vcpu.run().unwrap() {
                Exit::Kicked => kicks += 1,
                Exit::Shutdown => driven.shutdown = true,
                exit => {
                    answer(exit);
                    driven.exits += 1;
                }
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    let state = vcpu.state().unwrap();
    vcpu.set_state(&state).unwrap();
    driven
}

/// Where the handlers of [`skips_faults`] are.
const HANDLERS: u64 = 0x7000;

/// Lets every exception skip a byte and go on, so that more of the bytes are executed.
fn skips_faults(bare: &Bare) -> CpuState {
    let state = prepared(bare, HANDLERS);
    // inc qword [rsp]; iretq. With an error code: add rsp, 8 before that.
    bare.write(HANDLERS, &[0x48, 0xff, 0x04, 0x24, 0x48, 0xcf]);
    bare.write(
        HANDLERS + 16,
        &[0x48, 0x83, 0xc4, 8, 0x48, 0xff, 0x04, 0x24, 0x48, 0xcf],
    );
    for vector in [8, 10, 11, 12, 13, 14, 17] {
        set_gate(bare, vector, HANDLERS + 16);
    }
    state
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn random_bytes_in_64_bit_mode(code in prop::collection::vec(any::<u8>(), 64), registers in any::<[u64; 16]>()) {
        let bare = Bare::new(1);
        let mut state = skips_faults(&bare);
        bare.write(CODE, &code);
        // And again from the start.
        bare.write(CODE + 64, &[0xeb, 0xbe]);
        for (register, value) in state.gpr.iter_mut().zip(registers) {
            *register = value & 0x3f_ffff;
        }
        state.gpr[4] = 0x8_0000;
        let mut vcpu = bare.vcpu(0);
        vcpu.set_state(&state).unwrap();
        drive(&mut *vcpu);
    }

    #[test]
    fn random_bytes_of_the_user(code in prop::collection::vec(any::<u8>(), 64), registers in any::<[u64; 16]>()) {
        let bare = Bare::new(1);
        let mut state = skips_faults(&bare);
        bare.write(CODE, &code);
        bare.write(CODE + 64, &[0xeb, 0xbe]);
        state.gpr = registers.map(|value| value & 0x3f_ffff);
        for (segment, selector) in state.segments.iter_mut().zip([0x1b, 0x23, 0x1b, 0x1b, 0x1b, 0x1b]) {
            segment.selector = selector;
            segment.rights |= 0x60;
        }
        state.rflags = 0x202;
        let mut vcpu = bare.vcpu(0);
        vcpu.set_state(&state).unwrap();
        drive(&mut *vcpu);
    }

    #[test]
    fn random_bytes_in_real_mode(code in prop::collection::vec(any::<u8>(), 64), registers in any::<[u64; 16]>()) {
        let bare = Bare::new(1);
        bare.write(CODE, &code);
        bare.write(CODE + 64, &[0xeb, 0xbe]);
        // All vectors lead to an IRET.
        for vector in 0..256u64 {
            bare.write(4 * vector, &[0, 0x70, 0, 0]);
        }
        bare.write(0x7000, &[0xcf]);
        let mut state = ostler_accel::reset_state(0);
        state.segments[1].base = CODE;
        state.segments[1].selector = (CODE >> 4) as u16;
        state.rip = 0;
        state.gpr = registers.map(|value| value & 0xffff);
        let mut vcpu = bare.vcpu(0);
        vcpu.set_state(&state).unwrap();
        drive(&mut *vcpu);
    }

    #[test]
    fn random_bytes_one_at_a_time(code in prop::collection::vec(any::<u8>(), 64), registers in any::<[u64; 16]>()) {
        let bare = Bare::new(1);
        bare.write(CODE, &code);
        let mut state = bare.long_mode(0);
        state.gpr = registers.map(|value| value & 0x3f_ffff);
        execute(&bare, state, 12);
    }
}

#[test]
fn one_instruction_at_a_time_reaches_devices() {
    let bare = Bare::new(1);
    // out 0x80, al; mov eax, [0x3f000000]
    bare.write(CODE, &[0xe6, 0x80, 0x8b, 0x04, 0x25, 0, 0, 0, 0x3f]);
    let mut state = bare.long_mode(0);
    state.gpr[0] = 0x77;
    let mut emulator = Emulator::new(0, RamSlot::all_of(&bare.ram), &[]);
    let mut seen = Vec::new();
    let mut io = |exit: Exit<'_>| match exit {
        Exit::PortWrite { port, data, .. } => seen.push((u64::from(port), u64::from(data[0]))),
        Exit::MmioRead { gpa, data } => {
            seen.push((gpa, data.len() as u64));
            data.fill(0x11);
        }
        other => panic!("{other:?}"),
    };
    let state = emulator.execute_one(&state, &mut io).unwrap().state;
    assert_eq!(state.rip, CODE + 2);
    let state = emulator.execute_one(&state, &mut io).unwrap().state;
    assert_eq!((state.rip, state.gpr[0]), (CODE + 9, 0x1111_1111));
    assert_eq!(seen, [(0x80, 0x77), (0x3f00_0000, 4)]);
}

/// On KVM no one notes what the guest writes.
#[test]
fn one_instruction_at_a_time_sees_code_that_changed_without_notice() {
    let bare = Bare::new(1);
    let mut emulator = Emulator::new(0, RamSlot::all_of(&bare.ram), &[]);
    for number in 1..=3u8 {
        let code = ostler_memory::host_range(&bare.ram, CODE, 2).unwrap();
        // mov al, number
        for (byte, at) in [0xb0, number].into_iter().zip(0..) {
            // SAFETY: the range is RAM of the test's, which no one else has.
            unsafe { code.add(at).write_volatile(byte) };
        }
        let done = emulator.execute_one(&bare.long_mode(0), &mut answer).unwrap();
        assert_eq!((done.state.rip, done.state.gpr[0]), (CODE + 2, number.into()));
    }
}

/// What the interpreter would let through is not done at all.
#[test]
fn one_instruction_at_a_time_is_refused_under_protection_keys() {
    let bare = Bare::new(1);
    bare.write(CODE, &[0xb0, 1]);
    let mut state = bare.long_mode(0);
    state.cr4 |= 1 << 22;
    let mut emulator = Emulator::new(0, RamSlot::all_of(&bare.ram), &[]);
    let error = emulator.execute_one(&state, &mut answer).unwrap_err().to_string();
    assert!(error.contains("protection keys"), "{error}");
}
