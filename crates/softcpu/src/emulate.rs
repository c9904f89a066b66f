//! One instruction at a time, for an accelerator that met one which it cannot execute.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ostler_accel::{CpuState, CpuidLeaf, Error, Exit, LapicState, Msr, Vcpu};
use ostler_memory::RamSlot;

use crate::block::BlockCache;
use crate::engine;
use crate::mmu::memory_map::MemoryMap;
use crate::shared::{VcpuShared, VmShared};
use crate::state::{Activity, Cpu};
use crate::system::lapic::{self, register};
use crate::system::msr::{self, index};
use crate::vm::{Engine, convert, new_shared, vcpu};

/// Bytes of decoded code, which is forgotten after each instruction.
const CACHE_BYTES: usize = 64 << 10;
/// Legacy area, header and upper halves of YMM: what this CPU knows of an XSAVE area, in bytes.
const KNOWN_XSAVE: usize = 832;
/// Where XSTATE_BV lies in an XSAVE area.
const XSTATE_BV: usize = 512;
/// Where the upper halves of YMM lie.
const YMM: usize = 576;
/// Protection keys are on (CR4 bit 22), which the interpreter does not know.
const CR4_PKE: u64 = 1 << 22;

/// Interprets single instructions of a CPU that runs elsewhere.
pub struct Emulator {
    vm: Arc<VmShared>,
    id: u32,
    cpuid: Vec<CpuidLeaf>,
    /// The memory map that was given last, if it can change.
    slots: Option<Arc<[RamSlot]>>,
    /// Made when they are first needed: most guests never do.
    parts: Option<(Box<Cpu>, BlockCache)>,
}

/// What an instruction led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    /// The state behind it, or at the handler of the exception that it raised.
    pub state: CpuState,
    /// It ended in a triple fault.
    pub shutdown: bool,
}

impl Emulator {
    /// An emulator for CPU `id` of a guest with memory `slots`, which answers CPUID by `cpuid`.
    pub fn new(id: u32, slots: Vec<RamSlot>, cpuid: &[CpuidLeaf]) -> Self {
        let vm = new_shared(1, slots, Engine::Interpreter);
        // Whether a dirty log is on is the other accelerator's to know: every write is noted.
        vm.dirty_logging.store(true, Ordering::SeqCst);
        Self {
            vm,
            id,
            cpuid: cpuid.to_vec(),
            slots: None,
            parts: None,
        }
    }

    /// Works on the memory map `slots` from now on.
    pub fn use_slots(&mut self, slots: Arc<[RamSlot]>) {
        if self
            .slots
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, &slots))
        {
            return;
        }
        let map = Arc::new(MemoryMap::new(slots.to_vec()));
        self.vm.map.store(map.clone());
        // The cache is empty between instructions.
        if let Some((cpu, _)) = &mut self.parts {
            cpu.mmu.set_map(map, cpu.smm.active);
        }
        self.slots = Some(slots);
    }

    /// Executes the instruction at which `vcpu` left with [`Exit::EmulationFailed`], so that it goes on behind it. Ports and
    /// devices are reached through `io`. False if the guest shut down by a triple fault.
    ///
    /// # Errors
    /// What the accelerator refuses, and what [`Emulator::execute_one`] cannot do.
    pub fn help(&mut self, vcpu: &mut dyn Vcpu, io: &mut dyn FnMut(Exit<'_>)) -> Result<bool, Error> {
        let before = vcpu.instruction_state()?;
        let done = self.execute_one(&before, io)?;
        if !done.shutdown {
            vcpu.finish_instruction(&before, &done.state)?;
        }
        Ok(!done.shutdown)
    }

    /// Executes the instruction at `state`'s instruction pointer, or delivers the exception that it raises. Ports and devices are
    /// reached through `io`, which gets port and MMIO exits only. Of `state`, the LAPIC's registers are not looked at, and MSRs
    /// that are missing count as after RESET.
    ///
    /// # Errors
    /// A state that no CPU can be in, protection keys that are on, and an instruction that reaches into the LAPIC's page.
    pub fn execute_one(&mut self, state: &CpuState, io: &mut dyn FnMut(Exit<'_>)) -> Result<Executed, Error> {
        if state.cr4 & CR4_PKE != 0 {
            return Err(Error::Unsupported(format!(
                "the instruction at {:#x}, which KVM cannot emulate, is under protection keys; leave \"+pku\" out of --cpu",
                state.rip
            )));
        }
        let (cpu, cache) = self.parts.get_or_insert_with(|| {
            let shared = Arc::new(VcpuShared::new(self.id));
            let cpu = Cpu::new(self.vm.clone(), shared, self.id, &self.cpuid);
            let cache = BlockCache::new(CACHE_BYTES, CACHE_BYTES, Engine::Interpreter);
            (cpu, cache)
        });
        convert::restore(cpu, &with_quiet_lapic(state))?;
        // The shadow over this instruction ends with it; it may cast one of its own.
        cpu.shadow = false;
        cpu.stack_loaded = false;
        let msrs = msr::save(cpu);
        let mut reached_lapic = false;
        while engine::step(cpu, cache) {
            let exit = vcpu::request(cpu);
            if is_in_lapic_page(&exit, state.apic_base) {
                reached_lapic = true;
            } else {
                io(exit);
            }
            vcpu::complete(cpu);
        }
        // Nobody tells this CPU when the guest writes to its code.
        cache.clear();
        if reached_lapic {
            return Err(Error::Unsupported(format!(
                "the instruction at {:#x}, which KVM cannot emulate, reaches into the local APIC",
                state.rip
            )));
        }
        let shutdown = cpu.activity == Activity::Shutdown;
        let written = written(&msrs, &msr::save(cpu));
        let mut after = convert::save(cpu)?;
        after.lapic = state.lapic.clone();
        after.apic_base = state.apic_base;
        after.xsave = merge_xsave(&state.xsave, &after.xsave);
        after.msrs = state.msrs.clone();
        for msr in written {
            match after.msrs.iter_mut().find(|known| known.index == msr.index) {
                Some(known) => *known = msr,
                None => after.msrs.push(msr),
            }
        }
        Ok(Executed {
            state: after,
            shutdown,
        })
    }
}

/// `state` with a LAPIC that has the task priority and nothing else, out of the guest's reach: in x2APIC mode, where accesses to
/// its page are accesses to a device.
fn with_quiet_lapic(state: &CpuState) -> CpuState {
    let mut registers = [0; 1024];
    registers[register::TPR as usize] = (state.cr8 << 4) as u8;
    CpuState {
        lapic: LapicState { registers },
        apic_base: state.apic_base | lapic::BASE_ENABLE | lapic::BASE_X2APIC,
        ..state.clone()
    }
}

/// True if `exit` is an access to the register page of the real LAPIC.
fn is_in_lapic_page(exit: &Exit<'_>, apic_base: u64) -> bool {
    const PAGE: u64 = 0x000f_ffff_ffff_f000;
    let mapped = apic_base & (lapic::BASE_ENABLE | lapic::BASE_X2APIC) == lapic::BASE_ENABLE;
    match exit {
        Exit::MmioRead { gpa, .. } | Exit::MmioWrite { gpa, .. } => mapped && gpa & PAGE == apic_base & PAGE,
        _ => false,
    }
}

/// The MSRs that differ, but for those that are registers of their own or run by themselves.
fn written(before: &[Msr], after: &[Msr]) -> Vec<Msr> {
    let elsewhere = [index::TSC, index::TSC_DEADLINE, index::FS_BASE, index::GS_BASE];
    after
        .iter()
        .filter(|msr| !before.contains(msr) && !elsewhere.contains(&msr.index))
        .copied()
        .collect()
}

/// The area `before` with what this CPU knows of it taken from `after`; AVX-512, protection keys and the like stay.
fn merge_xsave(before: &[u8], after: &[u8]) -> Vec<u8> {
    const YMM_BIT: u8 = 1 << 2;
    let mut merged = before.to_vec();
    let upper = after.get(YMM..KNOWN_XSAVE).unwrap_or(&[]);
    let has_upper =
        before.get(XSTATE_BV).is_some_and(|bits| bits & YMM_BIT != 0) || upper.iter().any(|&byte| byte != 0);
    let known = if has_upper { KNOWN_XSAVE } else { YMM };
    let known = known.min(after.len());
    merged.resize(before.len().max(known), 0);
    let components = merged.get(XSTATE_BV).copied().unwrap_or(0);
    merged[..known.min(XSTATE_BV)].copy_from_slice(&after[..known.min(XSTATE_BV)]);
    if known > YMM {
        merged[YMM..known].copy_from_slice(&after[YMM..known]);
    }
    if let Some(bits) = merged.get_mut(XSTATE_BV) {
        *bits = components | 3 | if has_upper { YMM_BIT } else { 0 };
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_that_this_cpu_does_not_know_survive() {
        let mut before = vec![0; 2696];
        (before[XSTATE_BV], before[XSTATE_BV + 1]) = (0xe2, 2);
        before[1088..2696].fill(0x5a);
        let mut after = vec![0; KNOWN_XSAVE];
        after[XSTATE_BV] = 7;
        after[160] = 0x11;
        let merged = merge_xsave(&before, &after);
        assert_eq!(
            (merged[160], merged[XSTATE_BV], merged[XSTATE_BV + 1]),
            (0x11, 0xe3, 2)
        );
        assert!(merged[1088..].iter().all(|&byte| byte == 0x5a));
        assert_eq!(merged.len(), before.len());
        after[YMM] = 0x22;
        let merged = merge_xsave(&before, &after);
        assert_eq!((merged[YMM], merged[XSTATE_BV]), (0x22, 0xe7));
    }

    #[test]
    fn a_short_area_grows_only_for_ymm() {
        let mut after = vec![0; KNOWN_XSAVE];
        assert_eq!(merge_xsave(&vec![0; YMM], &after).len(), YMM);
        after[831] = 1;
        let merged = merge_xsave(&vec![0; YMM], &after);
        assert_eq!(
            (merged.len(), merged[831], merged[XSTATE_BV]),
            (KNOWN_XSAVE, 1, 7)
        );
    }

    #[test]
    fn only_msrs_that_an_instruction_wrote_are_written_back() {
        let msr = |index, value| Msr { index, value };
        let before = [msr(index::TSC, 1), msr(index::STAR, 2), msr(index::FS_BASE, 3)];
        let after = [
            msr(index::TSC, 9),
            msr(index::STAR, 2),
            msr(index::FS_BASE, 4),
            msr(index::KERNEL_GS_BASE, 5),
        ];
        assert_eq!(written(&before, &after), [msr(index::KERNEL_GS_BASE, 5)]);
    }
}
