//! Host code around one guest instruction: load what it reads, execute it, store what it writes.
//!
//! A stub is called with the vCPU's state in RDI and the memory operand's host address in RSI. The guest's vector registers
//! keep their numbers. Its general registers get host registers that a callee may change, so nothing has to be saved:
//! those that the instruction names are renamed, those that it uses without naming them (RAX, RCX, RDX) stay. x87 and MMX
//! registers are not moved at all: they live in the host's own (see the `x87` module).

use std::mem::offset_of;

use iced_x86::{
    Code, Encoder, EncodingKind, IcedError, Instruction, InstructionInfoFactory, MemoryOperand, Mnemonic,
    OpAccess, OpKind, Register, RflagsBits,
};

use super::list;
use crate::state::Cpu;

/// Host register that holds the address of the [`Cpu`].
const STATE: Register = Register::RDI;
/// Host register that holds the address of the memory operand.
const OPERAND: Register = Register::RSI;
/// Host registers for the guest's general registers, in order of preference.
const POOL: [Register; 6] = [
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::RCX,
    Register::RDX,
];

/// Every instruction that a stub has besides the guest's own.
#[cfg(test)]
pub const SCAFFOLD: [Code; 15] = [
    Code::Mov_r64_rm64,
    Code::Mov_rm64_r64,
    Code::Mov_rm16_r16,
    Code::Movzx_r32_rm16,
    Code::Movaps_xmm_xmmm128,
    Code::Movaps_xmmm128_xmm,
    Code::VEX_Vmovaps_ymm_ymmm256,
    Code::VEX_Vmovaps_ymmm256_ymm,
    Code::VEX_Vzeroupper,
    Code::Ldmxcsr_m32,
    Code::Stmxcsr_m32,
    Code::Add_AL_imm8,
    Code::Sahf,
    Code::Lahf,
    Code::Seto_rm8,
];

/// Where a guest register lives while the stub runs.
#[derive(Clone, Copy)]
struct Place {
    /// Offset in the [`Cpu`] that it is loaded from.
    offset: usize,
    /// The host register, 64 bits wide (or the vector register).
    host: Register,
    /// Whether it is stored back.
    written: bool,
}

/// What a stub has to move.
struct Plan {
    instruction: Instruction,
    general: Vec<Place>,
    vector: Vec<Place>,
    vex: bool,
    flags_in: bool,
    flags_out: bool,
    mxcsr: bool,
}

/// Generates the stub's code for an instruction that passed the list. `shape` has had its memory operand normalised by
/// [`normalise`].
pub fn stub(shape: &Instruction) -> Result<Vec<u8>, IcedError> {
    let plan = plan(shape);
    let mut code = Assembler::default();
    for place in &plan.general {
        code.load(Code::Mov_r64_rm64, place.host, place.offset)?;
    }
    for place in &plan.vector {
        code.load(
            vector_load(plan.vex),
            vector_register(place.host, plan.vex),
            place.offset,
        )?;
    }
    if plan.mxcsr {
        code.memory(Code::Ldmxcsr_m32, offset_of!(Cpu, mxcsr))?;
    }
    if plan.flags_in {
        code.load_flags()?;
    }
    code.push(&plan.instruction)?;
    // None of the moves below changes the flags.
    for place in plan.general.iter().filter(|place| place.written) {
        code.store(Code::Mov_rm64_r64, place.host, place.offset)?;
    }
    if plan.flags_out {
        code.store_flags()?;
    }
    if plan.mxcsr {
        code.memory(Code::Stmxcsr_m32, offset_of!(Cpu, mxcsr))?;
        code.memory(
            Code::Ldmxcsr_m32,
            offset_of!(Cpu, native) + offset_of!(super::NativeState, host_mxcsr),
        )?;
    }
    for place in plan.vector.iter().filter(|place| place.written) {
        code.store(
            vector_store(plan.vex),
            vector_register(place.host, plan.vex),
            place.offset,
        )?;
    }
    if plan.vex && !plan.vector.is_empty() {
        code.push(&Instruction::with(Code::VEX_Vzeroupper))?;
    }
    code.push(&Instruction::with(Code::Retnq))?;
    Ok(code.bytes)
}

/// `instruction` with everything removed that the stub does not depend on: instructions with the same result share a stub.
pub fn normalise(instruction: &Instruction) -> Instruction {
    let mut shape = *instruction;
    shape.set_ip(0);
    shape.set_next_ip(0);
    shape.set_len(0);
    shape.set_has_lock_prefix(false);
    shape.set_has_rep_prefix(false);
    shape.set_has_repne_prefix(false);
    shape.set_segment_prefix(Register::None);
    if list::has_memory(&shape) {
        shape.set_memory_base(OPERAND);
        shape.set_memory_index(Register::None);
        shape.set_memory_index_scale(1);
        shape.set_memory_displacement64(0);
        shape.set_memory_displ_size(0);
    }
    shape
}

/// Decides where each register goes.
fn plan(shape: &Instruction) -> Plan {
    let mut factory = InstructionInfoFactory::new();
    let mut without_memory = *shape;
    if list::has_memory(shape) {
        without_memory.set_memory_base(Register::None);
        without_memory.set_memory_displ_size(8);
    }
    let used: Vec<(Register, OpAccess)> = factory
        .info(&without_memory)
        .used_registers()
        .iter()
        .map(|used| (used.register(), used.access()))
        .collect();
    let written = |same: &dyn Fn(Register) -> bool| {
        used.iter()
            .any(|&(register, access)| same(register) && is_write(access))
    };
    let named: Vec<Register> = (0..shape.op_count())
        .filter(|&operand| shape.op_kind(operand) == OpKind::Register)
        .map(|operand| shape.op_register(operand))
        .filter(|register| register.is_gpr())
        .collect();
    let mut implied: Vec<Register> = used
        .iter()
        .map(|&(register, _)| register.full_register())
        .filter(|full| full.is_gpr() && !named.iter().any(|name| name.full_register() == *full))
        .collect();
    if shape.mnemonic() == Mnemonic::Mulx {
        // It reads RDX besides the operands that it names, of which RDX may be one.
        implied.push(Register::RDX);
    }
    let mut pool = POOL
        .iter()
        .copied()
        .filter(|register| !implied.contains(register));

    let mut instruction = *shape;
    let mut general: Vec<Place> = Vec::new();
    let mut homes: Vec<(Register, Register)> = Vec::new();
    for register in named {
        let known = homes
            .iter()
            .find(|home| home.0 == key(register))
            .map(|home| home.1);
        // Three general registers are the most that an instruction names, and the pool has more than it can imply.
        let stays = implied.contains(&key(register)).then_some(key(register));
        let Some(host) = known.or(stays).or_else(|| pool.next()) else {
            continue;
        };
        if known.is_none() {
            homes.push((key(register), host));
            let full = register.full_register();
            general.push(Place {
                offset: general_offset(full) + usize::from(is_high_byte(register)),
                host,
                // MULX: storing back what it only read does no harm.
                written: shape.mnemonic() == Mnemonic::Mulx
                    || written(&|used| match is_high_byte(register) {
                        true => used == register,
                        false => used.full_register() == full && used.is_gpr(),
                    }),
            });
        }
        for operand in 0..shape.op_count() {
            if shape.op_kind(operand) == OpKind::Register && shape.op_register(operand) == register {
                instruction.set_op_register(operand, same_width(register, host));
            }
        }
    }
    for full in implied {
        if !general.iter().any(|place| place.host == full) {
            let written = written(&|used| used.is_gpr() && used.full_register() == full);
            general.push(Place {
                offset: general_offset(full),
                host: full,
                written,
            });
        }
    }

    let mut vector: Vec<Place> = Vec::new();
    for &(register, _) in used.iter().filter(|(register, _)| list::is_vector(*register)) {
        let host = Register::XMM0 + register.number() as u32;
        if !vector.iter().any(|place| place.host == host) {
            let written = written(&|used| list::is_vector(used) && used.number() == register.number());
            vector.push(Place {
                offset: vector_offset(register.number()),
                host,
                written,
            });
        }
    }

    let (read, modified) = (
        shape.rflags_read() & ARITHMETIC,
        shape.rflags_modified() & ARITHMETIC,
    );
    Plan {
        instruction,
        general,
        vector,
        vex: shape.code().op_code().encoding() == EncodingKind::VEX,
        // Flags that the instruction leaves alone must be passed on, and those that it leaves undefined may depend on their
        // old values.
        flags_in: read != 0 || modified != 0 && modified & !shape.rflags_undefined() != ARITHMETIC,
        flags_out: modified != 0,
        mxcsr: list::uses_mxcsr(shape.code()),
    }
}

/// The flags that a stub handles. x87 condition codes are the host's own business.
const ARITHMETIC: u32 =
    RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::PF | RflagsBits::CF;

/// Registers with the same key share a host register. A high byte is loaded apart from its register.
fn key(register: Register) -> Register {
    if is_high_byte(register) {
        register
    } else {
        register.full_register()
    }
}

/// AH, CH, DH, BH.
fn is_high_byte(register: Register) -> bool {
    matches!(
        register,
        Register::AH | Register::CH | Register::DH | Register::BH
    )
}

/// `host` in the width of `register`.
fn same_width(register: Register, host: Register) -> Register {
    let number = host.number() as u32;
    match register.size() {
        1 => low_byte(host),
        2 => Register::AX + number,
        4 => Register::EAX + number,
        _ => Register::RAX + number,
    }
}

/// The lowest byte of a register of the pool.
fn low_byte(host: Register) -> Register {
    match host {
        Register::RCX => Register::CL,
        Register::RDX => Register::DL,
        Register::R8 => Register::R8L,
        Register::R9 => Register::R9L,
        Register::R10 => Register::R10L,
        _ => Register::R11L,
    }
}

/// True if the access may write.
fn is_write(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    )
}

/// Where a general register is in the [`Cpu`].
fn general_offset(full: Register) -> usize {
    offset_of!(Cpu, gpr) + full.number() * 8
}

/// Where a vector register is in the [`Cpu`].
fn vector_offset(number: usize) -> usize {
    offset_of!(Cpu, vec) + number * 32
}

/// VEX forms work on whole YMM registers: they clear what lies above a narrower result. Legacy forms leave it.
fn vector_register(xmm: Register, vex: bool) -> Register {
    if vex {
        Register::YMM0 + xmm.number() as u32
    } else {
        xmm
    }
}

/// Aligned load of a vector register.
fn vector_load(vex: bool) -> Code {
    if vex {
        Code::VEX_Vmovaps_ymm_ymmm256
    } else {
        Code::Movaps_xmm_xmmm128
    }
}

/// Aligned store of a vector register.
fn vector_store(vex: bool) -> Code {
    if vex {
        Code::VEX_Vmovaps_ymmm256_ymm
    } else {
        Code::Movaps_xmmm128_xmm
    }
}

/// Encoded instructions in a row.
#[derive(Default)]
struct Assembler {
    bytes: Vec<u8>,
}

impl Assembler {
    fn push(&mut self, instruction: &Instruction) -> Result<(), IcedError> {
        let mut encoder = Encoder::new(64);
        encoder.encode(instruction, 0)?;
        self.bytes.append(&mut encoder.take_buffer());
        Ok(())
    }

    fn load(&mut self, code: Code, register: Register, offset: usize) -> Result<(), IcedError> {
        self.push(&Instruction::with2(code, register, state(offset))?)
    }

    fn store(&mut self, code: Code, register: Register, offset: usize) -> Result<(), IcedError> {
        self.push(&Instruction::with2(code, state(offset), register)?)
    }

    fn memory(&mut self, code: Code, offset: usize) -> Result<(), IcedError> {
        self.push(&Instruction::with1(code, state(offset))?)
    }

    /// Sets the arithmetic flags from `Cpu::flags`: the addition overflows if bit 0 of AL is set, SAHF does the rest.
    fn load_flags(&mut self) -> Result<(), IcedError> {
        self.load(Code::Movzx_r32_rm16, Register::EAX, offset_of!(Cpu, flags))?;
        self.push(&Instruction::with2(Code::Add_AL_imm8, Register::AL, 0x7f)?)?;
        self.push(&Instruction::with(Code::Sahf))
    }

    /// The reverse.
    fn store_flags(&mut self) -> Result<(), IcedError> {
        self.push(&Instruction::with(Code::Lahf))?;
        self.push(&Instruction::with1(Code::Seto_rm8, Register::AL)?)?;
        self.store(Code::Mov_rm16_r16, Register::AX, offset_of!(Cpu, flags))
    }
}

/// Memory operand at `offset` of the [`Cpu`].
fn state(offset: usize) -> MemoryOperand {
    MemoryOperand::with_base_displ(STATE, offset as i64)
}
