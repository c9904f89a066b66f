//! How a guest's end is told: a status, and a line where something went wrong.

use ostler_vmm::link::Outcome;

use crate::failure::{BAD_INPUT, FAILED};

/// The guest powered off, or was left.
const ENDED: u8 = 0;
/// The guest's kernel panicked.
const PANICKED: u8 = 3;
/// A CPU met a triple fault.
const TRIPLE_FAULT: u8 = 4;
/// Added to the number of a signal.
const SIGNALLED: u8 = 128;

/// The table of statuses, for `ostler run --help`.
pub fn help() -> String {
    let rows: [(String, &str); 7] = [
        (
            ENDED.to_string(),
            "the guest powered off, rebooted with --no-reboot, or was left with Ctrl-]",
        ),
        (FAILED.to_string(), "the host or ostler failed"),
        (
            BAD_INPUT.to_string(),
            "a mistake on the command line or in a file; one line says which",
        ),
        (PANICKED.to_string(), "the guest's kernel panicked"),
        (TRIPLE_FAULT.to_string(), "the guest met a triple fault"),
        (
            "2 V + 1".into(),
            "a test guest wrote V to the debug exit port (--debug-exit)",
        ),
        (
            format!("{SIGNALLED} + N"),
            "signal N stopped the guest before it powered off",
        ),
    ];
    let mut text = "Exit status:".to_owned();
    for (status, meaning) in rows {
        text += &format!("\n  {status:<9}{meaning}");
    }
    text
}

/// The status for `outcome`, and what the user is told. `signal` is the one that made us stop the guest.
pub fn tell(outcome: &Outcome, signal: Option<i32>) -> (u8, Option<String>) {
    match outcome {
        Outcome::PoweredOff | Outcome::Reset => (ENDED, None),
        Outcome::Panicked => (PANICKED, Some("the guest's kernel panicked".into())),
        Outcome::TripleFault => (TRIPLE_FAULT, Some("the guest met a triple fault".into())),
        Outcome::DebugExit { value } => (value.wrapping_shl(1) | 1, None),
        Outcome::Stopped => match signal {
            Some(number) => (
                SIGNALLED | number as u8,
                Some("the guest was stopped before it powered off".into()),
            ),
            None => (ENDED, None),
        },
        Outcome::Failed { message } => (FAILED, Some(format!("the guest could not go on: {message}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_its_status() {
        assert_eq!(tell(&Outcome::PoweredOff, Some(15)), (0, None));
        assert_eq!(tell(&Outcome::Reset, None).0, 0);
        assert_eq!(tell(&Outcome::Panicked, None).0, 3);
        assert_eq!(tell(&Outcome::TripleFault, None).0, 4);
        assert_eq!(tell(&Outcome::DebugExit { value: 5 }, None), (11, None));
        assert_eq!(tell(&Outcome::Stopped, Some(15)).0, 143);
        assert_eq!(tell(&Outcome::Stopped, None), (0, None));
        assert_eq!(tell(&Outcome::Failed { message: "x".into() }, None).0, 1);
    }

    #[test]
    fn the_help_has_every_status() {
        let help = help();
        let listed: Vec<&str> = help.lines().filter_map(|l| l.split_whitespace().next()).collect();
        for outcome in [
            Outcome::PoweredOff,
            Outcome::Reset,
            Outcome::Panicked,
            Outcome::TripleFault,
            Outcome::Stopped,
            Outcome::Failed { message: "x".into() },
        ] {
            let status = tell(&outcome, None).0.to_string();
            assert!(listed.contains(&status.as_str()), "{outcome:?} in {help}");
        }
        assert!(listed.contains(&BAD_INPUT.to_string().as_str()), "{help}");
        let signalled = tell(&Outcome::Stopped, Some(15)).0 - 15;
        assert!(help.contains(&format!("{signalled} + N")), "{help}");
    }
}
