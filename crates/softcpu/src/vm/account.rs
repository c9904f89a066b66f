//! Where a vCPU's time went.

use std::time::Instant;

use ostler_accel::{Effort, TimeSpent};

use crate::host;
use crate::state::Cpu;

/// Instructions between two entries in the books of a guest that does not leave by itself.
const INTERVAL: u64 = 1_000_000;

/// What was accounted last.
#[derive(Debug, Default)]
pub struct Account {
    /// When; `None` before the vCPU ran first.
    at: Option<Instant>,
    /// Nanoseconds idle until then.
    idle: u64,
    /// Instructions at which it is time again.
    next: u64,
}

/// What a vCPU did so that guest code can execute: counted by its thread alone, entered in the books with the guest's time.
#[derive(Debug, Default)]
pub struct Counts {
    /// Host TSC ticks of decoding and translation.
    pub translation_ticks: u64,
    /// Page walks.
    pub tlb_misses: u64,
    /// Blocks decoded.
    pub decoded: u64,
    /// Blocks translated.
    pub translated: u64,
    /// Instructions that translated code left to the interpreter.
    pub interpreter_calls: u64,
    /// Bytes of blocks and host code at the last addition.
    pub cache_bytes: u64,
    /// How often the cache was emptied because it was full.
    pub cache_evictions: u64,
}

impl Cpu {
    /// Counts decoding or translation that began at TSC `begun`.
    pub fn count_translation(&mut self, begun: u64) {
        let ticks = host::tsc().wrapping_sub(begun);
        self.kernel_ticks += ticks;
        self.counts.translation_ticks += ticks;
    }

    /// Nanoseconds of `ticks` of the host's TSC.
    fn nanoseconds(&self, ticks: u64) -> u64 {
        (u128::from(ticks) * 1_000_000 / u128::from(self.vm.tsc_khz.max(1))) as u64
    }

    /// Ends the time in user mode: what comes is the guest's.
    pub fn account_user(&mut self) {
        let now = Instant::now();
        let stats = &self.shared.stats;
        if let Some(at) = self.account.at {
            stats.add_time(TimeSpent::User, (now - at).as_nanos() as u64);
        }
        self.account.at = Some(now);
        self.account.idle = stats.time(TimeSpent::Idle).unwrap_or(0);
    }

    /// The vCPU left guest mode for a pause or for good: what comes is no work for the guest, and nobody's time.
    pub fn account_pause(&mut self) {
        self.account.at = None;
    }

    /// The vCPU goes to sleep. Everything is in the books before, because nobody makes entries until it wakes.
    pub fn account_sleep(&mut self) {
        self.account_guest();
        self.shared.stats.start_time(TimeSpent::Idle);
    }

    /// The vCPU woke up.
    pub fn account_wake(&mut self) {
        self.shared.stats.stop_time(TimeSpent::Idle);
    }

    /// Accounts the guest's time until now, without what it idled and what went into page walks, decoding and events.
    pub fn account_guest(&mut self) {
        let now = Instant::now();
        let stats = &self.shared.stats;
        let spent = self.account.at.map_or(0, |at| (now - at).as_nanos() as u64);
        let idle_until_now = stats.time(TimeSpent::Idle).unwrap_or(0);
        let idle = idle_until_now.saturating_sub(self.account.idle);
        let kernel = std::mem::take(&mut self.kernel_ticks);
        let kernel = self.nanoseconds(kernel);
        stats.add_time(TimeSpent::Kernel, kernel);
        stats.add_time(
            TimeSpent::Guest,
            spent.saturating_sub(idle).saturating_sub(kernel),
        );
        stats.set_instructions(self.instructions);
        let counts = &self.counts;
        for (effort, amount) in [
            (Effort::Translation, self.nanoseconds(counts.translation_ticks)),
            (Effort::TlbMisses, counts.tlb_misses),
            (Effort::Decoded, counts.decoded),
            (Effort::Translated, counts.translated),
            (Effort::InterpreterCalls, counts.interpreter_calls),
            (Effort::CacheBytes, counts.cache_bytes),
            (Effort::CacheEmptied, counts.cache_evictions),
        ] {
            stats.set_effort(effort, amount);
        }
        self.account = Account {
            at: Some(now),
            idle: idle_until_now,
            next: self.instructions + INTERVAL,
        };
    }

    /// [`Cpu::account_guest`] once in a while.
    pub fn account_if_due(&mut self) {
        if self.instructions >= self.account.next {
            self.account_guest();
        }
    }
}
