//! `ostler doctor --selftest`: the built-in guests on each accelerator.

use std::process::ExitCode;

use ostler_accel::Accelerator;
use ostler_softcpu::vm::SoftCpu;

use crate::failure::{FAILED, Failure};

/// Runs them all; status 0 only if each did what it should.
pub fn run() -> Result<ExitCode, Failure> {
    let mut failures = match ostler_kvm::Kvm::open() {
        Ok(kvm) => run_on("KVM", &kvm),
        Err(error) => {
            println!("KVM: skipped: {error}");
            0
        }
    };
    failures += run_on("the software CPU", &SoftCpu::default());
    Ok(if failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    })
}

/// Runs them on one accelerator and returns how many failed.
fn run_on(name: &str, accelerator: &dyn Accelerator) -> usize {
    let mut failures = 0;
    for guest in ostler_guest::all() {
        match ostler_guest::play(accelerator, &guest) {
            Ok(()) => println!("{name}: {}: good ({})", guest.name, guest.shows),
            Err(error) => {
                println!("{name}: {}: FAILED: {error}", guest.name);
                failures += 1;
            }
        }
    }
    failures
}
