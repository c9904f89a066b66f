//! How a halted vCPU waits.
//!
//! A vCPU that sleeps is woken by a system call of another thread and by the host's scheduler, which costs more than what two CPUs
//! that hand work to each other do in between. So one whose halts are short looks for events for a while before it sleeps. An idle
//! guest's halts are long, and it sleeps at once.

use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use ostler_accel::ExitCause;

use crate::host;
use crate::shared::QUIESCENT;
use crate::state::Cpu;

/// How long the first look for events after a short halt takes, and the longest; a halt is short if it is shorter than that.
const LEAST: Duration = Duration::from_micros(10);
const MOST: Duration = Duration::from_micros(200);

/// CPUs of the host that this process may use.
static HOST_CPUS: LazyLock<usize> =
    LazyLock::new(|| thread::available_parallelism().map_or(1, std::num::NonZero::get));

/// For how long a halted vCPU looks for events before it sleeps.
#[derive(Debug, Default)]
pub struct Patience(Duration);

impl Patience {
    /// After a halt that ended while the vCPU slept.
    fn slept(&mut self, whole: Duration) {
        self.0 = if whole > MOST {
            Duration::ZERO
        } else {
            (self.0 * 2).clamp(LEAST, MOST)
        };
    }
}

fn ticks(cpu: &Cpu, time: Duration) -> u64 {
    (time.as_nanos() * u128::from(cpu.vm.tsc_khz) / 1_000_000) as u64
}

fn time(cpu: &Cpu, ticks: u64) -> Duration {
    Duration::from_nanos((u128::from(ticks) * 1_000_000 / u128::from(cpu.vm.tsc_khz.max(1))) as u64)
}

/// Waits until something happens or the LAPIC's timer fires. The vCPU is outside guest mode meanwhile; the caller enters it again.
/// False if the timer is due already.
pub fn wait(cpu: &mut Cpu) -> bool {
    let begun = host::tsc();
    let deadline = cpu.lapic.next_deadline();
    if deadline.is_some_and(|deadline| deadline <= begun) {
        return false;
    }
    cpu.shared.stats.count_exit(ExitCause::Halt);
    cpu.account_sleep();
    cpu.shared.acknowledged.store(QUIESCENT, Ordering::SeqCst);
    let until = begun.saturating_add(ticks(cpu, cpu.patience.0));
    let until = deadline.map_or(until, |deadline| deadline.min(until));
    // A CPU that looks for events takes the place of one that works, which on a host with one CPU may be the one it waits for.
    let may_look = until > begun && *HOST_CPUS > 1 && cpu.vm.awake() <= *HOST_CPUS;
    if !(may_look && cpu.shared.watch(until)) {
        let limit = deadline.map(|deadline| time(cpu, deadline.saturating_sub(host::tsc())));
        if limit != Some(Duration::ZERO) {
            cpu.shared.sleep(limit);
        }
        let whole = time(cpu, host::tsc().saturating_sub(begun));
        cpu.patience.slept(whole);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_halts_make_a_vcpu_look_longer_and_a_long_one_makes_it_sleep_at_once() {
        let mut patience = Patience::default();
        let mut seen = Vec::new();
        for _ in 0..6 {
            patience.slept(MOST);
            seen.push(patience.0.as_micros());
        }
        assert_eq!(seen, [10, 20, 40, 80, 160, 200]);
        patience.slept(MOST + Duration::from_micros(1));
        assert_eq!(patience.0, Duration::ZERO);
    }
}
