//! What a kernel executes all the time: RFLAGS.IF and what waits for it, system calls, segment bases, SMAP's switch. Loops, so that
//! translated code finds its own way after the first rounds.

use ostler_accel::CpuState;
use ostler_memory::vm_memory::{Bytes, GuestAddress};

use crate::common::{Bare, CODE, guest_code, run_to_end};
use crate::prepared::{GDT, prepared, run, set_gate};

const CR4_TSD: u64 = 1 << 2;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_SMAP: u64 = 1 << 21;
const RFLAGS_IF: u64 = 1 << 9;

/// As [`run`], with a machine that `change` prepares further.
fn run_with(code: &[u8], handler: u64, change: impl FnOnce(&Bare, &mut CpuState)) -> (Bare, CpuState) {
    let bare = Bare::new(1);
    bare.write(CODE, code);
    let mut state = prepared(&bare, CODE + handler);
    change(&bare, &mut state);
    let mut vcpu = bare.vcpu(0);
    vcpu.set_state(&state).unwrap();
    run_to_end(&mut *vcpu);
    let state = vcpu.state().unwrap();
    (bare, state)
}

guest_code!(
    shadow,
    "shadow_begin",
    "shadow_end",
    "jmp 2f",
    ".balign 16",
    // The handler: counts, adds up how far behind the address in R8 it came, and ends the interrupt.
    "inc ebx",
    "mov rsi, [rsp]",
    "sub rsi, r8",
    "add rdi, rsi",
    "mov ecx, 0x80b",
    "xor eax, eax",
    "xor edx, edx",
    "wrmsr",
    "iretq",
    "2:",
    "xor ebx, ebx",
    "xor edi, edi",
    "xor r9d, r9d",
    "mov ecx, 0x1b",
    "rdmsr",
    "or eax, 0xc00",
    "wrmsr",
    "mov ecx, 0x80f",
    "mov eax, 0x1ff",
    "xor edx, edx",
    "wrmsr",
    "mov ebp, 20",
    "4:",
    // An interrupt to this CPU itself that waits.
    "cli",
    "mov ecx, 0x83f",
    "mov eax, 0x50",
    "xor edx, edx",
    "wrmsr",
    // Nothing comes between these two.
    "sti",
    "cli",
    "or r9d, ebx",
    "lea r8, [rip + 3f]",
    // It comes behind the second.
    "sti",
    "3:",
    "nop",
    "nop",
    "sub ebx, 1",
    "jnz 5f",
    "dec ebp",
    "jnz 4b",
    "5:",
    // And by POPFQ at once.
    "mov r10, rdi",
    "xor edi, edi",
    "xor ebx, ebx",
    "mov r11d, 20",
    "6:",
    "cli",
    "pushfq",
    "or dword ptr [rsp], 0x200",
    "mov ecx, 0x83f",
    "mov eax, 0x51",
    "xor edx, edx",
    "wrmsr",
    "lea r8, [rip + 7f]",
    "popfq",
    "7:",
    "nop",
    "nop",
    "dec r11d",
    "jnz 6b",
    // With nothing that waits the flag is set all the same.
    "cli",
    "sti",
    "nop",
    "pushfq",
    "pop r12",
    "out 0xf4, al",
);

#[test]
fn an_interrupt_waits_for_the_instruction_after_sti_but_not_after_popf() {
    let (_, state) = run(&shadow(), 16);
    assert_eq!(state.gpr[5], 0, "rounds left with STI: each had one interrupt");
    assert_eq!(state.gpr[9], 0, "interrupts between STI and CLI");
    assert_eq!(state.gpr[10], 20, "each came one byte behind STI");
    assert_eq!((state.gpr[3], state.gpr[7]), (20, 0), "POPFQ");
    assert_eq!(state.gpr[12] & RFLAGS_IF, RFLAGS_IF);
}

guest_code!(
    calls,
    "calls_begin",
    "calls_end",
    "jmp 2f",
    ".balign 16",
    // The handler: no exception is expected.
    "inc r15d",
    "out 0xf4, al",
    "2:",
    "xor r15d, r15d",
    "xor r14d, r14d",
    // STAR: user's selectors above 0x10, kernel's at 8.
    "mov ecx, 0xc0000081",
    "xor eax, eax",
    "mov edx, 0x100008",
    "wrmsr",
    "mov ecx, 0xc0000082",
    "lea rax, [rip + 8f]",
    "xor edx, edx",
    "wrmsr",
    // SFMASK: IF, DF, CF and ZF, but not SF and OF.
    "mov ecx, 0xc0000084",
    "mov eax, 0x641",
    "wrmsr",
    "mov ecx, 0xc0000101",
    "mov eax, 0x20000",
    "wrmsr",
    "mov ecx, 0xc0000102",
    "mov eax, 0x30000",
    "wrmsr",
    "mov dword ptr [0x20000], 1",
    "mov dword ptr [0x30000], 0x100",
    "mov ebp, 20",
    "lea rcx, [rip + 3f]",
    // Interrupts are on in the user's program.
    "mov r11d, 0x202",
    "sysretq",
    "3:",
    "mov eax, cs",
    "shl eax, 16",
    "mov edi, eax",
    "mov eax, ss",
    "or edi, eax",
    "add r14d, gs:[0]",
    "mov eax, 0x7fffffff",
    "add eax, 1",
    "stc",
    "std",
    "mov r8d, 1",
    "syscall",
    "pushfq",
    "pop r9",
    "cld",
    "dec ebp",
    "jnz 3b",
    "xor r8d, r8d",
    "syscall",
    // The kernel's side. The user's stack stays in use.
    "8:",
    "pushfq",
    "pop rbx",
    "swapgs",
    "add r14d, gs:[0]",
    "swapgs",
    "mov r10, r11",
    "mov esi, cs",
    "shl esi, 16",
    "mov eax, ss",
    "or esi, eax",
    // The last call says so by R8; the others return to what RCX says.
    "test r8, r8",
    "jz 9f",
    // Another carry and no direction for the user.
    "and r11d, 0xfffffbfe",
    "or r11d, 0x40",
    "sysretq",
    "9:",
    "out 0xf4, al",
);

#[test]
fn system_calls_mask_flags_and_give_them_back() {
    let (_, state) = run(&calls(), 16);
    let [rbx, rsi, rdi] = [3, 6, 7].map(|n| state.gpr[n]);
    assert_eq!(state.gpr[15], 0, "exceptions");
    assert_eq!(rsi, 8 << 16 | 0x10, "the kernel's selectors");
    assert_eq!(rdi, 0x23 << 16 | 0x1b, "the user's");
    assert_eq!(state.gpr[14], 20 + 21 * 0x100, "GS, and the other GS");
    assert_eq!(state.gpr[9] & 0xed5, 0x2d4 | 0x800, "the flags that came back");
    // The last call comes after DEC to zero (ZF and PF) and CLD.
    assert_eq!(state.gpr[10] & 0xec5, 0x244, "R11 at the end");
    assert_eq!(rbx & 0xec5, 4, "flags in the kernel");
    assert_eq!(state.segments[5].base, 0x20000);
}

guest_code!(
    traced_return,
    "traced_return_begin",
    "traced_return_end",
    "jmp 2f",
    ".balign 16",
    // The handler of #DB: where it came, and on without the flag.
    "mov rsi, [rsp]",
    "sub rsi, r8",
    "inc ebx",
    "and dword ptr [rsp + 16], -0x101",
    "iretq",
    ".balign 16",
    // The handler of #GP, at level 0 with the user's address in RCX: on with a better one.
    "inc ebp",
    "mov rdi, [rsp + 16]",
    "mov rcx, r8",
    "add rsp, 8",
    "iretq",
    "2:",
    "xor ebx, ebx",
    "xor ebp, ebp",
    "mov ecx, 0xc0000081",
    "xor eax, eax",
    "mov edx, 0x100008",
    "wrmsr",
    "mov ecx, 0xc0000082",
    "lea rax, [rip + 8f]",
    "xor edx, edx",
    "wrmsr",
    "lea r8, [rip + 3f]",
    "mov rcx, 0x800000000000",
    "mov r11d, 0x102",
    "sysretq",
    "3:",
    "nop",
    "nop",
    "syscall",
    "8:",
    "out 0xf4, al",
);

#[test]
fn sysret_with_the_trap_flag_traps_and_one_to_nowhere_faults_before_it() {
    let code = traced_return();
    let (_, state) = run_with(&code, 16, |bare, _| set_gate(bare, 13, CODE + 48));
    assert_eq!((state.gpr[5], state.gpr[7]), (1, 8), "#GP at level 0");
    assert_eq!(
        (state.gpr[3], state.gpr[6]),
        (1, 0),
        "#DB before the first instruction"
    );
}

guest_code!(
    privileged,
    "privileged_begin",
    "privileged_end",
    "jmp 2f",
    ".balign 16",
    // The handler of #GP: its error code, how often, and on where R15 says.
    "pop rax",
    "or ebp, eax",
    "inc ebx",
    "jmp 4f",
    ".balign 16",
    // Of #UD.
    "inc edi",
    "4:",
    "test r15, r15",
    "jz 5f",
    "mov [rsp], r15",
    "iretq",
    "5:",
    "out 0xf4, al",
    "2:",
    "xor ebx, ebx",
    "xor ebp, ebp",
    "xor edi, edi",
    "lea rax, [rip + 6f]",
    "movzx ecx, word ptr [0x9800]",
    "push rcx",
    "push 0x70000",
    "push 2",
    "movzx ecx, word ptr [0x9802]",
    "push rcx",
    "push rax",
    "iretq",
    "6:",
    "mov esi, 3",
    "7:",
    "lea r15, [rip + 8f]",
    "cli",
    "8:",
    "lea r15, [rip + 8f]",
    "sti",
    "8:",
    "lea r15, [rip + 8f]",
    "swapgs",
    "8:",
    "lea r15, [rip + 8f]",
    "mov rax, cr3",
    "8:",
    "lea r15, [rip + 8f]",
    "rdtsc",
    "8:",
    "lea r15, [rip + 8f]",
    "rdtscp",
    "8:",
    "lea r15, [rip + 8f]",
    "sysretq",
    "8:",
    "lea r15, [rip + 8f]",
    "clac",
    "8:",
    "lea r15, [rip + 8f]",
    "stac",
    "8:",
    "lea r15, [rip + 8f]",
    "rdfsbase rax",
    "8:",
    "lea r15, [rip + 8f]",
    "wrgsbase rax",
    "8:",
    // What a program sets of its flags: not IF, not IOPL.
    "lea r15, [rip + 8f]",
    "push 0x3ed7",
    "popfq",
    "pushfq",
    "pop r14",
    "cld",
    "8:",
    "dec esi",
    "jnz 7b",
    "xor r15d, r15d",
    "hlt",
);

#[test]
fn other_levels_may_not_what_the_kernel_may() {
    // At level 3 and at level 1: its segments are not in the table that the others use.
    for (code, data) in [(0x23u16, 0x1bu16), (0x39, 0x41)] {
        let (_, state) = run_with(&privileged(), 16, |bare, state| {
            set_gate(bare, 6, CODE + 32);
            bare.write(GDT + 0x38, &0x00af_bb00_0000_ffffu64.to_le_bytes());
            bare.write(GDT + 0x40, &0x00cf_b300_0000_ffffu64.to_le_bytes());
            bare.write(0x9800, &data.to_le_bytes());
            bare.write(0x9802, &code.to_le_bytes());
            state.gdtr.limit = 0x47;
            state.cr4 |= CR4_TSD;
        });
        assert_eq!(state.gpr[3], 3 * 7 + 1, "#GP at {code:#x}");
        assert_eq!(state.gpr[7], 3 * 4, "#UD at {code:#x}");
        assert_eq!(state.gpr[5], 0, "error codes");
        assert_eq!(state.gpr[14], 0xcd7, "flags at {code:#x}");
    }
}

guest_code!(
    user_memory,
    "user_memory_begin",
    "user_memory_end",
    "jmp 2f",
    ".balign 16",
    // The handler of #PF: the error code, how often, and on behind the instruction.
    "pop rax",
    "add ebp, eax",
    "mov rax, cr2",
    "mov r8, rax",
    "inc ebx",
    "add qword ptr [rsp], 2",
    "iretq",
    "2:",
    "xor ebx, ebx",
    "xor ebp, ebp",
    "xor ecx, ecx",
    "mov edi, 0x400010",
    "mov esi, 20",
    "3:",
    "stac",
    "add ecx, [rdi]",
    "pushfq",
    "pop r9",
    "clac",
    "add ecx, [rdi]",
    // POPFQ switches too.
    "push r9",
    "popfq",
    "add ecx, [rdi]",
    "clac",
    "dec esi",
    "jnz 3b",
    "pushfq",
    "pop r10",
    "out 0xf4, al",
);

#[test]
fn user_memory_is_there_for_the_kernel_between_stac_and_clac_only() {
    let (_, state) = run_with(&user_memory(), 16, |bare, state| {
        // The first 2 MiB are the kernel's.
        let first: u64 = 0x83;
        bare.ram
            .write_slice(&first.to_le_bytes(), GuestAddress(0x10_2000))
            .unwrap();
        bare.write(0x40_0010, &1u32.to_le_bytes());
        state.cr4 |= CR4_SMAP;
    });
    assert_eq!(state.gpr[1], 40, "reads that were allowed");
    assert_eq!(
        (state.gpr[3], state.gpr[5]),
        (20, 20),
        "the others, each by a page that is present"
    );
    assert_eq!(state.gpr[8], 0x40_0010);
    assert_eq!(
        (state.gpr[9] >> 18 & 1, state.gpr[10] >> 18 & 1),
        (1, 0),
        "RFLAGS.AC"
    );
}

guest_code!(
    bases,
    "bases_begin",
    "bases_end",
    "jmp 2f",
    ".balign 16",
    // The handler of #GP: how often, and on behind the instruction.
    "pop rax",
    "or ebp, eax",
    "inc ebx",
    "add qword ptr [rsp], 5",
    "iretq",
    "2:",
    "xor ebx, ebx",
    "xor ebp, ebp",
    "xor esi, esi",
    "mov dword ptr [0x20008], 3",
    "mov dword ptr [0x30008], 5",
    "mov ecx, 20",
    "3:",
    "mov edx, 0x20000",
    "wrfsbase rdx",
    "mov r10d, 0x30000",
    "wrgsbase r10",
    "add esi, fs:[8]",
    "add esi, gs:[8]",
    "mov rax, 0x8000000000000000",
    "wrfsbase rax",
    "rdfsbase r11",
    "rdgsbase rdi",
    "dec ecx",
    "jnz 3b",
    // Selectors, in a register and in memory.
    "mov qword ptr [0x20000], -1",
    "mov word ptr [0x20000], ds",
    "mov r8, [0x20000]",
    "mov r9, -1",
    "mov r9d, cs",
    "mov r12, cr3",
    "mov r13, cr0",
    "out 0xf4, al",
);

#[test]
fn bases_are_read_and_written_and_have_to_be_canonical() {
    let (_, state) = run_with(&bases(), 16, |_, state| state.cr4 |= CR4_FSGSBASE);
    assert_eq!((state.gpr[3], state.gpr[5]), (20, 0), "#GP");
    assert_eq!(state.gpr[6], 20 * 8);
    assert_eq!((state.gpr[11], state.gpr[7]), (0x20000, 0x30000));
    assert_eq!((state.gpr[8], state.gpr[9]), (0xffff_ffff_ffff_0010, 8));
    assert_eq!((state.gpr[12], state.gpr[13]), (state.cr3, state.cr0));
}
