//! How long to wait for an acknowledgment (RFC 6298).

use crate::time::Millis;

/// The first wait, and the shortest one. The guest is on the same machine, so this is less than the second of RFC 6298, 2.4; as there, it
/// is above the time for which a guest may hold back an acknowledgment.
pub const SHORTEST: Millis = 300;
pub const LONGEST: Millis = 60_000;
/// The shortest wait for an acknowledgment of several segments, before the guest is asked for it: above the 40 ms for which Linux holds back
/// one at least.
pub const QUESTION: Millis = 50;
/// Doublings after which the longest wait is reached whatever was measured.
const MOST_DOUBLINGS: u32 = 8;

/// What is known of the way there and back.
#[derive(Debug, Default)]
pub struct Timing {
    /// Eight times the smoothed time of a round trip and four times its variation, in milliseconds, once one was measured.
    measured: Option<(Millis, Millis)>,
    doublings: u32,
}

impl Timing {
    /// A round trip took so long. What was sent more than once says nothing of it (Karn's algorithm).
    pub fn measure(&mut self, took: Millis) {
        let took = took.min(LONGEST);
        self.measured = Some(match self.measured {
            None => (took * 8, took * 2),
            Some((smoothed, variation)) => {
                let difference = (smoothed / 8).abs_diff(took);
                (
                    smoothed - smoothed / 8 + took,
                    variation - variation / 4 + difference,
                )
            }
        });
        self.doublings = 0;
    }

    /// Time passed in vain: twice as long the next time.
    pub fn back_off(&mut self) {
        self.doublings = (self.doublings + 1).min(MOST_DOUBLINGS);
    }

    /// Time no longer passes in vain.
    pub fn go_on(&mut self) {
        self.doublings = 0;
    }

    /// Whether a round trip was measured since time last passed in vain.
    pub fn is_steady(&self) -> bool {
        self.measured.is_some() && self.doublings == 0
    }

    fn usual(&self) -> Millis {
        self.measured
            .map_or(SHORTEST, |(smoothed, variation)| smoothed / 8 + variation.max(1))
    }

    /// How long to wait.
    pub fn wait(&self) -> Millis {
        (self.usual().clamp(SHORTEST, LONGEST) << self.doublings).min(LONGEST)
    }

    /// How long to wait with a question.
    pub fn question(&self) -> Millis {
        self.usual().clamp(QUESTION, LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_what_is_measured_and_doubles() {
        let mut timing = Timing::default();
        assert_eq!(timing.wait(), 300);
        timing.measure(0);
        assert_eq!(timing.wait(), 300);
        let mut timing = Timing::default();
        timing.measure(400);
        assert_eq!(timing.wait(), 400 + 4 * 200, "RFC 6298, 2.2");
        for _ in 0..50 {
            timing.measure(400);
        }
        assert!((400..=410).contains(&timing.wait()), "{}", timing.wait());
        timing.back_off();
        assert!((800..=820).contains(&timing.wait()));
        for _ in 0..100 {
            timing.back_off();
        }
        assert_eq!(timing.wait(), LONGEST);
        timing.measure(400);
        assert!(timing.wait() <= 410);
        timing.measure(Millis::MAX);
        assert!(timing.wait() <= LONGEST);
    }
}
