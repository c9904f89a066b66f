//! Sequences by name: what the generator leaves out (state images, masked stores, stack frames), and what once differed.

use super::compare;
use super::generator;
use super::machine_state::{Case, DATA, DATA_PAGES, PAGE, Registers, STACK};
use super::rng::Rng;
use super::sequence::Encoded;
use super::sequences::Sides;

/// Where RBX points, in the sequence's memory.
const RBX: usize = 2048;
/// Flags that are defined nowhere in a sequence that does not ask for them.
const ALL_DEFINED: u64 = 0;

/// Runs `code` on both sides from twenty random starts, each changed by `prepare`, and asserts that they agree.
fn agrees(test: &str, long: bool, code: &[u8], prepare: impl Fn(&mut Registers, &mut [u8], &mut Rng)) {
    let Some(mut sides) = Sides::start(test) else {
        return;
    };
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let (registers, memory) = generator::start_of(&mut rng, long);
        let mut case = Case {
            code: [code, &[0xcc]].concat(),
            long,
            registers,
            memory,
        };
        prepare(&mut case.registers, &mut case.memory, &mut rng);
        let encoded = Encoded {
            code: case.code.clone(),
            undefined: vec![(0, ALL_DEFINED)],
        };
        let (found, native, guest) = sides.differences(&case, &encoded);
        assert!(
            found.is_empty(),
            "{test}, start {seed}:\n  {}\nhost: {}\ninterpreter: {}",
            found.join("\n  "),
            compare::describe(&native.outcome.registers),
            compare::describe(&guest.outcome.registers),
        );
    }
}

/// Makes the memory at RBX an FXSAVE image that can be loaded.
fn image(_: &mut Registers, memory: &mut [u8], rng: &mut Rng) {
    memory[RBX + 24..RBX + 28].copy_from_slice(&0x1f80u32.to_le_bytes());
    memory[RBX] |= 0x3f;
    // Pointers that are canonical in either width.
    memory[RBX + 12..RBX + 16].fill(0);
    memory[RBX + 20..RBX + 24].fill(0);
    memory[RBX + 7] &= 7;
    memory[RBX + 4] = rng.next() as u8;
}

/// Makes it an XSAVE image with the components `present`.
fn extended_image(present: u8) -> impl Fn(&mut Registers, &mut [u8], &mut Rng) {
    move |registers, memory, rng| {
        image(registers, memory, rng);
        memory[RBX + 512..RBX + 576].fill(0);
        memory[RBX + 512] = present;
        memory[RBX + 0x400..RBX + 0x400 + 832].fill(0);
        registers.gpr[0] = 7;
        registers.gpr[2] = 0;
    }
}

/// Clears what differs between processors in the FXSAVE image at `[rbx + image]`: the x87 opcode and pointers, which some
/// only keep while an exception is pending, and MXCSR's mask.
fn clear(image: u32) -> Vec<u8> {
    // mov word [rbx + image + 6], 0, then the same for double words
    let opcode = [&[0x66, 0xc7, 0x83][..], &(image + 6).to_le_bytes(), &[0; 2]].concat();
    let rest =
        [8, 12, 16, 20, 28].map(|at| [&[0xc7, 0x83][..], &(image + at).to_le_bytes(), &[0; 4]].concat());
    [opcode, rest.concat()].concat()
}

fn nothing(_: &mut Registers, _: &mut [u8], _: &mut Rng) {}

#[test]
fn fxrstor_and_fxsave() {
    let wide = [
        &[0x48, 0x0f, 0xae, 0x0b, 0x48, 0x0f, 0xae, 0x83, 0, 2, 0, 0][..],
        &clear(0x200),
    ]
    .concat();
    agrees("fxrstor_and_fxsave", true, &wide, image);
    let narrow = [
        &[0x0f, 0xae, 0x0b, 0x0f, 0xae, 0x83, 0, 2, 0, 0][..],
        &clear(0x200),
    ]
    .concat();
    agrees("fxrstor_and_fxsave", false, &narrow, |registers, memory, rng| {
        image(registers, memory, rng);
        // Selectors of the pointers are not kept by all processors.
        memory[RBX + 12..RBX + 16].fill(0);
        memory[RBX + 20..RBX + 24].fill(0);
    });
}

#[test]
fn xrstor_and_xsave() {
    // or byte [rbx + 0x600], 2: whether SSE is said to be in its first state is the processor's own affair (Intel SDM volume 1, 13.6), and AMD's
    // does not say so.
    let has_sse = [0x80, 0x8b, 0, 6, 0, 0, 2];
    let code = [
        &[0x48, 0x0f, 0xae, 0x2b, 0x48, 0x0f, 0xae, 0xa3, 0, 4, 0, 0][..],
        &clear(0x400),
        &has_sse,
    ]
    .concat();
    for present in 0..8 {
        agrees("xrstor_and_xsave", true, &code, extended_image(present));
    }
}

#[test]
fn xrstor_of_some_components_leaves_the_others() {
    let code = [0x48, 0x0f, 0xae, 0x2b];
    for requested in 0..8 {
        agrees(
            "xrstor_of_some_components_leaves_the_others",
            true,
            &code,
            |registers, memory, rng| {
                extended_image(5)(registers, memory, rng);
                registers.gpr[0] = requested;
            },
        );
    }
}

#[test]
fn xsave_in_32_bit_mode_saves_eight_registers() {
    let code = [
        &[0x0f, 0xae, 0x2b, 0x0f, 0xae, 0xa3, 0, 4, 0, 0][..],
        &clear(0x400),
    ]
    .concat();
    agrees(
        "xsave_in_32_bit_mode_saves_eight_registers",
        false,
        &code,
        |registers, memory, rng| {
            extended_image(7)(registers, memory, rng);
            memory[RBX + 12..RBX + 16].fill(0);
            memory[RBX + 20..RBX + 24].fill(0);
        },
    );
}

#[test]
fn a_malformed_xsave_header_is_refused() {
    let code = [0x48, 0x0f, 0xae, 0x2b];
    // Of the components only the last bit is reserved on every host.
    for (offset, value) in [(519, 0x80), (520, 1), (528, 1), (535, 0x80), (27, 1)] {
        agrees(
            "a_malformed_xsave_header_is_refused",
            true,
            &code,
            |registers, memory, rng| {
                extended_image(7)(registers, memory, rng);
                memory[RBX + offset] = value;
            },
        );
    }
    let misaligned = [0x48, 0x0f, 0xae, 0x6b, 8];
    agrees(
        "a_malformed_xsave_header_is_refused",
        true,
        &misaligned,
        extended_image(7),
    );
}

#[test]
fn frstor_and_fnsave() {
    for long in [true, false] {
        let code = [0xdd, 0x23, 0xdd, 0xb3, 0, 2, 0, 0];
        agrees("frstor_and_fnsave", long, &code, |_, memory, rng| {
            environment(memory, rng)
        });
    }
}

#[test]
fn fldenv_and_fnstenv() {
    for long in [true, false] {
        let code = [0xd9, 0x23, 0xd9, 0xb3, 0, 2, 0, 0];
        agrees("fldenv_and_fnstenv", long, &code, |_, memory, rng| {
            environment(memory, rng)
        });
    }
}

/// An environment at RBX with exceptions masked, whose pointers and selectors are zero.
fn environment(memory: &mut [u8], rng: &mut Rng) {
    memory[RBX..RBX + 4].copy_from_slice(&(rng.next() as u32 & 0xf00 | 0x7f).to_le_bytes());
    memory[RBX + 12..RBX + 28].fill(0);
}

#[test]
fn ldmxcsr_refuses_reserved_bits() {
    let code = [0x0f, 0xae, 0x13, 0x0f, 0xae, 0x5b, 8];
    agrees("ldmxcsr_refuses_reserved_bits", true, &code, |_, memory, rng| {
        let value = rng.next() as u32 & 0xffff
            | if rng.chance(30) {
                0x10000 << rng.below(16)
            } else {
                0
            };
        // Bit 17 (misaligned exception mask) exists on some processors only.
        memory[RBX..RBX + 4].copy_from_slice(&(value & !0x2_0000).to_le_bytes());
    });
}

#[test]
fn maskmovdqu_stores_what_the_mask_enables() {
    let code = [0x66, 0x0f, 0xf7, 0xc1];
    let end = (super::machine_state::DATA as usize + (DATA_PAGES + 1) * PAGE) as u64;
    agrees(
        "maskmovdqu_stores_what_the_mask_enables",
        true,
        &code,
        |registers, _, rng| {
            // Some processors check the whole operand, and name the start of the page that faults.
            registers.gpr[7] = end - PAGE as u64 - [8, 16, 100][rng.below(3)];
            registers.xsave[160 + 16 + 8] |= 0x80;
        },
    );
}

#[test]
fn vmaskmovps_faults_only_where_the_mask_is_set() {
    // vmaskmovps [rdi], xmm1, xmm2 and vmaskmovps xmm3, xmm1, [rdi]
    for code in [[0xc4, 0xe2, 0x71, 0x2e, 0x17], [0xc4, 0xe2, 0x71, 0x2c, 0x1f]] {
        let last = super::machine_state::DATA + (DATA_PAGES * PAGE) as u64;
        agrees(
            "vmaskmovps_faults_only_where_the_mask_is_set",
            true,
            &code,
            |registers, _, rng| {
                let page_end = if code[3] == 0x2e { last } else { last + PAGE as u64 };
                registers.gpr[7] = page_end - 8;
                if rng.chance(60) {
                    for element in [2, 3] {
                        registers.xsave[160 + 16 + element * 4 + 3] &= 0x7f;
                    }
                }
            },
        );
    }
}

#[test]
fn movaps_faults_on_a_misaligned_operand() {
    agrees(
        "movaps_faults_on_a_misaligned_operand",
        true,
        &[0x0f, 0x28, 0x43, 8],
        nothing,
    );
    agrees(
        "movaps_faults_on_a_misaligned_operand",
        true,
        &[0x0f, 0x29, 0x43, 4],
        nothing,
    );
    agrees(
        "movaps_faults_on_a_misaligned_operand",
        false,
        &[0x0f, 0x58, 0x43, 4],
        nothing,
    );
}

#[test]
fn fst_across_a_page_that_cannot_be_written_leaves_the_stack_alone() {
    // fninit; fld1; fstp tbyte [rdi]
    let code = [0xdb, 0xe3, 0xd9, 0xe8, 0xdb, 0x3f];
    let end = super::machine_state::DATA + (DATA_PAGES * PAGE) as u64;
    agrees(
        "fst_across_a_page_that_cannot_be_written_leaves_the_stack_alone",
        true,
        &code,
        |registers, _, rng| {
            registers.gpr[7] = end - rng.below(20) as u64;
        },
    );
}

#[test]
fn frames_by_enter_and_leave() {
    for level in [0, 1, 3, 31] {
        let code = [0xc8, 0x20, 0, level, 0x6a, 0x11, 0xc9];
        for long in [true, false] {
            agrees("frames_by_enter_and_leave", long, &code, |registers, _, _| {
                registers.gpr[5] = registers.gpr[4] + 256;
            });
        }
    }
}

#[test]
fn calls_and_returns() {
    // call +1; int3; pop rax; push rax; add qword [rsp], 9 (to after ret); ret; int3 ...
    let code = [
        0xe8, 1, 0, 0, 0, 0x90, 0x58, 0x50, 0x48, 0x83, 0x04, 0x24, 0x0a, 0xc3, 0xcc, 0x40, 0x40, 0x90,
    ];
    agrees("calls_and_returns", true, &code, nothing);
    agrees("calls_and_returns", true, &[0xc2, 8, 0], nothing);
    agrees(
        "calls_and_returns",
        false,
        &[0xe8, 0, 0, 0, 0, 0x58, 0x66, 0x50],
        nothing,
    );
}

/// Runs of stack accesses, whose pages are looked for once.
const RUNS: [&[u8]; 6] = [
    // add rax, rcx; push r15; push r14; mov r14, rdi; push rbp; mov rbp, rsp; push rbx; mov [rsp-16], r10; mov eax, [rsp+8];
    // mov dword [rsp-4], 77; pop rbx; pop rbp; pop r14; pop r15
    &[
        0x48, 0x01, 0xc8, 0x41, 0x57, 0x41, 0x56, 0x49, 0x89, 0xfe, 0x55, 0x48, 0x89, 0xe5, 0x53, 0x4c, 0x89,
        0x54, 0x24, 0xf0, 0x8b, 0x44, 0x24, 0x08, 0xc7, 0x44, 0x24, 0xfc, 77, 0, 0, 0, 0x5b, 0x5d, 0x41,
        0x5e, 0x41, 0x5f,
    ],
    // sub rax, rcx; pop rax; pop rcx; pop r10: the flags outlast what they were computed from
    &[0x48, 0x29, 0xc8, 0x58, 0x59, 0x41, 0x5a],
    // cmp rax, rdx; push -5; push rdx; pop rdx; pop rax; setb al; adc rdx, rax
    &[
        0x48, 0x39, 0xd0, 0x6a, 0xfb, 0x52, 0x5a, 0x58, 0x0f, 0x92, 0xc0, 0x48, 0x11, 0xc2,
    ],
    // call over a jump to the end: push rbx; push r12; mov r12d, r11d; pop r12; pop rbx; ret
    &[
        0xe8, 2, 0, 0, 0, 0xeb, 10, 0x53, 0x41, 0x54, 0x45, 0x89, 0xdc, 0x41, 0x5c, 0x5b, 0xc3,
    ],
    // mov [rsp], r8; mov [rsp+1016], eax; mov rbx, [rsp-1000]; mov qword [rsp+8], -2
    &[
        0x4c, 0x89, 0x04, 0x24, 0x89, 0x84, 0x24, 0xf8, 3, 0, 0, 0x48, 0x8b, 0x9c, 0x24, 0x18, 0xfc, 0xff,
        0xff, 0x48, 0xc7, 0x44, 0x24, 0x08, 0xfe, 0xff, 0xff, 0xff,
    ],
    // push rsp; pop rax; push rax; pop rsp; mov rdx, rsp; push rdx; push rax; pop rdx; pop rax
    &[0x54, 0x58, 0x50, 0x5c, 0x48, 0x89, 0xe2, 0x52, 0x50, 0x5a, 0x58],
];

/// `code` after accesses that bring the stack's window below RSP, by themselves: push rax; nop; pop rax; nop.
fn with_a_window(code: &[u8]) -> Vec<u8> {
    [&[0x50, 0x90, 0x58, 0x90], code].concat()
}

#[test]
fn runs_of_stack_accesses_wherever_the_stack_is() {
    const NAME: &str = "runs_of_stack_accesses_wherever_the_stack_is";
    let on_its_page = [
        0, 7, 8, 16, 24, 31, 40, 1000, 2048, 3072, 4056, 4072, 4080, 4088, 4092, 4095, 4096, 4104, 8192,
    ];
    let around = [
        -1000, -40, -32, -24, -16, -12, -8, -4, 0, 4, 8, 16, 20, 24, 32, 1000,
    ];
    // From one page to another that may be written, to one that may only be read, and from that to nothing.
    let pages = (1..=3).map(|page| DATA + page * PAGE as u64);
    let across = pages.flat_map(|page| around.map(|offset| page.wrapping_add_signed(offset)));
    // Beyond the addresses that there are.
    let absurd = [
        0x6fff_ffff_e000,
        0x8000_0000_2000,
        0x8000_0000_2004,
        4,
        u64::MAX - 2,
    ];
    let stacks: Vec<u64> = on_its_page
        .map(|offset| STACK + offset)
        .into_iter()
        .chain(across)
        .chain(absurd)
        .collect();
    for code in RUNS {
        for &stack in &stacks {
            for code in [code, &with_a_window(code)] {
                agrees(NAME, true, code, |registers, _, _| registers.gpr[4] = stack);
            }
        }
    }
}

#[test]
fn popf_at_user_privilege() {
    for long in [true, false] {
        // push imm32 (flags without TF, AC and NT); popf; pushf; pop rax
        let code = [0x68, 0xd7, 0x3e, 0, 0, 0x9d, 0x9c, 0x58];
        agrees("popf_at_user_privilege", long, &code, nothing);
    }
}

#[test]
fn translation_by_table() {
    agrees("translation_by_table", true, &[0xd7], nothing);
    agrees("translation_by_table", false, &[0xd7], nothing);
}

#[test]
fn decimal_division_by_zero() {
    agrees("decimal_division_by_zero", false, &[0xd4, 0], nothing);
}

#[test]
fn cryptography_in_wide_registers() {
    const NAME: &str = "cryptography_in_wide_registers";
    if !std::is_x86_feature_detected!("vaes") || !std::is_x86_feature_detected!("vpclmulqdq") {
        return eprintln!("SKIPPED {NAME}: the host has no VAES or no VPCLMULQDQ");
    }
    // vaesdec ymm1, ymm2, ymm3; vaesenclast ymm4, ymm1, [rbx]; vpclmulqdq ymm5, ymm4, ymm3, 0x11
    agrees(
        NAME,
        true,
        &[
            0xc4, 0xe2, 0x6d, 0xde, 0xcb, 0xc4, 0xe2, 0x75, 0xdd, 0x23, 0xc4, 0xe3, 0x5d, 0x44, 0xeb, 0x11,
        ],
        nothing,
    );
}

#[test]
fn emptied_mmx_registers() {
    // movq mm3, [rbx]; paddb mm3, mm1; emms; fld1
    agrees(
        "emptied_mmx_registers",
        true,
        &[0x0f, 0x6f, 0x1b, 0x0f, 0xfc, 0xd9, 0x0f, 0x77, 0xd9, 0xe8],
        nothing,
    );
}

#[test]
fn a_failed_comparison_leaves_the_destination_register_whole() {
    // cmpxchg r10d, r9d
    let code = [0x45, 0x0f, 0xb1, 0xca];
    agrees(
        "a_failed_comparison_leaves_the_destination_register_whole",
        true,
        &code,
        nothing,
    );
}

#[test]
fn mulx_with_rdx_among_its_destinations() {
    // mulx rdx, r14, [rbp + 256] and mulx r14d, r13d, edx
    let memory = [0xc4, 0xe2, 0x8b, 0xf6, 0x95, 0, 1, 0, 0];
    agrees("mulx_with_rdx_among_its_destinations", true, &memory, nothing);
    let register = [0xc4, 0x62, 0x13, 0xf6, 0xf2];
    agrees("mulx_with_rdx_among_its_destinations", true, &register, nothing);
}

#[test]
fn renamed_registers_of_one_instruction_do_not_meet() {
    // shlx r14d, [rbx + 320], r8d
    let shift = [0xc4, 0x62, 0x39, 0xf7, 0xb3, 0x40, 1, 0, 0];
    agrees(
        "renamed_registers_of_one_instruction_do_not_meet",
        true,
        &shift,
        nothing,
    );
}

#[test]
fn x87_compares_set_condition_codes_not_rflags() {
    // fcompp; fnstsw ax
    agrees(
        "x87_compares_set_condition_codes_not_rflags",
        true,
        &[0xde, 0xd9, 0xdf, 0xe0],
        nothing,
    );
}

#[test]
fn a_simd_exception_takes_an_mmx_result_back() {
    // cvttps2pi mm6, xmm8 with all exceptions unmasked
    let code = [0x41, 0x0f, 0x2c, 0xf0];
    agrees(
        "a_simd_exception_takes_an_mmx_result_back",
        true,
        &code,
        |registers, _, _| {
            registers.xsave[24..28].fill(0);
            registers.xsave[..2].copy_from_slice(&0x37fu16.to_le_bytes());
        },
    );
}

#[test]
fn reserved_no_operations_do_nothing() {
    // nop [rbx], di as 0F 18 /7; 0F 1C /0
    agrees(
        "reserved_no_operations_do_nothing",
        true,
        &[0x66, 0x0f, 0x18, 0x3b],
        nothing,
    );
    agrees(
        "reserved_no_operations_do_nothing",
        true,
        &[0x48, 0x0f, 0x1c, 0x03],
        nothing,
    );
}

#[test]
fn string_comparisons_by_sse_take_any_alignment() {
    // pcmpestrm xmm1, [rbx + 3], 0xf0 with REX.W; its flags are all defined
    let code = [0x66, 0x48, 0x0f, 0x3a, 0x60, 0x4b, 3, 0xf0];
    agrees(
        "string_comparisons_by_sse_take_any_alignment",
        true,
        &code,
        nothing,
    );
}

#[test]
fn a_high_byte_that_is_only_read_is_not_written() {
    // crc32 eax, ah; crc32 edx, ch
    let code = [0xf2, 0x0f, 0x38, 0xf0, 0xc4, 0xf2, 0x0f, 0x38, 0xf0, 0xd5];
    for long in [true, false] {
        agrees(
            "a_high_byte_that_is_only_read_is_not_written",
            long,
            &code,
            nothing,
        );
    }
}

/// Single-precision numbers around the smallest normal half-precision number: tiny and exact, tiny and inexact, rounded up to a
/// normal number; and ordinary, denormal and huge ones.
const AROUND_TINY: [u32; 16] = [
    0x3880_0000,
    0x3800_0000,
    0x3300_0000,
    0x3380_0000,
    0xb380_0000,
    0x387f_ffff,
    0x387f_e000,
    0x387f_c000,
    0x3300_0001,
    0x3f80_0000,
    0x3f80_0001,
    0x0000_0001,
    0x0000_0000,
    0x477f_f000,
    0x7fa0_0000,
    0xb87f_c000,
];

#[test]
fn conversions_to_half_precision_report_tiny_results() {
    if !std::is_x86_feature_detected!("f16c") {
        eprintln!("SKIPPED conversions_to_half_precision_report_tiny_results: the host has no F16C");
        return;
    }
    for destination in [0xd1, 0x13] {
        for wide in [0, 4] {
            for rounding in 0..5 {
                // vcvtps2ph xmm1 or [rbx], xmm2 or ymm2, rounding
                let code = [0xc4, 0xe3, 0x79 | wide, 0x1d, destination, rounding];
                agrees(
                    "conversions_to_half_precision_report_tiny_results",
                    true,
                    &code,
                    |registers, _, rng| {
                        // Mostly nothing but tiny ones, so that underflow is all there is.
                        let few = if rng.chance(70) { 8 } else { AROUND_TINY.len() };
                        for lane in [192, 196, 200, 204, 608, 612, 616, 620] {
                            let value = AROUND_TINY[rng.below(few)];
                            registers.xsave[lane..lane + 4].copy_from_slice(&value.to_le_bytes());
                        }
                        let masks = if rng.chance(50) {
                            0x1780
                        } else {
                            rng.next() as u32 & 0x1f80
                        };
                        let others = rng.next() as u32 & 0xe040;
                        registers.xsave[24..28].copy_from_slice(&(masks | others).to_le_bytes());
                    },
                );
            }
        }
    }
}

/// What [`strings_of_every_length`] lets RCX be.
const LENGTHS: [u64; 14] = [0, 1, 2, 3, 7, 8, 9, 31, 64, 65, 255, 256, 511, 700];

#[test]
fn strings_of_every_length() {
    // MOVS, CMPS, STOS, LODS, SCAS with 1, 2, 4 and 8 bytes; alone, with REP(E) and REPNE; upwards and downwards
    for operation in [0xa4, 0xa6, 0xaa, 0xac, 0xae] {
        for width in [
            &[operation][..],
            &[0x66, operation | 1],
            &[operation | 1],
            &[0x48, operation | 1],
        ] {
            for repeat in [&[][..], &[0xf3], &[0xf2]] {
                for direction in [0xfc, 0xfd] {
                    // cld or std; the instruction; cld; nop
                    let prefixed = match width {
                        [0x66, rest @ ..] => [&[0x66], repeat, rest].concat(),
                        _ => [repeat, width].concat(),
                    };
                    let code = [&[direction], &prefixed[..], &[0xfc, 0x90]].concat();
                    agrees(
                        "strings_of_every_length",
                        true,
                        &code,
                        |registers, memory, rng| {
                            // From no overlap to one by a byte, within a page and across its end, on to pages that may not be touched.
                            registers.gpr[6] = registers.gpr[3] - 2048 + rng.below(8192) as u64;
                            registers.gpr[7] = if rng.chance(50) {
                                registers.gpr[6].wrapping_add_signed(rng.below(64) as i64 - 32)
                            } else {
                                registers.gpr[3] - 2048 + rng.below(8192) as u64
                            };
                            registers.gpr[1] = rng.pick(&LENGTHS);
                            // Long runs of equal elements, with something else now and then.
                            let common = rng.next() as u8;
                            if rng.chance(80) {
                                memory.fill(common);
                                registers.gpr[0] = u64::from_le_bytes([common; 8]);
                            }
                            for _ in 0..rng.below(4) {
                                memory[rng.below(8192)] ^= 1;
                            }
                            registers.gpr[0] ^= u64::from(rng.chance(30));
                        },
                    );
                }
            }
        }
    }
}

/// The flags of an addition are computed again from its result, which has to be undone for that.
#[test]
fn an_addition_of_the_smallest_number_is_undone() {
    for add in [&[0x48, 0x05][..], &[0x05], &[0x48, 0x2d], &[0x2d]] {
        // add rax, -2^31; mov ecx, [rbx]; nop
        let code = [add, &[0x00, 0x00, 0x00, 0x80, 0x8b, 0x0b, 0x90]].concat();
        agrees(
            "an_addition_of_the_smallest_number_is_undone",
            true,
            &code,
            nothing,
        );
    }
}

/// What was looked up for a block's first constant is used for its second, also where the interpreter executed the first.
#[test]
fn two_x87_constants_of_a_page() {
    // fadd dword [rip + ..]; fadd dword [rip + ..], in the sequence's memory
    let code = [
        0xd8, 0x05, 0xe1, 0x1f, 0x00, 0x10, 0xd8, 0x05, 0xe5, 0x1f, 0x00, 0x10,
    ];
    agrees("two_x87_constants_of_a_page", true, &code, nothing);
}

/// A bit's number may lead far from the operand, on both sides, and past the end of a page.
#[test]
fn bits_far_from_their_operand() {
    for opcode in [0xa3, 0xab, 0xb3, 0xbb] {
        for prefixes in [&[][..], &[0x48], &[0x66], &[0x44], &[0x4c]] {
            for lock in [false, true] {
                // BT takes no LOCK prefix; the others' operand is aligned with it, for the host's sake.
                let (lock, disp) = match lock && opcode != 0xa3 {
                    true => (&[0xf0][..], 0),
                    false => (&[][..], 3),
                };
                // adc eax, eax; bt [rbx + disp], ecx or r9d; adc eax, eax; nop
                let bits = [lock, prefixes, &[0x0f, opcode, 0x4b, disp]].concat();
                let code = [&[0x11, 0xc0][..], &bits, &[0x11, 0xc0, 0x90]].concat();
                agrees("bits_far_from_their_operand", true, &code, |registers, _, rng| {
                    registers.gpr[1] = (rng.below(0x1_8000) as u64).wrapping_sub(0x4000);
                    registers.gpr[9] = registers.gpr[1];
                });
            }
        }
    }
}

/// Addresses where nothing can be stored: not canonical, a page that is only read, no page, and a store that begins on a page that can be
/// written and ends on one that cannot.
const NOWHERE: [u64; 6] = [
    0x8000_0000_0000,
    0x7f00_0000_0000_0000,
    DATA + (DATA_PAGES * PAGE) as u64 + 64,
    DATA + ((DATA_PAGES + 1) * PAGE) as u64 + 64,
    0x5000_0000,
    DATA + (DATA_PAGES * PAGE) as u64 - 1,
];

/// Whether the host's processor is of AMD. Its order of exceptions is another than Intel's, which is ours: an x87 store looks at the address
/// before the value, and `vcvtps2ph` at least whether it is canonical.
fn host_is_amd() -> bool {
    std::arch::x86_64::__cpuid(0).ebx == u32::from_le_bytes(*b"Auth")
}

/// A value that an unmasked exception refuses is not stored, so the address where it would go is not looked at.
#[test]
fn an_x87_store_of_a_refused_value_to_nowhere() {
    if host_is_amd() {
        println!("SKIPPED an_x87_store_of_a_refused_value_to_nowhere: AMD's order of exceptions is another");
        return;
    }
    for store in [
        &[0xdf, 0x19][..],
        &[0xdb, 0x19],
        &[0xdf, 0x39],
        &[0xd9, 0x19],
        &[0xdd, 0x19],
        &[0xdb, 0x39],
    ] {
        for nowhere in NOWHERE {
            // fninit; fldcw [rbx]; the store to [rcx], of an empty register; nop
            let code = [&[0xdb, 0xe3, 0xd9, 0x2b][..], store, &[0x90]].concat();
            agrees(
                "an_x87_store_of_a_refused_value_to_nowhere",
                true,
                &code,
                |registers, memory, rng| {
                    let control: u16 = if rng.chance(50) { 0x37e } else { 0x37f };
                    memory[RBX..RBX + 2].copy_from_slice(&control.to_le_bytes());
                    registers.gpr[1] = nowhere;
                },
            );
        }
    }
}

/// The same for the one SIMD instruction that computes and then stores.
#[test]
fn a_simd_exception_of_a_store_to_nowhere() {
    if !std::arch::is_x86_feature_detected!("f16c") {
        println!("SKIPPED a_simd_exception_of_a_store_to_nowhere: this CPU has no F16C");
        return;
    }
    let canonical = &NOWHERE[2..];
    for nowhere in if host_is_amd() { canonical } else { &NOWHERE } {
        // ldmxcsr [rbx]; vcvtps2ph [rcx], xmm1, 0; nop
        let code = [0x0f, 0xae, 0x13, 0xc4, 0xe3, 0x79, 0x1d, 0x09, 0x00, 0x90];
        agrees(
            "a_simd_exception_of_a_store_to_nowhere",
            true,
            &code,
            |registers, memory, rng| {
                let unmasked = [0, 0x1f80, 0x1f00, 0x1000, 0x0f80][rng.below(5)];
                memory[RBX..RBX + 4].copy_from_slice(&(unmasked as u32).to_le_bytes());
                registers.gpr[1] = *nowhere;
            },
        );
    }
}

/// Registers that translated code keeps in memory (R10, R11, R14, R15) and others, in each place of each instruction that may name them
/// by that; what follows looks at the flags or overwrites them.
#[test]
fn registers_in_either_operand_of_every_width() {
    // by opcode: add, or, adc, sbb, and, sub, xor, cmp in both directions; test, mov, imul, movzx, movsx, movsxd, cmovc
    let of_two: [&[u8]; 26] = [
        &[0x01],
        &[0x03],
        &[0x09],
        &[0x0b],
        &[0x11],
        &[0x13],
        &[0x19],
        &[0x1b],
        &[0x21],
        &[0x23],
        &[0x29],
        &[0x2b],
        &[0x31],
        &[0x33],
        &[0x38],
        &[0x39],
        &[0x3a],
        &[0x3b],
        &[0x85],
        &[0x89],
        &[0x8b],
        &[0x0f, 0xb6],
        &[0x0f, 0xb7],
        &[0x0f, 0xbe],
        &[0x63],
        &[0x0f, 0x42],
    ];
    // inc, dec; not, neg; rol, ror, shl, shr, sar by CL and by 1; add, sub, cmp with 5; mov 7
    let of_one: [(&[u8], u8, &[u8]); 18] = [
        (&[0xff], 0, &[]),
        (&[0xff], 1, &[]),
        (&[0xf7], 2, &[]),
        (&[0xf7], 3, &[]),
        (&[0xd3], 0, &[]),
        (&[0xd3], 1, &[]),
        (&[0xd3], 4, &[]),
        (&[0xd3], 5, &[]),
        (&[0xd3], 7, &[]),
        (&[0xd1], 0, &[]),
        (&[0xd1], 1, &[]),
        (&[0xd1], 4, &[]),
        (&[0xd1], 5, &[]),
        (&[0xd1], 7, &[]),
        (&[0x83], 0, &[5]),
        (&[0x83], 5, &[5]),
        (&[0x83], 7, &[5]),
        (&[0xc7], 0, &[7, 0, 0, 0]),
    ];
    let mut instructions = Vec::new();
    for rex in [0x41, 0x44, 0x45, 0x49, 0x4c, 0x4d] {
        for register in [2, 3, 6, 7] {
            for (opcode, digit, immediate) in of_one {
                instructions.push(
                    [
                        &[rex & 0x49 | 0x40],
                        opcode,
                        &[0xc0 | digit << 3 | register],
                        immediate,
                    ]
                    .concat(),
                );
            }
            for opcode in of_two {
                for other in [0, 2, 6] {
                    instructions.push([&[rex], opcode, &[0xc0 | register << 3 | other]].concat());
                    instructions.push([&[rex], opcode, &[0xc0 | other << 3 | register]].concat());
                }
            }
        }
    }
    // adc edx, edx; mov edx, [rbx] and xor edx, edx
    let ends: [&[u8]; 2] = [&[0x11, 0xd2, 0x8b, 0x13], &[0x31, 0xd2]];
    for (at, some) in instructions.chunks(16).enumerate() {
        let body: Vec<u8> = some
            .iter()
            .flat_map(|i| [&i[..], ends[at % 2]].concat())
            .collect();
        agrees(
            "registers_in_either_operand_of_every_width",
            true,
            &body,
            |registers, _, rng| {
                registers.gpr[1] = rng.below(70) as u64;
            },
        );
    }
}
