//! The accelerator's traits: [`SoftCpu`] and its virtual machine.

mod account;
pub(crate) mod convert;
pub mod doorbell;
pub mod vcpu;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use ostler_accel::{
    Accelerator, CpuidLeaf, Error, ExternalInterrupts, IoapicPin, KickSource, Kind, Profiler, SmiTarget,
    SystemManagement, Vcpu, Vm, VmConfig,
};
use ostler_bus::{Doorbell, DoorbellRegistry, Msi, MsiSink};
use ostler_memory::RamSlot;
use vmm_sys_util::eventfd::EventFd;

use crate::host;
use crate::mmu::memory_map::MemoryMap;
use crate::profile::SoftProfiler;
use crate::shared::{QUIESCENT, VmShared, attention};
use crate::system::{self, lapic};
pub(crate) use account::{Account, Counts};
use vcpu::SoftVcpu;

/// How vCPUs execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Every instruction is interpreted.
    Interpreter,
    /// 64-bit code that was entered `after` times is translated; the rest is interpreted.
    Translator {
        /// How often a block is interpreted first.
        after: u32,
    },
}

impl Default for Engine {
    /// What is fastest. Most blocks of a boot are entered a few times only.
    fn default() -> Self {
        Self::Translator { after: 48 }
    }
}

/// The accelerator that needs nothing of the host: x86-64 in software.
#[derive(Debug, Default, Clone, Copy)]
pub struct SoftCpu {
    /// How its vCPUs execute.
    pub engine: Engine,
}

/// A virtual machine on it.
pub struct SoftVm {
    shared: Arc<VmShared>,
}

impl Accelerator for SoftCpu {
    fn kind(&self) -> Kind {
        Kind::Soft
    }

    fn supported_cpuid(&self) -> Result<Vec<CpuidLeaf>, Error> {
        Ok(system::cpuid::supported(tsc_khz()))
    }

    fn create_vm(&self, config: VmConfig) -> Result<Arc<dyn Vm>, Error> {
        let shared = new_shared(config.cpus, config.slots, self.engine);
        Ok(Arc::new(SoftVm { shared }))
    }
}

/// The shared part of a virtual machine with room for `cpus` vCPUs.
pub(crate) fn new_shared(cpus: u32, slots: Vec<RamSlot>, engine: Engine) -> Arc<VmShared> {
    Arc::new(VmShared {
        map: ArcSwap::from_pointee(MemoryMap::new(slots)),
        vcpus: (0..cpus).map(|_| OnceLock::new()).collect(),
        doorbells: Default::default(),
        write_epoch: AtomicU64::new(0),
        dirty_logging: AtomicBool::new(false),
        renumbered: AtomicBool::new(false),
        external: ArcSwapOption::empty(),
        level_vectors: RwLock::new([0; 4]),
        tsc_khz: tsc_khz(),
        boot_tsc: AtomicU64::new(host::tsc()),
        watching: Mutex::new(()),
        split_lock: Mutex::new(()),
        smm: AtomicBool::new(false),
        engine,
        profiling: Default::default(),
    })
}

/// The host's TSC frequency in kHz: from its hypervisor's CPUID leaf where there is one, else measured once.
pub fn tsc_khz() -> u64 {
    static KHZ: OnceLock<u64> = OnceLock::new();
    *KHZ.get_or_init(|| {
        const TIMING_LEAF: u32 = 0x4000_0010;
        let top = std::arch::x86_64::__cpuid(0x4000_0000).eax;
        if std::arch::x86_64::__cpuid(1).ecx >> 31 == 1 && (TIMING_LEAF..TIMING_LEAF + 0x100).contains(&top) {
            let khz = std::arch::x86_64::__cpuid(TIMING_LEAF).eax;
            if khz != 0 {
                return khz.into();
            }
        }
        measure_tsc()
    })
}

fn measure_tsc() -> u64 {
    let (begun, first) = (Instant::now(), host::tsc());
    while begun.elapsed() < Duration::from_millis(10) {
        std::hint::spin_loop();
    }
    let (ticks, elapsed) = (host::tsc() - first, begun.elapsed());
    (u128::from(ticks) * 1_000_000 / elapsed.as_nanos().max(1)) as u64
}

impl SoftVm {
    /// Raises the epoch, and waits until every vCPU has seen that or is outside guest mode.
    fn wait_for_epoch(&self) {
        let epoch = self.shared.drop_write_tags(None);
        let vcpus: Vec<_> = self.shared.vcpus().collect();
        while vcpus
            .iter()
            .any(|vcpu| vcpu.acknowledged.load(Ordering::SeqCst) < epoch)
        {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

impl Vm for SoftVm {
    fn create_vcpu(&self, id: u32, cpuid: &[CpuidLeaf]) -> Result<Box<dyn Vcpu>, Error> {
        Ok(Box::new(SoftVcpu::new(self.shared.clone(), id, cpuid)?))
    }

    fn set_slots(&self, slots: Vec<RamSlot>) -> Result<(), Error> {
        self.set_map(MemoryMap::new(slots));
        Ok(())
    }

    fn set_ioapic_pins(&self, pins: &[IoapicPin]) -> Result<(), Error> {
        const LEVEL: u32 = 1 << 15;
        let mut vectors = [0u64; 4];
        for pin in pins.iter().filter(|pin| pin.msi.data & LEVEL != 0) {
            let vector = (pin.msi.data & 0xff) as usize;
            vectors[vector / 64] |= 1 << (vector % 64);
        }
        *self
            .shared
            .level_vectors
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = vectors;
        Ok(())
    }

    fn set_external_interrupts(&self, source: Arc<dyn ExternalInterrupts>) {
        self.shared.external.store(Some(Arc::new(source)));
    }

    fn external_interrupt_raised(&self) {
        if let Some(vcpu) = self.shared.vcpu(0) {
            vcpu.event_arrived(KickSource::Device);
        }
    }

    fn settle(&self) {
        // Whoever was in guest mode was told to leave it before the epoch was raised, and executes nothing after it has seen the
        // epoch.
        self.wait_for_epoch();
    }

    fn set_dirty_log(&self, on: bool) -> Result<(), Error> {
        let map = self.shared.map.load();
        self.shared.dirty_logging.store(on, Ordering::SeqCst);
        for tracker in map.trackers() {
            tracker.set_logging(on);
        }
        if on {
            // Writes through tags made before are not logged: wait until there are none.
            self.wait_for_epoch();
        }
        Ok(())
    }

    fn sync_dirty(&self) -> Result<(), Error> {
        // Every write is logged as it is made.
        Ok(())
    }

    fn clock(&self) -> Result<u64, Error> {
        Ok(system::paravirtual::clock(&self.shared))
    }

    fn set_clock(&self, nanoseconds: u64) -> Result<(), Error> {
        let ticks = (u128::from(nanoseconds) * u128::from(self.shared.tsc_khz) / 1_000_000) as u64;
        self.shared
            .boot_tsc
            .store(host::tsc().wrapping_sub(ticks), Ordering::SeqCst);
        Ok(())
    }

    fn system_management(&self) -> Option<&dyn SystemManagement> {
        Some(self)
    }

    fn profiler(&self) -> Option<Arc<dyn Profiler>> {
        Some(Arc::new(SoftProfiler(self.shared.clone())))
    }
}

impl SoftVm {
    /// Replaces the memory map.
    fn set_map(&self, map: MemoryMap) {
        let map = Arc::new(map);
        if self.shared.dirty_logging.load(Ordering::SeqCst) {
            for tracker in map.trackers().filter(|tracker| !tracker.is_logging()) {
                tracker.set_logging(true);
            }
        }
        self.shared.map.store(map);
        // A vCPU looks for another map when it enters guest mode.
        for vcpu in self.shared.vcpus() {
            vcpu.poke(attention::KICK);
        }
    }
}

impl SystemManagement for SoftVm {
    fn set_slots(&self, normal: Vec<RamSlot>, smm: Vec<RamSlot>) -> Result<(), Error> {
        self.shared.smm.store(true, Ordering::SeqCst);
        self.set_map(MemoryMap::with_smm(normal, smm));
        Ok(())
    }

    fn raise_smi(&self, to: SmiTarget) {
        match to {
            SmiTarget::All => self.shared.vcpus().for_each(|vcpu| vcpu.smi_arrived()),
            SmiTarget::One(id) => {
                if let Some(vcpu) = self.shared.vcpu(id) {
                    vcpu.smi_arrived();
                }
            }
        }
    }
}

impl MsiSink for SoftVm {
    fn signal(&self, msi: Msi) {
        lapic::signal(&self.shared, msi);
    }

    fn connect(&self, _event: &EventFd, _msi: Option<Msi>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl DoorbellRegistry for SoftVm {
    fn add(&self, doorbell: Doorbell, event: &EventFd) -> io::Result<()> {
        self.shared.doorbells.add(doorbell, event)
    }

    fn remove(&self, doorbell: Doorbell, _event: &EventFd) -> io::Result<()> {
        self.shared.doorbells.remove(doorbell)
    }
}

const _: () = assert!(QUIESCENT == u64::MAX);
