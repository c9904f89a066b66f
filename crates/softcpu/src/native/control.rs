//! MXCSR, VZEROUPPER and VZEROALL, fences, cache hints.

use super::NativeOp;
use super::xsave::MXCSR_MASK;
use crate::fault::{Flow, Result};
use crate::mmu::access::Access;
use crate::state::Cpu;

/// LDMXCSR and VLDMXCSR.
pub fn ldmxcsr(cpu: &mut Cpu, op: &NativeOp) -> Result<Flow> {
    let offset = op.address.offset(cpu);
    let value: u32 = cpu.load(op.address.segment(), offset)?;
    if value & !MXCSR_MASK != 0 {
        return Err(cpu.gp0());
    }
    cpu.mxcsr = value;
    Ok(cpu.vector_state_changed())
}

/// STMXCSR and VSTMXCSR.
pub fn stmxcsr(cpu: &mut Cpu, op: &NativeOp) -> Result<Flow> {
    let offset = op.address.offset(cpu);
    cpu.store(op.address.segment(), offset, cpu.mxcsr)?;
    Ok(Flow::Next)
}

/// Vector registers that the mode has.
fn count(cpu: &Cpu) -> usize {
    if cpu.is_long() { 16 } else { 8 }
}

/// VZEROUPPER.
pub fn vzeroupper(cpu: &mut Cpu, _op: &NativeOp) -> Result<Flow> {
    let count = count(cpu);
    cpu.vec[..count]
        .iter_mut()
        .for_each(|register| register.0[2..].fill(0));
    Ok(Flow::Next)
}

/// VZEROALL.
pub fn vzeroall(cpu: &mut Cpu, _op: &NativeOp) -> Result<Flow> {
    let count = count(cpu);
    cpu.vec[..count]
        .iter_mut()
        .for_each(|register| register.0.fill(0));
    Ok(Flow::Next)
}

/// Fences: the guest's memory is the host's, so is the order of accesses.
pub fn fence(_cpu: &mut Cpu, _op: &NativeOp) -> Result<Flow> {
    // SAFETY: MFENCE is part of SSE2, which every x86-64 host has.
    unsafe { std::arch::x86_64::_mm_mfence() };
    Ok(Flow::Next)
}

/// Prefetches: nothing to do, and they never fault.
pub fn hint(_cpu: &mut Cpu, _op: &NativeOp) -> Result<Flow> {
    Ok(Flow::Next)
}

/// CLFLUSH, CLFLUSHOPT, CLWB: guest RAM is coherent, so only the faults of a load remain.
pub fn flush_line(cpu: &mut Cpu, op: &NativeOp) -> Result<Flow> {
    let linear = op.address.linear(cpu, 1, Access::Read)?;
    cpu.probe(linear, 1, Access::Read, cpu.cpl == 3)?;
    Ok(Flow::Next)
}
