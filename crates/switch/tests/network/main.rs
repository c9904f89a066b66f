//! Networks of up to 50 switches with random links, costs and priorities, played on a clock of their own: links come up, fail
//! and come back, and after the time that the standard gives the active links have to be a spanning tree that carries frames
//! to everybody once. The same seed is the same network. `OSTLER_NIGHTLY=1` plays 10,000 seeds.

mod net;
mod random;

use net::{Net, Shape};
use ostler_switch::rstp::Version;
use random::Random;

fn seeds(few: u64) -> std::ops::Range<u64> {
    0..if std::env::var_os("OSTLER_NIGHTLY").is_some() { 10_000 } else { few }
}

/// 2 x forward delay + max age, and the second in which it is noticed.
const STP_SECONDS: u64 = 2 * 15 + 20 + 1;

/// Plays a network: all links come up, then some fail at once, then some come back, then one more fails.
fn play(seed: u64, seconds: u64, version: impl Fn(&mut Random) -> Version) {
    let mut random = Random::new(seed);
    let shape = if seed % 5 == 0 { Shape::Ring } else { Shape::Random };
    let mut net = Net::new(&mut random, shape, version);
    net.all_links_up();
    let check = |net: &mut Net, random: &mut Random, what: &str| {
        net.run(seconds * 1000);
        net.check(random)
            .unwrap_or_else(|wrong| panic!("seed {seed}, after {what}: {wrong}"));
    };
    check(&mut net, &mut random, "the start");
    for _ in 0..1 + random.below(3) {
        net.fail_a_link(&mut random);
    }
    check(&mut net, &mut random, "links failed");
    net.mend_a_link(&mut random);
    check(&mut net, &mut random, "a link came back");
    net.fail_a_link(&mut random);
    check(&mut net, &mut random, "one more link failed");
    assert_eq!(net.unsettled(), 0, "seed {seed}: state machines did not come to rest");
}

/// RSTP on point-to-point links: within 2 s.
#[test]
fn rstp_converges_within_two_seconds() {
    for seed in seeds(300) {
        play(seed, 2, |_| Version::Rstp);
    }
}

/// STP: within 2 x forward delay + max age.
#[test]
fn stp_converges_within_its_time() {
    for seed in seeds(60) {
        play(seed, STP_SECONDS, |_| Version::Stp);
    }
}

/// Both mixed: within the time of STP.
#[test]
fn rstp_and_stp_together_converge_within_the_time_of_stp() {
    for seed in seeds(60) {
        play(seed, STP_SECONDS, |random| if random.below(2) == 0 { Version::Stp } else { Version::Rstp });
    }
}

#[test]
fn zz_how_long() {
    let hold: u8 = std::env::var("HOLD").map_or(6, |v| v.parse().unwrap());
    let _ = hold;
    let mut hist = std::collections::BTreeMap::new();
    for seed in 0..200u64 {
        let mut random = Random::new(seed);
        let shape = if seed % 5 == 0 { Shape::Ring } else { Shape::Random };
        let mut net = Net::new(&mut random, shape, |_| Version::Rstp);
        net.all_links_up();
        for phase in 0..4 {
            if phase == 1 { for _ in 0..1 + random.below(3) { net.fail_a_link(&mut random); } }
            if phase == 2 { net.mend_a_link(&mut random); }
            if phase == 3 { net.fail_a_link(&mut random); }
            let mut t = 0;
            loop {
                net.run(20); t += 20;
                if net.tree_ok() { break; }
                if t > 60_000 { break; }
            }
            *hist.entry((phase, t / 250)).or_insert((0u32, seed)) = { let e = hist.get(&(phase, t/250)).copied().unwrap_or((0, seed)); (e.0 + 1, seed) };
            if t > 2000 { println!("seed {seed} phase {phase} {t}"); }
            net.run(5000);
        }
    }
    println!("{hist:?}");
}
