//! How long the kernel polls before a vCPU that halts gives its processor away.
//!
//! KVM does that where the last halts were short, for 200 us at most. On a host whose wake-ups take long, as one that is a guest itself, that
//! is over before a disk answers. There it polls for as many times longer, as the workers of devices do (`ostler_worker::pace`).

use std::fs;
use std::time::Duration;

use kvm_bindings::KVM_CAP_HALT_POLL;
use kvm_ioctls::VmFd;
use ostler_worker::pace::scaled;

use crate::kvm::enable;

/// What the host's administrator has for guests that ask for nothing, in nanoseconds; 0 means that KVM never polls.
const USUAL: &str = "/sys/module/kvm/parameters/halt_poll_ns";

/// Has a guest's halts polled for as long as suits the host. One whose KVM cannot do that (before Linux 5.11) is as quick as before.
pub fn poll_for_the_pace_of_the_host(vm: &VmFd) {
    let usual = fs::read_to_string(USUAL).unwrap_or_default();
    let Some(longest) = longest(&usual, scaled) else {
        return;
    };
    if let Err(error) = enable(vm, KVM_CAP_HALT_POLL, [longest.into(), 0, 0, 0]) {
        tracing::debug!("KVM polls as it does for any guest: {error}");
    }
}

/// The longest poll in nanoseconds where `scaled` is the host's pace, if it is not what there is anyway.
fn longest(usual: &str, scaled: impl Fn(Duration) -> Duration) -> Option<u32> {
    let usual = Duration::from_nanos(usual.trim().parse().ok()?);
    let longest = scaled(usual);
    (longest > usual).then(|| u32::try_from(longest.as_nanos()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halts_are_polled_longer_only_where_wake_ups_take_longer() {
        let times = |factor| move |time| time * factor;
        assert_eq!(longest("200000\n", times(20)), Some(4_000_000));
        assert_eq!(longest("200000\n", times(1)), None);
        assert_eq!(longest("0\n", times(20)), None, "the administrator wants none");
        assert_eq!(longest("", times(20)), None, "there is no KVM");
        assert_eq!(longest("4000000000", times(20)), Some(u32::MAX));
    }
}
