//! `ostler run`: a guest in the foreground.
//!
//! This process is the guest's small parent: it checks and opens everything ([`open`]), starts the guest's process
//! ([`launch`]), keeps the terminal and the signals ([`attend`]), and says how it ended ([`outcome`]).

mod attend;
mod cable;
mod crash;
mod direct;
mod host_memory;
mod launch;
mod macvtap;
mod open;
mod options;
mod outcome;
mod pmem;
mod signals;
mod terminal;
mod user_net;

use std::process::ExitCode;

pub use attend::handled_signals;
pub use options::{AccelOption, RunArgs};
pub use signals::Signals;
pub use terminal::{LEAVE_KEY, RawTerminal};

use crate::accelerator;
use crate::failure::{Failure, say};
use attend::Attendant;

/// Runs a guest to its end.
pub fn run(args: RunArgs) -> Result<ExitCode, Failure> {
    let failed = |what: &'static str| move |e: std::io::Error| Failure::failed(format!("{what}: {e}"));
    let choice = accelerator::choose(args.accel)?;
    let announcement = format!("ostler: {} runs the guest: {}", choice.name(), choice.reason);
    let mut opened = open::open(&args, choice.kvm)?;
    let signals = Signals::take(&handled_signals()).map_err(failed("cannot take signals"))?;
    let launched = launch::launch(&mut opened)?;
    opened.leftovers.keep_made();
    for cable in opened.cables.drain(..) {
        cable.mind().map_err(failed("cannot mind the guest's cables"))?;
    }

    say(announcement);
    let console = opened.console.take();
    let terminal = match console {
        Some(_) => RawTerminal::enter().map_err(failed("cannot prepare the terminal"))?,
        None => None,
    };
    if terminal.is_some() {
        say("ostler: Ctrl-] leaves the console and ends the guest\r");
    }
    let end = Attendant::new(launched, signals, terminal, console)
        .attend()
        .map_err(failed("cannot attend to the guest"))?;
    let (status, line) = outcome::tell(&end.outcome, end.signal);
    if let Some(line) = line {
        say(format_args!("ostler: {line}"));
    }
    Ok(ExitCode::from(status))
}
