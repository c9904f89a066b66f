//! IRET in all modes (SDM vol. 2, IRET).

use super::descriptor::rpl;
use super::far::{check_target, return_code_segment, return_stack, set_cs, to_outer};
use super::stack::{Popper, set_sp};
use super::{events, segment, task};
use crate::fault::Result;
use crate::flags::bit;
use crate::state::{Cpu, cr0, cr4, seg};

/// What IRET may change of the flags at CPL 0 with 32-bit or 64-bit operands.
const ALL: u64 = bit::ARITHMETIC
    | bit::TF
    | bit::IF
    | bit::DF
    | bit::IOPL
    | bit::NT
    | bit::RF
    | bit::AC
    | bit::ID
    | bit::VIF
    | bit::VIP;

/// IRET that pops values of `width` (2, 4 or 8) bytes.
pub fn iret(cpu: &mut Cpu, width: u8) -> Result<()> {
    if cpu.cr0 & cr0::PE == 0 {
        real(cpu, width)?;
    } else if cpu.rflags_rest & bit::VM != 0 {
        v86(cpu, width)?;
    } else if cpu.rflags_rest & bit::NT != 0 {
        if cpu.long_active() {
            return Err(cpu.gp0());
        }
        task::return_to_link(cpu)?;
    } else {
        protected(cpu, width)?;
    }
    cpu.nmi_masked = false;
    events::flags_changed(cpu);
    Ok(())
}

fn merge(old: u64, new: u64, mask: u64, width: u8) -> u64 {
    let mask = if width == 2 { mask & 0xffff } else { mask };
    old & !mask | new & mask
}

fn real(cpu: &mut Cpu, width: u8) -> Result<()> {
    let mut popper = Popper::new(cpu, width);
    let rip = popper.pop(cpu)?;
    let selector = popper.pop(cpu)? as u16;
    let flags = popper.pop(cpu)?;
    let cs = segment::real_segment(cpu, seg::CS, selector);
    if rip > u64::from(cs.limit) {
        return Err(cpu.gp0());
    }
    popper.commit(cpu);
    cpu.set_rflags(merge(cpu.rflags(), flags, ALL & !(bit::VIF | bit::VIP), width));
    cpu.segs[seg::CS] = cs;
    cpu.rip = rip;
    cpu.update_mode();
    Ok(())
}

fn v86(cpu: &mut Cpu, width: u8) -> Result<()> {
    let full = cpu.rflags_rest & bit::IOPL == bit::IOPL;
    let virtual_if = !full && width == 2 && cpu.cr4 & cr4::VME != 0;
    if !full && !virtual_if {
        return Err(cpu.gp0());
    }
    let mut popper = Popper::new(cpu, width);
    let rip = popper.pop(cpu)?;
    let selector = popper.pop(cpu)? as u16;
    let flags = popper.pop(cpu)?;
    if rip > 0xffff {
        return Err(cpu.gp0());
    }
    let old = cpu.rflags();
    let fixed = bit::IOPL | bit::VIF | bit::VIP;
    let new = if virtual_if {
        if flags & bit::TF != 0 || (flags & bit::IF != 0 && old & bit::VIP != 0) {
            return Err(cpu.gp0());
        }
        let vif = if flags & bit::IF != 0 { bit::VIF } else { 0 };
        merge(old, flags, ALL & !(fixed | bit::IF), width) & !bit::VIF | vif
    } else {
        merge(old, flags, ALL & !fixed, width)
    };
    popper.commit(cpu);
    cpu.set_rflags(new);
    cpu.segs[seg::CS] = segment::real_segment(cpu, seg::CS, selector);
    cpu.rip = rip;
    cpu.update_mode();
    Ok(())
}

/// The bits that a return from privilege level `cpl` may change.
fn changeable(cpu: &Cpu) -> u64 {
    let iopl = (cpu.rflags_rest & bit::IOPL) >> 12;
    let mut mask = ALL;
    if cpu.cpl > 0 {
        mask &= !(bit::IOPL | bit::VIF | bit::VIP);
    }
    if u64::from(cpu.cpl) > iopl {
        mask &= !bit::IF;
    }
    mask
}

fn protected(cpu: &mut Cpu, width: u8) -> Result<()> {
    let mut popper = Popper::new(cpu, width);
    let rip = popper.pop(cpu)?;
    let selector = popper.pop(cpu)? as u16;
    let flags = popper.pop(cpu)?;
    if flags & bit::VM != 0 && cpu.cpl == 0 && width == 4 && !cpu.long_active() {
        return to_v86(cpu, popper, rip, selector, flags);
    }
    let from_long = cpu.is_long();
    let d = return_code_segment(cpu, selector)?;
    check_target(cpu, &d, rip)?;
    let new_flags = merge(cpu.rflags(), flags, changeable(cpu), width);
    let level = rpl(selector);
    if level == cpu.cpl && !from_long {
        popper.commit(cpu);
        cpu.set_rflags(new_flags);
        set_cs(cpu, d.segment(selector), level, rip);
        return Ok(());
    }
    let sp = popper.pop(cpu)?;
    let ss_selector = popper.pop(cpu)? as u16;
    let ss = return_stack(cpu, &d, ss_selector, level)?;
    cpu.set_rflags(new_flags);
    to_outer(cpu, d.segment(selector), level, rip, ss, sp);
    Ok(())
}

fn to_v86(cpu: &mut Cpu, mut popper: Popper, rip: u64, selector: u16, flags: u64) -> Result<()> {
    let sp = popper.pop(cpu)?;
    let ss = popper.pop(cpu)? as u16;
    let mut rest = [0u16; 4];
    for slot in &mut rest {
        *slot = popper.pop(cpu)? as u16;
    }
    cpu.set_rflags(merge(cpu.rflags(), flags, ALL | bit::VM, 4));
    cpu.cpl = 3;
    let [es, ds, fs, gs] = rest;
    for (index, selector) in [
        (seg::ES, es),
        (seg::CS, selector),
        (seg::SS, ss),
        (seg::DS, ds),
        (seg::FS, fs),
        (seg::GS, gs),
    ] {
        cpu.segs[index] = segment::real_segment(cpu, index, selector);
    }
    cpu.rip = rip & 0xffff;
    cpu.update_mode();
    set_sp(cpu, sp);
    cpu.gpr[crate::state::reg::RSP] = sp & 0xffff_ffff;
    Ok(())
}
