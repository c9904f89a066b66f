//! Bit tests and scans, out of line.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::address::{offset, segment_index};
use super::operand::{by_size, size, wide};
use crate::fault::{Flow, Result};
use crate::flags::{HOST_CF, HOST_ZF};
use crate::host::Int;
use crate::state::{Cpu, seg};

/// Executes an instruction of this family.
pub fn execute(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    match i.mnemonic() {
        Mnemonic::Bsf | Mnemonic::Bsr => scan(cpu, i),
        _ => test(cpu, i),
    }
}

/// BSF and BSR, also by the encodings that newer CPUs know as TZCNT and LZCNT. A source of zero leaves the destination.
pub fn scan(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    let value = cpu.read_operand(i, 1)?;
    if value == 0 {
        cpu.flags |= HOST_ZF;
        return Ok(Flow::Next);
    }
    cpu.flags &= !HOST_ZF;
    let at = if matches!(i.mnemonic(), Mnemonic::Bsf | Mnemonic::Tzcnt) {
        value.trailing_zeros()
    } else {
        63 - value.leading_zeros()
    };
    cpu.write_register(i.op0_register(), u64::from(at));
    Ok(Flow::Next)
}

/// BT, BTS, BTR, BTC. A register index reaches beyond a memory operand.
fn test(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    let width = size(i, 0);
    let bits = 8 * width as u64;
    let index = cpu.read_operand(i, 1)?;
    let bit = 1u64 << (index & (bits - 1));
    let mnemonic = i.mnemonic();
    let change = |old: u64| match mnemonic {
        Mnemonic::Bts => old | bit,
        Mnemonic::Btr => old & !bit,
        Mnemonic::Btc => old ^ bit,
        _ => old,
    };
    let old = if i.op0_kind() == OpKind::Register {
        let old = cpu.read_register(i.op0_register());
        if mnemonic != Mnemonic::Bt {
            cpu.write_register(i.op0_register(), change(old));
        }
        old
    } else {
        let segment = segment_index(i.memory_segment()).unwrap_or(seg::DS);
        let mut at = offset(cpu, i);
        if i.op1_kind() == OpKind::Register {
            let spare = 64 - bits as u32;
            let signed = ((index << spare) as i64) >> spare;
            let step = (signed >> bits.trailing_zeros()).wrapping_mul(width as i64);
            at = super::address::wrap(i, at.wrapping_add(step as u64));
        }
        by_size!(width, T => {
            if mnemonic == Mnemonic::Bt {
                cpu.load::<T>(segment, at).map(wide)
            } else {
                cpu.update::<T>(segment, at, i.has_lock_prefix(), |old| T::from_u64(change(wide(old)))).map(wide)
            }
        })?
    };
    cpu.flags = if old & bit != 0 {
        cpu.flags | HOST_CF
    } else {
        cpu.flags & !HOST_CF
    };
    Ok(Flow::Next)
}
