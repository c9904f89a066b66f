//! Exceptions as guest code meets them, and large pages.

use crate::common::{Bare, CODE, guest_code, run_to_end};
use crate::prepared::{prepared, run, set_gate};
use ostler_bus::Msi;

guest_code!(
    not_available,
    "not_available_begin",
    "not_available_end",
    "jmp 2f",
    ".balign 16",
    // The handler of #NM, at byte 16: counts, makes the unit available, and lets the instruction run again.
    "inc ebx",
    "mov rdx, cr0",
    "and edx, -13",
    "mov cr0, rdx",
    "iretq",
    ".balign 16",
    // That of everything else, at byte 48.
    "mov ebx, -1",
    "out 0xf4, al",
    "2:",
    "xor ebx, ebx",
    "mov rax, cr0",
    "mov rsi, rax",
    // CR0.TS
    "or eax, 8",
    "mov cr0, rax",
    "fld1",
    "mov cr0, rax",
    "addps xmm0, xmm1",
    "mov cr0, rax",
    "paddb mm0, mm1",
    "emms",
    "mov cr0, rax",
    "mov edi, 0x20000",
    "fxsave [rdi]",
    // FWAIT only with CR0.MP.
    "mov cr0, rax",
    "fwait",
    "and eax, -3",
    "mov cr0, rax",
    "fwait",
    "clts",
    // CR0.EM: no x87.
    "mov rax, rsi",
    "or eax, 4",
    "mov cr0, rax",
    "fld1",
    "mov rax, rsi",
    "mov cr0, rax",
    "fninit",
    "out 0xf4, al",
);

#[test]
fn the_unit_is_not_available_while_a_task_switch_is_noted() {
    let bare = Bare::new(1);
    bare.write(CODE, &not_available());
    let mut vcpu = bare.vcpu(0);
    let state = prepared(&bare, CODE + 48);
    set_gate(&bare, 7, CODE + 16);
    vcpu.set_state(&state).unwrap();
    run_to_end(&mut *vcpu);
    assert_eq!(
        vcpu.state().unwrap().gpr[3],
        6,
        "x87, SSE, MMX, FXSAVE, FWAIT with MP, x87 with EM"
    );
}

guest_code!(
    misaligned,
    "misaligned_begin",
    "misaligned_end",
    "jmp 2f",
    ".balign 16",
    // The handler of #AC, at byte 16: counts, adds the error code to RBP, and skips the instruction, whose length is in RCX.
    "pop rax",
    "add ebp, eax",
    "inc ebx",
    "add [rsp], rcx",
    "iretq",
    ".balign 16",
    // That of everything else, at byte 32: the end.
    "out 0xf4, al",
    "2:",
    "xor ebx, ebx",
    "xor ebp, ebp",
    "mov rax, cr0",
    "or eax, 0x40000",
    "mov cr0, rax",
    "mov edi, 0x20001",
    "mov r15, 0x20004",
    // At level 0 nothing is checked, whatever the flag.
    "pushfq",
    "or dword ptr [rsp], 0x40000",
    "popfq",
    "mov eax, [rdi]",
    // To level 3 with RFLAGS.AC.
    "push 0x1b",
    "push 0x70000",
    "pushfq",
    "push 0x23",
    "lea rax, [rip + 3f]",
    "push rax",
    "iretq",
    "3:",
    "mov ecx, 2",
    "mov eax, [rdi]",
    "mov [rdi], eax",
    "mov al, [rdi]",
    "mov ecx, 3",
    "mov ax, [rdi]",
    "mov rax, [r15]",
    "mov eax, [r15]",
    // Without the flag.
    "mov rsi, rsp",
    "pushfq",
    "and dword ptr [rsp], -0x40001",
    "popfq",
    "mov eax, [rdi]",
    "hlt",
);

#[test]
fn alignment_is_checked_for_the_user_with_am_and_ac() {
    let bare = Bare::new(1);
    bare.write(CODE, &misaligned());
    let mut vcpu = bare.vcpu(0);
    let state = prepared(&bare, CODE + 32);
    set_gate(&bare, 17, CODE + 16);
    vcpu.set_state(&state).unwrap();
    run_to_end(&mut *vcpu);
    let state = vcpu.state().unwrap();
    assert_eq!(
        (state.gpr[3], state.gpr[5]),
        (4, 0),
        "a load and a store of 4, a load of 2, one of 8"
    );
}

guest_code!(
    nested_nmi,
    "nested_nmi_begin",
    "nested_nmi_end",
    "jmp 2f",
    ".balign 16",
    // The handler: the first time it sends itself another NMI, which waits until IRETQ.
    "inc ebx",
    "cmp ebx, 1",
    "jne 4f",
    "wrmsr",
    "nop",
    "nop",
    "nop",
    "mov esi, ebx",
    "4:",
    "iretq",
    "2:",
    "xor ebx, ebx",
    "xor esi, esi",
    "mov ecx, 0x1b",
    "rdmsr",
    "or eax, 0xc00",
    "wrmsr",
    // An NMI for CPU 0.
    "mov ecx, 0x830",
    "xor edx, edx",
    "mov eax, 0x400",
    "wrmsr",
    "nop",
    "nop",
    "out 0xf4, al",
);

#[test]
fn an_nmi_in_its_own_handler_waits_for_iret() {
    let (_, state) = run(&nested_nmi(), 16);
    assert_eq!(
        (state.gpr[6], state.gpr[3]),
        (1, 2),
        "one while the first was handled, then the other"
    );
    assert_eq!((state.events.nmi_masked, state.events.nmis_pending), (false, 0));
}

guest_code!(
    counted_nmis,
    "counted_nmis_begin",
    "counted_nmis_end",
    "jmp 2f",
    ".balign 16",
    "inc ebx",
    "iretq",
    "2:",
    "out 0xf4, al",
    // What was posted meanwhile is delivered here.
    "nop",
    "out 0xf4, al",
);

/// As `test_multiple_nmi` of kvm-unit-tests has it: of two NMIs that come at once, from two CPUs, none is lost.
#[test]
fn two_nmis_that_come_at_once_are_two_and_a_third_is_lost() {
    let message = Msi {
        address: 0xfee0_0000,
        data: 0x400,
    };
    for (sent, masked, taken) in [(1, false, 1), (2, false, 2), (3, false, 2), (3, true, 0)] {
        let bare = Bare::new(1);
        bare.write(CODE, &counted_nmis());
        let mut vcpu = bare.vcpu(0);
        let mut state = prepared(&bare, CODE + 16);
        state.gpr[3] = 0;
        state.events.nmi_masked = masked;
        vcpu.set_state(&state).unwrap();
        run_to_end(&mut *vcpu);
        for _ in 0..sent {
            bare.vm.signal(message);
        }
        run_to_end(&mut *vcpu);
        let state = vcpu.state().unwrap();
        assert_eq!(state.gpr[3], taken, "{sent} sent, masked: {masked}");
        assert_eq!(state.events.nmis_pending, masked.into(), "one waits for IRET");
    }
}

guest_code!(
    gigabyte,
    "gigabyte_begin",
    "gigabyte_end",
    "jmp 2f",
    ".balign 16",
    // The handler of the page fault at the end, at byte 16.
    "pop rsi",
    "mov rdi, cr2",
    "out 0xf4, al",
    "2:",
    // Entry 1 of the directory pointers: a page of 1 GiB that begins at 0; entry 2: one that is not aligned.
    "mov edx, 0x101000",
    "mov qword ptr [rdx + 8], 0x87",
    "mov qword ptr [rdx + 16], 0x200087",
    // Written through the large page, read without it; and code.
    "mov eax, 0x40020000",
    "mov dword ptr [rax], 0x12345678",
    "mov ebx, [0x20000]",
    "mov eax, 0x40010000",
    "lea rcx, [rip + 3f]",
    "sub rcx, 0x10000",
    "add rcx, rax",
    "jmp rcx",
    "3:",
    "lea rbp, [rip]",
    // Another address of the same page is forgotten, and all of the page with it.
    "mov rax, [rdx + 8]",
    "and eax, 0x60",
    "mov r8, rax",
    "mov r9d, 0x1000000",
    "mov qword ptr [rdx + 8], 0",
    "invlpg [0x7ff00000]",
    "mov eax, [0x40020000]",
    "out 0xf4, al",
);

#[test]
fn pages_of_a_gigabyte_map_data_and_code() {
    let (_, state) = run(&gigabyte(), 16);
    assert_eq!(state.gpr[3], 0x1234_5678);
    assert_eq!(state.gpr[5] >> 16, 0x4001, "the code ran in the large page");
    assert_eq!(state.gpr[8], 0x60, "accessed and dirty");
    assert_eq!(
        state.gpr[6] & !0x10,
        0,
        "nothing there any more, after the flush of another address"
    );
    assert_eq!(state.gpr[7] >> 30, 1);
}
