//! The 8259 pair's INTR output into vCPU 0 (ExtINT through LINT0).
//!
//! The PIC is user mode's, so its vector is injected by hand, at a moment when the guest can take it: KVM says so in
//! `ready_for_interrupt_injection`, or leaves guest mode at such a moment when asked by `request_interrupt_window`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use ostler_accel::ExternalInterrupts;

use crate::kick::Kicker;

/// The wire between the PIC and vCPU 0.
#[derive(Default)]
pub struct ExternalWire {
    source: OnceLock<Arc<dyn ExternalInterrupts>>,
    /// The output rose since vCPU 0 last looked.
    raised: AtomicBool,
    vcpu0: OnceLock<Arc<Kicker>>,
}

impl ExternalWire {
    /// Connects the PIC; only the first call counts.
    pub fn set_source(&self, source: Arc<dyn ExternalInterrupts>) {
        if self.source.set(source).is_err() {
            tracing::warn!("a second 8259 pair was connected and is ignored");
        }
    }

    /// Tells how to reach vCPU 0.
    pub fn set_vcpu0(&self, kicker: Arc<Kicker>) {
        // vCPU 0 is made once a VM; KVM refuses a second one.
        let _ = self.vcpu0.set(kicker);
    }

    /// The output rose: vCPU 0 must look. Does not call the source, whose owner may hold its lock.
    pub fn raise(&self) {
        self.raised.store(true, Ordering::SeqCst);
        if let Some(kicker) = self.vcpu0.get() {
            kicker.interrupt();
        }
    }

    /// True if an interrupt waits; cheap while nothing was raised.
    pub fn pending(&self) -> bool {
        if !self.raised.load(Ordering::Relaxed) {
            return false;
        }
        // Down before the look: a rise in between is not lost.
        self.raised.store(false, Ordering::SeqCst);
        let pending = self.source.get().is_some_and(|source| source.pending());
        if pending {
            self.raised.store(true, Ordering::SeqCst);
        }
        pending
    }

    /// The interrupt-acknowledge cycle.
    pub fn acknowledge(&self) -> Option<u8> {
        self.source.get().and_then(|source| source.acknowledge())
    }
}
