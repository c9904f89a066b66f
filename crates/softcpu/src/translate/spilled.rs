//! Guest registers that live in memory, as memory operands of the instructions that use them.

use iced_x86::{Code, Instruction, InstructionInfo, Mnemonic, OpAccess, OpCodeOperandKind, OpKind, Register};

use super::gpr_at;
use super::registers::{HOME, is_high_byte, number};

/// How an instruction names one of its registers by where that lives.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    code: Code,
    /// The operand that is in memory.
    pub operand: u32,
    offset: usize,
}

impl Form {
    /// Gives `copy` this form. Its other operands are registers of the host already.
    pub fn apply(self, copy: &mut Instruction) {
        copy.set_code(self.code);
        copy.set_op_kind(self.operand, OpKind::Memory);
        copy.set_memory_base(Register::None);
        copy.set_memory_index(Register::None);
        copy.set_memory_displ_size(8);
        copy.set_memory_displacement64(self.offset as u64);
        copy.set_segment_prefix(Register::GS);
    }
}

/// The form of `i`, an instruction on registers with the effects `info`, if it has one. At most one register can be in memory.
pub fn form(i: &Instruction, info: &InstructionInfo) -> Option<Form> {
    if !may_be_in_memory(i.mnemonic()) {
        return None;
    }
    (0..i.op_count()).find_map(|operand| {
        let (code, offset) = operand_in_memory(i, info, operand)?;
        Some(Form {
            code,
            operand,
            offset,
        })
    })
}

fn operand_in_memory(i: &Instruction, info: &InstructionInfo, operand: u32) -> Option<(Code, usize)> {
    let register = gpr_of(i, operand)?;
    let number = number(register)?;
    let elsewhere = (0..i.op_count())
        .filter(|&n| n != operand)
        .all(|n| gpr_of(i, n).is_none_or(|other| super::registers::number(other) != Some(number)));
    let read = matches!(info.op_access(operand), OpAccess::Read | OpAccess::CondRead);
    // A store of 32 bits would leave the upper half.
    if HOME[number].is_some() || is_high_byte(register) || !elsewhere || !read && register.size() != 8 {
        return None;
    }
    let code = [Some(i.code()), turned(i.code())]
        .into_iter()
        .flatten()
        .find(|code| takes_memory(*code, operand))?;
    Some((code, gpr_at(number)))
}

fn gpr_of(i: &Instruction, operand: u32) -> Option<Register> {
    (i.op_kind(operand) == OpKind::Register)
        .then(|| i.op_register(operand))
        .filter(|register| register.is_gpr())
}

/// Those that do with memory what they do with a register, and no more: BT with a register reaches beyond its operand, XCHG locks.
fn may_be_in_memory(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Mov | Movzx
            | Movsx
            | Movsxd
            | Add
            | Or
            | Adc
            | Sbb
            | And
            | Sub
            | Xor
            | Cmp
            | Test
            | Inc
            | Dec
            | Neg
            | Not
            | Shl
            | Shr
            | Sar
            | Rol
            | Ror
            | Imul
            | Cmovo
            | Cmovno
            | Cmovb
            | Cmovae
            | Cmove
            | Cmovne
            | Cmovbe
            | Cmova
            | Cmovs
            | Cmovns
            | Cmovp
            | Cmovnp
            | Cmovl
            | Cmovge
            | Cmovle
            | Cmovg
    )
}

fn takes_memory(code: Code, operand: u32) -> bool {
    matches!(
        code.op_code().op_kind(operand),
        OpCodeOperandKind::r8_or_mem
            | OpCodeOperandKind::r16_or_mem
            | OpCodeOperandKind::r32_or_mem
            | OpCodeOperandKind::r64_or_mem
    )
}

/// The same instruction with the other of its two registers where memory can be.
fn turned(code: Code) -> Option<Code> {
    use Code::*;
    Some(match code {
        Mov_rm32_r32 => Mov_r32_rm32,
        Mov_rm64_r64 => Mov_r64_rm64,
        Mov_r64_rm64 => Mov_rm64_r64,
        Add_rm32_r32 => Add_r32_rm32,
        Add_rm64_r64 => Add_r64_rm64,
        Add_r64_rm64 => Add_rm64_r64,
        Or_rm32_r32 => Or_r32_rm32,
        Or_rm64_r64 => Or_r64_rm64,
        Or_r64_rm64 => Or_rm64_r64,
        Adc_rm32_r32 => Adc_r32_rm32,
        Adc_rm64_r64 => Adc_r64_rm64,
        Adc_r64_rm64 => Adc_rm64_r64,
        Sbb_rm32_r32 => Sbb_r32_rm32,
        Sbb_rm64_r64 => Sbb_r64_rm64,
        Sbb_r64_rm64 => Sbb_rm64_r64,
        And_rm32_r32 => And_r32_rm32,
        And_rm64_r64 => And_r64_rm64,
        And_r64_rm64 => And_rm64_r64,
        Sub_rm32_r32 => Sub_r32_rm32,
        Sub_rm64_r64 => Sub_r64_rm64,
        Sub_r64_rm64 => Sub_rm64_r64,
        Xor_rm32_r32 => Xor_r32_rm32,
        Xor_rm64_r64 => Xor_r64_rm64,
        Xor_r64_rm64 => Xor_rm64_r64,
        Cmp_rm8_r8 => Cmp_r8_rm8,
        Cmp_r8_rm8 => Cmp_rm8_r8,
        Cmp_rm32_r32 => Cmp_r32_rm32,
        Cmp_r32_rm32 => Cmp_rm32_r32,
        Cmp_rm64_r64 => Cmp_r64_rm64,
        Cmp_r64_rm64 => Cmp_rm64_r64,
        _ => return None,
    })
}
