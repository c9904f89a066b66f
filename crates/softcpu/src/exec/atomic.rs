//! Compare-and-exchange and its kin, out of line.

use std::arch::asm;

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::address::effective;
use super::alu::Alu;
use super::operand::{by_size, size, wide};
use crate::fault::{Flow, Result};
use crate::flags::HOST_ZF;
use crate::host::Int;
use crate::mmu::access::Access;
use crate::state::{Cpu, reg};

/// Executes an instruction of this family.
pub fn execute(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    match i.mnemonic() {
        Mnemonic::Xadd => exchange_add(cpu, i),
        Mnemonic::Cmpxchg => compare_exchange(cpu, i),
        Mnemonic::Cmpxchg8b => compare_exchange_8(cpu, i),
        _ => compare_exchange_16(cpu, i),
    }
}

fn exchange_add(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    let other = cpu.read_operand(i, 1)?;
    let mut after = cpu.flags;
    let old = by_size!(size(i, 0), T => cpu.update_operand(i, i.has_lock_prefix(), |old| {
        let (sum, flags) = Alu::add(T::from_u64(old), T::from_u64(other));
        after = flags;
        wide(sum)
    }))?;
    // With both operands the same register the sum stays.
    if i.op0_kind() != OpKind::Register || i.op0_register() != i.op1_register() {
        let sum = (i.op0_kind() == OpKind::Register).then(|| cpu.read_register(i.op0_register()));
        cpu.write_register(i.op1_register(), old);
        if let Some(sum) = sum {
            cpu.write_register(i.op0_register(), sum);
        }
    }
    cpu.flags = after;
    Ok(Flow::Next)
}

fn compare_exchange(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    let new = cpu.read_operand(i, 1)?;
    let accumulator = cpu.gpr[reg::RAX];
    let register = (i.op0_kind() == OpKind::Register && size(i, 0) == 4).then(|| {
        let number = i.op0_register().number();
        (number, cpu.gpr[number])
    });
    let old = by_size!(size(i, 0), T => cpu.update_operand(i, i.has_lock_prefix(), |old| {
        if T::from_u64(old) == T::from_u64(accumulator) { new } else { old }
    }))?;
    let width = size(i, 0);
    cpu.flags = by_size!(width, T => Alu::sub(T::from_u64(accumulator), T::from_u64(old)).1);
    if cpu.flags & HOST_ZF == 0 {
        let rax = cpu.gpr[reg::RAX];
        cpu.gpr[reg::RAX] = match width {
            1 => rax & !0xff | old,
            2 => rax & !0xffff | old,
            _ => old,
        };
        // A register destination is not touched at all, not even its upper half.
        if let Some((number, value)) = register {
            cpu.gpr[number] = value;
        }
    }
    Ok(Flow::Next)
}

fn compare_exchange_8(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    let pair = |cpu: &Cpu, high: usize, low: usize| cpu.gpr[high] << 32 | cpu.gpr[low] & 0xffff_ffff;
    let expected = pair(cpu, reg::RDX, reg::RAX);
    let new = pair(cpu, reg::RCX, reg::RBX);
    let (segment, at) = effective(cpu, i);
    let change = |old| if old == expected { new } else { old };
    let old = cpu.update::<u64>(segment, at, i.has_lock_prefix(), change)?;
    if old == expected {
        cpu.flags |= HOST_ZF;
    } else {
        cpu.flags &= !HOST_ZF;
        cpu.gpr[reg::RAX] = old & 0xffff_ffff;
        cpu.gpr[reg::RDX] = old >> 32;
    }
    Ok(Flow::Next)
}

fn compare_exchange_16(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    let (segment, at) = effective(cpu, i);
    let linear = cpu.linear(segment, at, 16, Access::Write)?;
    if linear & 15 != 0 {
        return Err(cpu.gp0());
    }
    cpu.probe_write(linear, 16)?;
    let (host, note) = match cpu.mmu.write_hit(linear, 16) {
        Some(ptr) => (ptr, None),
        None => match cpu.writable_at(linear, 16)? {
            Some((ptr, page)) => (ptr, Some((ptr, page))),
            // Devices have no registers of 16 bytes.
            None => return Err(cpu.gp0()),
        },
    };
    let (old_low, old_high): (u64, u64);
    let equal: u8;
    // SAFETY: `host` is 16-byte aligned, writable guest RAM. RBX is the compiler's, so it is exchanged for the duration.
    unsafe {
        asm!("xchg rsi, rbx", "lock cmpxchg16b [rdi]", "sete r8b", "mov rbx, rsi",
            inout("rsi") cpu.gpr[reg::RBX] => _, in("rdi") host, out("r8b") equal,
            inout("rax") cpu.gpr[reg::RAX] => old_low, inout("rdx") cpu.gpr[reg::RDX] => old_high,
            in("rcx") cpu.gpr[reg::RCX], options(nostack));
    }
    if let Some((ptr, page)) = note {
        page.tracker
            .note_write(page.page * 4096 + (ptr as usize & 0xfff), 16);
    }
    if equal != 0 {
        cpu.flags |= HOST_ZF;
    } else {
        cpu.flags &= !HOST_ZF;
        cpu.gpr[reg::RAX] = old_low;
        cpu.gpr[reg::RDX] = old_high;
    }
    Ok(Flow::Next)
}
