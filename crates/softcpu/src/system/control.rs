//! Control registers, debug registers, EFER and XCR0 (SDM vol. 3, 2.5; vol. 2, MOV CR, MOV DR, LMSW, SMSW, CLTS, XSETBV).

use super::descriptor::is_canonical;
use super::{cpuid, debug, events, lapic};
use crate::fault::{Exception, Result};
use crate::state::{Cpu, cr0, cr4, efer, mode, rights, seg};

/// The bits of CR0 that exist; ET always reads as one.
pub const CR0_ALL: u64 = cr0::PE
    | cr0::MP
    | cr0::EM
    | cr0::TS
    | CR0_ET
    | cr0::NE
    | cr0::WP
    | cr0::AM
    | cr0::NW
    | cr0::CD
    | cr0::PG;
pub const CR0_ET: u64 = 1 << 4;

/// `#GP(0)` outside CPL 0.
pub fn privileged(cpu: &mut Cpu) -> Result<()> {
    if cpu.cpl == 0 { Ok(()) } else { Err(cpu.gp0()) }
}

/// MOV from a control register.
pub fn read_cr(cpu: &mut Cpu, number: u8) -> Result<u64> {
    privileged(cpu)?;
    match number {
        0 => Ok(cpu.cr0),
        2 => Ok(cpu.cr2),
        3 => Ok(cpu.cr3),
        4 => Ok(cpu.cr4),
        8 => Ok(u64::from(cpu.lapic.tpr() >> 4)),
        _ => Err(cpu.ud()),
    }
}

/// MOV to a control register.
pub fn write_cr(cpu: &mut Cpu, number: u8, value: u64) -> Result<()> {
    privileged(cpu)?;
    match number {
        0 => write_cr0(cpu, value),
        2 => {
            cpu.cr2 = value;
            Ok(())
        }
        3 => write_cr3(cpu, value),
        4 => write_cr4(cpu, value),
        8 if value <= 0xf => {
            lapic::set_tpr(cpu, (value as u8) << 4);
            Ok(())
        }
        8 => Err(cpu.gp0()),
        _ => Err(cpu.ud()),
    }
}

/// Sets CR0 with every rule of MOV to CR0.
pub fn write_cr0(cpu: &mut Cpu, value: u64) -> Result<()> {
    let old = cpu.cr0;
    let enters = value & cr0::PG != 0 && old & cr0::PG == 0;
    let leaves = value & cr0::PG == 0 && old & cr0::PG != 0;
    let cs_long = cpu.segs[seg::CS].rights & rights::LONG != 0;
    let bad = value >> 32 != 0
        || (value & cr0::PG != 0 && value & cr0::PE == 0)
        || (value & cr0::NW != 0 && value & cr0::CD == 0)
        || (leaves && (cpu.mode & mode::LONG != 0 || cpu.cr4 & cr4::PCIDE != 0))
        || (enters && cpu.efer & efer::LME != 0 && (cpu.cr4 & cr4::PAE == 0 || cs_long));
    if bad {
        return Err(cpu.gp0());
    }
    cpu.cr0 = value & CR0_ALL | CR0_ET;
    if enters && cpu.efer & efer::LME != 0 {
        cpu.efer |= efer::LMA;
    }
    if leaves {
        cpu.efer &= !efer::LMA;
    }
    if (old ^ cpu.cr0) & (cr0::PG | cr0::WP | cr0::PE) != 0 {
        if old & cr0::PE != 0 && cpu.cr0 & cr0::PE == 0 {
            cpu.cpl = 0;
        }
        cpu.flush_tlb(true);
        cpu.switch_address_space(false);
    }
    cpu.update_mode();
    Ok(())
}

fn write_cr3(cpu: &mut Cpu, value: u64) -> Result<()> {
    const NO_FLUSH: u64 = 1 << 63;
    let pcid = cpu.cr4 & cr4::PCIDE != 0;
    let keep = pcid && value & NO_FLUSH != 0;
    let value = if pcid { value & !NO_FLUSH } else { value };
    if cpu.long_active() && value >> cpuid::physical_bits(cpu) != 0 {
        return Err(cpu.gp0());
    }
    cpu.cr3 = value;
    cpu.switch_address_space(keep);
    Ok(())
}

/// The bits of CR4 that this model has.
pub fn cr4_bits(cpu: &Cpu) -> u64 {
    const BY_FEATURE: &[(&str, u64)] = &[
        ("vme", cr4::VME | cr4::PVI),
        ("tsc", cr4::TSD),
        ("de", cr4::DE),
        ("pse", cr4::PSE),
        ("pae", cr4::PAE),
        ("mce", cr4::MCE),
        ("pge", cr4::PGE),
        ("fxsr", cr4::OSFXSR),
        ("sse", cr4::OSXMMEXCPT),
        ("umip", cr4::UMIP),
        ("fsgsbase", cr4::FSGSBASE),
        ("pcid", cr4::PCIDE),
        ("xsave", cr4::OSXSAVE),
        ("smep", cr4::SMEP),
        ("smap", cr4::SMAP),
    ];
    BY_FEATURE
        .iter()
        .filter(|(name, _)| cpuid::has(cpu, name))
        .fold(cr4::PCE, |bits, (_, bit)| bits | bit)
}

fn write_cr4(cpu: &mut Cpu, value: u64) -> Result<()> {
    let old = cpu.cr4;
    let sets_pcid = value & !old & cr4::PCIDE != 0;
    let bad = value & !cr4_bits(cpu) != 0
        || (cpu.long_active() && value & cr4::PAE == 0)
        || (sets_pcid && (!cpu.long_active() || cpu.cr3 & 0xfff != 0));
    if bad {
        return Err(cpu.gp0());
    }
    cpu.cr4 = value;
    let translation = cr4::PSE | cr4::PAE | cr4::PGE | cr4::PCIDE | cr4::SMEP | cr4::SMAP;
    if (old ^ value) & translation != 0 {
        cpu.flush_tlb(true);
        cpu.switch_address_space(false);
    }
    cpu.update_mode();
    Ok(())
}

/// CLTS.
pub fn clts(cpu: &mut Cpu) -> Result<()> {
    privileged(cpu)?;
    cpu.cr0 &= !cr0::TS;
    cpu.update_mode();
    Ok(())
}

/// LMSW: sets PE (but cannot clear it), MP, EM and TS.
pub fn lmsw(cpu: &mut Cpu, value: u16) -> Result<()> {
    privileged(cpu)?;
    let value = u64::from(value) & 0xf | cpu.cr0 & cr0::PE;
    write_cr0(cpu, cpu.cr0 & !0xf | value)
}

/// The bits of EFER that this model has.
pub fn efer_bits(cpu: &Cpu) -> u64 {
    const FFXSR: u64 = 1 << 14;
    const BY_FEATURE: &[(&str, u64)] = &[
        ("syscall", efer::SCE),
        ("lm", efer::LME | efer::LMA),
        ("nx", efer::NXE),
        ("fxsr_opt", FFXSR),
    ];
    BY_FEATURE
        .iter()
        .filter(|(name, _)| cpuid::has(cpu, name))
        .fold(0, |bits, (_, bit)| bits | bit)
}

/// Writes EFER (APM vol. 2, 3.1.7).
pub fn write_efer(cpu: &mut Cpu, value: u64) -> Result<()> {
    let allowed = efer_bits(cpu);
    let toggles_lme = (cpu.efer ^ value) & efer::LME != 0;
    if value & !allowed != 0 || (toggles_lme && cpu.cr0 & cr0::PG != 0) {
        return Err(cpu.gp0());
    }
    let toggles_nxe = (cpu.efer ^ value) & efer::NXE != 0;
    cpu.efer = value & !efer::LMA | cpu.efer & efer::LMA;
    if toggles_nxe {
        cpu.flush_tlb(true);
    }
    cpu.update_mode();
    Ok(())
}

/// XSETBV.
pub fn xsetbv(cpu: &mut Cpu, index: u32, value: u64) -> Result<()> {
    if cpu.cr4 & cr4::OSXSAVE == 0 {
        return Err(cpu.ud());
    }
    privileged(cpu)?;
    let avx_without_sse = value & 6 == 4;
    if index != 0 || value & 1 == 0 || avx_without_sse || value & !cpuid::xcr0_bits(cpu) != 0 {
        return Err(cpu.gp0());
    }
    cpu.xcr0 = value;
    cpu.update_mode();
    Ok(())
}

/// XGETBV.
pub fn xgetbv(cpu: &mut Cpu, index: u32) -> Result<u64> {
    if cpu.cr4 & cr4::OSXSAVE == 0 {
        return Err(cpu.ud());
    }
    match index {
        0 => Ok(cpu.xcr0),
        // XINUSE: every enabled component may be in use.
        1 if cpuid::has(cpu, "xgetbv1") => Ok(cpu.xcr0),
        _ => Err(cpu.gp0()),
    }
}

/// Finds the register behind DR0 to DR7, or the exception that an access raises.
fn debug_register(cpu: &mut Cpu, number: u8) -> Result<u8> {
    if matches!(number, 4 | 5) && cpu.cr4 & cr4::DE != 0 {
        return Err(cpu.ud());
    }
    privileged(cpu)?;
    if cpu.dr7 & debug::DR7_GD != 0 {
        return Err(cpu.raise(Exception::db(debug::DR6_BD)));
    }
    Ok(if matches!(number, 4 | 5) {
        number + 2
    } else {
        number
    })
}

/// MOV from a debug register.
pub fn read_dr(cpu: &mut Cpu, number: u8) -> Result<u64> {
    Ok(match debug_register(cpu, number)? {
        n @ 0..=3 => cpu.dr[usize::from(n)],
        6 => cpu.dr6,
        _ => cpu.dr7,
    })
}

/// MOV to a debug register.
pub fn write_dr(cpu: &mut Cpu, number: u8, value: u64) -> Result<()> {
    let number = debug_register(cpu, number)?;
    if number >= 6 && value >> 32 != 0 {
        return Err(cpu.gp0());
    }
    match number {
        0..=3 => {
            if cpu.is_long() && !is_canonical(value) {
                return Err(cpu.gp0());
            }
            cpu.dr[usize::from(number)] = value;
        }
        6 => cpu.dr6 = value & debug::DR6_WRITABLE | debug::DR6_FIXED,
        _ => cpu.dr7 = value & debug::DR7_WRITABLE | debug::DR7_FIXED,
    }
    cpu.update_mode();
    events::flags_changed(cpu);
    Ok(())
}
