//! Repeated string instructions where memory is special: devices, code, pages that are not there.

use ostler_accel::CpuState;
use ostler_memory::vm_memory::{Bytes, GuestAddress};

use super::common::{Bare, CODE, run_to_end};
use super::prepared::prepared;

/// No RAM, but mapped one to one.
const DEVICE: u64 = 0x3f00_0000;
const FROM: u64 = 0x3_0000;
const TO: u64 = 0x4_0000;

/// Runs `code` with RSI, RDI, RCX and RAX as given, and returns the machine and the registers at its end.
fn run(code: &[u8], [rsi, rdi, rcx, rax]: [u64; 4]) -> (Bare, CpuState) {
    let bare = Bare::new(1);
    // The handler of all exceptions: mov rbx, cr2; out 0xf4, al
    bare.write(CODE + 0x800, &[0x0f, 0x20, 0xd3, 0xe6, 0xf4]);
    bare.write(CODE, code);
    bare.write(CODE + code.len() as u64, &[0xe6, 0xf4]);
    let pattern: Vec<u8> = (0..0x4000u32).map(|n| (n * 7) as u8).collect();
    bare.write(FROM, &pattern);
    let mut state = prepared(&bare, CODE + 0x800);
    (state.gpr[6], state.gpr[7], state.gpr[1], state.gpr[0]) = (rsi, rdi, rcx, rax);
    let mut vcpu = bare.vcpu(0);
    vcpu.set_state(&state).unwrap();
    run_to_end(&mut *vcpu);
    let state = vcpu.state().unwrap();
    (bare, state)
}

fn bytes(bare: &Bare, gpa: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bare.ram.read_slice(&mut bytes, GuestAddress(gpa)).unwrap();
    bytes
}

#[test]
fn copies_of_all_sizes_arrive() {
    for len in [1, 63, 64, 4095, 4096, 4097, 0x3000] {
        for (from, to) in [(0, 0), (1, 0xfff), (0xfc0, 0x20)] {
            let (bare, state) = run(&[0xf3, 0xa4], [FROM + from, TO + to, len, 0]);
            assert_eq!(
                (state.gpr[6], state.gpr[7], state.gpr[1]),
                (FROM + from + len, TO + to + len, 0)
            );
            assert_eq!(
                bytes(&bare, TO + to, len as usize),
                bytes(&bare, FROM + from, len as usize),
                "{len} bytes from {from:#x} to {to:#x}"
            );
            assert_eq!(bytes(&bare, TO + to + len, 8), [0; 8]);
        }
    }
}

#[test]
fn devices_are_read_and_written_element_by_element() {
    // The device reads as 0x5a everywhere.
    let (bare, state) = run(&[0xf3, 0xa5], [DEVICE, TO, 5, 0]);
    assert_eq!(bytes(&bare, TO, 21), [&[0x5a; 20][..], &[0]].concat());
    assert_eq!(
        (state.gpr[6], state.gpr[7], state.gpr[1]),
        (DEVICE + 20, TO + 20, 0)
    );
    let (_, state) = run(&[0xf3, 0xa5, 0xf3, 0x48, 0xab], [FROM, DEVICE, 5, 0]);
    assert_eq!((state.gpr[6], state.gpr[7]), (FROM + 20, DEVICE + 20));
    // From the last bytes of RAM on: repne scasb
    let (_, state) = run(&[0xf2, 0xae], [0, 0x00ff_fff0, 100, 0x5a]);
    assert_eq!((state.gpr[7], state.gpr[1]), (0x0100_0001, 100 - 17));
}

#[test]
fn code_that_is_copied_over_is_executed_as_it_is_then() {
    // mov ebx, TO; l: call rbx; add edx, eax; mov edi, TO; mov ecx, 6; rep movsb; dec ebp; jnz l; out 0xf4, al
    let code = [
        0xbb, 0, 0, 4, 0, 0xff, 0xd3, 0x01, 0xc2, 0xbf, 0, 0, 4, 0, 0xb9, 6, 0, 0, 0, 0xf3, 0xa4, 0xff, 0xcd,
        0x75, 0xec, 0xe6, 0xf4,
    ];
    let bare = Bare::new(1);
    bare.write(CODE, &code);
    let answer = |n: u8| [0xb8, n, 0, 0, 0, 0xc3];
    bare.write(TO, &answer(0));
    for n in 1..=100u8 {
        bare.write(FROM + 6 * (u64::from(n) - 1), &answer(n));
    }
    let mut state = bare.long_mode(0);
    (state.gpr[5], state.gpr[6], state.gpr[2]) = (101, FROM, 0);
    let mut vcpu = bare.vcpu(0);
    vcpu.set_state(&state).unwrap();
    run_to_end(&mut *vcpu);
    assert_eq!(vcpu.state().unwrap().gpr[2], (1..=100).sum::<u64>());
}

#[test]
fn a_page_that_is_not_there_stops_a_repetition_where_it_begins() {
    // The first GiB alone is mapped.
    const END: u64 = 1 << 30;
    let (_, state) = run(&[0xf3, 0xa4], [FROM, END - 16, 64, 0]);
    assert_eq!(
        (state.gpr[3], state.gpr[6], state.gpr[7], state.gpr[1]),
        (END, FROM + 16, END, 48)
    );
    let (_, state) = run(&[0xf3, 0xab], [0, END - 16, 64, 0]);
    assert_eq!((state.gpr[3], state.gpr[7], state.gpr[1]), (END, END, 60));
    let (_, state) = run(&[0xf2, 0xae], [0, END - 16, 64, 0]);
    assert_eq!((state.gpr[3], state.gpr[7], state.gpr[1]), (END, END, 48));
    let (_, state) = run(&[0xf3, 0xa6], [END - 16, END - 32, 64, 0]);
    assert_eq!((state.gpr[3], state.gpr[6], state.gpr[1]), (END, END, 48));
}

#[test]
fn indices_of_32_bits_wrap_and_lose_their_upper_halves() {
    // addr32 rep movsb; then one: addr32 lodsb
    let high = 1 << 40;
    let (bare, state) = run(
        &[0x67, 0xf3, 0xa4, 0x67, 0xac],
        [high | FROM, high | TO, high | 3, 0],
    );
    assert_eq!((state.gpr[6], state.gpr[7], state.gpr[1]), (FROM + 4, TO + 3, 0));
    assert_eq!(bytes(&bare, TO, 4), [0, 7, 14, 0]);
}

#[test]
fn a_source_may_be_relative_to_fs() {
    let bare = Bare::new(1);
    // fs movsq; fs rep movsb; fs lodsb
    bare.write(
        CODE,
        &[0x64, 0x48, 0xa5, 0x64, 0xf3, 0xa4, 0x64, 0xac, 0xe6, 0xf4],
    );
    bare.write(FROM, &(1..=16).collect::<Vec<u8>>());
    let mut state = bare.long_mode(0);
    state.segments[4].base = FROM - 0x100;
    (state.gpr[6], state.gpr[7], state.gpr[1]) = (0x100, TO, 4);
    let mut vcpu = bare.vcpu(0);
    vcpu.set_state(&state).unwrap();
    assert_eq!(run_to_end(&mut *vcpu), 13);
    assert_eq!(bytes(&bare, TO, 13), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0]);
    let state = vcpu.state().unwrap();
    assert_eq!((state.gpr[6], state.gpr[7]), (0x10d, TO + 12));
}
