//! What may run as a stub: the list that every generated piece of host code passes.

use iced_x86::{
    Code, CpuidFeature, EncodingKind, Instruction, Mnemonic, OpCodeOperandKind, OpKind, Register,
};

use super::features::{self, Class, FeatureSet};

/// How an instruction of this folder is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// By a stub that contains the instruction itself.
    Stub,
    /// By a handler of its own.
    Handler,
}

/// What the list says of an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Stub or handler.
    pub route: Route,
    /// Extensions it needs.
    pub features: FeatureSet,
    /// Control bits that guard it.
    pub class: Class,
}

/// The entry of `code`, or `None` if it does not belong to this folder.
pub fn entry(code: Code) -> Option<Entry> {
    if let Some(entry) = handled(code) {
        return Some(entry);
    }
    let info = code.op_code();
    let plain = matches!(info.encoding(), EncodingKind::Legacy | EncodingKind::VEX)
        && info.mode64()
        && !info.fwait()
        && !info.is_privileged()
        && !info.is_input_output()
        && !info.is_stack_instruction()
        && !info.is_save_restore()
        && !info.is_nop()
        && info.op_kinds().iter().all(|&kind| may_be_operand(kind));
    let has_one_of = |sets: &[CpuidFeature]| sets.iter().any(|set| code.cpuid_features().contains(set));
    if !plain || has_one_of(&CORE_SETS) || has_one_of(&STATE_SETS) {
        return None;
    }
    let features = feature_set(code)?;
    Some(Entry {
        route: Route::Stub,
        features,
        class: class_of(code),
    })
}

/// Sets whose instructions are the integer core's (CMOVcc is told from FCMOVcc by FPU).
const CORE_SETS: [CpuidFeature; 6] = [
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::X64,
];

/// Sets whose instructions work on state that is the guest's own (XGETBV would show the host's XCR0): handlers only.
const STATE_SETS: [CpuidFeature; 4] = [
    CpuidFeature::FXSR,
    CpuidFeature::XSAVE,
    CpuidFeature::XSAVEOPT,
    CpuidFeature::XSAVEC,
];

/// All the features of `code`, or `None` if one of them is never offered or the integer core owns it.
fn feature_set(code: Code) -> Option<FeatureSet> {
    let needed = code.cpuid_features();
    if needed.is_empty() || needed == [CpuidFeature::CMOV] {
        return None;
    }
    needed
        .iter()
        .try_fold(0, |set, &feature| Some(set | features::bit_of(feature)?))
}

/// Register and memory operands of the ordinary kind, and constants; no far pointers, strings, VSIB, branches.
fn may_be_operand(kind: OpCodeOperandKind) -> bool {
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
            | K::r16_reg
            | K::r32_reg
            | K::r64_reg
            | K::r16_rm
            | K::r32_rm
            | K::r64_rm
            | K::r32_vvvv
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
            | K::st0
            | K::sti_opcode
            | K::imm8
    )
}

/// The class of an instruction, from its encoding and its operands.
fn class_of(code: Code) -> Class {
    use OpCodeOperandKind as K;
    let info = code.op_code();
    let any = |wanted: &[K]| info.op_kinds().iter().any(|kind| wanted.contains(kind));
    let vector = any(&[
        K::xmm_or_mem,
        K::xmm_reg,
        K::xmm_rm,
        K::xmm_vvvv,
        K::xmm_is4,
        K::ymm_or_mem,
        K::ymm_reg,
        K::ymm_rm,
        K::ymm_vvvv,
        K::ymm_is4,
    ]);
    if info.encoding() == EncodingKind::VEX {
        return if vector { Class::Avx } else { Class::IntegerVex };
    }
    if code.cpuid_features().contains(&CpuidFeature::FPU)
        || code.cpuid_features().contains(&CpuidFeature::FPU387)
    {
        return Class::X87;
    }
    // The conversions between MMX and XMM registers are guarded as SSE.
    match (
        vector,
        any(&[K::mm_or_mem, K::mm_reg, K::mm_rm]) || code == Code::Emms,
    ) {
        (true, _) => Class::Sse,
        (false, true) => Class::Mmx,
        (false, false) => Class::Integer,
    }
}

/// Instructions with a handler: state images, control words, several addresses, masked elements, hints.
fn handled(code: Code) -> Option<Entry> {
    let class = match code.mnemonic() {
        Mnemonic::Wait => Class::Wait,
        Mnemonic::Fldenv | Mnemonic::Fnstenv | Mnemonic::Frstor | Mnemonic::Fnsave => Class::X87,
        Mnemonic::Fldcw | Mnemonic::Fnstcw | Mnemonic::Fnstsw | Mnemonic::Fnclex | Mnemonic::Fninit => {
            Class::X87
        }
        Mnemonic::Fneni | Mnemonic::Fndisi | Mnemonic::Fnsetpm | Mnemonic::Frstpm | Mnemonic::Fnop => {
            Class::X87
        }
        Mnemonic::Fxsave | Mnemonic::Fxsave64 | Mnemonic::Fxrstor | Mnemonic::Fxrstor64 => Class::Fxsave,
        Mnemonic::Xsave
        | Mnemonic::Xsave64
        | Mnemonic::Xrstor
        | Mnemonic::Xrstor64
        | Mnemonic::Xsaveopt
        | Mnemonic::Xsaveopt64
        | Mnemonic::Xsavec
        | Mnemonic::Xsavec64 => Class::Xsave,
        Mnemonic::Ldmxcsr | Mnemonic::Stmxcsr => Class::Sse,
        Mnemonic::Vldmxcsr | Mnemonic::Vstmxcsr | Mnemonic::Vzeroupper | Mnemonic::Vzeroall => Class::Avx,
        Mnemonic::Lfence | Mnemonic::Mfence | Mnemonic::Sfence => Class::Integer,
        Mnemonic::Prefetchnta | Mnemonic::Prefetcht0 | Mnemonic::Prefetcht1 | Mnemonic::Prefetcht2 => {
            Class::Integer
        }
        Mnemonic::Prefetch | Mnemonic::Prefetchw | Mnemonic::Prefetchwt1 => Class::Integer,
        Mnemonic::Prefetchit0 | Mnemonic::Prefetchit1 => Class::Integer,
        // Without CET these are what they were before it: no-operations.
        Mnemonic::Reservednop | Mnemonic::Cldemote | Mnemonic::Endbr32 | Mnemonic::Endbr64 => Class::Integer,
        Mnemonic::Rdsspd | Mnemonic::Rdsspq => Class::Integer,
        Mnemonic::Clflush | Mnemonic::Clflushopt | Mnemonic::Clwb => Class::Integer,
        Mnemonic::Maskmovq => Class::Mmx,
        Mnemonic::Maskmovdqu => Class::Sse,
        Mnemonic::Vmaskmovdqu | Mnemonic::Vmaskmovps | Mnemonic::Vmaskmovpd => Class::Avx,
        Mnemonic::Vpmaskmovd | Mnemonic::Vpmaskmovq => Class::Avx,
        Mnemonic::Vgatherdps | Mnemonic::Vgatherdpd | Mnemonic::Vgatherqps | Mnemonic::Vgatherqpd => {
            Class::Avx
        }
        Mnemonic::Vpgatherdd | Mnemonic::Vpgatherdq | Mnemonic::Vpgatherqd | Mnemonic::Vpgatherqq => {
            Class::Avx
        }
        _ => return None,
    };
    let encoding = code.op_code().encoding();
    if !matches!(encoding, EncodingKind::Legacy | EncodingKind::VEX) || code.op_code().fwait() {
        return None;
    }
    // Prefetches are hints that never fault, also where the model does not name them.
    let hint = class == Class::Integer
        && !code
            .cpuid_features()
            .iter()
            .any(|&f| features::bit_of(f).is_some());
    let features = if hint || class == Class::Wait {
        0
    } else {
        feature_set(code).unwrap_or(0)
    };
    Some(Entry {
        route: Route::Handler,
        features,
        class,
    })
}

/// Alignment in bytes that the memory operand must have whatever CR0.AM says, else 1 (SDM vol. 2, 2.4: exception types).
pub fn required_alignment(instruction: &Instruction) -> u8 {
    let size = instruction.memory_size().size();
    let aligned = match instruction.code().op_code().encoding() {
        EncodingKind::VEX => matches!(
            instruction.mnemonic(),
            Mnemonic::Vmovaps
                | Mnemonic::Vmovapd
                | Mnemonic::Vmovdqa
                | Mnemonic::Vmovntps
                | Mnemonic::Vmovntpd
                | Mnemonic::Vmovntdq
                | Mnemonic::Vmovntdqa
        ),
        _ => {
            size == 16
                && !matches!(
                    instruction.mnemonic(),
                    Mnemonic::Movups
                        | Mnemonic::Movupd
                        | Mnemonic::Movdqu
                        | Mnemonic::Lddqu
                        | Mnemonic::Pcmpestri
                        | Mnemonic::Pcmpestrm
                        | Mnemonic::Pcmpestri64
                        | Mnemonic::Pcmpestrm64
                        | Mnemonic::Pcmpistri
                        | Mnemonic::Pcmpistrm
                )
        }
    };
    if aligned { size as u8 } else { 1 }
}

/// True if the instruction may read or set MXCSR. Says yes where in doubt: that only costs time.
pub fn uses_mxcsr(code: Code) -> bool {
    let name = format!("{:?}", code.mnemonic()).to_lowercase();
    let stem = name.strip_prefix('v').unwrap_or(&name);
    const FREE: [&str; 27] = [
        "p",
        "mov",
        "and",
        "or",
        "xor",
        "unpck",
        "shuf",
        "blend",
        "insert",
        "extract",
        "aes",
        "sha",
        "broadcast",
        "perm",
        "lddqu",
        "test",
        "crc",
        "bls",
        "bextr",
        "bzhi",
        "mulx",
        "rorx",
        "sarx",
        "shlx",
        "shrx",
        "lzcnt",
        "tzcnt",
    ];
    const FREE_WHOLE: [&str; 4] = ["adcx", "adox", "emms", "ddup"];
    !(FREE.iter().any(|prefix| stem.starts_with(prefix))
        || FREE_WHOLE.contains(&stem)
        || name.starts_with('f'))
}

/// True if `instruction` has a memory operand.
pub fn has_memory(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory)
}

/// True for XMM and YMM registers.
pub fn is_vector(register: Register) -> bool {
    register.is_vector_register()
}
