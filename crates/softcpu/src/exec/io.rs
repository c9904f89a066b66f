//! Port input and output.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::address::segment_index;
use super::operand::mask;
use super::string::{again, interrupted};
use crate::fault::{Flow, Result};
use crate::flags::bit;
use crate::mmu::access::Access;
use crate::state::{Cpu, mode, reg, seg};
use crate::system;

/// Executes an instruction of this family.
pub fn execute(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    match i.mnemonic() {
        Mnemonic::In => {
            let width = i.op0_register().size();
            let port = port(cpu, i, 1);
            check_port(cpu, port, width)?;
            system::note_port_access(cpu, port, width as u8);
            let value = cpu.port_read(port, width as u8)?;
            cpu.write_register(i.op0_register(), value.into());
            Ok(Flow::Next)
        }
        Mnemonic::Out => {
            let width = i.op1_register().size();
            let port = port(cpu, i, 0);
            check_port(cpu, port, width)?;
            system::note_port_access(cpu, port, width as u8);
            let value = cpu.read_register(i.op1_register()) as u32;
            cpu.port_write(port, width as u8, value)?;
            Ok(Flow::Next)
        }
        Mnemonic::Insb => repeat(cpu, i, 1, input),
        Mnemonic::Insw => repeat(cpu, i, 2, input),
        Mnemonic::Insd => repeat(cpu, i, 4, input),
        Mnemonic::Outsb => repeat(cpu, i, 1, output),
        Mnemonic::Outsw => repeat(cpu, i, 2, output),
        _ => repeat(cpu, i, 4, output),
    }
}

fn port(cpu: &Cpu, i: &Instruction, n: u32) -> u16 {
    if i.op_kind(n) == OpKind::Register {
        cpu.gpr[reg::RDX] as u16
    } else {
        u16::from(i.immediate8())
    }
}

/// The I/O permission of the current privilege: IOPL, then the TSS's bitmap (SDM vol. 1, 19.5).
fn check_port(cpu: &mut Cpu, port: u16, width: usize) -> Result<()> {
    let iopl = (cpu.rflags_rest & bit::IOPL) >> 12;
    let v86 = cpu.mode & mode::V86 != 0;
    if cpu.mode & mode::PROTECTED == 0 || (!v86 && u64::from(cpu.cpl) <= iopl) {
        return Ok(());
    }
    let tss = cpu.tr;
    // Only a 32-bit or 64-bit TSS has a bitmap.
    if tss.rights & 0x8d != 0x89 & 0x8d || tss.limit < 0x67 {
        return Err(cpu.gp0());
    }
    let map = cpu.load_system::<u16>(tss.base.wrapping_add(0x66))?;
    let byte = u32::from(map) + u32::from(port / 8);
    if byte + 1 > tss.limit {
        return Err(cpu.gp0());
    }
    let bits = cpu.load_system::<u16>(tss.base.wrapping_add(byte.into()))?;
    let wanted = ((1u16 << width) - 1) << (port % 8);
    if bits & wanted != 0 {
        Err(cpu.gp0())
    } else {
        Ok(())
    }
}

fn address_mask(i: &Instruction) -> u64 {
    for n in 0..i.op_count() {
        match i.op_kind(n) {
            OpKind::MemorySegSI | OpKind::MemoryESDI => return 0xffff,
            OpKind::MemorySegESI | OpKind::MemoryESEDI => return 0xffff_ffff,
            _ => {}
        }
    }
    u64::MAX
}

fn repeat(
    cpu: &mut Cpu,
    i: &Instruction,
    width: usize,
    one: fn(&mut Cpu, &Instruction, usize, u64) -> Result<()>,
) -> Result<Flow> {
    let address = address_mask(i);
    let port = cpu.gpr[reg::RDX] as u16;
    check_port(cpu, port, width)?;
    if !i.has_rep_prefix() && !i.has_repne_prefix() {
        one(cpu, i, width, address)?;
        return Ok(Flow::Next);
    }
    while cpu.gpr[reg::RCX] & address != 0 {
        one(cpu, i, width, address)?;
        advance(cpu, reg::RCX, address, u64::MAX);
        cpu.replay.clear();
        if cpu.gpr[reg::RCX] & address != 0 && interrupted(cpu) {
            return again(cpu);
        }
    }
    Ok(Flow::Next)
}

fn advance(cpu: &mut Cpu, register: usize, address: u64, by: u64) {
    let old = cpu.gpr[register];
    let new = old.wrapping_add(by) & address;
    cpu.gpr[register] = if address == 0xffff {
        old & !0xffff | new
    } else {
        new
    };
}

fn step(cpu: &Cpu, width: usize) -> u64 {
    if cpu.rflags_rest & bit::DF != 0 {
        (width as u64).wrapping_neg()
    } else {
        width as u64
    }
}

fn input(cpu: &mut Cpu, _i: &Instruction, width: usize, address: u64) -> Result<()> {
    let at = cpu.gpr[reg::RDI] & address;
    let linear = cpu.linear(seg::ES, at, width as u64, Access::Write)?;
    // The port is read only if the value can be stored: reading may have side effects.
    cpu.probe_write(linear, width)?;
    let port = cpu.gpr[reg::RDX] as u16;
    system::note_port_access(cpu, port, width as u8);
    let value = cpu.port_read(port, width as u8)?;
    cpu.store_sized(seg::ES, at, width, value.into())?;
    let by = step(cpu, width);
    advance(cpu, reg::RDI, address, by);
    Ok(())
}

fn output(cpu: &mut Cpu, i: &Instruction, width: usize, address: u64) -> Result<()> {
    let segment = segment_index(i.memory_segment()).unwrap_or(seg::DS);
    let value = cpu.load_sized(segment, cpu.gpr[reg::RSI] & address, width)?;
    let port = cpu.gpr[reg::RDX] as u16;
    system::note_port_access(cpu, port, width as u8);
    cpu.port_write(port, width as u8, (value & mask(width)) as u32)?;
    let by = step(cpu, width);
    advance(cpu, reg::RSI, address, by);
    Ok(())
}
