//! Multiplication and division, out of line.

use std::arch::asm;

use iced_x86::{Instruction, Mnemonic};

use super::operand::size;
use crate::fault::{Exception, Flow, Result};
use crate::flags::HostFlags;
use crate::state::{Cpu, reg};

/// Executes an instruction of this family.
pub fn execute(cpu: &mut Cpu, i: &Instruction) -> Result<Flow> {
    let width = size(i, 0);
    match i.mnemonic() {
        Mnemonic::Mul => {
            let other = cpu.read_operand(i, 0)?;
            multiply_wide(cpu, width, other, false);
        }
        Mnemonic::Imul if i.op_count() == 1 => {
            let other = cpu.read_operand(i, 0)?;
            multiply_wide(cpu, width, other, true);
        }
        Mnemonic::Imul => {
            let last = i.op_count() - 1;
            let a = cpu.read_operand(i, last - 1)?;
            let b = cpu.read_operand(i, last)?;
            let (value, flags) = multiply(width, a, b);
            cpu.write_register(i.op0_register(), value);
            cpu.flags = flags;
        }
        Mnemonic::Div => {
            let divisor = cpu.read_operand(i, 0)?;
            divide(cpu, width, divisor)?;
        }
        _ => {
            let divisor = cpu.read_operand(i, 0)?;
            divide_signed(cpu, width, divisor)?;
        }
    }
    Ok(Flow::Next)
}

/// The two-operand IMUL.
pub fn multiply(width: usize, a: u64, b: u64) -> (u64, HostFlags) {
    let (mut value, mut flags) = (a, 0u16);
    macro_rules! run {
        ($text:literal) => {
            // SAFETY: register arithmetic only.
            unsafe {
                asm!($text, "lahf", "seto al", a = inout(reg) value, b = in(reg) b, inout("ax") flags,
                    options(pure, nomem, nostack))
            }
        };
    }
    match width {
        2 => run!("imul {a:x}, {b:x}"),
        4 => run!("imul {a:e}, {b:e}"),
        _ => run!("imul {a}, {b}"),
    }
    (value, flags)
}

/// MUL and one-operand IMUL: RDX:RAX (AX for bytes).
pub fn multiply_wide(cpu: &mut Cpu, width: usize, other: u64, signed: bool) {
    let (mut low, mut high, flags) = (cpu.gpr[reg::RAX], cpu.gpr[reg::RDX], 0u64);
    let mut flags = flags;
    macro_rules! run {
        ($text:literal, $other:expr, $class:ident) => {
            // SAFETY: register arithmetic only.
            unsafe {
                asm!($text, "mov {f}, rax", "lahf", "seto al", "xchg {f}, rax", b = in($class) $other, f = out(reg) flags,
                    inout("rax") low, inout("rdx") high, options(pure, nomem, nostack))
            }
        };
    }
    match (signed, width) {
        (false, 1) => run!("mul {b}", other as u8, reg_byte),
        (false, 2) => run!("mul {b:x}", other, reg),
        (false, 4) => run!("mul {b:e}", other, reg),
        (false, _) => run!("mul {b}", other, reg),
        (true, 1) => run!("imul {b}", other as u8, reg_byte),
        (true, 2) => run!("imul {b:x}", other, reg),
        (true, 4) => run!("imul {b:e}", other, reg),
        (true, _) => run!("imul {b}", other, reg),
    }
    cpu.gpr[reg::RAX] = low;
    if width > 1 {
        cpu.gpr[reg::RDX] = high;
    }
    cpu.flags = flags as u16;
}

fn set_quotient(cpu: &mut Cpu, width: usize, quotient: u64, remainder: u64) {
    let (rax, rdx) = (cpu.gpr[reg::RAX], cpu.gpr[reg::RDX]);
    match width {
        1 => cpu.gpr[reg::RAX] = rax & !0xffff | (quotient & 0xff) | (remainder & 0xff) << 8,
        2 => {
            cpu.gpr[reg::RAX] = rax & !0xffff | quotient & 0xffff;
            cpu.gpr[reg::RDX] = rdx & !0xffff | remainder & 0xffff;
        }
        4 => {
            cpu.gpr[reg::RAX] = quotient & 0xffff_ffff;
            cpu.gpr[reg::RDX] = remainder & 0xffff_ffff;
        }
        _ => {
            cpu.gpr[reg::RAX] = quotient;
            cpu.gpr[reg::RDX] = remainder;
        }
    }
}

/// The dividend of `width` in RDX:RAX (AX for bytes).
fn dividend(cpu: &Cpu, width: usize) -> u128 {
    let (rax, rdx) = (cpu.gpr[reg::RAX], cpu.gpr[reg::RDX]);
    match width {
        1 => u128::from(rax & 0xffff),
        2 => u128::from((rdx & 0xffff) << 16 | rax & 0xffff),
        4 => u128::from(rdx << 32 | rax & 0xffff_ffff),
        _ => u128::from(rdx) << 64 | u128::from(rax),
    }
}

/// DIV; `#DE` if the divisor is zero or the quotient does not fit.
pub fn divide(cpu: &mut Cpu, width: usize, divisor: u64) -> Result<()> {
    let value = dividend(cpu, width);
    if divisor == 0 || value >> (8 * width) >= u128::from(divisor) {
        return Err(cpu.raise(Exception::de()));
    }
    let (quotient, remainder) = match u64::try_from(value) {
        Ok(value) => (value / divisor, value % divisor),
        Err(_) => (
            (value / u128::from(divisor)) as u64,
            (value % u128::from(divisor)) as u64,
        ),
    };
    set_quotient(cpu, width, quotient, remainder);
    Ok(())
}

/// IDIV.
pub fn divide_signed(cpu: &mut Cpu, width: usize, divisor: u64) -> Result<()> {
    let bits = 8 * width as u32;
    let spare = 64 - bits;
    let divisor = i128::from((divisor << spare) as i64 >> spare);
    let spare = 128 - 2 * bits;
    let value = (dividend(cpu, width) << spare) as i128 >> spare;
    if divisor == 0 {
        return Err(cpu.raise(Exception::de()));
    }
    let (quotient, remainder) = match (i64::try_from(value), divisor as i64) {
        (Ok(value), divisor) if divisor != -1 => (i128::from(value / divisor), i128::from(value % divisor)),
        _ => (value.wrapping_div(divisor), value.wrapping_rem(divisor)),
    };
    let limit = 1i128 << (bits - 1);
    if quotient < -limit || quotient >= limit {
        return Err(cpu.raise(Exception::de()));
    }
    set_quotient(cpu, width, quotient as u64, remainder as u64);
    Ok(())
}
