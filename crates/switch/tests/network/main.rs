//! Networks of up to 50 switches with random links, costs and priorities, played on a clock of their own: links come up, fail
//! and come back, and after the time that the standard gives the active links have to be a spanning tree that carries frames
//! to everybody once. The same seed is the same network. `OSTLER_NIGHTLY=1` plays 10,000 seeds.

mod net;
mod random;

use net::{Net, Shape};
use ostler_switch::rstp::Version;
use random::Random;

fn seeds(few: u64) -> std::ops::Range<u64> {
    0..if std::env::var_os("OSTLER_NIGHTLY").is_some() {
        10_000
    } else {
        few
    }
}

/// Seconds, and so many bridges away is the reach of a root (802.1D-2004, 17.21.23).
const MAX_AGE: u64 = 20;

/// 2 x forward delay + max age, and the second in which it is noticed.
const STP_SECONDS: u64 = 2 * 15 + 20 + 1;

/// Max age, and what it takes from there. RSTP needs it where links that failed cut bridges off from the tree and there are loops
/// among these: what they knew of the root goes round, a bridge older each time, and a bridge that has sent ten BPDUs at once
/// may send one a second only.
const OLD_INFORMATION_SECONDS: u64 = 20 + 2;

/// RSTP needs this where all bridges start at once, each as its own root: some are held back after ten BPDUs.
const START_SECONDS: u64 = 4;

/// A network on its way from state to state.
struct Play {
    random: Random,
    net: Net,
    seconds: u64,
}

impl Play {
    /// Waits as long as the standard allows, but at least so many seconds, and checks.
    fn settle(&mut self, what: &str, least: u64) -> Result<(), String> {
        let seconds = self.seconds.max(least);
        self.net.run(seconds * 1000);
        // Beyond the reach of the root nothing is promised. Some fifty of a night's 120,000 checks meet a network so deep.
        let checked = match self.net.depth() {
            MAX_AGE.. => Ok(()),
            _ => self.net.check(&mut self.random),
        };
        // What remains to be said of the change is said before the next.
        self.net.run(5000);
        checked.map_err(|wrong| format!("{seconds} s after {what}: {wrong}"))
    }

    fn fail(&mut self, count: u64) -> Result<(), String> {
        let before = self.net.tree();
        (0..count).for_each(|_| self.net.fail_a_link(&mut self.random));
        let round = self.net.information_may_go_round(&before);
        self.settle("links failed", if round { OLD_INFORMATION_SECONDS } else { 0 })
    }
}

/// Plays a network: all links come up, then up to three fail at once, then one comes back, then one more fails.
fn play(seed: u64, seconds: u64, version: impl Fn(&mut Random) -> Version) -> Result<(), String> {
    let mut random = Random::new(seed);
    let shape = if seed.is_multiple_of(5) {
        Shape::Ring
    } else {
        Shape::Random
    };
    let net = Net::new(&mut random, shape, version);
    let mut play = Play { random, net, seconds };
    play.net.all_links_up();
    play.settle("the start", START_SECONDS)?;
    let count = 1 + play.random.below(3);
    play.fail(count)?;
    play.net.mend_a_link(&mut play.random);
    play.settle("a link came back", 0)?;
    play.fail(1)?;
    match play.net.unsettled() {
        0 => Ok(()),
        times => Err(format!("the state machines did not come to rest {times} times")),
    }
}

fn play_all(few: u64, seconds: u64, version: impl Fn(&mut Random) -> Version) {
    let wrong: Vec<_> = seeds(few)
        .filter_map(|seed| {
            play(seed, seconds, &version)
                .err()
                .map(|wrong| format!("seed {seed}, {wrong}"))
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "{} networks went wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// RSTP on point-to-point links: within 2 s, unless old information goes round.
#[test]
fn rstp_converges_within_two_seconds() {
    play_all(300, 2, |_| Version::Rstp);
}

/// STP: within 2 x forward delay + max age.
#[test]
fn stp_converges_within_its_time() {
    play_all(40, STP_SECONDS, |_| Version::Stp);
}

/// Both mixed: within the time of STP.
#[test]
fn rstp_and_stp_together_converge_within_the_time_of_stp() {
    let either = |random: &mut Random| {
        if random.below(2) == 0 {
            Version::Stp
        } else {
            Version::Rstp
        }
    };
    play_all(40, STP_SECONDS, either);
}
