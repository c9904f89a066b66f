//! Where a vCPU's time went.

use std::time::Instant;

use ostler_accel::TimeSpent;

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

impl Cpu {
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
        let kernel = (u128::from(kernel) * 1_000_000 / u128::from(self.vm.tsc_khz.max(1))) as u64;
        stats.add_time(TimeSpent::Kernel, kernel);
        stats.add_time(
            TimeSpent::Guest,
            spent.saturating_sub(idle).saturating_sub(kernel),
        );
        stats.set_instructions(self.instructions);
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
