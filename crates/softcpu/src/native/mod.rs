//! Instructions without system semantics, executed by the host's own CPU.
//!
//! This folder owns every instruction that is not a legacy integer or system instruction: x87, MMX, SSE to SSE4.2, every VEX form
//! (AVX, AVX2, FMA, F16C, BMI1, BMI2), AES, SHA, PCLMUL, POPCNT, LZCNT, TZCNT, CRC32, ADCX/ADOX, MOVBE, MOVNTI, LDMXCSR/STMXCSR,
//! FXSAVE/FXRSTOR, the XSAVE family, EMMS, FWAIT, prefetches and cache hints (CLFLUSH...), fences, RDRAND/RDSEED.
//!
//! | file | idea |
//! |---|---|
//! | [`list`] | what may run as a stub, what has a handler, what is refused |
//! | [`features`] | what the guest's CPUID, the host and the control registers allow |
//! | [`emit`], [`stubs`], [`code_buffer`] | generation of stubs, their cache, memory for code |
//! | [`run`] | execution of a stub with its memory operand and its SIMD exceptions |
//! | [`address`] | memory operands |
//! | [`x87`], [`fpu_image`] | the x87 state in the host's registers, its control instructions, its images |
//! | [`xsave`] | FXSAVE and the XSAVE family |
//! | [`masked`] | masked moves and gathers |
//! | [`control`] | MXCSR, fences, hints |

mod address;
pub(crate) mod code_buffer;
mod control;
mod emit;
pub(crate) mod features;
mod fpu_image;
mod list;
mod masked;
mod run;
mod stubs;
#[cfg(test)]
mod tests;
mod x87;
mod xsave;

use std::mem::offset_of;

use iced_x86::{Code, Encoder, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind};

use crate::fault::{Flow, Result};
use crate::state::{Cpu, mode};
use address::Address;
use features::Class;
pub(crate) use features::{AVX_STATE, FeatureSet};
use list::Route;
use masked::Elements;
use stubs::Stub;
pub(crate) use x87::Pointers;

/// MXCSR of the host's own code.
const HOST_MXCSR: u32 = 0x1f80;

/// What this folder keeps in a [`Cpu`].
#[repr(C, align(64))]
pub struct NativeState {
    /// Stands in for the memory operand where the guest's memory cannot be accessed in place.
    buffer: [u8; 64],
    /// Loaded when a stub that changed MXCSR ends, or translated code.
    pub(crate) host_mxcsr: u32,
    /// Extensions that the guest may use; filled in when first asked.
    pub(crate) features: FeatureSet,
    features_known: bool,
    /// The x87 state is in the host's registers.
    live: bool,
    /// The control word of the live state leaves an exception unmasked.
    unmasked: bool,
    /// x87 instruction and data pointers.
    pointers: Pointers,
}

impl NativeState {
    /// Offset of two flags: whether the x87 state is live, and whether an exception is unmasked.
    pub(crate) const READY: usize = offset_of!(Self, live);
    /// What they are where x87 instructions can be executed as they are.
    pub(crate) const IS_READY: u16 = 1;
    /// Offset of the x87 pointers.
    pub(crate) const POINTERS: usize = offset_of!(Self, pointers);
}

const _: () = assert!(offset_of!(NativeState, unmasked) == NativeState::READY + 1);

impl Default for NativeState {
    fn default() -> Self {
        Self {
            buffer: [0; 64],
            host_mxcsr: HOST_MXCSR,
            features: 0,
            features_known: false,
            live: false,
            unmasked: false,
            pointers: Pointers::default(),
        }
    }
}

/// A handler for an instruction that does not run as a stub.
type Handler = fn(&mut Cpu, &NativeOp) -> Result<Flow>;

/// What executes an instruction.
#[derive(Clone, Copy)]
enum Action {
    /// A stub without memory operand.
    Registers(Stub),
    /// A stub that reads its memory operand.
    Load(Stub),
    /// A stub that writes its memory operand and reads no memory.
    Store(Stub),
    /// A handler.
    Handler(Handler),
}

/// How an instruction runs in translated code, without a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InPlace {
    /// There is nothing to do.
    Nothing,
    /// It is copied. It uses general registers only.
    General,
    /// It is copied. It uses x87 registers.
    X87,
    /// It is copied. It uses vector registers by the legacy encoding.
    Sse,
    /// It is copied. It uses vector registers with a VEX prefix.
    Avx,
}

/// A compiled form, made once when a block is decoded.
pub struct NativeOp {
    action: Action,
    class: Class,
    features: FeatureSet,
    /// Bytes of the memory operand.
    size: u16,
    /// Alignment in bytes that it must have, or 1.
    alignment: u8,
    /// Alignment in bytes that #AC asks for.
    natural_alignment: u8,
    /// MXCSR matters.
    mxcsr: bool,
    /// It has an MMX register among its operands.
    uses_mmx: bool,
    /// An x87 instruction that updates the instruction and data pointers.
    notes_pointers: bool,
    /// FOP.
    x87_opcode: u16,
    /// REX.W form of an instruction that stores state.
    wide: bool,
    address: Address,
    elements: Elements,
    shape: Instruction,
    /// TZCNT and LZCNT: what a CPU without them executes as BSF and BSR, since it does not see the prefix.
    scan: Option<Box<Instruction>>,
}

/// Compiles `instruction` if it belongs to this folder. `mode` is [`Cpu::mode`] of the block. The instruction was decoded with
/// the page offset of its first byte as its address, so RIP-relative operands are relative to `gpr[reg::RIP_BASE]`.
pub fn compile(instruction: &Instruction, mode: u32) -> Option<NativeOp> {
    let code = instruction.code();
    let entry = list::entry(code)?;
    let shape = emit::normalise(instruction);
    let action = match entry.route {
        Route::Handler => Action::Handler(handler(instruction)?),
        Route::Stub => stub_action(instruction, &shape)?,
    };
    let size = instruction.memory_size().size();
    let x87 = entry.class == Class::X87;
    Some(NativeOp {
        action,
        class: entry.class,
        features: entry.features,
        size: u16::try_from(size).ok()?,
        alignment: list::required_alignment(instruction),
        natural_alignment: natural_alignment(size),
        mxcsr: matches!(entry.route, Route::Stub) && list::uses_mxcsr(code),
        uses_mmx: (0..instruction.op_count()).any(|operand| instruction.op_register(operand).is_mm()),
        notes_pointers: x87 && (entry.route == Route::Stub || code == Code::Fnop),
        x87_opcode: if x87 { x87_opcode(instruction, mode) } else { 0 },
        wide: matches!(
            code.mnemonic(),
            Mnemonic::Fxsave64
                | Mnemonic::Fxrstor64
                | Mnemonic::Xsave64
                | Mnemonic::Xrstor64
                | Mnemonic::Xsaveopt64
                | Mnemonic::Xsavec64
        ),
        address: Address::of(instruction),
        elements: Elements::of(instruction).unwrap_or_default(),
        shape,
        scan: matches!(instruction.mnemonic(), Mnemonic::Tzcnt | Mnemonic::Lzcnt)
            .then(|| Box::new(*instruction)),
    })
}

impl NativeOp {
    /// How the instruction runs in the translation of a block of mode `block_mode`, by a vCPU that knows it may use the extensions
    /// `usable`. `None` where only [`execute`] will do.
    pub(crate) fn in_place(&self, block_mode: u32, usable: FeatureSet) -> Option<InPlace> {
        if self.features & !usable != 0 || self.uses_mmx {
            return None;
        }
        let plain = match self.action {
            Action::Handler(_) => match self.shape.mnemonic() {
                Mnemonic::Vzeroupper | Mnemonic::Vzeroall => true,
                Mnemonic::Stmxcsr | Mnemonic::Vstmxcsr | Mnemonic::Ldmxcsr | Mnemonic::Vldmxcsr => true,
                Mnemonic::Lfence | Mnemonic::Mfence | Mnemonic::Sfence => true,
                Mnemonic::Fnstsw | Mnemonic::Fnstcw => true,
                Mnemonic::Prefetchnta | Mnemonic::Prefetcht0 | Mnemonic::Prefetcht1 => {
                    return Some(InPlace::Nothing);
                }
                Mnemonic::Prefetcht2 | Mnemonic::Prefetchw | Mnemonic::Endbr64 => {
                    return Some(InPlace::Nothing);
                }
                _ => false,
            },
            _ => true,
        };
        match self.class {
            _ if !plain => None,
            Class::Integer | Class::IntegerVex => Some(InPlace::General),
            // The control bits that close SSE include those that close x87.
            Class::X87 if block_mode & mode::SSE != 0 => Some(InPlace::X87),
            Class::Sse if block_mode & mode::SSE != 0 => Some(InPlace::Sse),
            Class::Avx if block_mode & mode::AVX != 0 => Some(InPlace::Avx),
            _ => None,
        }
    }

    /// FOP, and the segment of the memory operand if there is one, for an instruction that updates the x87 pointers.
    pub(crate) fn noted(&self) -> Option<(u16, Option<usize>)> {
        let memory = !matches!(self.action, Action::Registers(_));
        self.notes_pointers
            .then(|| (self.x87_opcode, memory.then(|| self.address.segment())))
    }

    /// The alignment in bytes without which a memory operand faults, or 1.
    pub(crate) fn alignment(&self) -> u8 {
        self.alignment
    }
}

/// Executes `op`. `cpu.rip` is the address of the instruction; all memory goes through the loads and stores of
/// [`Cpu`]. Registers are committed last.
pub fn execute(cpu: &mut Cpu, op: &NativeOp) -> Result<Flow> {
    if op.features & !cpu.native.features != 0 {
        match (cpu.check_features(op.features), &op.scan) {
            (Ok(()), _) => {}
            (Err(_), Some(instruction)) => {
                cpu.exception = None;
                return crate::exec::bits::scan(cpu, instruction);
            }
            (Err(stop), None) => return Err(stop),
        }
    }
    cpu.check_class(op.class)?;
    match op.action {
        Action::Handler(handler) => handler(cpu, op),
        Action::Registers(stub) => run::registers(cpu, op, stub),
        Action::Load(stub) => run::load(cpu, op, stub),
        Action::Store(stub) => run::store(cpu, op, stub),
    }
}

impl Cpu {
    /// #UD unless the guest may use all of `needed`. Asks CPUID at the first call.
    #[cold]
    fn check_features(&mut self, needed: FeatureSet) -> Result<()> {
        if !self.native.features_known {
            self.native.features = features::usable(&self.cpuid);
            self.native.features_known = true;
        }
        if needed & !self.native.features != 0 {
            Err(self.ud())
        } else {
            Ok(())
        }
    }

    /// To be called after the answers of CPUID were changed.
    pub fn cpuid_changed(&mut self) {
        self.native.features = 0;
        self.native.features_known = false;
    }
}

/// The stub for an instruction, by what it does to its memory operand.
fn stub_action(instruction: &Instruction, shape: &Instruction) -> Option<Action> {
    let stub = stubs::find(shape)?;
    if !list::has_memory(instruction) {
        return Some(Action::Registers(stub));
    }
    let mut factory = InstructionInfoFactory::new();
    let memory = factory.info(instruction).used_memory();
    match memory {
        [one] if one.access() == OpAccess::Read => Some(Action::Load(stub)),
        [one] if one.access() == OpAccess::Write => Some(Action::Store(stub)),
        _ => None,
    }
}

/// The handler for an instruction that the list routes to one.
fn handler(instruction: &Instruction) -> Option<Handler> {
    use Mnemonic as M;
    let to_memory = instruction.op_count() > 0 && list::has_memory(instruction);
    Some(match instruction.mnemonic() {
        M::Wait => x87::wait,
        M::Fldcw => x87::fldcw,
        M::Fnstcw => x87::fnstcw,
        M::Fnstsw if to_memory => x87::fnstsw_memory,
        M::Fnstsw => x87::fnstsw_ax,
        M::Fnclex => x87::fnclex,
        M::Fninit => x87::fninit,
        M::Fnop | M::Fneni | M::Fndisi | M::Fnsetpm | M::Frstpm => x87::nop,
        M::Fldenv => fpu_image::fldenv,
        M::Fnstenv => fpu_image::fnstenv,
        M::Frstor => fpu_image::frstor,
        M::Fnsave => fpu_image::fnsave,
        M::Fxsave | M::Fxsave64 => xsave::fxsave,
        M::Fxrstor | M::Fxrstor64 => xsave::fxrstor,
        M::Xsave | M::Xsave64 => xsave::xsave,
        M::Xsaveopt | M::Xsaveopt64 => xsave::xsaveopt,
        M::Xsavec | M::Xsavec64 => xsave::xsavec,
        M::Xrstor | M::Xrstor64 => xsave::xrstor,
        M::Ldmxcsr | M::Vldmxcsr => control::ldmxcsr,
        M::Stmxcsr | M::Vstmxcsr => control::stmxcsr,
        M::Vzeroupper => control::vzeroupper,
        M::Vzeroall => control::vzeroall,
        M::Lfence | M::Mfence | M::Sfence => control::fence,
        M::Prefetchnta | M::Prefetcht0 | M::Prefetcht1 | M::Prefetcht2 => control::hint,
        M::Prefetch | M::Prefetchw | M::Prefetchwt1 => control::hint,
        M::Prefetchit0 | M::Prefetchit1 => control::hint,
        M::Reservednop | M::Cldemote | M::Endbr32 | M::Endbr64 | M::Rdsspd | M::Rdsspq => control::hint,
        M::Clflush | M::Clflushopt | M::Clwb => control::flush_line,
        M::Maskmovq => masked::store_mmx,
        M::Maskmovdqu | M::Vmaskmovdqu => masked::store,
        M::Vmaskmovps | M::Vmaskmovpd | M::Vpmaskmovd | M::Vpmaskmovq => {
            if instruction.op0_kind() == OpKind::Memory {
                masked::store
            } else {
                masked::load
            }
        }
        M::Vgatherdps | M::Vgatherdpd | M::Vgatherqps | M::Vgatherqpd => masked::gather,
        M::Vpgatherdd | M::Vpgatherdq | M::Vpgatherqd | M::Vpgatherqq => masked::gather,
        _ => return None,
    })
}

/// Alignment that alignment checking asks of an operand of `size` bytes (SDM vol. 3, table 7-7).
fn natural_alignment(size: usize) -> u8 {
    match size {
        2 | 4 | 8 => size as u8,
        10 => 8,
        _ => 1,
    }
}

/// FOP of an x87 instruction: the lower three bits of its first byte, and its second byte.
fn x87_opcode(instruction: &Instruction, block_mode: u32) -> u16 {
    let bitness = match block_mode {
        bits if bits & mode::LONG != 0 => 64,
        bits if bits & mode::CODE32 != 0 => 32,
        _ => 16,
    };
    let mut encoder = Encoder::new(bitness);
    if encoder.encode(instruction, instruction.ip()).is_err() {
        return 0;
    }
    let bytes = encoder.take_buffer();
    let escape = bytes.iter().position(|byte| (0xd8..=0xdf).contains(byte));
    match escape.map(|at| (bytes[at], bytes.get(at + 1))) {
        Some((first, Some(&second))) => u16::from(first & 7) << 8 | u16::from(second),
        _ => 0,
    }
}
