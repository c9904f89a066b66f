//! Code that no compiler writes: whatever the bytes are, the interpreter neither panics nor hangs.

use super::common::{Bare, CODE};
use ostler_accel::{CpuState, Exit};
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_bytes_in_64_bit_mode(code in prop::collection::vec(any::<u8>(), 64), registers in any::<[u64; 16]>()) {
        let bare = Bare::new(1);
        bare.write(CODE, &code);
        let mut state = bare.long_mode(0);
        state.gpr = registers.map(|value| value & 0x3f_ffff);
        execute(&bare, state, 12);
    }

    #[test]
    fn random_bytes_in_real_mode(code in prop::collection::vec(any::<u8>(), 64), registers in any::<[u64; 16]>()) {
        let bare = Bare::new(1);
        bare.write(CODE, &code);
        let mut state = ostler_accel::reset_state(0);
        state.segments[1].base = CODE;
        state.segments[1].selector = (CODE >> 4) as u16;
        state.rip = 0;
        state.gpr = registers.map(|value| value & 0xffff);
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
