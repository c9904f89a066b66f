//! Small programs in machine code.

use super::common::{Bare, CODE, run_to_end};

/// Runs 64-bit `code`, which ends by `out 0xf4, al`, and returns AL and RAX.
fn run(code: &[u8]) -> (u8, ostler_accel::CpuState) {
    let bare = Bare::new(1);
    let mut vcpu = bare.vcpu(0);
    bare.write(CODE, code);
    vcpu.set_state(&bare.long_mode(0)).unwrap();
    let end = run_to_end(&mut *vcpu);
    (end, vcpu.state().unwrap())
}

#[test]
fn a_loop_sums_the_numbers_to_a_hundred() {
    // xor eax,eax; mov ecx,100; l: add eax,ecx; dec ecx; jnz l; mov ebx,eax; out 0xf4,al
    let (_, state) = run(&[
        0x31, 0xc0, 0xb9, 100, 0, 0, 0, 0x01, 0xc8, 0xff, 0xc9, 0x75, 0xfa, 0x89, 0xc3, 0xe6, 0xf4,
    ]);
    assert_eq!(state.gpr[3], 5050);
}

#[test]
fn a_read_from_a_device_is_replayed() {
    // mov rbx,0xd0000000 (no RAM; mapped one to one only in the first GiB, so use 0x3f000000): mov eax,[rbx]; add eax,1; out
    let (end, state) = run(&[0xbb, 0, 0, 0, 0x3f, 0x8b, 0x03, 0x83, 0xc0, 1, 0xe6, 0xf4]);
    assert_eq!(end, 0x5b);
    assert_eq!(state.gpr[0], 0x5a5a_5a5b);
}

#[test]
fn code_that_changes_itself_is_seen_at_once() {
    // mov byte [rip+1], 7 ; mov al, 1 -> mov al, 7 ; out 0xf4, al. The store targets the immediate of the next instruction.
    let (end, _) = run(&[0xc6, 0x05, 1, 0, 0, 0, 7, 0xb0, 1, 0xe6, 0xf4]);
    assert_eq!(end, 7);
}

#[test]
fn calls_and_string_moves_work() {
    // lea rsi,[rip+data]; mov edi,0x20000; mov ecx,4; rep movsb; mov eax,[0x20000] ; call f; out; f: inc eax; ret; data
    let code = [
        0x48, 0x8d, 0x35, 0x1d, 0, 0, 0, 0xbf, 0, 0, 2, 0, 0xb9, 4, 0, 0, 0, 0xf3, 0xa4, 0x8b, 0x04, 0x25, 0,
        0, 2, 0, 0xe8, 2, 0, 0, 0, 0xe6, 0xf4, 0xff, 0xc0, 0xc3, 1, 2, 3, 4,
    ];
    let (end, state) = run(&code);
    assert_eq!((end, state.gpr[0]), (2, 0x0403_0202));
}
