//! The thread that asks vCPUs where they are, while someone looks.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::lock;
use crate::shared::{QUIESCENT, VmShared, attention};

/// Time between two samples. It shares no beat with a guest's timer of 100, 250 or 1000 Hz.
const PERIOD: Duration = Duration::from_micros(2_137);
/// How much longer than it was asked for sampling goes on: who looks once more in time finds no gap.
const GRACE: Duration = Duration::from_secs(2);

/// Until when there is to be a thread, and whether there is one.
#[derive(Debug, Default)]
pub struct Clock {
    until: Option<Instant>,
    runs: bool,
}

/// Samples `vm` for `time` from now on, and a little longer.
pub fn keep_on(vm: &Arc<VmShared>, time: Duration) {
    let mut clock = lock(&vm.profiling.clock);
    clock.until = clock.until.max(Some(Instant::now() + time + GRACE));
    if !clock.runs {
        let vm = Arc::downgrade(vm);
        let thread = std::thread::Builder::new()
            .name("sampler".into())
            .spawn(move || sample(&vm));
        clock.runs = thread
            .inspect_err(|error| tracing::warn!("no profile, as the host gives no thread: {error}"))
            .is_ok();
    }
}

fn sample(vm: &Weak<VmShared>) {
    loop {
        std::thread::sleep(PERIOD);
        let Some(vm) = vm.upgrade() else {
            return;
        };
        let mut clock = lock(&vm.profiling.clock);
        if clock.until <= Some(Instant::now()) {
            clock.runs = false;
            return;
        }
        drop(clock);
        for vcpu in vm.vcpus() {
            // One that sleeps, or is in user mode, is not woken up for this.
            if vcpu.acknowledged.load(Ordering::SeqCst) != QUIESCENT {
                vcpu.poke(attention::SAMPLE);
            }
        }
    }
}
