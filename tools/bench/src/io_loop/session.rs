//! One guest, from its start through all operations.

use serde_json::{Value, json};

use super::cable;
use super::contender::{Contender, Files, Places};
use super::counters::Counters;
use super::operation::{Counts, Operation};
use super::registers::Registers;
use super::table::{Results, Window};
use crate::Common;
use crate::control::Control;
use crate::error::Error;
use crate::running::Running;

/// Starts a guest and measures every operation once.
pub(super) fn run(
    common: &Common,
    contender: Contender,
    files: &Files,
    counts: Counts,
    round: u32,
    results: &mut Results,
) -> Result<(), Error> {
    let places = Places::new()?;
    cable::lay(&places.virtio())?;
    cable::lay(&places.intel())?;
    let command = &mut contender.command(common, files, &places);
    let mut guest = Running::start_with_input(contender.side(), command)?;
    guest.expect("BENCH ready")?;
    let mut control = match contender {
        Contender::Tcg => None,
        Contender::Soft | Contender::Kvm => Some(Control::connect(&places.control())?),
    };
    // Once without looking: devices come, code is translated.
    for operation in Operation::MEASURED {
        perform(&mut guest, operation, counts.part())?;
    }
    for operation in [&[Operation::Nothing][..], &Operation::MEASURED].concat() {
        let before = look(&mut control)?;
        let (count, nanoseconds) = perform(&mut guest, operation, counts)?;
        let counted = look(&mut control)?.since(&before);
        results.windows.push(Window {
            round,
            contender: contender.name(),
            operation: operation.name(),
            count,
            nanoseconds,
            counted,
        });
    }
    if let Some(control) = &mut control {
        let registers = Registers::of_guest(&control.execute("query-pci", json!({}))?);
        for operation in Operation::MEASURED {
            control.execute("x-ostler-registers", json!({ "count": true }))?;
            let (count, _) = perform(&mut guest, operation, counts.part())?;
            let told = control.execute("x-ostler-registers", json!({ "count": false }))?;
            let touched = registers.touched(&told, count);
            results.touch(contender.name(), operation.name(), touched);
        }
    }
    guest.say("end")?;
    guest.expect("BENCH end").map(drop)
}

fn look(control: &mut Option<Control>) -> Result<Counters, Error> {
    let Some(control) = control else {
        return Ok(Counters::default());
    };
    let stats: Value = control.execute("x-ostler-stats", json!({}))?;
    Ok(Counters::of_guest(&stats))
}

/// Has the guest do `operation`; how often it did, and in how many nanoseconds of its own clock.
fn perform(guest: &mut Running, operation: Operation, counts: Counts) -> Result<(u64, u64), Error> {
    guest.say(&operation.line(counts))?;
    let line = guest.expect(operation.answer())?;
    let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [count @ 1..=u64::MAX, nanoseconds] = numbers[..] else {
        let side = guest.side.name();
        return Err(Error::Nonsense { side, line });
    };
    guest.expect("BENCH ready")?;
    Ok((count, nanoseconds))
}
