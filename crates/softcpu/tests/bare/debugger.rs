//! A debugger outside of the guest: breakpoints, steps, watchpoints, changed registers and code.

use ostler_accel::{CpuState, DebugCause, DebugRequest, Exit, Vcpu, WatchKind, Watchpoint};

use crate::common::{Bare, CODE, run_to_end};

/// Where the loop stores.
const SUM: u64 = 0x2_0000;
/// Rounds of the loop.
const ROUNDS: u64 = 200;
/// The loop's instructions, behind [`CODE`].
const ADD: u64 = CODE + 7;
const STORE: u64 = CODE + 9;
const DEC: u64 = CODE + 16;
const END: u64 = CODE + 20;

/// Adds up the numbers from [`ROUNDS`] down to 1, in EAX and at [`SUM`].
const LOOP: &[u8] = &[
    0x31,
    0xc0, // xor eax, eax
    0xb9,
    ROUNDS as u8,
    0,
    0,
    0, // mov ecx, ROUNDS
    0x01,
    0xc8, // add eax, ecx
    0x89,
    0x04,
    0x25,
    0,
    0,
    2,
    0, // mov [SUM], eax
    0xff,
    0xc9, // dec ecx
    0x75,
    0xf3, // jnz add
    0x90, // nop
    0xe6,
    0xf4, // out 0xf4, al
];

struct Debugged {
    bare: Bare,
    vcpu: Box<dyn Vcpu>,
}

impl Debugged {
    fn new(code: &[u8]) -> Self {
        let bare = Bare::new(1);
        bare.write(CODE, code);
        let mut vcpu = bare.vcpu(0);
        vcpu.set_state(&bare.long_mode(0)).unwrap();
        Self { bare, vcpu }
    }

    fn ask(&mut self, request: DebugRequest) {
        self.vcpu.set_debug(&request).unwrap();
    }

    fn breakpoint(&mut self, linear: u64) {
        self.ask(DebugRequest {
            breakpoints: vec![linear],
            ..DebugRequest::default()
        });
    }

    fn watch(&mut self, linear: u64, len: u64, kind: WatchKind) {
        self.ask(DebugRequest {
            watchpoints: vec![Watchpoint { linear, len, kind }],
            ..DebugRequest::default()
        });
    }

    fn stop(&mut self) -> (DebugCause, CpuState) {
        loop {
            match self.vcpu.run().unwrap() {
                Exit::Debug(cause) => return (cause, self.vcpu.registers().unwrap()),
                Exit::PortRead { data, .. } => data.fill(0),
                Exit::PortWrite { .. } | Exit::Kicked => {}
                exit => panic!("unexpected {exit:?}"),
            }
        }
    }

    fn step(&mut self) -> CpuState {
        self.ask(DebugRequest {
            step: true,
            ..DebugRequest::default()
        });
        let (cause, state) = self.stop();
        assert_eq!(cause, DebugCause::Step);
        state
    }

    fn end(&mut self) -> CpuState {
        self.ask(DebugRequest::default());
        run_to_end(&mut *self.vcpu);
        self.vcpu.registers().unwrap()
    }
}

const TOTAL: u64 = ROUNDS * (ROUNDS + 1) / 2;

#[test]
fn a_breakpoint_in_a_hot_loop_stops_each_round_and_the_result_is_the_same() {
    for place in [ADD, STORE, DEC, DEC + 2] {
        let mut guest = Debugged::new(LOOP);
        // Some rounds without it, so that blocks are known and translated.
        guest.watch(SUM, 4, WatchKind::Write);
        for _ in 0..100 {
            guest.stop();
        }
        for round in 0..50 {
            guest.breakpoint(place);
            let (cause, state) = guest.stop();
            assert_eq!((cause, state.rip), (DebugCause::Breakpoint, place));
            // The watchpoint stopped behind the store; what comes before it is one round on.
            let passed = 100 + round + u64::from(place <= STORE);
            let left = ROUNDS + 1 - passed - u64::from(place == DEC + 2);
            assert_eq!(state.gpr[1], left, "{place:#x}");
            assert_ne!(guest.step().rip, place);
        }
        assert_eq!(guest.end().gpr[0], TOTAL);
    }
}

#[test]
fn a_breakpoint_that_is_not_passed_holds_for_ever() {
    let mut guest = Debugged::new(LOOP);
    guest.breakpoint(END);
    for _ in 0..3 {
        let (cause, state) = guest.stop();
        assert_eq!(
            (cause, state.rip, state.gpr[0]),
            (DebugCause::Breakpoint, END, TOTAL)
        );
    }
}

#[test]
fn a_step_is_one_instruction_and_the_guests_flags_stay() {
    let mut guest = Debugged::new(LOOP);
    let expected = [2, 7, 9, 16, 18, 7, 9, 16];
    for offset in expected {
        let state = guest.step();
        assert_eq!((state.rip, state.rflags & 0x100), (CODE + offset, 0));
    }
    assert_eq!(guest.end().gpr[0], TOTAL);
}

#[test]
fn a_step_passes_a_port_and_goes_into_the_handler_of_an_exception() {
    // in al, 0x71; ud2
    let mut guest = Debugged::new(&[0xe4, 0x71, 0x0f, 0x0b]);
    let mut state = guest.vcpu.state().unwrap();
    // A gate for #UD that leads to CODE + 0x100.
    let handler = CODE + 0x100;
    let gate = (handler & 0xffff) | 8 << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48;
    guest.bare.write(0x3_0000 + 6 * 16, &gate.to_le_bytes());
    guest.bare.write(0x3_0000 + 6 * 16 + 8, &[0; 8]);
    guest
        .bare
        .write(0x4_0008, &0x00af_9b00_0000_ffff_u64.to_le_bytes());
    (state.idtr.base, state.idtr.limit) = (0x3_0000, 0xfff);
    (state.gdtr.base, state.gdtr.limit) = (0x4_0000, 0xfff);
    guest.vcpu.set_state(&state).unwrap();
    assert_eq!(guest.step().rip, CODE + 2);
    assert_eq!(guest.step().rip, handler);
}

#[test]
fn a_watchpoint_stops_behind_the_instruction_that_touched_it() {
    let cases = [
        (SUM, 4, WatchKind::Write),
        (SUM + 3, 1, WatchKind::Access),
        (SUM - 4, 8, WatchKind::Write),
    ];
    for (linear, len, kind) in cases {
        let mut guest = Debugged::new(LOOP);
        let mut sum = 0;
        for round in 0..ROUNDS {
            guest.watch(linear, len, kind);
            let (cause, state) = guest.stop();
            assert_eq!(cause, DebugCause::Watchpoint { linear, kind });
            sum += ROUNDS - round;
            assert_eq!((state.rip, state.gpr[0]), (DEC, sum));
        }
        assert_eq!(guest.end().gpr[0], TOTAL);
    }
}

#[test]
fn what_is_not_touched_does_not_stop() {
    for (linear, len, kind) in [
        (SUM, 4, WatchKind::Read),
        (SUM + 4, 4, WatchKind::Access),
        (SUM - 1, 1, WatchKind::Write),
    ] {
        let mut guest = Debugged::new(LOOP);
        guest.watch(linear, len, kind);
        assert_eq!(run_to_end(&mut *guest.vcpu), TOTAL as u8);
    }
}

#[test]
fn string_stack_and_vector_accesses_are_watched() {
    // mov edi, SUM - 16; mov ecx, 32; rep stosb; push 1; pop rdx; mov esi, SUM - 16; movups xmm0, [rsi];
    // lock cmpxchg16b [rsi]; out 0xf4, al
    let code = [
        0xbf, 0xf0, 0xff, 1, 0, 0xb9, 32, 0, 0, 0, 0xf3, 0xaa, 0x6a, 1, 0x5a, 0xbe, 0xf0, 0xff, 1, 0, 0x0f,
        0x10, 0x06, 0xf0, 0x48, 0x0f, 0xc7, 0x0e, 0xe6, 0xf4,
    ];
    let access = WatchKind::Access;
    // rep stosb goes on at itself, with 23 left.
    let mut guest = Debugged::new(&code);
    guest.watch(SUM - 8, 1, access);
    let (_, state) = guest.stop();
    assert_eq!((state.rip, state.gpr[1]), (CODE + 10, 23));
    let (_, state) = {
        guest.watch(SUM - 8, 1, WatchKind::Read);
        guest.stop()
    };
    assert_eq!(state.rip, CODE + 23, "movups");
    let (_, state) = {
        guest.watch(SUM - 8, 1, WatchKind::Write);
        guest.stop()
    };
    assert_eq!(state.rip, CODE + 28, "cmpxchg16b");
    let mut guest = Debugged::new(&code);
    let slot = crate::common::STACK - 8;
    guest.watch(slot, 8, access);
    assert_eq!(guest.stop().1.rip, CODE + 14, "push");
    assert_eq!(guest.stop().1.rip, CODE + 15, "pop");
    guest.end();
}

#[test]
fn a_breakpoint_is_a_linear_address() {
    let mut guest = Debugged::new(LOOP);
    // The first GiB once more.
    let tables = guest.vcpu.state().unwrap().cr3;
    guest
        .bare
        .write(tables + 0x1008, &(tables + 0x2007).to_le_bytes());
    let mut state = guest.vcpu.registers().unwrap();
    state.rip = CODE + 0x4000_0000;
    guest.vcpu.set_registers(&state).unwrap();
    guest.breakpoint(DEC);
    assert_eq!(run_to_end(&mut *guest.vcpu), TOTAL as u8);
    let mut state = guest.vcpu.registers().unwrap();
    state.rip = CODE;
    guest.vcpu.set_registers(&state).unwrap();
    assert_eq!(guest.stop().1.rip, DEC);
}

#[test]
fn a_debuggers_write_to_executed_code_is_seen_by_the_next_execution() {
    let mut guest = Debugged::new(LOOP);
    guest.watch(SUM, 4, WatchKind::Write);
    for _ in 0..150 {
        guest.stop();
    }
    guest.breakpoint(ADD);
    let (_, state) = guest.stop();
    // Nothing is added any more.
    guest.bare.write(ADD, &[0x90, 0x90]);
    assert_eq!(guest.end().gpr[0], state.gpr[0]);
    let mut state = guest.vcpu.registers().unwrap();
    (state.rip, state.rflags) = (CODE, 2);
    guest.vcpu.set_registers(&state).unwrap();
    guest.bare.write(ADD, &[0x01, 0xc8]);
    assert_eq!(guest.end().gpr[0], TOTAL);
}

#[test]
fn registers_are_changed_and_nothing_else() {
    let mut guest = Debugged::new(LOOP);
    guest.breakpoint(STORE);
    guest.stop();
    let before = guest.vcpu.state().unwrap();
    let mut changed = before.clone();
    changed.gpr[0] = 0x1234;
    changed.gpr[1] = 1;
    changed.xsave[160] = 0x55;
    let gs = changed.msrs.iter_mut().find(|msr| msr.index == 0xc000_0102);
    gs.unwrap().value = 0xffff_8000_0000_1000;
    // Others write to these meanwhile.
    changed.lapic.registers.fill(0xff);
    guest.vcpu.set_registers(&changed).unwrap();
    let after = guest.vcpu.state().unwrap();
    assert_eq!((after.gpr, after.xsave.clone()), (changed.gpr, changed.xsave));
    assert_eq!(after.lapic, before.lapic);
    let value = |state: &CpuState, index| state.msrs.iter().find(|msr| msr.index == index).unwrap().value;
    assert_eq!(value(&after, 0xc000_0102), 0xffff_8000_0000_1000);
    assert_eq!(value(&after, 0x277), value(&before, 0x277));
    assert_eq!(guest.end().gpr[0], 0x1234);
}
