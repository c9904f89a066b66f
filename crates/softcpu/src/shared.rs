//! What several threads see: of one vCPU, and of the whole virtual machine.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, RwLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use ostler_accel::{ExternalInterrupts, KickSource, VcpuStats};

use crate::mmu::memory_map::MemoryMap;
use crate::profile::{Profiling, Samples};
use crate::system::lapic::LapicShared;
use crate::vm::Engine;
use crate::vm::doorbell::DoorbellTable;

/// Bits of [`VcpuShared::attention`].
pub mod attention {
    /// Another thread changed the LAPIC (an interrupt, NMI, INIT or SIPI arrived): call `system::service_events`.
    pub const EVENT: u32 = 1;
    /// Leave with `Exit::Kicked`.
    pub const KICK: u32 = 1 << 1;
    /// A page got its first decoded code, or the dirty log was turned on: drop the TLB's write tags.
    pub const DROP_WRITES: u32 = 1 << 2;
    /// Someone wants to know where the vCPU is.
    pub const SAMPLE: u32 = 1 << 3;
}

/// Value of [`VcpuShared::acknowledged`] of a vCPU that is outside guest mode: it looks at everything before it goes on.
pub const QUIESCENT: u64 = u64::MAX;

/// What other threads see of a vCPU.
pub struct VcpuShared {
    /// What the vCPU has to look at before its next block. One load at each block entry.
    pub attention: AtomicU32,
    /// The newest [`VmShared::write_epoch`] whose dropped write tags this vCPU no longer uses, or [`QUIESCENT`].
    pub acknowledged: AtomicU64,
    /// The LAPIC's shared part.
    pub lapic: LapicShared,
    /// Counters.
    pub stats: Arc<VcpuStats>,
    /// Where it was found executing.
    pub(crate) samples: Samples,
    sleeping: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

impl VcpuShared {
    /// The shared part of vCPU `id`.
    pub fn new(id: u32) -> Self {
        Self {
            attention: AtomicU32::new(0),
            acknowledged: AtomicU64::new(QUIESCENT),
            lapic: LapicShared::new(id),
            stats: Arc::new(VcpuStats::default()),
            samples: Samples::default(),
            sleeping: AtomicBool::new(false),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Sets `bits` of the attention word and wakes the vCPU if it sleeps. Returns true if any was not set before.
    pub fn poke(&self, bits: u32) -> bool {
        let before = self.attention.fetch_or(bits, Ordering::SeqCst);
        if self.sleeping.load(Ordering::SeqCst) {
            let _guard = self.lock();
            self.wake.notify_all();
        }
        before & bits != bits
    }

    /// An interrupt, NMI, INIT or SIPI from `source` was put into [`VcpuShared::lapic`].
    pub fn event_arrived(&self, source: KickSource) {
        if self.poke(attention::EVENT) {
            self.stats.count_kick(source);
        }
    }

    /// The chipset raises an SMI.
    pub fn smi_arrived(&self) {
        self.lapic.post_smi();
        self.event_arrived(KickSource::Device);
    }

    /// Sleeps until an attention bit is set or `limit` is over.
    pub fn sleep(&self, limit: Option<Duration>) {
        let mut guard = self.lock();
        self.sleeping.store(true, Ordering::SeqCst);
        if self.attention.load(Ordering::SeqCst) == 0 {
            guard = match limit {
                Some(limit) => {
                    self.wake
                        .wait_timeout(guard, limit)
                        .unwrap_or_else(|p| p.into_inner())
                        .0
                }
                None => self.wake.wait(guard).unwrap_or_else(|p| p.into_inner()),
            };
        }
        self.sleeping.store(false, Ordering::SeqCst);
        drop(guard);
    }
}

/// What the vCPUs of a virtual machine share.
pub struct VmShared {
    /// RAM and ROM.
    pub map: ArcSwap<MemoryMap>,
    /// The vCPUs that exist, by id.
    pub vcpus: Vec<OnceLock<Arc<VcpuShared>>>,
    /// Guest writes that only ring.
    pub doorbells: DoorbellTable,
    /// Raised when vCPUs must drop their write tags.
    pub write_epoch: AtomicU64,
    /// True while the dirty log is on: no write tag may be made.
    pub dirty_logging: AtomicBool,
    /// A LAPIC has had another xAPIC id than its own: a destination has to be looked for among all.
    pub renumbered: AtomicBool,
    /// The 8259 pair.
    pub external: ArcSwapOption<Arc<dyn ExternalInterrupts>>,
    /// One bit a vector: the IOAPIC wants to hear of its end.
    pub level_vectors: RwLock<[u64; 4]>,
    /// The host's TSC frequency in kHz, also the guest's.
    pub tsc_khz: u64,
    /// Host TSC at which the guest's time began (kvmclock zero is relative to it).
    pub boot_tsc: AtomicU64,
    /// Taken while code begins to be watched, by one vCPU of several.
    pub watching: Mutex<()>,
    /// Taken for a locked access that straddles two pages.
    pub split_lock: Mutex<()>,
    /// There is system management mode: without it SMIs are lost.
    pub smm: AtomicBool,
    /// How vCPUs execute.
    pub engine: Engine,
    /// Who asks where the vCPUs are, and what the guest's kernel calls these places.
    pub(crate) profiling: Profiling,
}

impl VmShared {
    /// The vCPUs that exist.
    pub fn vcpus(&self) -> impl Iterator<Item = &Arc<VcpuShared>> {
        self.vcpus.iter().filter_map(OnceLock::get)
    }

    /// vCPU `id`, if it exists.
    pub fn vcpu(&self, id: u32) -> Option<&Arc<VcpuShared>> {
        self.vcpus.get(id as usize).and_then(OnceLock::get)
    }

    /// Makes every vCPU but `except` drop its write tags at its next block entry. Returns the epoch that they will have
    /// acknowledged by then.
    pub fn drop_write_tags(&self, except: Option<u32>) -> u64 {
        let epoch = self.write_epoch.fetch_add(1, Ordering::SeqCst) + 1;
        for (id, vcpu) in self.vcpus.iter().enumerate() {
            if let Some(vcpu) = vcpu.get()
                && Some(id as u32) != except
            {
                vcpu.poke(attention::DROP_WRITES);
            }
        }
        epoch
    }

    /// True if every vCPU but `except` has acknowledged `epoch`.
    pub fn all_acknowledged(&self, epoch: u64, except: u32) -> bool {
        self.vcpus.iter().enumerate().all(|(id, vcpu)| {
            id as u32 == except
                || vcpu
                    .get()
                    .is_none_or(|vcpu| vcpu.acknowledged.load(Ordering::SeqCst) >= epoch)
        })
    }
}
