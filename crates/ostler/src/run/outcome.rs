//! How a guest's end is told: a status, and a line where something went wrong.
//!
//! | status | meaning |
//! |---|---|
//! | 0 | the guest powered off, rebooted with `--no-reboot`, or was left with Ctrl-] |
//! | 1 | the host or ostler failed |
//! | 2 | bad input |
//! | 3 | the guest's kernel panicked |
//! | 4 | triple fault |
//! | 2 V + 1 | a test guest wrote V to the debug exit port |
//! | 128 + n | signal n ended the guest before it powered off |

use ostler_vmm::link::Outcome;

use crate::failure::FAILED;

/// The guest's kernel panicked.
const PANICKED: u8 = 3;
/// A CPU met a triple fault.
const TRIPLE_FAULT: u8 = 4;

/// The status for `outcome`, and what the user is told. `signal` is the one that made us stop the guest.
pub fn tell(outcome: &Outcome, signal: Option<i32>) -> (u8, Option<String>) {
    match outcome {
        Outcome::PoweredOff | Outcome::Reset => (0, None),
        Outcome::Panicked => (PANICKED, Some("the guest's kernel panicked".into())),
        Outcome::TripleFault => (TRIPLE_FAULT, Some("the guest met a triple fault".into())),
        Outcome::DebugExit { value } => (value.wrapping_shl(1) | 1, None),
        Outcome::Stopped => match signal {
            Some(number) => (
                128 | number as u8,
                Some("the guest was stopped before it powered off".into()),
            ),
            None => (0, None),
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
}
