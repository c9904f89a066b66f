//! `ostler doctor --selftest`: the built-in guests on each accelerator.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use ostler_accel::Accelerator;
use ostler_softcpu::vm::SoftCpu;

use crate::failure::{FAILED, Failure};

/// What came of one accelerator.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// This host cannot run it, for this reason.
    Skipped(String),
    Ran {
        good: usize,
        failed: usize,
    },
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skipped(why) => write!(f, "SKIPPED, nothing is shown of it ({why})"),
            Self::Ran { good, failed: 0 } => write!(f, "all {good} guests good"),
            Self::Ran { good, failed } => write!(f, "{failed} of {} guests FAILED", good + failed),
        }
    }
}

/// Runs them all; status 0 only if each did what it should on every accelerator that this host has.
pub fn run() -> Result<ExitCode, Failure> {
    let kvm = match ostler_kvm::Kvm::open() {
        Ok(kvm) => run_on("KVM", &kvm),
        Err(error) => Verdict::Skipped(error.to_string()),
    };
    let soft = run_on("the software CPU", &SoftCpu::default());
    Ok(conclude(&kvm, &soft))
}

/// Says it in one line each, and as a status.
fn conclude(kvm: &Verdict, soft: &Verdict) -> ExitCode {
    print(format_args!("selftest: KVM: {kvm}"));
    print(format_args!("selftest: the software CPU: {soft}"));
    if failed(kvm) || failed(soft) {
        ExitCode::from(FAILED)
    } else {
        ExitCode::SUCCESS
    }
}

fn failed(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Ran { failed, .. } if *failed > 0)
}

/// Runs them on one accelerator.
fn run_on(name: &str, accelerator: &dyn Accelerator) -> Verdict {
    let (mut good, mut failed) = (0, 0);
    for guest in ostler_guest::all() {
        match ostler_guest::play(accelerator, &guest) {
            Ok(()) => {
                print(format_args!("{name}: {}: good ({})", guest.name, guest.shows));
                good += 1;
            }
            Err(error) => {
                print(format_args!("{name}: {}: FAILED: {error}", guest.name));
                failed += 1;
            }
        }
    }
    Verdict::Ran { good, failed }
}

/// A line on standard output; a reader that went away has seen enough.
fn print(line: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_skipped_is_not_called_good() {
        let skipped = Verdict::Skipped("no /dev/kvm".into());
        assert_eq!(
            skipped.to_string(),
            "SKIPPED, nothing is shown of it (no /dev/kvm)"
        );
        assert!(!failed(&skipped));
        let bad = Verdict::Ran { good: 10, failed: 2 };
        assert_eq!(bad.to_string(), "2 of 12 guests FAILED");
        assert!(failed(&bad));
        assert!(!failed(&Verdict::Ran { good: 12, failed: 0 }));
    }
}
