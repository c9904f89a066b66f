//! A token bucket on the clock that the switch is given.

use crate::Time;

/// A rate with a burst. What is counted (frames, bytes) is the user's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How much a second; at least 1.
    pub per_second: u64,
    /// How much at once.
    pub burst: u64,
}

/// Most that is taken at once; its nanoseconds still fit in 64 bits.
const MOST: u64 = 1 << 33;

/// A bucket, kept as the moment at which it will be full again: nothing has to be filled up while nobody looks.
#[derive(Clone, Debug)]
pub struct Bucket {
    rate: Rate,
    /// When the bucket is full, in nanoseconds.
    full_at: u64,
    /// What the division by the rate left, in units times nanoseconds.
    remainder: u64,
}

impl Bucket {
    /// A full bucket.
    pub fn new(rate: Rate) -> Self {
        Self {
            rate: Rate {
                per_second: rate.per_second.max(1),
                ..rate
            },
            full_at: 0,
            remainder: 0,
        }
    }

    /// Takes `amount` if it is there. An amount above the burst goes through a full bucket only, which then owes the rest.
    pub fn take(&mut self, amount: u64, now: Time) -> bool {
        let now = now.as_nanos();
        let full_at = self.full_at.max(now);
        let missing = u128::from(full_at - now) * u128::from(self.rate.per_second);
        let room = u128::from(self.rate.burst.max(amount)) * 1_000_000_000;
        if missing + u128::from(amount) * 1_000_000_000 > room {
            return false;
        }
        let remainder = if full_at == now { 0 } else { self.remainder };
        let time = (amount.min(MOST) * 1_000_000_000).saturating_add(remainder);
        self.remainder = time % self.rate.per_second;
        self.full_at = full_at.saturating_add(time / self.rate.per_second);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much of an endless offer passes in ten seconds, in pieces of `piece` every `step` nanoseconds.
    fn passes(rate: Rate, piece: u64, step: u64) -> u64 {
        let mut bucket = Bucket::new(rate);
        (0..10_000_000_000 / step)
            .filter(|i| bucket.take(piece, Time::from_nanos(i * step)))
            .count() as u64
            * piece
    }

    #[test]
    fn the_rate_is_kept_within_one_in_a_thousand() {
        for (per_second, piece, step) in [
            (1000, 1, 1_000_000 / 7),
            (125_000, 1514, 100_003),
            (1_250_000_000, 60, 10_007),
            (7, 1, 1_000_000),
        ] {
            let offered = 10_000_000_000 / step * piece;
            let got = passes(
                Rate {
                    per_second,
                    burst: 10 * piece,
                },
                piece,
                step,
            );
            let want = (per_second * 10).min(offered);
            assert!(
                got <= want + 10 * piece && got * 1000 + piece * 1000 >= want * 990,
                "{per_second}: {got} of {want}"
            );
        }
    }

    #[test]
    fn a_burst_passes_at_once_and_comes_back() {
        let mut bucket = Bucket::new(Rate {
            per_second: 10,
            burst: 5,
        });
        let burst = |bucket: &mut Bucket, at| (0..20).filter(|_| bucket.take(1, at)).count();
        assert_eq!(burst(&mut bucket, Time::from_secs(1)), 5);
        assert_eq!(burst(&mut bucket, Time::from_nanos(1_100_000_000)), 1);
        assert_eq!(burst(&mut bucket, Time::from_secs(100)), 5);
    }

    #[test]
    fn what_is_larger_than_the_burst_waits_for_a_full_bucket() {
        let mut bucket = Bucket::new(Rate {
            per_second: 100,
            burst: 10,
        });
        assert!(bucket.take(50, Time::from_secs(1)));
        assert!(!bucket.take(1, Time::from_nanos(1_400_000_000)));
        assert!(bucket.take(1, Time::from_nanos(1_500_000_000)));
    }
}
