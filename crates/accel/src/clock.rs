//! Time that adds up while a clock runs, read by other threads at any moment.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Value of a clock that was never set or started.
const UNAVAILABLE: u64 = u64::MAX;
/// Set while the clock runs. The other bits are then what it showed at its start minus the time of its start, so that a
/// reader needs one load and never sees an interval twice or not at all.
const RUNS: u64 = 1 << 63;

/// Nanoseconds so far. One thread sets, starts and stops it; any thread reads it.
#[derive(Debug)]
pub(crate) struct Clock(AtomicU64);

impl Default for Clock {
    fn default() -> Self {
        Self(AtomicU64::new(UNAVAILABLE))
    }
}

impl Clock {
    /// What it shows, or `None` if it was never set or started.
    pub fn read(&self) -> Option<u64> {
        // The moment is taken after the load: a start that is seen lies before it.
        let value = self.0.load(Ordering::Acquire);
        (value != UNAVAILABLE).then(|| shown(value, now()))
    }

    /// Sets what it shows, and stops it.
    pub fn set(&self, nanoseconds: u64) {
        self.0.store(nanoseconds & !RUNS, Ordering::Release);
    }

    /// Adds to what it shows, and stops it.
    pub fn add(&self, nanoseconds: u64) {
        self.set(self.read().unwrap_or(0).saturating_add(nanoseconds));
    }

    /// Lets it run.
    pub fn start(&self) {
        let begun = now();
        let before = self.read().unwrap_or(0);
        self.0.store(running(before, begun), Ordering::Release);
    }

    /// Stops it.
    pub fn stop(&self) {
        self.set(self.read().unwrap_or(0));
    }
}

/// The value of a clock that showed `before` when it was started at `begun`.
fn running(before: u64, begun: u64) -> u64 {
    let value = RUNS | before.wrapping_sub(begun);
    // Off by a nanosecond rather than taken for a clock that was never set.
    if value == UNAVAILABLE { value - 1 } else { value }
}

/// What a clock of this value shows at `now`.
fn shown(value: u64, now: u64) -> u64 {
    if value & RUNS == 0 {
        value
    } else {
        value.wrapping_add(now) & !RUNS
    }
}

/// Nanoseconds since some moment in this process.
fn now() -> u64 {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    ORIGIN.get_or_init(Instant::now).elapsed().as_nanos() as u64 & !RUNS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_clock_shows_what_it_had_and_what_came() {
        for (before, begun) in [(0, 0), (0, 500), (700, 500), (499, 500), (500, 500)] {
            let value = running(before, begun);
            assert_ne!(value, UNAVAILABLE);
            let off = u64::from(before + 1 == begun);
            assert_eq!(shown(value, begun + 40) + off, before + 40, "{before} at {begun}");
        }
    }

    #[test]
    fn it_grows_only_while_it_runs() {
        let clock = Clock::default();
        assert_eq!(clock.read(), None);
        clock.add(5);
        assert_eq!(clock.read(), Some(5));
        clock.start();
        let first = clock.read().unwrap();
        while clock.read().unwrap() == first {
            std::hint::spin_loop();
        }
        clock.stop();
        let stopped = clock.read().unwrap();
        assert!(stopped > first);
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert_eq!(clock.read(), Some(stopped));
        clock.set(7);
        assert_eq!(clock.read(), Some(7));
    }
}
