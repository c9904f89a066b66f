//! `cpu`: the fixed list of tests that CPUs are compared by. The same program runs natively and in guests.
//!
//! A test is a piece of work that can be done any number of times. It is timed in windows, and the best window counts:
//! what disturbs a window only ever makes it slower. Each test also has a check value, which must come out the same
//! wherever it runs.
//!
//! | file | holds |
//! |---|---|
//! | `integer`, `coremark` | plain integer code |
//! | `float` | floating point |
//! | `memory` | copies, pointers, the page tables' work |
//! | `kernel` | system calls, processes, pipes, files |
//! | `programs` | programs of others |
//! | `random` | numbers and text that are the same everywhere |

mod coremark;
mod float;
mod integer;
mod kernel;
mod memory;
mod programs;
mod random;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What a test needs to know of where it runs.
pub struct Surroundings {
    /// A folder on a tmpfs.
    pub folder: PathBuf,
    pub busybox: PathBuf,
}

/// A test of the list.
pub struct Test {
    group: &'static str,
    name: &'static str,
    /// What the rate counts.
    unit: &'static str,
    prepare: fn(&Surroundings) -> Result<Work, String>,
}

/// A test that is ready to run.
pub struct Work {
    /// Units of one round.
    per_round: f64,
    /// Does so many rounds.
    run: Box<dyn FnMut(u64) -> Result<(), String>>,
    /// The same wherever the test runs.
    check: u64,
}

impl Work {
    /// Work that cannot fail.
    fn new(per_round: f64, check: u64, mut run: impl FnMut(u64) + 'static) -> Result<Self, String> {
        Self::fallible(per_round, check, move |rounds| {
            run(rounds);
            Ok(())
        })
    }

    fn fallible(
        per_round: f64,
        check: u64,
        run: impl FnMut(u64) -> Result<(), String> + 'static,
    ) -> Result<Self, String> {
        Ok(Self {
            per_round,
            run: Box::new(run),
            check,
        })
    }
}

/// How long the measuring takes.
#[derive(Clone, Copy)]
pub struct Timing {
    pub window: Duration,
    pub windows: u32,
}

/// How much longer than its windows a test may take.
const PATIENCE: f64 = 3.0;

fn tests() -> Vec<Test> {
    [
        integer::TESTS,
        float::TESTS,
        memory::TESTS,
        kernel::TESTS,
        programs::TESTS,
    ]
    .into_iter()
    .flatten()
    .map(|&(group, name, unit, prepare)| Test {
        group,
        name,
        unit,
        prepare,
    })
    .collect()
}

/// A row of the lists: group, name, unit, preparation.
type Entry = (
    &'static str,
    &'static str,
    &'static str,
    fn(&Surroundings) -> Result<Work, String>,
);

/// Runs the tests whose names are in `only`, or all; prints a line for each: `CPU group name unit rate check`, or
/// `CPU-MISSING group name reason`.
pub fn run(around: &Surroundings, timing: Timing, only: &[&str]) -> Result<(), String> {
    let tests = tests();
    if let Some(unknown) = only.iter().find(|name| tests.iter().all(|t| t.name != **name)) {
        return Err(format!("there is no test {unknown:?}"));
    }
    for test in tests {
        let Test {
            group, name, unit, ..
        } = test;
        if !only.is_empty() && !only.contains(&name) {
            continue;
        }
        let measured = (test.prepare)(around).and_then(|mut work| {
            let rate = measure(&mut work, timing)?;
            Ok((rate, work.check))
        });
        match measured {
            Ok((rate, check)) => println!("CPU {group} {name} {unit} {rate:.6e} {check:016x}"),
            Err(reason) => println!("CPU-MISSING {group} {name} {reason}"),
        }
    }
    Ok(())
}

/// The best window's units a second.
fn measure(work: &mut Work, timing: Timing) -> Result<f64, String> {
    let mut time = |rounds: u64| -> Result<f64, String> {
        let since = Instant::now();
        (work.run)(rounds)?;
        Ok(since.elapsed().as_secs_f64().max(1e-9))
    };
    let window = timing.window.as_secs_f64();
    // The first rounds warm up; more and more of them, until their time says how many make a window.
    let mut rounds = 1u64;
    let mut taken = time(rounds)?;
    while taken < window / 8.0 {
        rounds *= 2;
        taken = time(rounds)?;
    }
    rounds = ((rounds as f64 * window / taken) as u64).max(1);
    let (mut best, mut spent) = (f64::MAX, 0.0);
    for number in 1..=timing.windows {
        let taken = time(rounds)?;
        best = best.min(taken);
        spent += taken;
        // One round may take far longer than a window, and two or three of those tell enough.
        if number >= 2 && spent > PATIENCE * window * f64::from(timing.windows) {
            break;
        }
    }
    Ok(rounds as f64 / best * work.per_round)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const SHORT: Timing = Timing {
        window: Duration::from_millis(2),
        windows: 2,
    };

    fn around() -> Surroundings {
        Surroundings {
            folder: std::env::temp_dir(),
            busybox: "/nonexistent".into(),
        }
    }

    #[test]
    fn names_are_single_words_and_unique() {
        let tests = tests();
        let names: BTreeSet<_> = tests.iter().map(|t| t.name).collect();
        assert_eq!(names.len(), tests.len());
        for test in &tests {
            for word in [test.group, test.name, test.unit] {
                assert!(!word.is_empty() && !word.contains(' '), "{word:?}");
            }
        }
        assert!(run(&around(), SHORT, &["no-such-test"]).is_err());
    }

    #[test]
    fn every_test_of_our_own_runs_and_repeats_its_check() {
        for test in tests().iter().filter(|t| t.group != "programs") {
            let mut first = match (test.prepare)(&around()) {
                Ok(work) => work,
                Err(reason) if test.name == "pipe-2-cpus" => {
                    eprintln!("SKIPPED {}: {reason}", test.name);
                    continue;
                }
                Err(reason) => panic!("{}: {reason}", test.name),
            };
            let rate = measure(&mut first, SHORT).unwrap();
            assert!(rate.is_finite() && rate > 0.0, "{}: {rate}", test.name);
            let check = first.check;
            drop(first);
            assert_eq!((test.prepare)(&around()).unwrap().check, check, "{}", test.name);
        }
    }

    #[test]
    fn a_window_holds_as_many_rounds_as_fit() {
        let mut work = Work::new(10.0, 0, |rounds| {
            std::thread::sleep(Duration::from_micros(200) * rounds as u32);
        })
        .unwrap();
        let rate = measure(&mut work, SHORT).unwrap();
        // Sleeping takes at least as long as asked.
        assert!(rate > 0.0 && rate <= 10.0 / 200e-6, "{rate}");
    }
}
