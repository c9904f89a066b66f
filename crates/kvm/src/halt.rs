//! How long the kernel polls before a vCPU that halts gives its processor away.
//!
//! KVM does that where the last halts were short, for 200 us at most, which is as long as waking a thread takes where the host is a guest
//! itself. There it polls for longer, as the workers of devices do (`ostler_worker::pace`): most answers of a disk come within that.

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
    let Some(longest) = fs::read_to_string(USUAL).ok().and_then(|usual| longest(&usual)) else {
        return;
    };
    if let Err(error) = enable(vm, KVM_CAP_HALT_POLL, [longest.into(), 0, 0, 0]) {
        tracing::debug!("KVM polls as it does for any guest: {error}");
    }
}

/// The longest poll in nanoseconds, if it is not what there is anyway.
fn longest(usual: &str) -> Option<u32> {
    let usual = Duration::from_nanos(usual.trim().parse().ok()?);
    let longest = scaled(usual);
    (longest > usual).then(|| u32::try_from(longest.as_nanos()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halts_are_polled_longer_only_where_wake_ups_take_longer() {
        assert_eq!(longest("0\n"), None, "the administrator wants no polling");
        assert_eq!(longest("many\n"), None);
        let here = scaled(Duration::from_nanos(200_000)).as_nanos();
        assert_eq!(
            longest("200000\n").map(u128::from),
            (here > 200_000).then_some(here)
        );
    }
}
