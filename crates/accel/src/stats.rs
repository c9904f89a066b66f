//! Counters of a vCPU, written by its thread and read by anyone.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Clock;

macro_rules! counted_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum $name { $($(#[$vmeta])* $variant,)+ }

        impl $name {
            /// Every value, in the order of the counters.
            pub const ALL: &[$name] = &[$($name::$variant,)+];

            /// The name shown to users and used in JSON.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }
        }
    };
}

counted_enum! {
    /// Why a vCPU left guest mode.
    ExitCause {
        /// Port input.
        PortRead = "port-read",
        /// Port output.
        PortWrite = "port-write",
        /// Load from a device.
        MmioRead = "mmio-read",
        /// Store to a device.
        MmioWrite = "mmio-write",
        /// A doorbell rang without leaving for user mode.
        Doorbell = "doorbell",
        /// HLT: the vCPU slept.
        Halt = "halt",
        /// End of a level-triggered interrupt.
        EndOfInterrupt = "end-of-interrupt",
        /// An interrupt was delivered to the guest.
        Interrupt = "interrupt",
        /// A kick.
        Kick = "kick",
        /// Triple fault.
        Shutdown = "shutdown",
        /// An instruction that KVM could not emulate went to the software CPU.
        EmulationFailed = "emulation-failed",
        /// Anything else.
        Other = "other",
    }
}

counted_enum! {
    /// Who asked a vCPU to come back from guest mode.
    KickSource {
        /// A device's interrupt (a packet, a finished disk request).
        Device = "device",
        /// An interrupt from another vCPU.
        Ipi = "ipi",
        /// The LAPIC timer.
        Timer = "timer",
        /// Pause, state save, shutdown: the control plane.
        Control = "control",
        /// A signal to the thread.
        Signal = "signal",
    }
}

counted_enum! {
    /// Where a vCPU's thread spends its time.
    TimeSpent {
        /// Executing guest instructions.
        Guest = "guest",
        /// In the host kernel for the guest (KVM); page walks, decoding, LAPIC (software CPU).
        Kernel = "kernel",
        /// Handling exits in user mode.
        User = "user",
        /// Halted.
        Idle = "idle",
    }
}

counted_enum! {
    /// What a software CPU does so that it can execute. All but [`Effort::CacheBytes`] only grow.
    Effort {
        /// Nanoseconds in decoding and translation; they are part of the kernel time.
        Translation = "translation-ns",
        /// Accesses for which page tables were walked.
        TlbMisses = "tlb-misses",
        /// Blocks decoded.
        Decoded = "blocks-decoded",
        /// Blocks of which host code was made.
        Translated = "blocks-translated",
        /// Instructions that host code left to the interpreter.
        InterpreterCalls = "interpreter-calls",
        /// Bytes of decoded blocks and host code that are kept.
        CacheBytes = "cache-bytes",
        /// How often the cache was full, so that a part of it was evicted.
        CacheEmptied = "cache-evictions",
    }
}

/// Value of a counter that this accelerator cannot measure.
const UNAVAILABLE: u64 = u64::MAX;

/// Brings counters up to date that the accelerator fetches from elsewhere.
type Refresher = Box<dyn Fn(&VcpuStats) + Send + Sync>;

/// Counters of one vCPU.
pub struct VcpuStats {
    exits: [AtomicU64; ExitCause::ALL.len()],
    kicks: [AtomicU64; KickSource::ALL.len()],
    times: [Clock; TimeSpent::ALL.len()],
    instructions: AtomicU64,
    efforts: [AtomicU64; Effort::ALL.len()],
    refresher: OnceLock<Refresher>,
}

impl Default for VcpuStats {
    fn default() -> Self {
        Self {
            exits: Default::default(),
            // Kicks of the control plane pass through a `Kick`; others are seen only by an accelerator that says so.
            kicks: std::array::from_fn(|source| {
                let counted = source == KickSource::Control as usize;
                AtomicU64::new(if counted { 0 } else { UNAVAILABLE })
            }),
            times: Default::default(),
            instructions: AtomicU64::new(UNAVAILABLE),
            efforts: std::array::from_fn(|_| AtomicU64::new(UNAVAILABLE)),
            refresher: OnceLock::new(),
        }
    }
}

impl fmt::Debug for VcpuStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exits = ExitCause::ALL
            .iter()
            .map(|&cause| (cause.name(), self.exits_if_measured(cause)));
        f.debug_map().entries(exits).finish()
    }
}

impl VcpuStats {
    /// Brings every counter up to date. Whoever shows the counters calls this first; it costs a few system calls.
    pub fn refresh(&self) {
        if let Some(refresher) = self.refresher.get() {
            refresher(self);
        }
    }

    /// Sets what [`VcpuStats::refresh`] does; only the first call counts.
    pub fn set_refresher(&self, refresher: impl Fn(&VcpuStats) + Send + Sync + 'static) {
        let _ = self.refresher.set(Box::new(refresher));
    }

    /// Counts one exit.
    pub fn count_exit(&self, cause: ExitCause) {
        self.exits[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one kick. The first one shows that kicks from `source` are counted.
    pub fn count_kick(&self, source: KickSource) {
        let counter = &self.kicks[source as usize];
        let _ = counter.compare_exchange(UNAVAILABLE, 0, Ordering::Relaxed, Ordering::Relaxed);
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Declares that kicks from `source` are counted, before the first one.
    pub fn set_kicks_counted(&self, source: KickSource) {
        let counter = &self.kicks[source as usize];
        let _ = counter.compare_exchange(UNAVAILABLE, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Exits for `cause` so far; 0 where they are not counted.
    pub fn exits(&self, cause: ExitCause) -> u64 {
        self.exits_if_measured(cause).unwrap_or(0)
    }

    /// Exits for `cause` so far, or `None` where this accelerator cannot count them.
    pub fn exits_if_measured(&self, cause: ExitCause) -> Option<u64> {
        Some(self.exits[cause as usize].load(Ordering::Relaxed)).filter(|&n| n != UNAVAILABLE)
    }

    /// Declares that exits for `cause` cannot be counted.
    pub fn set_exits_unavailable(&self, cause: ExitCause) {
        self.exits[cause as usize].store(UNAVAILABLE, Ordering::Relaxed);
    }

    /// Sets the number of exits for `cause`, where the accelerator keeps that count itself.
    pub fn set_exits(&self, cause: ExitCause, count: u64) {
        self.exits[cause as usize].store(count, Ordering::Relaxed);
    }

    /// Kicks from `source` so far, or `None` where this accelerator cannot count them.
    pub fn kicks(&self, source: KickSource) -> Option<u64> {
        Some(self.kicks[source as usize].load(Ordering::Relaxed)).filter(|&n| n != UNAVAILABLE)
    }

    /// Sets the nanoseconds spent in `place`.
    pub fn set_time(&self, place: TimeSpent, nanoseconds: u64) {
        self.times[place as usize].set(nanoseconds);
    }

    /// Adds nanoseconds spent in `place`. Only the vCPU's own thread calls this.
    pub fn add_time(&self, place: TimeSpent, nanoseconds: u64) {
        self.times[place as usize].add(nanoseconds);
    }

    /// From now on time is spent in `place`, as [`VcpuStats::time`] shows at once. Only the vCPU's own thread calls this.
    pub fn start_time(&self, place: TimeSpent) {
        self.times[place as usize].start();
    }

    /// Ends what [`VcpuStats::start_time`] began.
    pub fn stop_time(&self, place: TimeSpent) {
        self.times[place as usize].stop();
    }

    /// Nanoseconds spent in `place` until now, or `None` where that cannot be measured.
    pub fn time(&self, place: TimeSpent) -> Option<u64> {
        self.times[place as usize].read()
    }

    /// Sets the number of guest instructions executed.
    pub fn set_instructions(&self, count: u64) {
        self.instructions.store(count, Ordering::Relaxed);
    }

    /// Guest instructions executed, or `None` where they are not counted.
    pub fn instructions(&self) -> Option<u64> {
        Some(self.instructions.load(Ordering::Relaxed)).filter(|&n| n != UNAVAILABLE)
    }

    /// Sets what `effort` has come to.
    pub fn set_effort(&self, effort: Effort, amount: u64) {
        self.efforts[effort as usize].store(amount, Ordering::Relaxed);
    }

    /// What `effort` has come to, or `None` where the CPU is no software.
    pub fn effort(&self, effort: Effort) -> Option<u64> {
        Some(self.efforts[effort as usize].load(Ordering::Relaxed)).filter(|&n| n != UNAVAILABLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_measured_is_unavailable_not_zero() {
        let stats = VcpuStats::default();
        assert_eq!(stats.time(TimeSpent::Guest), None);
        assert_eq!(stats.instructions(), None);
        stats.add_time(TimeSpent::Guest, 5);
        stats.add_time(TimeSpent::Guest, 6);
        assert_eq!(stats.time(TimeSpent::Guest), Some(11));
        assert_eq!(stats.exits(ExitCause::Halt), 0);
        assert_eq!(stats.kicks(KickSource::Timer), None);
        assert_eq!(stats.kicks(KickSource::Control), Some(0));
        stats.set_kicks_counted(KickSource::Ipi);
        assert_eq!(stats.kicks(KickSource::Ipi), Some(0));
        stats.count_kick(KickSource::Timer);
        stats.set_kicks_counted(KickSource::Timer);
        assert_eq!(stats.kicks(KickSource::Timer), Some(1));
        stats.set_exits_unavailable(ExitCause::Doorbell);
        assert_eq!(stats.exits_if_measured(ExitCause::Doorbell), None);
        assert_eq!(stats.exits(ExitCause::Doorbell), 0);
        assert_eq!(stats.effort(Effort::TlbMisses), None);
        stats.set_effort(Effort::TlbMisses, 0);
        assert_eq!(stats.effort(Effort::TlbMisses), Some(0));
        assert_eq!(stats.effort(Effort::Translation), None);
    }

    #[test]
    fn a_refresh_fetches_what_others_count() {
        let stats = VcpuStats::default();
        stats.refresh();
        stats.set_refresher(|stats| stats.set_exits(ExitCause::Halt, 7));
        assert_eq!(stats.exits(ExitCause::Halt), 0);
        stats.refresh();
        assert_eq!(stats.exits(ExitCause::Halt), 7);
    }
}
