//! Writes into the host's page cache that are made on the spot instead of being handed to the kernel's threads.
//!
//! Not every file system can start such a write without perhaps waiting (ext4 cannot), and io_uring then passes each one to a thread, one
//! after the other for a file. Where the page is there and memory is not short, the copy is over long before that thread has woken up.

use std::time::{Duration, Instant};

use super::task::Step;
use ostler_memory::IoBuf;
use ostler_worker::pace::scaled;

/// Bytes of the longest write that is tried.
const LONGEST: usize = 64 << 10;
/// A write that took longer has waited for something: a page that had to be read, or the disk that has fallen behind.
const SLOW: Duration = Duration::from_millis(1);
/// For so long after that the kernel's threads have to wait instead of ours.
const REST: Duration = Duration::from_millis(100);

/// Whether writes are quick at the moment.
#[derive(Debug, Default)]
pub(crate) struct AtOnce {
    slow_at: Option<Instant>,
}

impl AtOnce {
    /// Whether `step` is to be tried on the spot.
    pub(crate) fn may(&mut self, step: Step<'_>, now: Instant) -> bool {
        let Step::Write { buffers, .. } = step else {
            return false;
        };
        if self.slow_at.is_some_and(|at| now.duration_since(at) < REST) {
            return false;
        }
        self.slow_at = None;
        IoBuf::total(buffers).is_some_and(|len| len <= LONGEST)
    }

    /// Takes note of a write that began at `began` and has ended by `now`.
    pub(crate) fn ended(&mut self, began: Instant, now: Instant) {
        if now.duration_since(began) > scaled(SLOW) {
            self.slow_at = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_write_leaves_the_next_ones_to_others_for_a_while() {
        // Nobody looks at what is in them.
        let buffers = |len| [IoBuf::new(std::ptr::null_mut(), len)];
        let (short, long) = (buffers(LONGEST), buffers(LONGEST + 1));
        let write = |buffers| Step::Write { offset: 0, buffers };
        let (mut at_once, start) = (AtOnce::default(), Instant::now());
        assert!(at_once.may(write(&short), start));
        assert!(!at_once.may(write(&long), start));
        assert!(!at_once.may(Step::Sync, start));
        let quick = start + scaled(SLOW);
        at_once.ended(start, quick);
        assert!(at_once.may(write(&short), quick));
        let slow = quick + Duration::from_micros(1);
        at_once.ended(start, slow);
        assert!(!at_once.may(write(&short), slow + REST - Duration::from_micros(1)));
        assert!(at_once.may(write(&short), slow + REST));
    }
}
