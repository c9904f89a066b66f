//! Model-specific registers: the ones that this CPU has. Any other raises #GP.

mod mtrr;

use ostler_accel::model::saved_msrs;
use ostler_accel::{Error, Msr};

use super::descriptor::is_canonical;
use super::paravirtual::{self, Paravirtual};
use super::{control, cpuid, events, lapic};
use crate::fault::Result;
use crate::host;
use crate::state::{Cpu, seg};

pub use mtrr::Mtrrs;

/// Numbers of registers (SDM vol. 4; APM vol. 2, appendix A; Linux, Documentation/virt/kvm/x86/msr.rst).
pub mod index {
    pub const TSC: u32 = 0x10;
    pub const KVM_WALL_CLOCK: u32 = 0x11;
    pub const KVM_SYSTEM_TIME: u32 = 0x12;
    pub const PLATFORM_ID: u32 = 0x17;
    pub const APIC_BASE: u32 = 0x1b;
    pub const FEATURE_CONTROL: u32 = 0x3a;
    pub const TSC_ADJUST: u32 = 0x3b;
    pub const SPEC_CTRL: u32 = 0x48;
    pub const PRED_CMD: u32 = 0x49;
    pub const PATCH_LEVEL: u32 = 0x8b;
    pub const PLATFORM_INFO: u32 = 0xce;
    pub const MTRR_CAP: u32 = 0xfe;
    pub const ARCH_CAPABILITIES: u32 = 0x10a;
    pub const MISC_FEATURES: u32 = 0x140;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const MCG_CAP: u32 = 0x179;
    pub const MCG_STATUS: u32 = 0x17a;
    pub const MCG_CTL: u32 = 0x17b;
    pub const MISC_ENABLE: u32 = 0x1a0;
    pub const DEBUGCTL: u32 = 0x1d9;
    pub const PAT: u32 = 0x277;
    pub const TSC_DEADLINE: u32 = 0x6e0;
    pub const X2APIC_FIRST: u32 = 0x800;
    pub const X2APIC_LAST: u32 = 0x8ff;
    pub const KVM_WALL_CLOCK_NEW: u32 = 0x4b56_4d00;
    pub const KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
    pub const KVM_STEAL_TIME: u32 = 0x4b56_4d03;
    pub const KVM_PV_EOI: u32 = 0x4b56_4d04;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const SFMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
    pub const K7_EVENTS: u32 = 0xc001_0000;
    pub const K7_COUNTERS_LAST: u32 = 0xc001_0007;
    pub const SYSCFG: u32 = 0xc001_0010;
    pub const HWCR: u32 = 0xc001_0015;
    pub const TOP_MEM: u32 = 0xc001_001a;
    pub const TOP_MEM2: u32 = 0xc001_001d;
    pub const NB_CFG: u32 = 0xc001_001f;
    pub const INT_PENDING: u32 = 0xc001_0055;
    pub const LS_CFG: u32 = 0xc001_1020;
    pub const DE_CFG: u32 = 0xc001_1029;
}

/// Bits of IA32_MISC_ENABLE that can be written: fast strings, thermal monitor, performance monitoring, SpeedStep, MONITOR, the limit of CPUID,
/// xTPR messages, no execute-disable. Nothing depends on them.
const MISC_ENABLE_WRITABLE: u64 = 1 | 1 << 3 | 1 << 7 | 1 << 16 | 1 << 18 | 1 << 22 | 1 << 23 | 1 << 34;
/// Those that are always set: neither branch trace nor precise events.
const MISC_ENABLE_FIXED: u64 = 1 << 11 | 1 << 12;

/// Every MSR that is no field of its own in [`crate::state::Cpu`].
#[derive(Debug, Clone)]
pub struct Msrs {
    /// What is added to the host's TSC.
    pub tsc_offset: u64,
    /// IA32_TSC_ADJUST.
    pub tsc_adjust: u64,
    /// IA32_TSC_AUX.
    pub tsc_aux: u64,
    /// IA32_SYSENTER_CS.
    pub sysenter_cs: u64,
    /// IA32_SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// IA32_SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// STAR.
    pub star: u64,
    /// LSTAR.
    pub lstar: u64,
    /// CSTAR.
    pub cstar: u64,
    /// SFMASK.
    pub sfmask: u64,
    /// KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// Memory types.
    pub mtrr: Mtrrs,
    /// IA32_PAT.
    pub pat: u64,
    /// IA32_MISC_ENABLE.
    pub misc_enable: u64,
    /// IA32_SPEC_CTRL: kept, without effect.
    pub spec_ctrl: u64,
    /// IA32_MCG_STATUS.
    pub mcg_status: u64,
    /// IA32_MCG_CTL.
    pub mcg_ctl: u64,
    /// AMD's DE_CFG.
    pub de_cfg: u64,
    /// AMD's HWCR.
    pub hwcr: u64,
    /// KVM's registers.
    pub paravirtual: Paravirtual,
    /// Breakpoints that the current instruction met, as bits of DR6.
    pub debug_hits: u64,
    /// The current instruction went through the IDT or by SYSCALL: no single-step trap follows it.
    pub entered: bool,
    /// SYSRET set RFLAGS.TF: a single-step trap comes before the next instruction.
    pub returned_traced: bool,
    /// RFLAGS.RF was set before the current instruction.
    pub resumed: bool,
    /// A repeated string instruction stopped between two iterations.
    pub repeats: bool,
}

impl Default for Msrs {
    fn default() -> Self {
        Self {
            tsc_offset: 0,
            tsc_adjust: 0,
            tsc_aux: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            star: 0,
            lstar: 0,
            cstar: 0,
            sfmask: 0,
            kernel_gs_base: 0,
            mtrr: Mtrrs::default(),
            pat: 0x0007_0406_0007_0406,
            // Fast strings; no branch trace storage, no precise event sampling.
            misc_enable: 1 | MISC_ENABLE_FIXED,
            spec_ctrl: 0,
            mcg_status: 0,
            mcg_ctl: 0,
            // LFENCE waits for everything before it.
            de_cfg: 1 << 1,
            // The TSC counts at the frequency of P0.
            hwcr: 1 << 24,
            paravirtual: Paravirtual::default(),
            debug_hits: 0,
            entered: false,
            returned_traced: false,
            resumed: false,
            repeats: false,
        }
    }
}

/// RDCL_NO, IBRS_ALL, SKIP_VMENTRY_L1DFLUSH, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO,
/// PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO: nothing that runs in a software CPU speculates across guest privileges by the guest's own
/// branches and faults, so the guest need not pay for work-arounds.
const ARCH_CAPABILITIES: u64 = 1
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 13
    | 1 << 14
    | 1 << 15
    | 1 << 20
    | 1 << 24
    | 1 << 26
    | 1 << 27
    | 1 << 62;

/// The guest's TSC.
#[inline]
pub fn guest_tsc(cpu: &Cpu) -> u64 {
    host::tsc().wrapping_add(cpu.msrs.tsc_offset)
}

/// True if the model names itself AMD's.
fn is_amd(cpu: &Cpu) -> bool {
    const AUTH: u32 = 0x6874_7541;
    cpu.cpuid.first().is_some_and(|l| l.leaf == 0 && l.ebx == AUTH)
}

/// RDMSR of `number`, whatever the privilege.
pub fn read(cpu: &mut Cpu, number: u32) -> Result<u64> {
    Ok(match number {
        index::FS_BASE => cpu.segs[seg::FS].base,
        index::GS_BASE => cpu.segs[seg::GS].base,
        index::KERNEL_GS_BASE => cpu.msrs.kernel_gs_base,
        index::X2APIC_FIRST..=index::X2APIC_LAST => return lapic::msr_read(cpu, number),
        index::TSC => guest_tsc(cpu),
        index::TSC_DEADLINE => lapic::deadline(cpu),
        index::APIC_BASE => cpu.lapic.base(),
        index::EFER => cpu.efer,
        index::STAR => cpu.msrs.star,
        index::LSTAR => cpu.msrs.lstar,
        index::CSTAR => cpu.msrs.cstar,
        index::SFMASK => cpu.msrs.sfmask,
        index::TSC_AUX => cpu.msrs.tsc_aux,
        index::SYSENTER_CS => cpu.msrs.sysenter_cs,
        index::SYSENTER_ESP => cpu.msrs.sysenter_esp,
        index::SYSENTER_EIP => cpu.msrs.sysenter_eip,
        index::TSC_ADJUST => cpu.msrs.tsc_adjust,
        index::SPEC_CTRL => cpu.msrs.spec_ctrl,
        index::ARCH_CAPABILITIES if cpuid::has(cpu, "arch_capabilities") => ARCH_CAPABILITIES,
        index::PAT => cpu.msrs.pat,
        index::MTRR_CAP => mtrr::CAPABILITIES,
        _ if mtrr::is_mtrr(number) => cpu.msrs.mtrr.read(number),
        index::MISC_ENABLE => cpu.msrs.misc_enable,
        index::FEATURE_CONTROL => 1,
        index::MCG_CAP => 1 << 8,
        index::MCG_STATUS => cpu.msrs.mcg_status,
        index::MCG_CTL => cpu.msrs.mcg_ctl,
        index::PATCH_LEVEL => 1 << 32 | 0x0a00_1100,
        index::PLATFORM_ID | index::PLATFORM_INFO | index::MISC_FEATURES | index::DEBUGCTL => 0,
        // Last-branch records.
        0x1db..=0x1de => 0,
        index::KVM_WALL_CLOCK | index::KVM_WALL_CLOCK_NEW => cpu.msrs.paravirtual.wall_clock,
        index::KVM_SYSTEM_TIME | index::KVM_SYSTEM_TIME_NEW => cpu.msrs.paravirtual.system_time,
        index::KVM_STEAL_TIME => cpu.msrs.paravirtual.steal_time,
        index::KVM_PV_EOI => cpu.msrs.paravirtual.end_of_interrupt,
        _ if is_amd(cpu) => return read_amd(cpu, number),
        _ => return Err(cpu.gp0()),
    })
}

fn read_amd(cpu: &mut Cpu, number: u32) -> Result<u64> {
    Ok(match number {
        index::HWCR => cpu.msrs.hwcr,
        index::DE_CFG => cpu.msrs.de_cfg,
        // No counter counts.
        index::K7_EVENTS..=index::K7_COUNTERS_LAST => 0,
        index::SYSCFG
        | index::TOP_MEM
        | index::TOP_MEM2
        | index::NB_CFG
        | index::INT_PENDING
        | index::LS_CFG => 0,
        _ => return Err(cpu.gp0()),
    })
}

/// WRMSR of `number`, whatever the privilege.
pub fn write(cpu: &mut Cpu, number: u32, value: u64) -> Result<()> {
    match number {
        index::X2APIC_FIRST..=index::X2APIC_LAST => return lapic::msr_write(cpu, number, value),
        index::TSC_DEADLINE => {
            lapic::set_deadline(cpu, value);
            return Ok(());
        }
        index::FS_BASE
        | index::GS_BASE
        | index::KERNEL_GS_BASE
        | index::LSTAR
        | index::CSTAR
        | index::SYSENTER_ESP
        | index::SYSENTER_EIP
            if !is_canonical(value) =>
        {
            return Err(cpu.gp0());
        }
        index::FS_BASE => cpu.segs[seg::FS].base = value,
        index::GS_BASE => cpu.segs[seg::GS].base = value,
        index::KERNEL_GS_BASE => cpu.msrs.kernel_gs_base = value,
        index::STAR => cpu.msrs.star = value,
        index::LSTAR => cpu.msrs.lstar = value,
        index::CSTAR => cpu.msrs.cstar = value,
        index::SFMASK => cpu.msrs.sfmask = value & 0xffff_ffff,
        index::SYSENTER_CS => cpu.msrs.sysenter_cs = value & 0xffff_ffff,
        index::SYSENTER_ESP => cpu.msrs.sysenter_esp = value,
        index::SYSENTER_EIP => cpu.msrs.sysenter_eip = value,
        index::EFER => return control::write_efer(cpu, value),
        index::APIC_BASE => return lapic::write_base(cpu, value),
        index::TSC => {
            let offset = value.wrapping_sub(host::tsc());
            let moved = offset.wrapping_sub(cpu.msrs.tsc_offset);
            cpu.msrs.tsc_adjust = cpu.msrs.tsc_adjust.wrapping_add(moved);
            set_tsc_offset(cpu, offset);
        }
        index::TSC_ADJUST => {
            let moved = value.wrapping_sub(cpu.msrs.tsc_adjust);
            cpu.msrs.tsc_adjust = value;
            set_tsc_offset(cpu, cpu.msrs.tsc_offset.wrapping_add(moved));
        }
        index::TSC_AUX if value >> 32 == 0 => cpu.msrs.tsc_aux = value,
        index::SPEC_CTRL if value & !7 == 0 => cpu.msrs.spec_ctrl = value,
        index::PRED_CMD if value & !1 == 0 => {}
        index::PAT if mtrr::is_pat(value) => cpu.msrs.pat = value,
        _ if mtrr::is_mtrr(number) && cpu.msrs.mtrr.accepts(number, value) => {
            cpu.msrs.mtrr.write(number, value)
        }
        index::MISC_ENABLE => {
            cpu.msrs.misc_enable = value & MISC_ENABLE_WRITABLE | MISC_ENABLE_FIXED;
        }
        index::MCG_STATUS if value & !7 == 0 => cpu.msrs.mcg_status = value,
        index::MCG_CTL => cpu.msrs.mcg_ctl = value,
        index::MISC_FEATURES if value == 0 => {}
        // A microcode update that changes nothing; branch trace, which is not there.
        0x79 | index::PATCH_LEVEL => {}
        index::DEBUGCTL if value & !3 == 0 => {}
        _ => return write_paravirtual(cpu, number, value),
    }
    Ok(())
}

fn write_paravirtual(cpu: &mut Cpu, number: u32, value: u64) -> Result<()> {
    match number {
        index::KVM_WALL_CLOCK | index::KVM_WALL_CLOCK_NEW => {
            cpu.msrs.paravirtual.wall_clock = value;
            paravirtual::write_wall_clock(cpu);
        }
        index::KVM_SYSTEM_TIME | index::KVM_SYSTEM_TIME_NEW => {
            cpu.msrs.paravirtual.system_time = value;
            paravirtual::update_clock(cpu);
        }
        index::KVM_STEAL_TIME if value & 0x3e == 0 => {
            cpu.msrs.paravirtual.steal_time = value;
            paravirtual::update_steal_time(cpu);
        }
        // Bit 0 enables it, bit 1 is reserved.
        index::KVM_PV_EOI if value & 2 == 0 => cpu.msrs.paravirtual.end_of_interrupt = value,
        _ if is_amd(cpu) => return write_amd(cpu, number, value),
        _ => return Err(cpu.gp0()),
    }
    Ok(())
}

fn write_amd(cpu: &mut Cpu, number: u32, value: u64) -> Result<()> {
    match number {
        index::HWCR => cpu.msrs.hwcr = value & (1 << 24 | 0xffff),
        index::DE_CFG => cpu.msrs.de_cfg = value,
        index::K7_EVENTS..=index::K7_COUNTERS_LAST
        | index::SYSCFG
        | index::TOP_MEM
        | index::TOP_MEM2
        | index::NB_CFG
        | index::INT_PENDING
        | index::LS_CFG => {}
        _ => return Err(cpu.gp0()),
    }
    Ok(())
}

/// Moves the guest's TSC against the host's; deadlines and the paravirtual clock follow.
pub fn set_tsc_offset(cpu: &mut Cpu, offset: u64) {
    cpu.msrs.tsc_offset = offset;
    cpu.lapic.tsc_moved(offset);
    paravirtual::update_clock(cpu);
    events::request(cpu);
}

/// The MSRs that make up the state of this model, in the order in which they are to be set.
pub fn save(cpu: &mut Cpu) -> Vec<Msr> {
    let mut saved = Vec::new();
    for index in saved_msrs(&cpu.cpuid) {
        // What the list has and this CPU lacks raises an exception, which is nobody's.
        match read(cpu, index) {
            Ok(value) => saved.push(Msr { index, value }),
            Err(_) => cpu.exception = None,
        }
    }
    saved
}

/// Takes over saved MSRs; what is not in the list becomes what it is after RESET, except the TSC. The LAPIC's registers are restored
/// afterwards.
///
/// # Errors
/// An MSR that this CPU does not have, or a value that it cannot take.
pub fn restore(cpu: &mut Cpu, msrs: &[Msr]) -> std::result::Result<(), Error> {
    cpu.msrs = Msrs {
        tsc_offset: cpu.msrs.tsc_offset,
        ..Msrs::default()
    };
    for msr in msrs {
        match msr.index {
            // Setting it must not move the TSC, which has a place of its own in the list.
            index::TSC_ADJUST => cpu.msrs.tsc_adjust = msr.value,
            index::TSC => set_tsc_offset(cpu, msr.value.wrapping_sub(host::tsc())),
            index::TSC_DEADLINE => cpu.lapic.restore_tsc_deadline(msr.value),
            _ => restore_one(cpu, msr)?,
        }
    }
    Ok(())
}

/// Sets IA32_KERNEL_GS_BASE if it is among `msrs`.
pub fn restore_kernel_gs_base(cpu: &mut Cpu, msrs: &[Msr]) -> std::result::Result<(), Error> {
    match msrs.iter().find(|msr| msr.index == index::KERNEL_GS_BASE) {
        Some(msr) => restore_one(cpu, msr),
        None => Ok(()),
    }
}

fn restore_one(cpu: &mut Cpu, msr: &Msr) -> std::result::Result<(), Error> {
    write(cpu, msr.index, msr.value).map_err(|_| {
        cpu.exception = None;
        let text = format!(
            "MSR {:#x} cannot be {:#x} on this CPU model",
            msr.index, msr.value
        );
        Error::BadState(text)
    })
}
