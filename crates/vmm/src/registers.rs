//! Which registers and ports vCPUs leave guest mode for, counted while somebody wants to know.
//!
//! The counters of a vCPU tell causes; this tells places. It is off unless a client of the control socket switched it on
//! (`x-ostler-registers`), and then costs an exit a look at a flag.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ostler_accel::{Exit, ExitCause};
use serde_json::{Value, json};

/// Most places that are told apart; a guest can touch as many as it likes.
const MOST_PLACES: usize = 4096;

/// A register or port that was read or written: what left guest mode, and the (guest-physical) address.
type Place = (&'static str, u64);

#[derive(Default)]
struct Counted {
    places: BTreeMap<Place, u64>,
    /// Exits for more places than are told apart.
    elsewhere: u64,
}

/// The count of one guest, kept by all of its vCPUs.
#[derive(Default)]
pub(crate) struct Registers {
    on: AtomicBool,
    counted: Mutex<Counted>,
}

impl Registers {
    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an exit, if that is wanted.
    pub fn note(&self, exit: &Exit<'_>) {
        if !self.on.load(Ordering::Relaxed) {
            return;
        }
        let (cause, address) = match exit {
            Exit::PortRead { port, .. } => (ExitCause::PortRead, u64::from(*port)),
            Exit::PortWrite { port, .. } => (ExitCause::PortWrite, u64::from(*port)),
            Exit::MmioRead { gpa, .. } => (ExitCause::MmioRead, *gpa),
            Exit::MmioWrite { gpa, .. } => (ExitCause::MmioWrite, *gpa),
            _ => return,
        };
        let place = (cause.name(), address);
        let mut counted = self.counted();
        if let Some(count) = counted.places.get_mut(&place) {
            *count += 1;
        } else if counted.places.len() < MOST_PLACES {
            counted.places.insert(place, 1);
        } else {
            counted.elsewhere += 1;
        }
    }

    /// What was counted since the count was last switched on. Then begins anew if `count` is true, ends if it is false, and
    /// goes on as before if it is not given.
    pub fn look(&self, count: Option<bool>) -> Value {
        if let Some(on) = count {
            self.on.store(on, Ordering::Relaxed);
        }
        let mut counted = self.counted();
        let places = counted
            .places
            .iter()
            .map(|((cause, address), count)| json!({ "cause": cause, "address": format!("{address:#x}"), "count": count }));
        let told = json!({ "registers": places.collect::<Vec<_>>(), "elsewhere": counted.elsewhere });
        if count == Some(true) {
            *counted = Counted::default();
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(gpa: u64) -> Exit<'static> {
        Exit::MmioWrite { gpa, data: &[0; 4] }
    }

    #[test]
    fn places_are_counted_while_that_is_wanted() {
        let registers = Registers::default();
        registers.note(&write(0x1000));
        assert_eq!(
            registers.look(Some(true)),
            json!({ "registers": [], "elsewhere": 0 })
        );
        registers.note(&write(0x1000));
        registers.note(&write(0x1000));
        registers.note(&Exit::PortWrite {
            port: 0x3f8,
            width: 1,
            data: b"x",
        });
        registers.note(&Exit::Kicked);
        let two = json!([
            { "cause": "mmio-write", "address": "0x1000", "count": 2 },
            { "cause": "port-write", "address": "0x3f8", "count": 1 },
        ]);
        assert_eq!(registers.look(None)["registers"], two);
        assert_eq!(registers.look(Some(false))["registers"], two);
        registers.note(&write(0x1000));
        assert_eq!(registers.look(Some(true))["registers"], two);
        assert_eq!(registers.look(None)["registers"], json!([]));
    }

    #[test]
    fn a_guest_that_touches_everything_costs_no_more_memory() {
        let registers = Registers::default();
        registers.look(Some(true));
        for place in 0..MOST_PLACES as u64 + 3 {
            registers.note(&write(place));
        }
        registers.note(&write(0));
        let told = registers.look(None);
        assert_eq!(told["registers"].as_array().unwrap().len(), MOST_PLACES);
        assert_eq!(
            (&told["registers"][0]["count"], &told["elsewhere"]),
            (&json!(2), &json!(3))
        );
    }
}
