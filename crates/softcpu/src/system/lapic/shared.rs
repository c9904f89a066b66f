//! The part of a LAPIC that other threads touch.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Bits of [`LapicShared::signals`].
mod signal {
    pub const VECTORS: u32 = 1;
    pub const NMI: u32 = 1 << 1;
    pub const INIT: u32 = 1 << 2;
    pub const SIPI: u32 = 1 << 3;
    pub const UNHALT: u32 = 1 << 4;
    pub const ILLEGAL: u32 = 1 << 5;
    pub const SMI: u32 = 1 << 6;
}

/// NMIs that are counted between two looks of the owner: as many as can wait.
const MOST_NMIS: u8 = 2;

/// What other threads write (pending vectors, NMI, INIT, SIPI) and read (ids and modes for routing).
pub struct LapicShared {
    /// vCPU and x2APIC id.
    pub id: u32,
    requested: [AtomicU64; 4],
    level: [AtomicU64; 4],
    signals: AtomicU32,
    sipi_vector: AtomicU32,
    nmis: AtomicU8,
    /// LDR, and DFR in the high half.
    logical: AtomicU64,
    /// Bit 0: software enabled; bit 1: x2APIC; bits 8 to 15: xAPIC id; bits 16 to 23: TPR.
    mode: AtomicU32,
}

/// What had been posted, taken over by the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Posted {
    /// Requested vectors.
    pub requested: [u64; 4],
    /// Of those, the level-triggered ones.
    pub level: [u64; 4],
    /// NMIs, of which more than [`MOST_NMIS`] are not told apart.
    pub nmis: u8,
    /// INIT.
    pub init: bool,
    /// A start-up IPI with this vector.
    pub sipi: Option<u8>,
    /// A paravirtual kick.
    pub unhalt: bool,
    /// A message with an illegal vector.
    pub illegal: bool,
    /// SMIs, which are not counted.
    pub smi: bool,
}

/// How routing sees a LAPIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addressing {
    /// x2APIC mode.
    pub x2apic: bool,
    /// The 8-bit id in xAPIC mode.
    pub xapic_id: u8,
    /// Logical destination register.
    pub ldr: u32,
    /// Destination format register.
    pub dfr: u32,
    /// Task priority.
    pub tpr: u8,
    /// Takes fixed interrupts.
    pub enabled: bool,
}

impl LapicShared {
    /// The LAPIC of vCPU `id` after RESET.
    pub fn new(id: u32) -> Self {
        Self {
            id,
            requested: Default::default(),
            level: Default::default(),
            signals: AtomicU32::new(0),
            sipi_vector: AtomicU32::new(0),
            nmis: AtomicU8::new(0),
            logical: AtomicU64::new(u64::from(u32::MAX) << 32),
            mode: AtomicU32::new((id & 0xff) << 8),
        }
    }

    /// Posts `vector`. The owner still has to be poked.
    pub fn post(&self, vector: u8, level: bool) {
        let (word, bit) = (usize::from(vector / 64), 1u64 << (vector % 64));
        if level {
            self.level[word].fetch_or(bit, Ordering::Relaxed);
        } else {
            self.level[word].fetch_and(!bit, Ordering::Relaxed);
        }
        self.requested[word].fetch_or(bit, Ordering::Release);
        self.signals.fetch_or(signal::VECTORS, Ordering::Release);
    }

    /// Posts an NMI.
    pub fn post_nmi(&self) {
        let one_more = |count: u8| (count < MOST_NMIS).then_some(count + 1);
        // Enough of them are posted if it fails.
        let _ = self
            .nmis
            .fetch_update(Ordering::Release, Ordering::Relaxed, one_more);
        self.signals.fetch_or(signal::NMI, Ordering::Release);
    }

    /// Posts an SMI.
    pub fn post_smi(&self) {
        self.signals.fetch_or(signal::SMI, Ordering::Release);
    }

    /// Posts INIT.
    pub fn post_init(&self) {
        self.signals.fetch_or(signal::INIT, Ordering::Release);
    }

    /// Posts a start-up IPI.
    pub fn post_sipi(&self, vector: u8) {
        self.sipi_vector.store(u32::from(vector), Ordering::Relaxed);
        self.signals.fetch_or(signal::SIPI, Ordering::Release);
    }

    /// Posts a paravirtual kick: a HLT that is under way, or the next one, ends.
    pub fn post_unhalt(&self) {
        self.signals.fetch_or(signal::UNHALT, Ordering::Release);
    }

    /// Notes that a message with an illegal vector arrived.
    pub fn post_illegal(&self) {
        self.signals.fetch_or(signal::ILLEGAL, Ordering::Release);
    }

    /// Takes over what was posted; `None` if that is nothing. Only the owner calls this.
    pub fn take(&self) -> Option<Posted> {
        if self.signals.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let signals = self.signals.swap(0, Ordering::AcqRel);
        let mut posted = Posted {
            nmis: self.nmis.swap(0, Ordering::AcqRel),
            init: signals & signal::INIT != 0,
            sipi: (signals & signal::SIPI != 0).then(|| self.sipi_vector.load(Ordering::Relaxed) as u8),
            unhalt: signals & signal::UNHALT != 0,
            illegal: signals & signal::ILLEGAL != 0,
            smi: signals & signal::SMI != 0,
            ..Posted::default()
        };
        if signals & signal::VECTORS != 0 {
            for word in 0..4 {
                posted.requested[word] = self.requested[word].swap(0, Ordering::AcqRel);
                posted.level[word] = self.level[word].load(Ordering::Relaxed) & posted.requested[word];
            }
        }
        Some(posted)
    }

    /// Publishes how the owner is to be addressed.
    pub fn set_addressing(&self, a: Addressing) {
        self.logical
            .store(u64::from(a.ldr) | u64::from(a.dfr) << 32, Ordering::Relaxed);
        let mode = u32::from(a.enabled)
            | u32::from(a.x2apic) << 1
            | u32::from(a.xapic_id) << 8
            | u32::from(a.tpr) << 16;
        self.mode.store(mode, Ordering::Release);
    }

    /// How the owner is addressed.
    pub fn addressing(&self) -> Addressing {
        let mode = self.mode.load(Ordering::Acquire);
        let logical = self.logical.load(Ordering::Relaxed);
        Addressing {
            enabled: mode & 1 != 0,
            x2apic: mode & 2 != 0,
            xapic_id: (mode >> 8) as u8,
            tpr: (mode >> 16) as u8,
            ldr: logical as u32,
            dfr: (logical >> 32) as u32,
        }
    }
}
