//! Single step and breakpoints.

use crate::common::guest_code;
use crate::prepared::run;

guest_code!(
    single_step,
    "single_step_begin",
    "single_step_end",
    "jmp 2f",
    ".balign 16",
    // The handler, at byte 16: counts traps whose cause is single step.
    "mov rdx, dr6",
    "bt edx, 14",
    "adc ebx, 0",
    "mov edx, 0xffff0ff0",
    "mov dr6, rdx",
    "iretq",
    "2:",
    "xor ebx, ebx",
    "pushfq",
    "or dword ptr [rsp], 0x100",
    "popfq",
    "nop",
    "nop",
    "mov ecx, 3",
    "pushfq",
    "and dword ptr [rsp], -0x101",
    "popfq",
    "nop",
    "out 0xf4, al",
);

#[test]
fn single_step_traps_after_each_instruction_that_began_with_the_flag() {
    let (_, state) = run(&single_step(), 16);
    assert_eq!(state.gpr[3], 6, "nop, nop, mov, pushfq, and, popfq");
}

guest_code!(
    breakpoints,
    "breakpoints_begin",
    "breakpoints_end",
    "jmp 2f",
    ".balign 16",
    // The handler: gathers the causes, and lets an instruction breakpoint pass by RF.
    "mov rdx, dr6",
    "and edx, 0xf",
    "or ebx, edx",
    "inc ecx",
    "or dword ptr [rsp + 16], 0x10000",
    "mov edx, 0xffff0ff0",
    "mov dr6, rdx",
    "iretq",
    "2:",
    "xor ebx, ebx",
    "xor ecx, ecx",
    "lea rax, [rip + 3f]",
    "mov dr0, rax",
    "mov eax, 0x20000",
    "mov dr1, rax",
    // DR0: execution; DR1: writes of 4 bytes.
    "mov eax, 0x00d00405",
    "mov dr7, rax",
    "3:",
    "nop",
    "mov eax, [0x20000]",
    "mov byte ptr [0x20002], 1",
    "mov byte ptr [0x20004], 1",
    "xor eax, eax",
    "mov dr7, rax",
    "out 0xf4, al",
);

#[test]
fn breakpoints_stop_before_execution_and_after_a_write() {
    let (_, state) = run(&breakpoints(), 16);
    assert_eq!((state.gpr[3], state.gpr[1]), (3, 2));
}

guest_code!(
    stepped_strings,
    "stepped_strings_begin",
    "stepped_strings_end",
    "jmp 2f",
    ".balign 16",
    // The handler: gathers how far each trap came, in RBX, a hexadecimal digit each; counts traps between iterations (RF) in RBP.
    "shl rbx, 4",
    "or bl, cl",
    "mov rdx, [rsp + 16]",
    "bt rdx, 16",
    "adc ebp, 0",
    "mov edx, 0xffff0ff0",
    "mov dr6, rdx",
    "iretq",
    "2:",
    "xor ebx, ebx",
    "xor ebp, ebp",
    "mov esi, 0x20000",
    "mov edi, 0x21000",
    "mov ecx, 3",
    "xor eax, eax",
    "cld",
    "pushfq",
    "or dword ptr [rsp], 0x100",
    "popfq",
    "rep movsb",
    "mov cl, 2",
    "repe cmpsb",
    "mov cl, 2",
    "rep stosd",
    "mov cl, 9",
    "pushfq",
    "and dword ptr [rsp], -0x101",
    "popfq",
    "out 0xf4, al",
);

#[test]
fn a_repeated_instruction_is_stepped_through_by_iterations() {
    let (_, state) = run(&stepped_strings(), 16);
    assert_eq!(
        state.gpr[3], 0x0002_1021_0210_9999,
        "movsb by 3, mov, cmpsb by 2, mov, stosd by 2, mov, pushfq, and, popfq"
    );
    assert_eq!(state.gpr[5], 2 + 1 + 1, "RF is set between iterations only");
    assert_eq!(state.gpr[7], 0x2_1000 + 3 + 2 + 8);
}

guest_code!(
    watched_strings,
    "watched_strings_begin",
    "watched_strings_end",
    "jmp 2f",
    ".balign 16",
    // The handler: remembers RCX and the causes of each trap, a byte each.
    "shl rbx, 8",
    "mov rdx, dr6",
    "and edx, 0xf",
    "shl edx, 4",
    "or edx, ecx",
    "or rbx, rdx",
    "mov edx, 0xffff0ff0",
    "mov dr6, rdx",
    "or dword ptr [rsp + 16], 0x10000",
    "iretq",
    "2:",
    "xor ebx, ebx",
    "mov eax, 0x21002",
    "mov dr0, rax",
    "lea rax, [rip + 3f]",
    "mov dr1, rax",
    "mov esi, 0x20000",
    "mov edi, 0x21000",
    "mov ecx, 5",
    // DR0: writes of 1 byte; DR1: execution.
    "mov eax, 0x00010405",
    "mov dr7, rax",
    "3:",
    "rep movsb",
    "xor eax, eax",
    "mov dr7, rax",
    "out 0xf4, al",
);

#[test]
fn breakpoints_of_a_repeated_instruction_hit_once_each() {
    let (_, state) = run(&watched_strings(), 16);
    assert_eq!(
        state.gpr[3], 0x2512,
        "execution with 5 to do, then the write with 2 to do, and no execution again"
    );
}

guest_code!(
    port_breakpoints,
    "port_breakpoints_begin",
    "port_breakpoints_end",
    "jmp 2f",
    ".balign 16",
    "shl rbx, 4",
    "mov r8, dr6",
    "and r8d, 0xf",
    "or rbx, r8",
    "inc ebp",
    "mov r8d, 0xffff0ff0",
    "mov dr6, r8",
    "iretq",
    "2:",
    "xor ebx, ebx",
    "xor ebp, ebp",
    "mov rax, cr4",
    "or eax, 8",
    "mov cr4, rax",
    "mov eax, 0x81",
    "mov dr0, rax",
    "mov eax, 0x92",
    "mov dr3, rax",
    // DR0: port 0x81, 1 byte; DR3: ports 0x90 to 0x93, 4 bytes aligned.
    "mov eax, 0xe0020441",
    "mov dr7, rax",
    "out 0x81, al",
    "out 0x80, al",
    "out 0x80, ax",
    "in al, 0x81",
    "in al, 0x93",
    "in al, 0x94",
    "mov edx, 0x90",
    "mov esi, 0x20000",
    "mov edi, 0x20000",
    "mov ecx, 2",
    "rep outsb",
    "mov ecx, 2",
    "rep insb",
    // Not without CR4.DE.
    "mov rax, cr4",
    "and eax, -9",
    "mov cr4, rax",
    "out 0x81, al",
    "xor eax, eax",
    "mov dr7, rax",
    "out 0xf4, al",
);

#[test]
fn ports_are_watched_by_in_out_and_string_instructions() {
    let (_, state) = run(&port_breakpoints(), 16);
    assert_eq!(
        (state.gpr[3], state.gpr[5]),
        (0x1118_8888, 8),
        "out, out of a word, in; in; two of outsb, two of insb"
    );
}

guest_code!(
    icebp,
    "icebp_begin",
    "icebp_end",
    "jmp 2f",
    ".balign 16",
    // The handler, at level 0: where it came from, and the causes.
    "mov rbx, [rsp]",
    "mov rsi, [rsp + 8]",
    "mov rdi, dr6",
    "out 0xf4, al",
    "2:",
    "push 0x1b",
    "push 0x70000",
    "pushfq",
    "push 0x23",
    "lea rax, [rip + 3f]",
    "push rax",
    "iretq",
    "3:",
    ".byte 0xf1",
);

#[test]
fn int1_is_a_trap_that_every_level_may_raise() {
    let (_, state) = run(&icebp(), 16);
    assert_eq!(
        (state.gpr[3], state.gpr[6]),
        (crate::common::CODE + icebp().len() as u64, 0x23),
        "behind the instruction, from level 3 although the gate's level is 0"
    );
    assert_eq!(state.gpr[7] & 0xe00f, 0, "no cause in DR6");
}

guest_code!(
    stack_loaded,
    "stack_loaded_begin",
    "stack_loaded_end",
    "jmp 2f",
    ".balign 16",
    // The handler: how often, the first cause and where it came; off with everything.
    "inc ebx",
    "mov rdi, dr6",
    "mov rsi, [rsp]",
    "sub rsi, r8",
    "and dword ptr [rsp + 16], -0x101",
    "xor eax, eax",
    "mov dr7, rax",
    "iretq",
    "2:",
    "xor ebx, ebx",
    "mov eax, 0x20000",
    "mov dr1, rax",
    // DR1: reads and writes of 4 bytes.
    "mov eax, 0x00f00404",
    "mov dr7, rax",
    // DR6 says that DR0 was met, a long time ago.
    "mov eax, 0xffff0ff1",
    "mov dr6, rax",
    "mov ecx, ss",
    "lea r8, [rip + 3f]",
    "pushfq",
    "or dword ptr [rsp], 0x100",
    "mov rax, [rsp]",
    "mov word ptr [0x20010], cx",
    "popfq",
    "3:",
    "mov ss, cx",
    "mov edx, [0x20000]",
    "4:",
    "nop",
    "nop",
    "out 0xf4, al",
);

#[test]
fn nothing_traps_between_a_load_of_ss_and_what_follows_and_a_trap_says_its_own_breakpoints_only() {
    let (_, state) = run(&stack_loaded(), 16);
    assert_eq!(state.gpr[3], 1, "one trap");
    assert_eq!(state.gpr[7], 0xffff_4ff2, "single step and DR1, no longer DR0");
    // mov ss, cx has 3 bytes, mov edx, [0x20000] has 7.
    assert_eq!(state.gpr[6], 10, "behind the instruction after the load");
}

guest_code!(
    stepped_halt,
    "stepped_halt_begin",
    "stepped_halt_end",
    "jmp 2f",
    ".balign 16",
    // The handler: how often, and where it came from the second time.
    "inc ebx",
    "cmp ebx, 2",
    "jne 3f",
    "mov rsi, [rsp]",
    "sub rsi, r8",
    "3: iretq",
    "2:",
    "xor ebx, ebx",
    "xor esi, esi",
    "lea r8, [rip + 4f]",
    "pushfq",
    "pop rax",
    "or eax, 0x100",
    "cli",
    "push rax",
    "popfq",
    "sti",
    "4:",
    "hlt",
    "and eax, -0x101",
    "push rax",
    "popfq",
    "out 0xf4, al",
);

#[test]
fn a_halted_cpu_wakes_by_the_trap_of_its_halt() {
    let (_, state) = run(&stepped_halt(), 16);
    assert_eq!(state.gpr[3], 5, "sti, hlt, and, push, popfq");
    assert_eq!(state.gpr[6], 1, "behind the halt, although no interrupt came");
}

guest_code!(
    stack_loaded_by_watched_memory,
    "stack_loaded_by_watched_memory_begin",
    "stack_loaded_by_watched_memory_end",
    "jmp 2f",
    ".balign 16",
    // The handler: a digit a visit, its breakpoints.
    "shl rbx, 4",
    "mov rdi, dr6",
    "and edi, 0xf",
    "or rbx, rdi",
    "mov edi, 0xffff0ff0",
    "mov dr6, rdi",
    "inc ebp",
    "iretq",
    "2:",
    "xor ebx, ebx",
    "xor ebp, ebp",
    "mov eax, 0x20000",
    "mov dr1, rax",
    "mov word ptr [rax], ss",
    // DR1: reads and writes of 4 bytes.
    "mov eax, 0x00f00404",
    "mov dr7, rax",
    "mov ss, [0x20000]",
    ".byte 0xf1",
    "mov esi, ebp",
    "mov ss, [0x20000]",
    "int 1",
    "xor eax, eax",
    "mov dr7, rax",
    "out 0xf4, al",
);

#[test]
fn int1_tells_what_the_load_of_ss_before_it_met_and_an_interrupt_instruction_does_not() {
    let (_, state) = run(&stack_loaded_by_watched_memory(), 16);
    assert_eq!(state.gpr[6], 1, "INT1 and the breakpoint are one #DB");
    assert_eq!(
        state.gpr[5], 3,
        "INT 1 goes through the gate, and the breakpoint too"
    );
    assert_eq!(state.gpr[3] & 0xf00, 0x200, "DR1, with INT1");
    assert_eq!(
        state.gpr[3] & 0xff,
        0x20,
        "the trap comes first in the handler of INT 1"
    );
}
