//! Execution of stubs: memory operands in place or through a buffer, and SIMD exceptions.

use iced_x86::Mnemonic;

use super::NativeOp;
use super::features::Class;
use super::fpu_image;
use super::stubs::{self, Stub};
use crate::fault::{Exception, Flow, Result, Stop, vector};
use crate::host::Int;
use crate::mmu::access::Access;
use crate::state::{Cpu, FxArea, cr4};

/// Exception flags of MXCSR.
const FLAGS: u32 = 0x3f;
/// Exception masks of MXCSR.
const MASKS: u32 = 0x1f80;
/// Distance between an exception's flag and its mask.
const MASK_SHIFT: u32 = 7;
/// Flags of the exceptions that are found before a result is computed: invalid, denormal, divide by zero.
const BEFORE_RESULT: u32 = 0b111;
/// Underflow.
const UNDERFLOW: u32 = 1 << 4;
/// Flush to zero.
const FLUSH_TO_ZERO: u32 = 1 << 15;

/// A stub without memory operand.
#[inline]
pub fn registers(cpu: &mut Cpu, op: &NativeOp, stub: Stub) -> Result<Flow> {
    prepare(cpu, op)?;
    invoke(cpu, op, stub, std::ptr::null_mut())?;
    if op.notes_pointers {
        cpu.note_x87(op, None);
    }
    Ok(Flow::Next)
}

/// A stub that reads its memory operand.
#[inline]
pub fn load(cpu: &mut Cpu, op: &NativeOp, stub: Stub) -> Result<Flow> {
    prepare(cpu, op)?;
    let size = usize::from(op.size);
    let linear = op.address.linear(cpu, size, Access::Read)?;
    check_alignment(cpu, op, linear)?;
    let operand = match cpu.host_read(linear, size) {
        Some(operand) => operand.cast_mut(),
        None => {
            let mut bytes = [0; 64];
            let offset = op.address.offset(cpu);
            cpu.load_bytes(op.address.segment(), offset, &mut bytes[..size])?;
            cpu.native.buffer = bytes;
            cpu.native.buffer.as_mut_ptr()
        }
    };
    invoke(cpu, op, stub, operand)?;
    if op.notes_pointers {
        let offset = op.address.offset(cpu);
        cpu.note_x87(op, Some(offset));
    }
    Ok(Flow::Next)
}

/// A stub that writes its memory operand.
#[inline]
pub fn store(cpu: &mut Cpu, op: &NativeOp, stub: Stub) -> Result<Flow> {
    prepare(cpu, op)?;
    let size = usize::from(op.size);
    let linear = match op.address.linear(cpu, size, Access::Write) {
        Ok(linear) => linear,
        Err(fault) => return store_nowhere(cpu, op, stub, fault),
    };
    check_alignment(cpu, op, linear)?;
    let trial = op.mxcsr && has_unmasked(cpu.mxcsr);
    match cpu.host_write(linear, size) {
        Some(operand) if !trial => invoke(cpu, op, stub, operand)?,
        _ => {
            // The page's faults come before MMX registers change the x87 state.
            if let Err(fault) = cpu.probe(linear, u64::from(op.size), Access::Write, cpu.cpl == 3) {
                return store_nowhere(cpu, op, stub, fault);
            }
            match cpu.host_write(linear, size) {
                // Now the TLB has it. A non-temporal store to the buffer, which is read at once, would take as long as memory does.
                Some(operand) if !trial => invoke(cpu, op, stub, operand)?,
                _ => store_through_buffer(cpu, op, stub)?,
            }
        }
    }
    if op.notes_pointers {
        let offset = op.address.offset(cpu);
        cpu.note_x87(op, Some(offset));
    }
    Ok(Flow::Next)
}

/// Before any stub: x87 and MMX instructions report a pending x87 exception, and need the state in the host's registers.
#[inline]
fn prepare(cpu: &mut Cpu, op: &NativeOp) -> Result<()> {
    match op.class {
        Class::X87 | Class::Mmx => cpu.wait_x87(),
        Class::Sse if op.uses_mmx => cpu.wait_x87(),
        _ => Ok(()),
    }
}

/// #GP(0) for a vector operand that must be aligned, #AC(0) where alignment is checked.
#[inline]
fn check_alignment(cpu: &mut Cpu, op: &NativeOp, linear: u64) -> Result<()> {
    if linear & u64::from(op.alignment - 1) != 0 {
        return Err(cpu.gp0());
    }
    if linear & u64::from(op.natural_alignment - 1) != 0 && cpu.alignment_checked() {
        return Err(cpu.raise(Exception::with_code(vector::AC, 0)));
    }
    Ok(())
}

/// Runs a storing stub on the buffer and then stores what it wrote.
#[cold]
fn store_through_buffer(cpu: &mut Cpu, op: &NativeOp, stub: Stub) -> Result<()> {
    let x87 = op.class == Class::X87;
    let mut before = FxArea([0; 512]);
    if x87 {
        cpu.save_live_x87(&mut before);
    }
    let operand = cpu.native.buffer.as_mut_ptr();
    invoke(cpu, op, stub, operand)?;
    if x87 && cpu.x87_store_suppressed() {
        return Ok(());
    }
    let bytes = cpu.native.buffer;
    let offset = op.address.offset(cpu);
    let stored = cpu.store_bytes(op.address.segment(), offset, &bytes[..usize::from(op.size)]);
    if stored.is_err() && x87 {
        cpu.revert_live_x87(&before);
    }
    stored
}

/// A store to where nothing can be stored, with `fault` raised. A value that an unmasked exception refuses comes first.
#[cold]
fn store_nowhere(cpu: &mut Cpu, op: &NativeOp, stub: Stub, fault: Stop) -> Result<Flow> {
    if op.class == Class::X87 {
        return store_x87_nowhere(cpu, op, stub, fault);
    }
    if op.mxcsr && has_unmasked(cpu.mxcsr) {
        let (raised, mxcsr) = (cpu.exception.take(), cpu.mxcsr);
        let operand = cpu.native.buffer.as_mut_ptr();
        invoke_unmasked(cpu, op, stub, operand)?;
        (cpu.exception, cpu.mxcsr) = (raised, mxcsr);
    }
    Err(fault)
}

/// The same for the x87, which stores nothing then and goes on with the exception pending.
fn store_x87_nowhere(cpu: &mut Cpu, op: &NativeOp, stub: Stub, fault: Stop) -> Result<Flow> {
    let mut before = FxArea([0; 512]);
    cpu.save_live_x87(&mut before);
    let operand = cpu.native.buffer.as_mut_ptr();
    call(cpu, op, stub, operand);
    if !cpu.x87_store_suppressed() {
        cpu.revert_live_x87(&before);
        return Err(fault);
    }
    cpu.exception = None;
    if op.notes_pointers {
        let offset = op.address.offset(cpu);
        cpu.note_x87(op, Some(offset));
    }
    Ok(Flow::Next)
}

/// True if MXCSR leaves an exception unmasked.
#[inline]
fn has_unmasked(mxcsr: u32) -> bool {
    mxcsr & MASKS != MASKS
}

/// Runs the stub; with unmasked SIMD exceptions, first on trial.
#[inline]
fn invoke(cpu: &mut Cpu, op: &NativeOp, stub: Stub, operand: *mut u8) -> Result<()> {
    if op.mxcsr && has_unmasked(cpu.mxcsr) {
        return invoke_unmasked(cpu, op, stub, operand);
    }
    call(cpu, op, stub, operand);
    Ok(())
}

/// Calls the stub.
#[inline]
fn call(cpu: &mut Cpu, op: &NativeOp, stub: Stub, operand: *mut u8) {
    // SAFETY: the stub is the one of this instruction's shape. It accesses the vCPU's registers, and `size` bytes at
    // `operand`, which is the buffer or guest memory that the MMU said may be accessed so. Features and alignment were checked,
    // and all SIMD exceptions are masked, so it cannot fault. The x87 registers belong to the guest.
    unsafe {
        match stub {
            Stub::Cached(function) => function(cpu, operand),
            Stub::Uncached => stubs::run_uncached(&op.shape, cpu, operand),
        }
    }
}

/// Runs the stub with every exception masked and all flags clear, looks which exceptions there were, and takes the results back
/// if one of them is not masked in the guest.
#[cold]
fn invoke_unmasked(cpu: &mut Cpu, op: &NativeOp, stub: Stub, operand: *mut u8) -> Result<()> {
    let guest = cpu.mxcsr;
    let unmasked = !guest >> MASK_SHIFT & FLAGS;
    let (gpr, vec, flags) = (cpu.gpr, cpu.vec, cpu.flags);
    let base = guest & !FLAGS & !FLUSH_TO_ZERO | MASKS;
    // With flush-to-zero every tiny result counts as an underflow, as it does where underflow is not masked; where it is masked,
    // the guest's own setting decides.
    let flush = if unmasked & UNDERFLOW != 0 {
        FLUSH_TO_ZERO
    } else {
        guest & FLUSH_TO_ZERO
    };
    let mut x87 = FxArea([0; 512]);
    if op.uses_mmx {
        cpu.save_live_x87(&mut x87);
    }
    cpu.mxcsr = base | flush;
    call(cpu, op, stub, operand);
    let mut found = cpu.mxcsr & FLAGS;
    if unmasked & UNDERFLOW != 0 && stores_tiny_half(cpu, op, operand) {
        found |= UNDERFLOW;
    }
    if found & unmasked == 0 {
        cpu.mxcsr = guest | found;
        return Ok(());
    }
    (cpu.gpr, cpu.vec, cpu.flags) = (gpr, vec, flags);
    if found & unmasked & BEFORE_RESULT != 0 {
        found &= BEFORE_RESULT;
    } else if found & unmasked & UNDERFLOW != 0 {
        // Only the run without flush-to-zero tells whether the result was inexact.
        cpu.mxcsr = base;
        call(cpu, op, stub, operand);
        (cpu.gpr, cpu.vec, cpu.flags) = (gpr, vec, flags);
        found = found & !(1 << 5) | cpu.mxcsr & FLAGS;
    }
    if op.uses_mmx {
        cpu.revert_live_x87(&x87);
        fpu_image::begin_mmx(&mut cpu.fx.0);
    }
    cpu.mxcsr = guest | found;
    let vector = if cpu.cr4 & cr4::OSXMMEXCPT != 0 {
        vector::XM
    } else {
        vector::UD
    };
    Err(cpu.raise(Exception::plain(vector)))
}

/// True if VCVTPS2PH has just made a result that is tiny. It knows no flush-to-zero, and does not report one that is exact.
fn stores_tiny_half(cpu: &Cpu, op: &NativeOp, operand: *const u8) -> bool {
    if op.shape.mnemonic() != Mnemonic::Vcvtps2ph {
        return false;
    }
    const EXPONENT: u16 = 0x7c00;
    const SIGN: u16 = 0x8000;
    let count = op.shape.op1_register().size() / 4;
    (0..count).any(|index| {
        let half = if operand.is_null() {
            let register = cpu.vec[op.shape.op0_register().number()];
            (register.0[index / 4] >> (16 * (index % 4))) as u16
        } else {
            // SAFETY: the operand has room for `count` results.
            unsafe { u16::load(operand.wrapping_add(2 * index)) }
        };
        half & EXPONENT == 0 && half & !SIGN != 0
    })
}
