//! Random instruction sequences.

use std::sync::LazyLock;

use iced_x86::{
    Code, CpuidFeature, EncodingKind, Instruction, Mnemonic, OpCodeOperandKind, OpKind, Register,
};

use super::machine_state::{CODE, Case, DATA, MEMORY, PAGE, Registers, STACK};
use super::rng::Rng;
use super::sequence::{self, Encoded, Piece, Sequence};

/// The kinds of instruction, with how often each is taken.
const FAMILIES: [(Family, usize); 6] = [
    (Family::Integer, 46),
    (Family::Sse, 16),
    (Family::Avx, 14),
    (Family::X87, 12),
    (Family::Mmx, 4),
    (Family::Bits, 8),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Integer,
    Sse,
    Avx,
    X87,
    Mmx,
    Bits,
}

/// The instructions of each family that this host has.
static CODES: LazyLock<Vec<(Family, Code)>> = LazyLock::new(|| {
    Code::values()
        .filter_map(|code| Some((family(code)?, code)))
        .collect()
});

/// How many instruction forms are generated.
pub fn code_count() -> usize {
    CODES.len()
}

/// The family of `code`, or `None` if it must not be generated.
fn family(code: Code) -> Option<Family> {
    use CpuidFeature as F;
    let info = code.op_code();
    let features = code.cpuid_features();
    if !matches!(info.encoding(), EncodingKind::Legacy | EncodingKind::VEX)
        || info.is_privileged()
        || info.is_input_output()
        || info.fwait()
        || features.is_empty()
        || !info.op_kinds().iter().all(|&kind| is_generated(kind))
        || excluded(code)
    {
        return None;
    }
    let has = |feature: F| features.contains(&feature);
    let detected = features.iter().all(|feature| match feature {
        F::INTEL8086 | F::INTEL186 | F::INTEL286 | F::INTEL386 | F::INTEL486 | F::X64 | F::CMOV | F::CX8 => {
            true
        }
        F::INTEL8086_ONLY | F::MULTIBYTENOP | F::PAUSE => true,
        F::FPU | F::FPU287 | F::FPU387 | F::MMX | F::SSE | F::SSE2 => true,
        F::CMPXCHG16B => std::is_x86_feature_detected!("cmpxchg16b"),
        F::SSE3 => std::is_x86_feature_detected!("sse3"),
        F::SSSE3 => std::is_x86_feature_detected!("ssse3"),
        F::SSE4_1 => std::is_x86_feature_detected!("sse4.1"),
        F::SSE4_2 => std::is_x86_feature_detected!("sse4.2"),
        F::AES => std::is_x86_feature_detected!("aes"),
        F::PCLMULQDQ => std::is_x86_feature_detected!("pclmulqdq"),
        F::SHA => std::is_x86_feature_detected!("sha"),
        F::AVX => std::is_x86_feature_detected!("avx"),
        F::AVX2 => std::is_x86_feature_detected!("avx2"),
        F::FMA => std::is_x86_feature_detected!("fma"),
        F::F16C => std::is_x86_feature_detected!("f16c"),
        F::BMI1 => std::is_x86_feature_detected!("bmi1"),
        F::BMI2 => std::is_x86_feature_detected!("bmi2"),
        F::ADX => std::is_x86_feature_detected!("adx"),
        F::POPCNT => std::is_x86_feature_detected!("popcnt"),
        F::LZCNT => std::is_x86_feature_detected!("lzcnt"),
        F::VAES => std::is_x86_feature_detected!("vaes"),
        F::VPCLMULQDQ => std::is_x86_feature_detected!("vpclmulqdq"),
        F::MOVBE => std::is_x86_feature_detected!("movbe"),
        _ => false,
    });
    if !detected {
        return None;
    }
    let vector = info.op_kinds().iter().any(|kind| {
        let name = format!("{kind:?}");
        name.contains("xmm") || name.contains("ymm")
    });
    Some(match () {
        () if info.encoding() == EncodingKind::VEX && vector || code == Code::VEX_Vzeroupper => Family::Avx,
        () if vector => Family::Sse,
        () if has(F::FPU) || has(F::FPU287) || has(F::FPU387) => Family::X87,
        () if has(F::MMX)
            || info
                .op_kinds()
                .iter()
                .any(|kind| format!("{kind:?}").contains("mm_")) =>
        {
            Family::Mmx
        }
        () if has(F::BMI1)
            || has(F::BMI2)
            || has(F::ADX)
            || has(F::POPCNT)
            || has(F::LZCNT)
            || has(F::MOVBE) =>
        {
            Family::Bits
        }
        () if has(F::SSE4_2) => Family::Bits,
        () => Family::Integer,
    })
}

/// Instructions that are not generated: system calls and traps, instructions whose result is not a function of the state, those that
/// change segments or the flags that guard the test, branches (generated apart), images that hold x87 pointers, and forms
/// whose result the architecture leaves open.
fn excluded(code: Code) -> bool {
    use Mnemonic as M;
    let mnemonic = matches!(
        code.mnemonic(),
        M::Syscall
            | M::Sysenter
            | M::Sysexit
            | M::Sysret
            | M::Int
            | M::Int1
            | M::Int3
            | M::Into
            | M::Cpuid
            | M::Rdtsc
            | M::Rdtscp
            | M::Rdpmc
            | M::Sgdt
            | M::Sidt
            | M::Sldt
            | M::Str
            | M::Smsw
            | M::Lar
            | M::Lsl
            | M::Verr
            | M::Verw
            | M::Arpl
            | M::Iret
            | M::Iretd
            | M::Iretq
            | M::Popf
            | M::Popfd
            | M::Popfq
            | M::Cli
            | M::Sti
            | M::Enter
            | M::Les
            | M::Lds
            | M::Lfs
            | M::Lgs
            | M::Lss
            | M::Rdfsbase
            | M::Rdgsbase
            | M::Wrfsbase
            | M::Wrgsbase
            | M::Rdrand
            | M::Rdseed
            | M::Fldenv
            | M::Frstor
            | M::Fnstenv
            | M::Fnsave
            | M::Fxsave
            | M::Fxrstor
            | M::Fxsave64
            | M::Fxrstor64
            | M::Ldmxcsr
            | M::Vldmxcsr
            | M::Ret
            | M::Retf
            | M::Call
            | M::Jmp
            | M::Ud0
            | M::Ud1
            | M::Hlt
            | M::Loadall
            | M::Umov
            | M::Clflush
            | M::Fneni
            | M::Fndisi
            | M::Fnsetpm
            | M::Frstpm
            | M::Fnstdw
            | M::Fnstsg
            | M::Swapgs
            | M::Bound
            | M::Maskmovq
            | M::Maskmovdqu
            | M::Vmaskmovdqu
            | M::Xlatb
            | M::Ibts
            | M::Xbts
            | M::Storeall
            | M::Salc
            | M::Wait
            | M::Fcos
            | M::Fsin
            | M::Fsincos
            | M::Fptan
    );
    // With register operands 0F 0D is a no-operation on some processors and undefined on others.
    let prefetch = matches!(
        code,
        Code::Reservednop_rm16_r16_0F0D | Code::Reservednop_rm32_r32_0F0D | Code::Reservednop_rm64_r64_0F0D
    );
    let data = matches!(
        code,
        Code::DeclareByte | Code::DeclareWord | Code::DeclareDword | Code::DeclareQword | Code::Zero_bytes
    );
    data || prefetch
        || mnemonic
        || matches!(
            code,
            Code::Bswap_r16 | Code::Shld_rm16_r16_CL | Code::Shrd_rm16_r16_CL
        )
        || format!("{code:?}").contains("moffs")
}

/// Operand kinds that [`fill`] knows.
fn is_generated(kind: OpCodeOperandKind) -> bool {
    use OpCodeOperandKind as K;
    matches!(
        kind,
        K::mem
            | K::r8_or_mem
            | K::r16_or_mem
            | K::r32_or_mem
            | K::r64_or_mem
            | K::mm_or_mem
            | K::xmm_or_mem
            | K::ymm_or_mem
            | K::r8_reg
            | K::r8_opcode
            | K::r16_reg
            | K::r16_rm
            | K::r16_opcode
            | K::r32_reg
            | K::r32_rm
            | K::r32_opcode
            | K::r32_vvvv
            | K::r64_reg
            | K::r64_rm
            | K::r64_opcode
            | K::r64_vvvv
            | K::mm_reg
            | K::mm_rm
            | K::xmm_reg
            | K::xmm_rm
            | K::xmm_vvvv
            | K::xmm_is4
            | K::ymm_reg
            | K::ymm_rm
            | K::ymm_vvvv
            | K::ymm_is4
            | K::al
            | K::cl
            | K::ax
            | K::dx
            | K::eax
            | K::rax
            | K::st0
            | K::sti_opcode
            | K::imm8
            | K::imm8_const_1
            | K::imm8sex16
            | K::imm8sex32
            | K::imm8sex64
            | K::imm16
            | K::imm32
            | K::imm32sex64
            | K::imm64
            | K::seg_rSI
            | K::es_rDI
            | K::mem_vsib32x
            | K::mem_vsib64x
            | K::mem_vsib32y
            | K::mem_vsib64y
    )
}

/// A random sequence for `seed` with its start.
pub fn sequence(seed: u64) -> (Sequence, Registers, Vec<u8>) {
    let mut rng = Rng::new(seed);
    let long = rng.chance(80);
    let mut result = Sequence {
        long,
        pieces: Vec::new(),
    };
    let length = 1 + rng.below(16);
    let focus = rng.chance(40).then(|| FAMILIES[rng.below(FAMILIES.len())].0);
    grow(&mut rng, &mut result, length, focus, 0);
    let registers = start(&mut rng, long);
    let memory = memory(&mut rng);
    (result, registers, memory)
}

/// The case for a sequence that can be encoded.
pub fn case(sequence: &Sequence, registers: &Registers, memory: &[u8]) -> Option<(Case, Encoded)> {
    let encoded = sequence.encode()?;
    let case = Case {
        code: encoded.code.clone(),
        long: sequence.long,
        registers: *registers,
        memory: memory.to_vec(),
    };
    Some((case, encoded))
}

/// Adds pieces up to `length`.
fn grow(rng: &mut Rng, sequence: &mut Sequence, length: usize, focus: Option<Family>, depth: usize) {
    while sequence.pieces.len() < length {
        let before = sequence.pieces.len();
        add_piece(rng, sequence, focus, depth);
        if sequence.encode().is_none() {
            sequence.pieces.truncate(before);
        }
    }
}

/// Loops, calls and the like may lie in each other up to this depth.
const DEEPEST: usize = 2;

/// A loop, a call, or code between PUSH and POP.
fn compound(rng: &mut Rng, long: bool, focus: Option<Family>, depth: usize) -> Piece {
    let mut inner = Sequence {
        long,
        pieces: Vec::new(),
    };
    let length = 1 + rng.below(5);
    grow(rng, &mut inner, length, focus, depth + 1);
    let body = inner.pieces;
    match rng.below(5) {
        0 | 1 => {
            let by_loop = rng.chance(30);
            Piece::Loop {
                counter: if by_loop { 1 } else { general(rng, long) as u8 },
                times: 1 + rng.below(24) as u32,
                by_loop,
                body,
            }
        }
        2 | 3 => Piece::Call {
            through: (long && rng.chance(40)).then(|| general(rng, long) as u8),
            body,
        },
        _ => Piece::Saved {
            push: general(rng, long) as u8,
            pop: general(rng, long) as u8,
            body,
        },
    }
}

/// Adds an instruction with what has to stand before it, or a compound.
fn add_piece(rng: &mut Rng, sequence: &mut Sequence, focus: Option<Family>, depth: usize) {
    if depth < DEEPEST && rng.chance(6) {
        let piece = compound(rng, sequence.long, focus, depth);
        sequence.pieces.push(piece);
        return;
    }
    if rng.chance(5) {
        let condition = rng.chance(80).then(|| rng.below(16) as u8);
        sequence.pieces.push(Piece::Jump {
            condition,
            pieces: 1 + rng.below(3),
        });
        return;
    }
    let family = focus.filter(|_| rng.chance(80)).unwrap_or_else(|| weighted(rng));
    let start = rng.below(CODES.len());
    let candidates = CODES[start..].iter().chain(&CODES[..start]);
    let Some(&(_, code)) = candidates
        .clone()
        .find(|entry| entry.0 == family && in_mode(entry.1, sequence.long))
    else {
        return;
    };
    let Some(instruction) = fill(rng, code, sequence.long) else {
        return;
    };
    let kinds: Vec<OpKind> = (0..instruction.op_count())
        .map(|operand| instruction.op_kind(operand))
        .collect();
    let strings = [
        OpKind::MemorySegRSI,
        OpKind::MemoryESRDI,
        OpKind::MemorySegESI,
        OpKind::MemoryESEDI,
    ];
    if kinds.iter().any(|kind| strings.contains(kind)) {
        let mut set = |register: Register, value: u64| {
            let mut mov = Instruction::default();
            mov.set_code(if sequence.long {
                Code::Mov_r64_imm64
            } else {
                Code::Mov_r32_imm32
            });
            mov.set_op0_kind(OpKind::Register);
            let number = register.number() as u32;
            mov.set_op0_register(if sequence.long {
                Register::RAX + number
            } else {
                Register::EAX + number
            });
            if sequence.long {
                mov.set_op1_kind(OpKind::Immediate64);
                mov.set_immediate64(value);
            } else {
                mov.set_op1_kind(OpKind::Immediate32);
                mov.set_immediate32(value as u32);
            }
            sequence.pieces.push(Piece::Plain(Box::new(mov)));
        };
        let place = |rng: &mut Rng| {
            if rng.chance(90) {
                rng.below(2 * PAGE)
            } else {
                3 * PAGE - rng.below(64)
            }
        };
        set(Register::ESI, DATA + place(rng) as u64);
        set(Register::EDI, DATA + place(rng) as u64);
        if instruction.has_rep_prefix() || instruction.has_repne_prefix() {
            let most = if rng.chance(10) { 3000 } else { 40 };
            set(Register::ECX, rng.below(most) as u64);
        }
    }
    sequence.pieces.push(Piece::Plain(Box::new(instruction)));
}

/// A family by its weight.
fn weighted(rng: &mut Rng) -> Family {
    let mut number = rng.below(FAMILIES.iter().map(|family| family.1).sum());
    for (family, weight) in FAMILIES {
        if number < weight {
            return family;
        }
        number -= weight;
    }
    Family::Integer
}

/// True if the mode has the instruction.
fn in_mode(code: Code, long: bool) -> bool {
    let info = code.op_code();
    if long { info.mode64() } else { info.mode32() }
}

/// `code` with random operands.
fn fill(rng: &mut Rng, code: Code, long: bool) -> Option<Instruction> {
    let info = code.op_code();
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    for operand in 0..info.op_count() {
        fill_operand(rng, &mut instruction, operand, info.op_kind(operand), long)?;
    }
    let memory = instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Memory;
    if info.can_use_lock_prefix() && memory && rng.chance(30) {
        instruction.set_has_lock_prefix(true);
    }
    if sequence::is_locked(&instruction) {
        instruction.set_memory_displacement64(instruction.memory_displacement64() & !15);
    }
    if info.can_use_rep_prefix() && rng.chance(60) {
        instruction.set_has_rep_prefix(true);
    } else if info.can_use_repne_prefix() && rng.chance(60) {
        instruction.set_has_repne_prefix(true);
    }
    Some(instruction)
}

/// A number for a general register, mostly not one that addresses memory.
fn general(rng: &mut Rng, long: bool) -> u32 {
    const FREE_LONG: [u32; 12] = [0, 1, 2, 6, 7, 8, 9, 10, 11, 13, 14, 15];
    const FREE: [u32; 5] = [0, 1, 2, 6, 7];
    match (long, rng.chance(3)) {
        (true, true) => rng.below(16) as u32,
        (true, false) => rng.pick(&FREE_LONG),
        (false, true) => rng.below(8) as u32,
        (false, false) => rng.pick(&FREE),
    }
}

/// Chooses one operand.
fn fill_operand(
    rng: &mut Rng,
    instruction: &mut Instruction,
    operand: u32,
    kind: OpCodeOperandKind,
    long: bool,
) -> Option<()> {
    use OpCodeOperandKind as K;
    let vectors = if long { 16 } else { 8 };
    // These do not check the alignment of their operand on some processors.
    let lenient = instruction.code().cpuid_features().contains(&CpuidFeature::SHA);
    let as_memory = !lenient
        && matches!(
            kind,
            K::r8_or_mem
                | K::r16_or_mem
                | K::r32_or_mem
                | K::r64_or_mem
                | K::mm_or_mem
                | K::xmm_or_mem
                | K::ymm_or_mem
        )
        && rng.chance(45);
    if as_memory || kind == K::mem {
        memory_operand(rng, instruction, operand, long);
        return Some(());
    }
    let register = match kind {
        K::r8_or_mem | K::r8_reg | K::r8_opcode => {
            let bytes = [
                Register::AL,
                Register::CL,
                Register::DL,
                Register::BL,
                Register::AH,
                Register::CH,
                Register::DH,
                Register::BH,
                Register::SIL,
                Register::DIL,
                Register::R8L,
                Register::R9L,
                Register::R13L,
                Register::R15L,
            ];
            let byte = if long {
                rng.pick(&bytes)
            } else {
                rng.pick(&bytes[..8])
            };
            // The low byte of RBX and its neighbour address memory; rarely changed.
            if matches!(byte, Register::BL | Register::BH) && !rng.chance(5) {
                Register::AL
            } else {
                byte
            }
        }
        K::r16_or_mem | K::r16_reg | K::r16_rm | K::r16_opcode => Register::AX + general(rng, long),
        K::r32_or_mem | K::r32_reg | K::r32_rm | K::r32_opcode | K::r32_vvvv => {
            Register::EAX + general(rng, long)
        }
        K::r64_or_mem | K::r64_reg | K::r64_rm | K::r64_opcode | K::r64_vvvv => {
            Register::RAX + general(rng, long)
        }
        K::mm_or_mem | K::mm_reg | K::mm_rm => Register::MM0 + rng.below(8) as u32,
        K::xmm_or_mem | K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_is4 => {
            Register::XMM0 + rng.below(vectors) as u32
        }
        K::ymm_or_mem | K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 => {
            Register::YMM0 + rng.below(vectors) as u32
        }
        K::al => Register::AL,
        K::cl => Register::CL,
        K::ax => Register::AX,
        K::dx => Register::DX,
        K::eax => Register::EAX,
        K::rax => Register::RAX,
        K::st0 => Register::ST0,
        K::sti_opcode => Register::ST0 + rng.below(8) as u32,
        _ => Register::None,
    };
    if register != Register::None {
        instruction.set_op_kind(operand, OpKind::Register);
        instruction.set_op_register(operand, register);
        return Some(());
    }
    let value = rng.integer();
    let mut immediate = |kind: OpKind| {
        instruction.set_op_kind(operand, kind);
        match kind {
            OpKind::Immediate8 => instruction.set_immediate8(value as u8),
            OpKind::Immediate16 => instruction.set_immediate16(value as u16),
            OpKind::Immediate32 => instruction.set_immediate32(value as u32),
            OpKind::Immediate64 => instruction.set_immediate64(value),
            OpKind::Immediate8to16 => instruction.set_immediate8to16(i16::from(value as i8)),
            OpKind::Immediate8to32 => instruction.set_immediate8to32(i32::from(value as i8)),
            OpKind::Immediate8to64 => instruction.set_immediate8to64(i64::from(value as i8)),
            _ => instruction.set_immediate32to64(i64::from(value as i32)),
        }
    };
    match kind {
        K::imm8 => immediate(OpKind::Immediate8),
        K::imm8_const_1 => {
            immediate(OpKind::Immediate8);
            instruction.set_immediate8(1);
        }
        K::imm8sex16 => immediate(OpKind::Immediate8to16),
        K::imm8sex32 => immediate(OpKind::Immediate8to32),
        K::imm8sex64 => immediate(OpKind::Immediate8to64),
        K::imm16 => immediate(OpKind::Immediate16),
        K::imm32 => immediate(OpKind::Immediate32),
        K::imm32sex64 => immediate(OpKind::Immediate32to64),
        K::imm64 => immediate(OpKind::Immediate64),
        K::seg_rSI => instruction.set_op_kind(
            operand,
            if long {
                OpKind::MemorySegRSI
            } else {
                OpKind::MemorySegESI
            },
        ),
        K::es_rDI => instruction.set_op_kind(
            operand,
            if long {
                OpKind::MemoryESRDI
            } else {
                OpKind::MemoryESEDI
            },
        ),
        K::mem_vsib32x | K::mem_vsib64x => {
            vector_index(rng, instruction, operand, Register::XMM0, vectors, long)
        }
        K::mem_vsib32y | K::mem_vsib64y => {
            vector_index(rng, instruction, operand, Register::YMM0, vectors, long)
        }
        _ => return None,
    }
    // 16-bit double shifts by more than 16 leave the result open.
    if matches!(instruction.mnemonic(), Mnemonic::Shld | Mnemonic::Shrd) && operand == 2 && kind == K::imm8 {
        instruction.set_immediate8(instruction.immediate8() & 15);
    }
    Some(())
}

/// The base register of a gather is mostly one whose elements have small indices (see [`start`]).
fn vector_index(
    rng: &mut Rng,
    instruction: &mut Instruction,
    operand: u32,
    first: Register,
    vectors: usize,
    long: bool,
) {
    memory_operand(rng, instruction, operand, long);
    instruction.set_segment_prefix(Register::None);
    let number = if rng.chance(80) {
        5
    } else {
        rng.below(vectors) as u32
    };
    instruction.set_memory_base(if long { Register::RBX } else { Register::EBX });
    instruction.set_memory_index(first + number);
    instruction.set_memory_index_scale(1 << rng.below(4));
    instruction.set_memory_displ_size(1);
}

/// A memory operand in the scratch pages, rarely outside.
fn memory_operand(rng: &mut Rng, instruction: &mut Instruction, operand: u32, long: bool) {
    instruction.set_op_kind(operand, OpKind::Memory);
    let near = |rng: &mut Rng| match rng.below(10) {
        0..=6 => rng.below(64) as i64 * 32 - 1024,
        7 => rng.below(2048) as i64 - 1024,
        // Around the page's end, and around the end of what can be written.
        8 => 2048 - rng.below(40) as i64,
        _ => 2048 + PAGE as i64 - rng.below(40) as i64,
    };
    let wide = |number: u32| {
        if long {
            Register::RAX + number
        } else {
            Register::EAX + number
        }
    };
    let displacement = near(rng);
    if long && rng.chance(6) {
        // FS leads to the data by itself.
        instruction.set_segment_prefix(Register::FS);
        instruction.set_memory_base(rng.pick(&[Register::None, Register::R12]));
        instruction.set_memory_index(Register::None);
        instruction.set_memory_index_scale(1);
        instruction.set_memory_displacement64(displacement as u64);
        instruction.set_memory_displ_size(8);
        return;
    }
    if long && rng.chance(6) {
        instruction.set_segment_prefix(Register::GS);
    }
    let (base, index, displacement) = match rng.below(100) {
        0..=49 => (wide(3), Register::None, displacement),
        50..=64 => (wide(3), wide(if long { 12 } else { 3 }), displacement),
        65..=79 => (wide(5), Register::None, displacement),
        80..=86 => (wide(4), Register::None, rng.below(64) as i64 * 16 - 512),
        87..=92 if long => (Register::RIP, Register::None, (DATA + 2048) as i64 + displacement),
        87..=96 => (
            Register::None,
            Register::None,
            (DATA + 2048) as i64 + displacement,
        ),
        97 => (wide(general(rng, long)), wide(general(rng, long)), displacement),
        98 => (wide(4), wide(if long { 12 } else { 0 }), 0),
        _ => (wide(3), Register::None, rng.next() as i32 as i64),
    };
    let index = if !long && index == wide(3) {
        Register::None
    } else {
        index
    };
    instruction.set_memory_base(base);
    instruction.set_memory_index(index);
    instruction.set_memory_index_scale(if index == Register::None {
        1
    } else {
        1 << rng.below(4)
    });
    let displacement = if long {
        displacement as u64
    } else {
        displacement as u32 as u64
    };
    instruction.set_memory_displacement64(displacement);
    instruction.set_memory_displ_size(match (base, long) {
        (Register::None, _) | (Register::RIP, _) if !long => 4,
        (Register::None, _) | (Register::RIP, _) => 8,
        _ => 1,
    });
}

/// A random start without a sequence.
pub fn start_of(rng: &mut Rng, long: bool) -> (Registers, Vec<u8>) {
    (start(rng, long), memory(rng))
}

/// Random registers, with pointers where memory operands expect them.
pub fn start(rng: &mut Rng, long: bool) -> Registers {
    let mut registers = Registers::zeroed();
    for register in &mut registers.gpr {
        *register = rng.integer();
    }
    registers.gpr[3] = DATA + 2048;
    registers.gpr[5] = DATA + 2048 + 64 * rng.below(4) as u64;
    registers.gpr[4] = STACK + 2048;
    registers.gpr[12] = 16 * rng.below(16) as u64;
    if !long {
        registers
            .gpr
            .iter_mut()
            .for_each(|register| *register &= 0xffff_ffff);
        registers.gpr[8..].fill(0);
    }
    registers.rip = CODE;
    registers.rflags = 2 | rng.next() & 0x8d5 | if rng.chance(10) { 0x400 } else { 0 };
    extended_start(rng, &mut registers.xsave, if long { 16 } else { 8 });
    registers
}

/// Random x87, SSE and AVX state.
fn extended_start(rng: &mut Rng, image: &mut [u8], count: usize) {
    let mut control = 0x37fu16;
    if rng.chance(40) {
        control = 0x7f | (rng.next() as u16 & 0xc00) | rng.pick(&[0, 0x200, 0x300]);
    }
    if rng.chance(8) {
        control &= !(rng.next() as u16 & 0x3f);
    }
    image[..2].copy_from_slice(&control.to_le_bytes());
    let status = (rng.below(8) as u16) << 11 | (rng.next() as u16 & 0x4700);
    image[2..4].copy_from_slice(&status.to_le_bytes());
    image[4] = if rng.chance(50) {
        rng.next() as u8
    } else {
        0xff << rng.below(8)
    };
    let mut mxcsr = 0x1f80 | rng.next() as u32 & if rng.chance(50) { 0 } else { 0x3f };
    if rng.chance(30) {
        mxcsr |= rng.next() as u32 & 0xe040;
    }
    if rng.chance(8) {
        mxcsr &= !(rng.next() as u32 & 0x1f80);
        mxcsr &= !0x3f;
    }
    image[24..28].copy_from_slice(&mxcsr.to_le_bytes());
    for register in 0..8 {
        let slot = 32 + register * 16;
        let mantissa = rng.lane() | if rng.chance(85) { 1 << 63 } else { 0 };
        let exponent = match rng.below(6) {
            0 => rng.next() as u16,
            1 => rng.pick(&[0, 1, 0x7fff, 0x7ffe, 0xffff, 0x8000]),
            _ => (0x3fff + rng.below(70) as u16 - 8) | if rng.chance(50) { 0x8000 } else { 0 },
        };
        let zero = rng.chance(8);
        image[slot..slot + 8].copy_from_slice(&(if zero { 0 } else { mantissa }).to_le_bytes());
        image[slot + 8..slot + 10].copy_from_slice(&(if zero { 0 } else { exponent }).to_le_bytes());
    }
    for register in 0..count {
        for half in [160 + register * 16, 576 + register * 16] {
            for quarter in 0..2 {
                // Register 5 serves gathers as small indices.
                let value = if register == 5 {
                    rng.next() & 0x0000_003f_0000_003f
                } else {
                    rng.lane()
                };
                image[half + quarter * 8..][..8].copy_from_slice(&value.to_le_bytes());
            }
        }
    }
    image[512] = 7;
}

/// Random memory: mostly a piece of some that is made once, as most of a sequence's is never looked at.
fn memory(rng: &mut Rng) -> Vec<u8> {
    const POOL: usize = 1 << 16;
    const FRESH: usize = 64;
    static LANES: LazyLock<Vec<u64>> = LazyLock::new(|| {
        let mut rng = Rng::new(1);
        (0..POOL).map(|_| rng.lane()).collect()
    });
    let from = rng.below(POOL - MEMORY / 8);
    let mut lanes = LANES[from..from + MEMORY / 8].to_vec();
    for _ in 0..FRESH {
        let at = rng.below(lanes.len());
        lanes[at] = rng.lane();
    }
    lanes.into_iter().flat_map(u64::to_le_bytes).collect()
}
