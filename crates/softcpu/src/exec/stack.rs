//! Stack instructions, out of line.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::operand::mask;
use crate::fault::{Flow, Result};
use crate::state::{Cpu, reg, seg};

/// Executes an instruction of this family (segment registers are the system part's).
pub fn execute(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    let width = i.stack_pointer_increment().unsigned_abs() as usize;
    match i.mnemonic() {
        Mnemonic::Push => {
            let value = match i.op0_kind() {
                OpKind::Register | OpKind::Memory => cpu.read_operand(i, 0)?,
                _ => i.immediate(0),
            };
            cpu.push(width, value)?;
        }
        Mnemonic::Pop => pop(cpu, i, width)?,
        Mnemonic::Leave => leave(cpu, width_of_frame(cpu, i))?,
        Mnemonic::Enter => enter(cpu, i)?,
        Mnemonic::Pusha | Mnemonic::Pushad => {
            push_all(cpu, if i.mnemonic() == Mnemonic::Pusha { 2 } else { 4 })?
        }
        _ => pop_all(cpu, if i.mnemonic() == Mnemonic::Popa { 2 } else { 4 })?,
    }
    Ok(Flow::Next)
}

/// Operand size of ENTER and LEAVE, by their encodings.
fn width_of_frame(cpu: &Cpu, i: &Instruction) -> usize {
    use iced_x86::Code;
    match i.code() {
        Code::Leavew | Code::Enterw_imm16_imm8 => 2,
        Code::Leaved | Code::Enterd_imm16_imm8 => 4,
        _ if cpu.is_long() => 8,
        _ => 4,
    }
}

fn pop(cpu: &mut Cpu, i: &Instruction, width: usize) -> Result<()> {
    let value = cpu.peek(width, 0)?;
    let before = cpu.gpr[reg::RSP];
    // A memory operand based on RSP is addressed with RSP after the pop.
    cpu.gpr[reg::RSP] = cpu.moved_rsp(width as u64);
    let stored = cpu.write_operand(i, 0, value);
    if stored.is_err() {
        cpu.gpr[reg::RSP] = before;
    }
    stored
}

fn leave(cpu: &mut Cpu, width: usize) -> Result<()> {
    let frame = cpu.gpr[reg::RBP] & cpu.rsp_mask;
    let value = cpu.load_sized(seg::SS, frame, width)?;
    let rsp = frame.wrapping_add(width as u64) & cpu.rsp_mask;
    let keep = if cpu.rsp_mask == 0xffff {
        cpu.gpr[reg::RSP] & !0xffff
    } else {
        0
    };
    cpu.gpr[reg::RSP] = keep | rsp;
    set_rbp(cpu, width, value);
    Ok(())
}

fn set_rbp(cpu: &mut Cpu, width: usize, value: u64) {
    cpu.gpr[reg::RBP] = if width == 2 {
        cpu.gpr[reg::RBP] & !0xffff | value & 0xffff
    } else {
        value & mask(width)
    };
}

fn enter(cpu: &mut Cpu, i: &Instruction) -> Result<()> {
    let width = width_of_frame(cpu, i);
    let size = u64::from(i.immediate16());
    let level = i.immediate8_2nd() & 31;
    let start = cpu.gpr[reg::RSP];
    let result = (|| {
        cpu.push(width, cpu.gpr[reg::RBP])?;
        let frame = cpu.gpr[reg::RSP];
        let mut from = cpu.gpr[reg::RBP];
        for _ in 1..level {
            from = from.wrapping_sub(width as u64);
            let link = cpu.load_sized(seg::SS, from & cpu.rsp_mask, width)?;
            cpu.push(width, link)?;
        }
        if level > 0 {
            cpu.push(width, frame)?;
        }
        let rsp = cpu.moved_rsp(size.wrapping_neg());
        cpu.probe_stack(rsp, width)?;
        Ok((frame, rsp))
    })();
    match result {
        Ok((frame, rsp)) => {
            cpu.gpr[reg::RSP] = rsp;
            set_rbp(cpu, width, frame);
            Ok(())
        }
        Err(stop) => {
            cpu.gpr[reg::RSP] = start;
            Err(stop)
        }
    }
}

fn push_all(cpu: &mut Cpu, width: usize) -> Result<()> {
    let start = cpu.gpr[reg::RSP];
    for register in 0..8 {
        let value = if register == reg::RSP {
            start
        } else {
            cpu.gpr[register]
        };
        if let Err(stop) = cpu.push(width, value) {
            cpu.gpr[reg::RSP] = start;
            return Err(stop);
        }
    }
    Ok(())
}

fn pop_all(cpu: &mut Cpu, width: usize) -> Result<()> {
    let mut values = [0; 8];
    for (at, value) in values.iter_mut().enumerate() {
        *value = cpu.peek(width, (at * width) as u64)?;
    }
    let rsp = cpu.moved_rsp(8 * width as u64);
    for (at, value) in values.into_iter().enumerate() {
        let register = 7 - at;
        let whole = &mut cpu.gpr[register];
        *whole = if width == 2 {
            *whole & !0xffff | value
        } else {
            value
        };
    }
    cpu.gpr[reg::RSP] = rsp;
    Ok(())
}

impl Cpu {
    /// Checks that `width` bytes at stack address `rsp` can be written.
    fn probe_stack(&mut self, rsp: u64, width: usize) -> Result<()> {
        let access = crate::mmu::access::Access::Write;
        let linear = self.linear(seg::SS, rsp & self.rsp_mask, width as u64, access)?;
        self.probe_write(linear, width)
    }
}
