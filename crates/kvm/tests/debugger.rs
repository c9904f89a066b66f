//! A debugger of a guest on KVM: on the machine's own device, and in a host made in software, as far as each of them can.

#[allow(dead_code, reason = "each test binary uses its own part of this module")]
mod common;

use std::sync::Arc;

use ostler_accel::bare_metal::{TABLES_SIZE, identity_map, long_mode_state};
use ostler_accel::{
    Accelerator, CpuState, DebugCause, DebugRequest, Exit, Vcpu, Vm, VmConfig, WatchKind, Watchpoint, probe,
};
use ostler_kvm::Kvm;
use ostler_memory::vm_memory::{Bytes, GuestAddress};
use ostler_memory::{GuestRam, RamOptions, RamSlot, allocate};

const CODE_AT: u64 = 0x1000;
const SUM: u64 = 0x3000;
const IDT: u64 = 0x4000;
const GDT: u64 = 0x5000;
const STACK: u64 = 0x8000;
const TABLES_AT: u64 = 0x10000;

/// Adds up 5 to 1 in EAX and at [`SUM`], then leaves by port 0xf4.
const CODE: &[u8] = &[
    0x31, 0xc0, // xor eax, eax
    0xb9, 5, 0, 0, 0, // mov ecx, 5
    0x01, 0xc8, // add eax, ecx
    0x89, 0x04, 0x25, 0, 0x30, 0, 0, // mov [SUM], eax
    0xff, 0xc9, // dec ecx
    0x75, 0xf3, // jnz add
    0x90, // nop
    0xe6, 0xf4, // out 0xf4, al
];
const ADD: u64 = CODE_AT + 7;
const DEC: u64 = CODE_AT + 16;

struct Debugged {
    ram: Arc<GuestRam>,
    vcpu: Box<dyn Vcpu>,
    _vm: Arc<dyn Vm>,
}

impl Debugged {
    fn new(kvm: &Kvm, code: &[u8]) -> Self {
        let ram = allocate(TABLES_AT + TABLES_SIZE, RamOptions::default()).unwrap();
        ram.write_slice(code, GuestAddress(CODE_AT)).unwrap();
        identity_map(&ram, TABLES_AT).unwrap();
        let vm = kvm
            .create_vm(VmConfig {
                cpus: 1,
                slots: RamSlot::all_of(&ram),
            })
            .unwrap();
        let mut vcpu = vm.create_vcpu(0, &kvm.supported_cpuid().unwrap()).unwrap();
        vcpu.set_state(&long_mode_state(0, CODE_AT, STACK, TABLES_AT))
            .unwrap();
        Self { ram, vcpu, _vm: vm }
    }

    fn ask(&mut self, request: &DebugRequest) {
        self.vcpu.set_debug(request).unwrap();
    }

    /// Runs to the next stop, or to the end.
    fn stop(&mut self) -> (Option<DebugCause>, CpuState) {
        let cause = loop {
            match self.vcpu.run().unwrap() {
                Exit::Debug(cause) => break Some(cause),
                Exit::PortWrite { port: 0xf4, .. } => break None,
                Exit::Kicked => {}
                exit => panic!("unexpected {exit:?}"),
            }
        };
        (cause, self.vcpu.registers().unwrap())
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.ram.write_slice(bytes, GuestAddress(at)).unwrap();
    }
}

fn step() -> DebugRequest {
    DebugRequest {
        step: true,
        ..DebugRequest::default()
    }
}

fn breakpoint(linear: u64) -> DebugRequest {
    DebugRequest {
        breakpoints: vec![linear],
        ..DebugRequest::default()
    }
}

fn patched(linear: u64) -> DebugRequest {
    DebugRequest {
        patched: vec![linear],
        ..DebugRequest::default()
    }
}

fn watch(linear: u64, kind: WatchKind) -> DebugRequest {
    let len = 4;
    DebugRequest {
        watchpoints: vec![Watchpoint { linear, len, kind }],
        ..DebugRequest::default()
    }
}

/// KVM, if its debugger can be shown; a device that merely emulates need not have what `works` looks for.
fn kvm(test: &str, works: impl FnOnce(&Kvm) -> bool) -> Option<Kvm> {
    let kvm = match Kvm::open() {
        Ok(kvm) => kvm,
        Err(error) => {
            eprintln!("SKIPPED {test}: {error}");
            return None;
        }
    };
    let speed = probe::measure(&kvm).unwrap();
    if !speed.is_hardware_speed() && !works(&kvm) {
        eprintln!("SKIPPED {test}: /dev/kvm merely emulates here, and that not this");
        return None;
    }
    Some(kvm)
}

/// Whether the device stops at all by `request`.
fn stops(kvm: &Kvm, request: &DebugRequest) -> bool {
    let mut guest = Debugged::new(kvm, CODE);
    guest.vcpu.set_debug(request).is_ok() && guest.stop().0.is_some()
}

#[test]
fn steps_are_single_instructions() {
    let Some(kvm) = kvm("steps_are_single_instructions", |kvm| stops(kvm, &step())) else {
        return;
    };
    let mut guest = Debugged::new(&kvm, CODE);
    guest.ask(&step());
    for offset in [2, 7, 9, 16, 18, 7, 9, 16] {
        let (cause, state) = guest.stop();
        assert_eq!((cause, state.rip), (Some(DebugCause::Step), CODE_AT + offset));
        assert_eq!(state.rflags & 0x100, 0, "the guest does not see the trap flag");
    }
    guest.ask(&DebugRequest::default());
    let (cause, state) = guest.stop();
    assert_eq!((cause, state.gpr[0]), (None, 15));
}

#[test]
fn the_processors_breakpoints_stop_before_an_instruction() {
    let request = breakpoint(ADD);
    let Some(kvm) = kvm("the_processors_breakpoints_stop_before_an_instruction", |kvm| {
        stops(kvm, &request)
    }) else {
        return;
    };
    let mut guest = Debugged::new(&kvm, CODE);
    for left in [5, 4, 3] {
        guest.ask(&request);
        let (cause, state) = guest.stop();
        assert_eq!(
            (cause, state.rip, state.gpr[1]),
            (Some(DebugCause::Breakpoint), ADD, left)
        );
        guest.ask(&step());
        assert_eq!(guest.stop().1.rip, ADD + 2);
    }
    guest.ask(&DebugRequest::default());
    assert_eq!(guest.stop().1.gpr[0], 15);
}

#[test]
fn a_watchpoint_stops_behind_a_write() {
    let request = watch(SUM, WatchKind::Write);
    let Some(kvm) = kvm("a_watchpoint_stops_behind_a_write", |kvm| stops(kvm, &request)) else {
        return;
    };
    let mut guest = Debugged::new(&kvm, CODE);
    guest.ask(&request);
    let expected = DebugCause::Watchpoint {
        linear: SUM,
        kind: WatchKind::Write,
    };
    for sum in [5, 9, 12, 14, 15] {
        let (cause, state) = guest.stop();
        assert_eq!((cause, state.rip, state.gpr[0]), (Some(expected), DEC, sum));
    }
    assert_eq!(guest.stop().0, None);
}

#[test]
fn int3_in_memory_is_the_debuggers_and_the_guests_own_is_the_guests() {
    let works = |kvm: &Kvm| {
        let mut code = CODE.to_vec();
        code[7] = 0xcc;
        let mut guest = Debugged::new(kvm, &code);
        guest.vcpu.set_debug(&patched(ADD)).is_ok()
            && matches!(guest.vcpu.run(), Ok(Exit::Debug(DebugCause::Breakpoint)))
    };
    let Some(kvm) = kvm(
        "int3_in_memory_is_the_debuggers_and_the_guests_own_is_the_guests",
        works,
    ) else {
        return;
    };
    // int3; nop; mov al, 7; out 0xf4, al. The handler of #BP counts in EBX.
    let mut guest = Debugged::new(&kvm, &[0xcc, 0x90, 0xb0, 7, 0xe6, 0xf4]);
    let handler = CODE_AT + 0x100;
    guest.write(handler, &[0xff, 0xc3, 0x48, 0xcf]);
    guest.write(IDT + 3 * 16, &(handler | 8 << 16 | 0x8e00 << 32).to_le_bytes());
    guest.write(GDT + 8, &0x00af_9b00_0000_ffff_u64.to_le_bytes());
    guest.write(GDT + 16, &0x00cf_9300_0000_ffff_u64.to_le_bytes());
    let mut state = guest.vcpu.state().unwrap();
    (state.idtr.base, state.idtr.limit) = (IDT, 0xfff);
    (state.gdtr.base, state.gdtr.limit) = (GDT, 0x17);
    guest.vcpu.set_state(&state).unwrap();
    let place = CODE_AT + 1;
    guest.write(place, &[0xcc]);
    guest.ask(&patched(place));
    let (cause, state) = guest.stop();
    assert_eq!((cause, state.rip), (Some(DebugCause::Breakpoint), place));
    assert_eq!(state.gpr[3], 1, "its own came to its handler");
    guest.write(place, &[0x90]);
    guest.ask(&DebugRequest::default());
    let (cause, state) = guest.stop();
    assert_eq!((cause, state.gpr[0] & 0xff, state.gpr[3]), (None, 7, 1));
}

#[test]
fn registers_and_code_that_a_debugger_changes_count() {
    let request = step();
    let Some(kvm) = kvm("registers_and_code_that_a_debugger_changes_count", |kvm| {
        stops(kvm, &request)
    }) else {
        return;
    };
    let mut guest = Debugged::new(&kvm, CODE);
    guest.ask(&request);
    guest.stop();
    let (_, mut state) = guest.stop();
    assert_eq!(state.rip, ADD);
    state.gpr[0] = 100;
    state.segments[5].base = 0x1234_5000;
    // With its bit in XSTATE_BV, or it would be what it is after RESET.
    state.xsave[160..176].fill(0x5a);
    state.xsave[512] |= 2;
    guest.vcpu.set_registers(&state).unwrap();
    let read = guest.vcpu.registers().unwrap();
    assert_eq!(
        (read.gpr[0], read.segments[5].base, read.xsave[170]),
        (100, 0x1234_5000, 0x5a)
    );
    // Of the five rounds, two do not add.
    guest.write(ADD, &[0x90, 0x90]);
    for _ in 0..10 {
        guest.stop();
    }
    guest.write(ADD, &CODE[7..9]);
    guest.ask(&DebugRequest::default());
    assert_eq!(guest.stop().1.gpr[0], 100 + 3 + 2 + 1);
}

#[test]
fn a_debugger_works_in_a_host_made_in_software() {
    const NAME: &str = "a_debugger_works_in_a_host_made_in_software";
    // QEMU's emulation of SVM knows nothing of a guest's breakpoint registers, and does not intercept INT3.
    let arguments = "--exact steps_are_single_instructions registers_and_code_that_a_debugger_changes_count";
    if let Some(console) = common::in_software_host(NAME, arguments) {
        assert!(console.contains("2 passed; 0 failed"), "{console}");
        assert!(!console.contains("SKIPPED"), "{console}");
    }
}
