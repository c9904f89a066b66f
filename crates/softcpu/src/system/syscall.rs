//! SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS (SDM vol. 2; APM vol. 3).

use ostler_accel::Segment;

use super::descriptor::is_canonical;
use super::events;
use super::far::set_cs;
use crate::fault::Result;
use crate::flags::bit;
use crate::state::{Cpu, cr0, efer, reg, seg};

fn flat(selector: u16, rights: u16) -> Segment {
    Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        rights,
    }
}

/// Rights of a flat 64-bit code segment of privilege level `dpl`.
pub const fn code64(dpl: u16) -> u16 {
    0xa09b | dpl << 5
}

fn code32(dpl: u16) -> u16 {
    0xc09b | dpl << 5
}

pub const fn data(dpl: u16) -> u16 {
    0xc093 | dpl << 5
}

/// SYSCALL. In compatibility mode it goes to CSTAR as on AMD's processors, in legacy mode to STAR's low half.
pub fn syscall(cpu: &mut Cpu) -> Result<()> {
    if cpu.efer & efer::SCE == 0 || cpu.cr0 & cr0::PE == 0 {
        return Err(cpu.ud());
    }
    let star = cpu.msrs.star;
    let selector = (star >> 32) as u16 & !3;
    let flags = cpu.rflags();
    let rip = if cpu.long_active() {
        cpu.gpr[reg::RCX] = cpu.next_rip;
        cpu.gpr[11] = flags & !bit::RF;
        cpu.set_rflags(flags & !cpu.msrs.sfmask & !bit::RF);
        if cpu.is_long() {
            cpu.msrs.lstar
        } else {
            cpu.msrs.cstar
        }
    } else {
        cpu.gpr[reg::RCX] = cpu.next_rip & 0xffff_ffff;
        cpu.set_rflags(flags & !(bit::VM | bit::IF | bit::RF));
        star & 0xffff_ffff
    };
    let rights = if cpu.long_active() { code64(0) } else { code32(0) };
    cpu.msrs.entered = cpu.rflags_rest & bit::TF == 0;
    cpu.segs[seg::SS] = flat(selector.wrapping_add(8), data(0));
    set_cs(cpu, flat(selector, rights), 0, rip);
    Ok(())
}

/// SYSRET, with `wide` for REX.W (return to 64-bit code).
pub fn sysret(cpu: &mut Cpu, wide: bool) -> Result<()> {
    if cpu.efer & efer::SCE == 0 {
        return Err(cpu.ud());
    }
    if cpu.cpl != 0 || cpu.cr0 & cr0::PE == 0 {
        return Err(cpu.gp0());
    }
    let base = (cpu.msrs.star >> 48) as u16;
    let rcx = cpu.gpr[reg::RCX];
    if wide && !is_canonical(rcx) {
        return Err(cpu.gp0());
    }
    if cpu.long_active() {
        const CHANGEABLE: u64 = 0x3c_7fd7;
        cpu.set_rflags(cpu.gpr[11] & CHANGEABLE);
    } else {
        cpu.set_rflags(cpu.rflags() | bit::IF);
    }
    let (selector, rights, rip) = if wide {
        (base.wrapping_add(16) | 3, code64(3), rcx)
    } else {
        (base | 3, code32(3), rcx & 0xffff_ffff)
    };
    cpu.segs[seg::SS] = flat(base.wrapping_add(8) | 3, data(3));
    set_cs(cpu, flat(selector, rights), 3, rip);
    events::flags_changed(cpu);
    // Unlike IRET, it traps before the first instruction where it returns to.
    cpu.msrs.returned_traced = cpu.rflags_rest & bit::TF != 0;
    Ok(())
}

/// SYSENTER.
pub fn sysenter(cpu: &mut Cpu) -> Result<()> {
    let cs = cpu.msrs.sysenter_cs as u16 & !3;
    if cpu.cr0 & cr0::PE == 0 || cs == 0 {
        return Err(cpu.gp0());
    }
    let long = cpu.long_active();
    cpu.set_rflags(cpu.rflags() & !(bit::VM | bit::IF | bit::RF));
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    let rights = if long { code64(0) } else { code32(0) };
    cpu.segs[seg::SS] = flat(cs.wrapping_add(8), data(0));
    set_cs(cpu, flat(cs, rights), 0, cpu.msrs.sysenter_eip & mask);
    cpu.gpr[reg::RSP] = cpu.msrs.sysenter_esp & mask;
    Ok(())
}

/// SYSEXIT, with `wide` for REX.W.
pub fn sysexit(cpu: &mut Cpu, wide: bool) -> Result<()> {
    let cs = cpu.msrs.sysenter_cs as u16 & !3;
    if cs == 0 || cpu.cpl != 0 || cpu.cr0 & cr0::PE == 0 {
        return Err(cpu.gp0());
    }
    let (rip, sp) = (cpu.gpr[reg::RDX], cpu.gpr[reg::RCX]);
    if wide && !(is_canonical(rip) && is_canonical(sp)) {
        return Err(cpu.gp0());
    }
    let (offset, rights, mask) = if wide {
        (32, code64(3), u64::MAX)
    } else {
        (16, code32(3), 0xffff_ffff)
    };
    cpu.segs[seg::SS] = flat(cs.wrapping_add(offset + 8) | 3, data(3));
    set_cs(cpu, flat(cs.wrapping_add(offset) | 3, rights), 3, rip & mask);
    cpu.gpr[reg::RSP] = sp & mask;
    Ok(())
}

/// SWAPGS.
pub fn swapgs(cpu: &mut Cpu) -> Result<()> {
    if !cpu.is_long() {
        return Err(cpu.ud());
    }
    if cpu.cpl != 0 {
        return Err(cpu.gp0());
    }
    std::mem::swap(&mut cpu.segs[seg::GS].base, &mut cpu.msrs.kernel_gs_base);
    Ok(())
}
