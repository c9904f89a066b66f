//! Both sides and the random sequences.

use ostler_softcpu::vm::SoftCpu;

use super::generator;
use super::guest::Guest;
use super::machine_state::{Case, Final, Registers};
use super::native::Native;
use super::sequence::{Encoded, Sequence};
use super::{ENGINE, compare, minimise};

/// Sequences unless the environment says otherwise.
const SEQUENCES: u64 = 10_000;

/// Both sides.
pub struct Sides {
    native: Native,
    guest: Guest,
}

impl Sides {
    /// Starts both, or says why the host cannot serve as the oracle.
    pub fn start(test: &str) -> Option<Self> {
        if !std::is_x86_feature_detected!("avx") {
            eprintln!(
                "SKIPPED {test}: the host has no AVX, so its signal frames lack the state that is compared"
            );
            return None;
        }
        let native = Native::start().expect("a jailed child process");
        Some(Self {
            native,
            guest: Guest::start(&SoftCpu { engine: ENGINE }),
        })
    }

    /// Runs a case on both sides and returns the differences.
    pub fn differences(&mut self, case: &Case, encoded: &Encoded) -> (Vec<String>, Final, Final) {
        let native = self
            .native
            .run(case)
            .unwrap_or_else(|error| panic!("the native run of {:02x?}: {error}", case.code));
        let guest = self.guest.run(case);
        let rip = native.outcome.registers.rip;
        let undefined = encoded
            .undefined
            .iter()
            .find(|(address, _)| *address == rip)
            .map_or_else(
                || encoded.undefined.last().map_or(0, |last| last.1),
                |found| found.1,
            );
        (
            compare::differences(case, &native, &guest, undefined),
            native,
            guest,
        )
    }

    /// True if the two sides disagree about a sequence.
    pub fn disagree(&mut self, sequence: &Sequence, registers: &Registers, memory: &[u8]) -> bool {
        generator::case(sequence, registers, memory)
            .is_some_and(|(case, encoded)| !self.differences(&case, &encoded).0.is_empty())
    }

    /// What went wrong with a sequence, at length.
    fn report(&mut self, sequence: &Sequence, registers: &Registers, memory: &[u8]) -> String {
        let Some((case, encoded)) = generator::case(sequence, registers, memory) else {
            return String::new();
        };
        let (found, native, guest) = self.differences(&case, &encoded);
        format!(
            "{}\n{} code {:02x?}\n  {}\nstart: {}\nhost: {}\ninterpreter: {}\n",
            sequence.listing(),
            if case.long { "64-bit" } else { "32-bit" },
            case.code,
            found.join("\n  "),
            compare::describe(registers),
            compare::describe(&native.outcome.registers),
            compare::describe(&guest.outcome.registers),
        )
    }
}

/// A number from the environment.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

#[test]
fn random_sequences_agree_with_the_host() {
    let Some(mut sides) = Sides::start("random_sequences_agree_with_the_host") else {
        return;
    };
    let (count, first) = (setting("OSTLER_DIFFERENTIAL", SEQUENCES), setting("DIFF_SEED", 1));
    let most = setting("DIFF_REPORTS", 1);
    let mut reports = Vec::new();
    for seed in first..first + count {
        let (sequence, registers, memory) = generator::sequence(seed);
        if sides.disagree(&sequence, &registers, &memory) {
            let small = minimise::sequence(&mut sides, &sequence, &registers, &memory);
            reports.push(format!(
                "DIFF_SEED={seed}\n{}",
                sides.report(&small, &registers, &memory)
            ));
            if reports.len() as u64 == most {
                break;
            }
        }
    }
    assert!(
        reports.is_empty(),
        "{} sequences differ:\n{}",
        reports.len(),
        reports.join("\n")
    );
}

#[test]
fn many_instruction_forms_are_generated() {
    let forms = generator::code_count();
    assert!(forms > 1500, "only {forms} instruction forms");
}

#[test]
fn a_corrupted_result_is_noticed() {
    let Some(mut sides) = Sides::start("a_corrupted_result_is_noticed") else {
        return;
    };
    let (sequence, registers, memory) = generator::sequence(1);
    let (mut case, encoded) = generator::case(&sequence, &registers, &memory).expect("an encodable sequence");
    // No operation, so that all parts of the state stay in use.
    (case.code, case.long) = (vec![0x90, 0xcc], true);
    let native = sides.native.run(&case).expect("the native run");
    let undefined = encoded.undefined.first().map_or(0, |last| last.1);
    let corrupt = |change: &dyn Fn(&mut Final)| {
        let mut other = native.clone();
        change(&mut other);
        compare::differences(&case, &native, &other, undefined).len()
    };
    assert_eq!(corrupt(&|_| {}), 0);
    assert_eq!(corrupt(&|f| f.outcome.registers.gpr[9] ^= 1 << 40), 1);
    assert_eq!(corrupt(&|f| f.outcome.registers.rflags ^= 0x400), 1);
    assert_eq!(corrupt(&|f| f.outcome.registers.xsave[160 + 7] ^= 1), 1);
    assert_eq!(corrupt(&|f| f.outcome.registers.xsave[576 + 33] ^= 1), 1);
    assert_eq!(corrupt(&|f| f.outcome.registers.xsave[24] ^= 0x20), 1);
    assert_eq!(corrupt(&|f| f.memory[5000] ^= 0x80), 1);
    assert_eq!(corrupt(&|f| f.outcome.vector ^= 1), 1);
}
