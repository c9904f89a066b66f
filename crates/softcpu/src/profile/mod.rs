//! Where guest code spends its time.
//!
//! While someone looks, a thread asks the vCPUs that execute, some hundred times a second, where they are ([`sampler`]). A vCPU
//! answers before its next block: a sample is the address that it goes on at, never one within a block. Whoever looks adds the newest
//! samples up, and names what the guest kernel's own symbol table knows ([`kallsyms`], found by [`kernel`]). While nobody looks there
//! is no thread, and a vCPU does not notice.

mod kallsyms;
mod kernel;
mod sampler;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ostler_accel::{HotSpot, Profile, Profiler};

use crate::host;
use crate::shared::{VmShared, attention};
use crate::state::{Activity, Cpu, seg};
use kernel::{Kernel, KnownSymbols};

/// Samples that are kept of a vCPU, the newest ones.
const KEPT: usize = 4096;

/// One look at a vCPU.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// Linear address.
    address: u64,
    user: bool,
    /// Host TSC.
    at: u64,
}

#[derive(Debug, Default)]
struct Ring {
    samples: Vec<Sample>,
    /// Place of the oldest sample once there are [`KEPT`].
    oldest: usize,
    /// Which kernel the newest sample was taken under.
    kernel: Option<Kernel>,
}

impl Ring {
    fn add(&mut self, sample: Sample) {
        if self.samples.len() < KEPT {
            self.samples.push(sample);
        } else {
            self.samples[self.oldest] = sample;
            self.oldest = (self.oldest + 1) % KEPT;
        }
    }

    fn newest(&self) -> Option<&Sample> {
        let last = (self.oldest + KEPT - 1) % KEPT;
        self.samples.get(last).or(self.samples.last())
    }
}

/// Where a vCPU was found executing. Its thread adds to them, any other reads them.
#[derive(Debug, Default)]
pub struct Samples(Mutex<Ring>);

/// What the virtual machine keeps for those who look.
#[derive(Debug, Default)]
pub struct Profiling {
    clock: Mutex<sampler::Clock>,
    symbols: Mutex<KnownSymbols>,
}

/// Locks what no panic leaves half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers [`attention::SAMPLE`].
#[cold]
pub fn take_sample(cpu: &Cpu) {
    let shared = &cpu.shared;
    shared
        .attention
        .fetch_and(!attention::SAMPLE, std::sync::atomic::Ordering::SeqCst);
    if cpu.activity != Activity::Running {
        return;
    }
    let address = if cpu.is_long() {
        cpu.rip
    } else {
        cpu.segs[seg::CS].base.wrapping_add(cpu.rip) & 0xffff_ffff
    };
    let mut ring = lock(&shared.samples.0);
    ring.add(Sample {
        address,
        user: cpu.cpl == 3,
        at: host::tsc(),
    });
    ring.kernel = (cpu.long_active() && cpu.msrs.lstar != 0).then_some(Kernel {
        entry: cpu.msrs.lstar,
        cr3: cpu.cr3,
    });
}

/// The profiler of a virtual machine.
pub struct SoftProfiler(pub Arc<VmShared>);

impl Profiler for SoftProfiler {
    fn look(&self, newest: Duration, spots: usize) -> Profile {
        let vm = &*self.0;
        sampler::keep_on(&self.0, newest);
        let ticks = newest.as_nanos() * u128::from(vm.tsc_khz) / 1_000_000;
        let since = host::tsc().saturating_sub(ticks as u64);
        let mut found = HashMap::new();
        let mut kernel = None;
        for vcpu in vm.vcpus() {
            let ring = lock(&vcpu.samples.0);
            for sample in ring.samples.iter().filter(|sample| sample.at >= since) {
                *found.entry((sample.address, sample.user)).or_insert(0) += 1;
            }
            if let Some(last) = ring.newest()
                && kernel.is_none_or(|(at, _)| at < last.at)
            {
                kernel = Some((last.at, ring.kernel));
            }
        }
        let samples = found.values().sum();
        let mut hottest: Vec<HotSpot> = found
            .into_iter()
            .map(|((address, user), samples)| HotSpot {
                address,
                user,
                samples,
                symbol: None,
            })
            .collect();
        hottest.sort_unstable_by_key(|spot| (std::cmp::Reverse(spot.samples), spot.address));
        hottest.truncate(spots);
        if let Some((_, Some(kernel))) = kernel
            && hottest.iter().any(|spot| !spot.user)
        {
            let mut known = lock(&vm.profiling.symbols);
            if let Some(symbols) = known.of(kernel, &vm.map.load()) {
                for spot in hottest.iter_mut().filter(|spot| !spot.user) {
                    spot.symbol = symbols.function_at(spot.address);
                }
            }
        }
        Profile {
            samples,
            spots: hottest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_samples_are_kept() {
        let mut ring = Ring::default();
        assert!(ring.newest().is_none());
        for at in 0..KEPT as u64 + 10 {
            ring.add(Sample {
                address: at,
                user: false,
                at,
            });
            assert_eq!(ring.newest().unwrap().at, at);
        }
        assert_eq!(ring.samples.len(), KEPT);
        assert_eq!(ring.samples.iter().map(|sample| sample.at).min(), Some(10));
    }
}
