//! CLI, STI, PUSHF, POPF, CLAC, STAC (SDM vol. 2; IOPL and VME rules vol. 3, 21.2 and 21.3).

use super::{events, stack};
use crate::fault::Result;
use crate::flags::bit;
use crate::state::{Cpu, cr0, cr4};

fn iopl(cpu: &Cpu) -> u8 {
    ((cpu.rflags_rest & bit::IOPL) >> 12) as u8
}

/// How CLI and STI act.
enum Reach {
    /// On IF.
    Real,
    /// On VIF.
    Virtual,
    Forbidden,
}

fn reach(cpu: &Cpu) -> Reach {
    if cpu.cr0 & cr0::PE == 0 {
        return Reach::Real;
    }
    let v86 = cpu.rflags_rest & bit::VM != 0;
    let virtual_allowed = if v86 {
        cpu.cr4 & cr4::VME != 0
    } else {
        cpu.cpl == 3 && cpu.cr4 & cr4::PVI != 0
    };
    if iopl(cpu) >= cpu.cpl {
        Reach::Real
    } else if virtual_allowed {
        Reach::Virtual
    } else {
        Reach::Forbidden
    }
}

/// CLI.
pub fn cli(cpu: &mut Cpu) -> Result<()> {
    match reach(cpu) {
        Reach::Real => cpu.rflags_rest &= !bit::IF,
        Reach::Virtual => cpu.rflags_rest &= !bit::VIF,
        Reach::Forbidden => return Err(cpu.gp0()),
    }
    Ok(())
}

/// STI.
pub fn sti(cpu: &mut Cpu) -> Result<()> {
    match reach(cpu) {
        Reach::Real => {
            if cpu.rflags_rest & bit::IF == 0 {
                cpu.rflags_rest |= bit::IF;
                cpu.shadow = true;
                events::flags_changed(cpu);
            }
        }
        Reach::Virtual if cpu.rflags_rest & bit::VIP == 0 => cpu.rflags_rest |= bit::VIF,
        Reach::Virtual | Reach::Forbidden => return Err(cpu.gp0()),
    }
    Ok(())
}

/// PUSHF with `width` bytes.
pub fn pushf(cpu: &mut Cpu, width: u8) -> Result<()> {
    let mut flags = cpu.rflags() & !(bit::VM | bit::RF);
    if cpu.rflags_rest & bit::VM != 0 && iopl(cpu) < 3 {
        if width != 2 || cpu.cr4 & cr4::VME == 0 {
            return Err(cpu.gp0());
        }
        flags = flags & !bit::IF | bit::IOPL;
        if flags & bit::VIF != 0 {
            flags |= bit::IF;
        }
    }
    stack::push(cpu, width, flags)
}

/// POPF with `width` bytes.
pub fn popf(cpu: &mut Cpu, width: u8) -> Result<()> {
    const BASE: u64 = bit::ARITHMETIC | bit::TF | bit::DF | bit::NT | bit::AC | bit::ID;
    let mut popper = stack::Popper::new(cpu, width);
    let new = popper.pop(cpu)?;
    let old = cpu.rflags();
    let v86 = cpu.rflags_rest & bit::VM != 0;
    let mut mask = BASE;
    let mut vif = old & bit::VIF;
    if v86 && iopl(cpu) < 3 {
        if width != 2 || cpu.cr4 & cr4::VME == 0 {
            return Err(cpu.gp0());
        }
        if new & bit::TF != 0 || (new & bit::IF != 0 && old & bit::VIP != 0) {
            return Err(cpu.gp0());
        }
        vif = if new & bit::IF != 0 { bit::VIF } else { 0 };
    } else {
        if cpu.cpl <= iopl(cpu) || v86 {
            mask |= bit::IF;
        }
        if cpu.cpl == 0 {
            mask |= bit::IOPL;
        }
    }
    if width == 2 {
        mask &= 0xffff;
    }
    popper.commit(cpu);
    cpu.set_rflags(old & !(mask | bit::RF | bit::VIF) | new & mask | vif);
    if (old ^ new) & mask & (bit::TF | bit::AC) != 0 {
        cpu.update_mode();
    }
    events::flags_changed(cpu);
    Ok(())
}

/// CLAC and STAC.
pub fn set_ac(cpu: &mut Cpu, on: bool) -> Result<()> {
    // Every model has SMAP, so that only the privilege is checked: these two surround each access to user memory.
    if cpu.cpl != 0 {
        return Err(cpu.ud());
    }
    if on {
        cpu.rflags_rest |= bit::AC;
    } else {
        cpu.rflags_rest &= !bit::AC;
    }
    cpu.update_mmu_mode();
    Ok(())
}
