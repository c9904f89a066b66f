//! Guests that ask for the impossible: tables in devices, instructions without end, code that changes under the feet, storms. Each
//! ends, or comes back when it is kicked.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ostler_accel::{DescriptorTable, Exit, Vcpu};
use ostler_bus::Msi;

use crate::common::{Bare, CODE, guest_code, run_to_end};
use crate::hostile::drive;
use crate::prepared::{prepared, set_gate};

/// No RAM, but mapped one to one.
const DEVICE: u64 = 0x3f00_0000;
/// Past the end of RAM.
const NOWHERE: u64 = 0x0200_0000;

#[test]
fn page_tables_in_a_device_end_in_a_triple_fault() {
    for table in [DEVICE, NOWHERE, 0xff_ffff_f000] {
        let bare = Bare::new(1);
        // mov cr3, rax; nop; out 0xf4, al
        bare.write(CODE, &[0x0f, 0x22, 0xd8, 0x90, 0xe6, 0xf4]);
        let mut state = prepared(&bare, CODE);
        state.gpr[0] = table;
        let mut vcpu = bare.vcpu(0);
        vcpu.set_state(&state).unwrap();
        let driven = drive(&mut *vcpu);
        assert!(driven.shutdown && driven.exits == 0, "{table:#x}: {driven:?}");
    }
}

guest_code!(
    table_elsewhere,
    "table_elsewhere_begin",
    "table_elsewhere_end",
    "jmp 2f",
    ".balign 16",
    "pop rbx",
    "mov rsi, cr2",
    "out 0xf4, al",
    "2:",
    // An entry of the page directory leads to a table that is not in RAM.
    "or rax, 7",
    "mov [0x102008], rax",
    "mov rcx, cr3",
    "mov cr3, rcx",
    "mov byte ptr [0x200123], 1",
    "out 0xf4, al",
);

#[test]
fn a_table_in_a_device_reads_as_absent() {
    for table in [DEVICE, NOWHERE] {
        let bare = Bare::new(1);
        bare.write(CODE, &table_elsewhere());
        let mut state = prepared(&bare, CODE + 16);
        state.gpr[0] = table;
        let mut vcpu = bare.vcpu(0);
        vcpu.set_state(&state).unwrap();
        run_to_end(&mut *vcpu);
        let state = vcpu.state().unwrap();
        assert_eq!((state.gpr[3], state.gpr[6]), (2, 0x20_0123), "{table:#x}");
    }
}

#[test]
fn descriptor_tables_and_stacks_in_a_device_end_bounded() {
    // ud2; int 0x80; mov ds, eax; iretq; syscall by INT3, each with its table in the device.
    let codes: [&[u8]; 5] = [
        &[0x0f, 0x0b],
        &[0xcd, 0x80],
        &[0x8e, 0xd8],
        &[0x48, 0xcf],
        &[0xcc],
    ];
    for code in codes {
        for which in 0..4 {
            let bare = Bare::new(1);
            bare.write(CODE, code);
            bare.write(CODE + code.len() as u64, &[0xe6, 0xf4, 0xeb, 0xfe]);
            let mut state = prepared(&bare, CODE + code.len() as u64);
            state.gpr[0] = 0x10;
            let table = DescriptorTable {
                base: DEVICE,
                limit: 0xfff,
            };
            match which {
                0 => state.idtr = table,
                1 => state.gdtr = table,
                2 => state.gpr[4] = DEVICE + 0x800,
                _ => (state.idtr, state.gdtr, state.gpr[4]) = (table, table, DEVICE + 0x800),
            }
            let mut vcpu = bare.vcpu(0);
            vcpu.set_state(&state).unwrap();
            // What comes of it is open: only that it ends.
            drive(&mut *vcpu);
        }
    }
}

#[test]
fn interrupts_through_a_table_in_a_device_end_bounded() {
    let bare = Bare::new(1);
    bare.write(CODE, &waits());
    let mut state = prepared(&bare, CODE + 16);
    state.idtr.base = DEVICE;
    let mut vcpu = bare.vcpu(0);
    vcpu.set_state(&state).unwrap();
    run_to_end(&mut *vcpu);
    bare.vm.signal(MESSAGE);
    let driven = drive(&mut *vcpu);
    assert!(driven.exits > 0, "the table is read");
}

/// Vector 0x50 for CPU 0.
const MESSAGE: Msi = Msi {
    address: 0xfee0_0000,
    data: 0x50,
};

guest_code!(
    waits,
    "waits_begin",
    "waits_end",
    "jmp 2f",
    ".balign 16",
    // The handler: counts in RBX and, with RBP set, asks for itself again before it ends the interrupt.
    "inc rbx",
    "test ebp, ebp",
    "jz 4f",
    "mov ecx, 0x83f",
    "mov eax, 0x50",
    "xor edx, edx",
    "wrmsr",
    "4:",
    "mov ecx, 0x80b",
    "xor eax, eax",
    "xor edx, edx",
    "wrmsr",
    "iretq",
    "2:",
    "xor ebx, ebx",
    "xor r15d, r15d",
    "mov ecx, 0x1b",
    "rdmsr",
    "or eax, 0xc00",
    "wrmsr",
    "mov ecx, 0x80f",
    "mov eax, 0x1ff",
    "xor edx, edx",
    "wrmsr",
    "out 0xf4, al",
    "sti",
    "3:",
    "inc r15",
    "jmp 3b",
);

/// A vCPU that waits for interrupts with them on.
fn waiting(again: bool) -> (Bare, Box<dyn Vcpu>) {
    let bare = Bare::new(1);
    bare.write(CODE, &waits());
    let mut state = prepared(&bare, CODE + 16);
    state.gpr[5] = again.into();
    let mut vcpu = bare.vcpu(0);
    vcpu.set_state(&state).unwrap();
    run_to_end(&mut *vcpu);
    (bare, vcpu)
}

#[test]
fn an_interrupt_that_asks_for_itself_does_not_hold_off_a_kick() {
    let (bare, mut vcpu) = waiting(true);
    bare.vm.signal(MESSAGE);
    drive(&mut *vcpu);
    let state = vcpu.state().unwrap();
    assert!(state.gpr[3] > 1000, "{} interrupts", state.gpr[3]);
}

#[test]
fn a_storm_of_messages_does_not_hold_off_kicks_and_the_guest_outlives_it() {
    let (bare, mut vcpu) = waiting(false);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                bare.vm.signal(MESSAGE);
            }
        });
        while vcpu.state().unwrap().gpr[3] < 1000 {
            drive(&mut *vcpu);
        }
        over.store(true, Ordering::Relaxed);
    });
    let steps = vcpu.state().unwrap().gpr[15];
    while vcpu.state().unwrap().gpr[15] < steps + 1000 {
        drive(&mut *vcpu);
    }
}

/// `count` operand-size prefixes and a NOP.
fn prefixed(count: usize) -> Vec<u8> {
    [vec![0x66; count], vec![0x90]].concat()
}

/// Places of an instruction: in the middle of a page, at its end, and across it.
const PLACES: [u64; 4] = [CODE, CODE + 0x1000 - 15, CODE + 0x1000 - 16, CODE + 0x1000 - 7];

/// Executes `code` at `at`; the last page that is mapped ends at 2 MiB. Returns 7 if it went on behind it, the vector of the exception
/// if that is #UD or #PF, 13 for #GP(0), or 0xee.
fn outcome(at: u64, code: &[u8]) -> u8 {
    let bare = Bare::new(1);
    let mut state = prepared(&bare, CODE + 0x4000);
    // pop rax; add al, 13; out 0xf4, al: the error code must be zero. And for the others their number.
    bare.write(CODE + 0x4010, &[0x58, 0x04, 13, 0xe6, 0xf4]);
    bare.write(CODE + 0x4000, &[0xb0, 0xee, 0xe6, 0xf4]);
    bare.write(CODE + 0x4020, &[0xb0, 6, 0xe6, 0xf4]);
    bare.write(CODE + 0x4030, &[0xb0, 14, 0xe6, 0xf4]);
    for (vector, handler) in [(13, 0x4010), (6, 0x4020), (14, 0x4030)] {
        set_gate(&bare, vector, CODE + handler);
    }
    // Entry 1 of the page directory.
    bare.write(0x10_2008, &[0; 8]);
    let room = (0x20_0000 - at) as usize;
    let code = [code, &[0xb0, 7, 0xe6, 0xf4]].concat();
    bare.write(at, &code[..code.len().min(room)]);
    state.rip = at;
    let mut vcpu = bare.vcpu(0);
    vcpu.set_state(&state).unwrap();
    run_to_end(&mut *vcpu)
}

#[test]
fn instructions_have_at_most_15_bytes() {
    for at in PLACES {
        assert_eq!(outcome(at, &prefixed(14)), 7, "15 bytes at {at:#x}");
        for prefixes in [15, 40] {
            let end = outcome(at, &prefixed(prefixes));
            assert!(matches!(end, 6 | 13), "{prefixes} prefixes at {at:#x}: {end:#x}");
        }
    }
}

#[test]
fn longer_instructions_raise_gp() {
    for at in PLACES {
        for prefixes in [15, 40] {
            let end = outcome(at, &prefixed(prefixes));
            assert_eq!(end, 13, "{prefixes} prefixes at {at:#x}");
        }
    }
}

#[test]
fn an_invalid_opcode_at_the_end_of_a_page_needs_no_next_page() {
    // PUSH ES, which 64-bit mode does not have; and an instruction that needs the next page.
    assert_eq!(outcome(0x1f_ffff, &[0x06]), 6);
    assert_eq!(outcome(0x1f_ffff, &[0x0f, 0x05]), 14);
}

#[test]
fn an_instruction_across_a_page_border_needs_the_next_page_wherever_it_is_cut() {
    let instructions: [&[u8]; 8] = [
        &[0xc5, 0xf9, 0x6f, 0x72, 0x50],       // vmovdqa xmm6, [rdx + 0x50]
        &[0xc4, 0xc1, 0x78, 0x58, 0xc0],       // vaddps xmm0, xmm0, xmm8
        &[0xc4, 0xe2, 0x79, 0x00, 0xc1],       // vpshufb xmm0, xmm0, xmm1
        &[0xc4, 0xe3, 0xfd, 0x00, 0xc1, 0xe4], // vpermq ymm0, ymm1, 0xe4
        &[0xf2, 0x48, 0x0f, 0x38, 0xf1, 0xc1], // crc32 rax, rcx
        &[0x66, 0x0f, 0x3a, 0x0f, 0xc1, 0x04], // palignr xmm0, xmm1, 4
        &[0xf3, 0x48, 0x0f, 0xb8, 0xc1],       // popcnt rax, rcx
        &[0x66, 0x41, 0x0f, 0x73, 0xd8, 0x04], // psrldq xmm8, 4
    ];
    for code in instructions {
        for here in 1..code.len() {
            let end = outcome(0x20_0000 - here as u64, code);
            assert_eq!(end, 14, "{code:x?} after {here} bytes");
        }
    }
}

#[test]
fn a_vector_prefix_is_refused_until_the_system_allows_it() {
    // mov dword [rsp - 8], 0x1f80; ldmxcsr [rsp - 8], by the legacy encoding and with a VEX prefix, while CR4.OSXSAVE is clear.
    let value = [0xc7, 0x44, 0x24, 0xf8, 0x80, 0x1f, 0, 0];
    assert_eq!(
        outcome(CODE, &[&value[..], &[0x0f, 0xae, 0x54, 0x24, 0xf8]].concat()),
        7
    );
    assert_eq!(
        outcome(
            CODE,
            &[&value[..], &[0xc5, 0xf8, 0xae, 0x54, 0x24, 0xf8]].concat()
        ),
        6
    );
}

#[test]
fn code_across_a_page_border_that_another_cpu_changes_is_seen() {
    const BORDER: u64 = 0x2_1000;
    let bare = Bare::new(2);
    let (mut first, mut second) = (bare.vcpu(0), bare.vcpu(1));
    // mov ebx, BORDER - 3; l: call rbx; out 0xf4, al; jmp l
    let mut caller = vec![0xbb];
    caller.extend((BORDER as u32 - 3).to_le_bytes());
    caller.extend([0xff, 0xd3, 0xe6, 0xf4, 0xeb, 0xfa]);
    bare.write(CODE, &caller);
    // mov eax, 0x11 with its opcode and the first two bytes of the number before the border; shr eax, 16; ret
    bare.write(BORDER - 3, &[0xb8, 0, 0, 0x11, 0, 0xc1, 0xe8, 16, 0xc3]);
    // mov ebx, BORDER; mov ecx, 20000; l: mov eax, ecx; and eax, 3; inc eax; imul eax, eax, 0x11; mov [rbx], al; dec ecx; jne l;
    // mov byte [rbx], 0x77; out 0xf4, al
    let mut writer = vec![0xbb];
    writer.extend((BORDER as u32).to_le_bytes());
    writer.push(0xb9);
    writer.extend(20_000u32.to_le_bytes());
    writer.extend([
        0x89, 0xc8, 0x83, 0xe0, 3, 0xff, 0xc0, 0x6b, 0xc0, 0x11, 0x88, 0x03, 0xff, 0xc9, 0x75, 0xf0, 0xc6,
        0x03, 0x77, 0xe6, 0xf4,
    ]);
    bare.write(CODE + 0x1000, &writer);
    first.set_state(&bare.long_mode(0)).unwrap();
    let mut state = bare.long_mode(1);
    state.rip = CODE + 0x1000;
    state.gpr[4] -= 0x1000;
    second.set_state(&state).unwrap();
    let written = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            run_to_end(&mut *second);
            written.store(true, Ordering::SeqCst);
        });
        loop {
            let over = written.load(Ordering::SeqCst);
            let seen = run_to_end(&mut *first);
            assert!([0x11, 0x22, 0x33, 0x44, 0x77].contains(&seen), "{seen:#x}");
            if over {
                assert_eq!(seen, 0x77);
                return;
            }
        }
    });
}

#[test]
fn a_triple_fault_is_a_shutdown_that_lasts() {
    let bare = Bare::new(1);
    bare.write(CODE, &[0x0f, 0x0b]);
    let mut state = prepared(&bare, CODE);
    state.idtr.limit = 0;
    let mut vcpu = bare.vcpu(0);
    vcpu.set_state(&state).unwrap();
    for _ in 0..3 {
        assert!(matches!(vcpu.run().unwrap(), Exit::Shutdown));
    }
}
