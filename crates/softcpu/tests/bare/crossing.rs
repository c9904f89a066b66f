//! Instructions that reach into the next page: that page's bytes may change, and it may be another one.

use ostler_accel::{CpuState, Vcpu};
use ostler_memory::vm_memory::{Bytes, GuestAddress};

use super::common::{Bare, CODE, run_to_end};

/// The first page of the code that crosses, of 4 KiB like the next one.
const FIRST: u64 = 0x20_0000;
/// Where `mov eax, VALUE; ret` begins there: two bytes of the value lie in the next page.
const ANSWER: u64 = FIRST + 0xffd;
/// Pages that may be the next one.
const SECOND: [u64; 2] = [0x40_0000, 0x40_1000];
/// Page tables that differ in it.
const TABLES: [u64; 2] = [0x18_0000, 0x18_4000];

/// A machine whose answer is `0xNN_5678`, with 0x11 or 0x22 for NN depending on the second page.
fn machine() -> (Bare, Box<dyn Vcpu>, CpuState) {
    let bare = Bare::new(1);
    let mut state = bare.long_mode(0);
    for (tables, second) in TABLES.into_iter().zip(SECOND) {
        let entry = |at: u64, value: u64| bare.write(at, &(value | 7).to_le_bytes());
        entry(tables, tables + 0x1000);
        entry(tables + 0x1000, tables + 0x2000);
        for n in 0..512 {
            entry(tables + 0x2000 + 8 * n, n << 21 | 0x80);
            entry(tables + 0x3000 + 8 * n, FIRST + (n << 12));
        }
        entry(tables + 0x2000 + 8, tables + 0x3000);
        entry(tables + 0x3000 + 8, second);
    }
    bare.write(ANSWER, &[0xb8, 0x78, 0x56]);
    for (second, value) in SECOND.into_iter().zip([0x11, 0x22]) {
        bare.write(second, &[value, 0, 0xc3]);
    }
    state.cr3 = TABLES[0];
    let vcpu = bare.vcpu(0);
    (bare, vcpu, state)
}

/// `mov ebx, ANSWER; l: BODY; call rbx; out 0xf4, al; jmp l`, where the answer's third byte is moved to AL.
fn caller(body: &[u8]) -> Vec<u8> {
    let mut code = vec![0xbb];
    code.extend((ANSWER as u32).to_le_bytes());
    let begin = code.len();
    code.extend(body);
    // call rbx; shr eax, 16; out 0xf4, al; jmp l
    code.extend([0xff, 0xd3, 0xc1, 0xe8, 16, 0xe6, 0xf4, 0xeb]);
    code.push((begin as i64 - code.len() as i64 - 1) as u8);
    code
}

#[test]
fn a_change_of_the_second_page_is_seen() {
    let (bare, mut vcpu, state) = machine();
    // inc ecx; mov [0x400000], cl
    let body = [0xff, 0xc1, 0x88, 0x0c, 0x25, 0, 0, 0x40, 0];
    bare.write(CODE, &caller(&body));
    vcpu.set_state(&state).unwrap();
    for n in 1..=100 {
        assert_eq!(run_to_end(&mut *vcpu), n, "a store of the guest");
    }
    let (bare, mut vcpu, state) = machine();
    bare.write(CODE, &caller(&[]));
    vcpu.set_state(&state).unwrap();
    for n in 0..100 {
        bare.write(SECOND[0], &[n]);
        assert_eq!(run_to_end(&mut *vcpu), n, "a write of a device");
    }
}

#[test]
fn another_second_page_is_seen() {
    let (bare, mut vcpu, state) = machine();
    // xor byte [TABLES[0] + 0x3009], 0x10; invlpg [0x201000]: the other page each time
    let body = [
        0x80, 0x34, 0x25, 0x09, 0x30, 0x18, 0, 0x10, 0x0f, 0x01, 0x3c, 0x25, 0, 0x10, 0x20, 0,
    ];
    bare.write(CODE, &caller(&body));
    vcpu.set_state(&state).unwrap();
    for n in 0..100 {
        assert_eq!(run_to_end(&mut *vcpu), [0x22, 0x11][n % 2], "call {n}");
    }
}

#[test]
fn each_address_space_has_its_own_second_page() {
    let (bare, mut vcpu, state) = machine();
    // mov rax, cr3; xor eax, 0x4000; mov cr3, rax
    let body = [0x0f, 0x20, 0xd8, 0x35, 0, 0x40, 0, 0, 0x0f, 0x22, 0xd8];
    bare.write(CODE, &caller(&body));
    let mut state = state;
    // An exclusive or leads from the one to the other.
    assert_eq!(TABLES[0] ^ 0x4000, TABLES[1]);
    vcpu.set_state(&state).unwrap();
    for n in 0..100 {
        assert_eq!(run_to_end(&mut *vcpu), [0x22, 0x11][n % 2], "call {n}");
    }
    // The same with process-context identifiers, so that nothing is flushed.
    state.cr4 |= 1 << 17;
    state.cr3 |= 1;
    // mov rax, cr3; xor eax, 0x4003; bts rax, 63; mov cr3, rax
    let body = [
        0x0f, 0x20, 0xd8, 0x35, 3, 0x40, 0, 0, 0x48, 0x0f, 0xba, 0xe8, 63, 0x0f, 0x22, 0xd8,
    ];
    bare.write(CODE, &caller(&body));
    vcpu.set_state(&state).unwrap();
    for n in 0..100 {
        assert_eq!(run_to_end(&mut *vcpu), [0x22, 0x11][n % 2], "call {n} with PCID");
    }
}

#[test]
fn a_jump_and_a_fall_into_it_are_the_same_as_a_call() {
    let (bare, mut vcpu, state) = machine();
    // At FIRST + 0xff0: dec ecx; jz to the last instruction; then no-operations up to it.
    bare.write(FIRST + 0xff0, &[0xff, 0xc9, 0x74, 0x09]);
    bare.write(FIRST + 0xff4, &[0x90; 9]);
    // mov ecx, edx; xor edx, 3; mov ebx, FIRST + 0xff0
    let body = [0x89, 0xd1, 0x83, 0xf2, 3, 0xbb, 0xf0, 0x0f, 0x20, 0];
    bare.write(CODE, &caller(&body));
    let mut state = state;
    state.gpr[2] = 1;
    vcpu.set_state(&state).unwrap();
    for n in 0..100 {
        let value = 0x11 + n / 50;
        bare.write(SECOND[0], &[value]);
        assert_eq!(run_to_end(&mut *vcpu), value, "call {n}");
    }
}

#[test]
fn a_second_page_that_is_not_there_faults_at_the_instruction() {
    let (bare, mut vcpu, _) = machine();
    let mut state = crate::prepared::prepared(&bare, CODE + 0x800);
    state.cr3 = TABLES[0];
    // The handler: mov rdi, cr2; out 0xf4, al
    bare.write(CODE + 0x800, &[0x0f, 0x20, 0xd7, 0xe6, 0xf4]);
    // Ten calls, then: mov byte [TABLES[0] + 0x3008], 0; invlpg [0x201000]
    let mut code = vec![0xbb];
    code.extend((ANSWER as u32).to_le_bytes());
    for _ in 0..10 {
        code.extend([0xff, 0xd3]);
    }
    code.extend([0xc6, 0x04, 0x25, 0x08, 0x30, 0x18, 0, 0]);
    code.extend([0x0f, 0x01, 0x3c, 0x25, 0, 0x10, 0x20, 0, 0xff, 0xd3]);
    bare.write(CODE, &code);
    vcpu.set_state(&state).unwrap();
    run_to_end(&mut *vcpu);
    let state = vcpu.state().unwrap();
    assert_eq!(state.gpr[7], 0x20_1000);
    let mut frame = [0u8; 8];
    bare.ram
        .read_slice(&mut frame, GuestAddress(state.gpr[4] + 8))
        .unwrap();
    assert_eq!(u64::from_le_bytes(frame), ANSWER);
}
