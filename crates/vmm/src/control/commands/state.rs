//! Who the guest is, and how it is.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Answer, COMMANDS, Context, Reply};
use crate::control::arguments::Arguments;
use crate::control::failure::{Class, Failure};
use crate::driver::State;
use crate::manager::Manager;

/// Longest time that a profile can be of, in seconds.
const LONGEST_LOOK: i64 = 3600;
/// Guests have none yet: their SMBIOS table says so as well.
pub(super) const UUID: &str = "00000000-0000-0000-0000-000000000000";

pub(crate) fn version() -> Value {
    let number = |text: &str| text.parse::<u32>().unwrap_or(0);
    json!({
        "qemu": {
            "major": number(env!("CARGO_PKG_VERSION_MAJOR")),
            "minor": number(env!("CARGO_PKG_VERSION_MINOR")),
            "micro": number(env!("CARGO_PKG_VERSION_PATCH")),
        },
        "package": concat!("ostler ", env!("CARGO_PKG_VERSION")),
    })
}

pub(super) fn commands(_: &Manager) -> Value {
    COMMANDS
        .iter()
        .map(|command| json!({ "name": command.name }))
        .collect()
}

pub(super) fn kvm(manager: &Manager) -> Value {
    json!({ "enabled": manager.on_kvm(), "present": manager.on_kvm() })
}

/// The names that [`state_name`] has for states.
pub(in crate::control) const RUN_STATES: &[&str] = &[
    "prelaunch",
    "running",
    "paused",
    "suspended",
    "shutdown",
    "guest-panicked",
];

/// QEMU's name for a state.
pub(super) fn state_name(state: State) -> &'static str {
    match state {
        State::Created => "prelaunch",
        State::Running | State::ShuttingDown | State::Resetting { paused: false } => "running",
        State::Paused | State::Resetting { paused: true } => "paused",
        State::Suspended => "suspended",
        State::PoweredOff => "shutdown",
        State::Panicked => "guest-panicked",
    }
}

pub(super) fn status(manager: &Manager) -> Value {
    let state = manager.state();
    let name = state_name(state);
    json!({ "status": name, "running": name == "running", "singlestep": false, "x-ostler-state": state.name() })
}

/// The session deals with it before the negotiation; afterwards it is never asked here.
pub(super) fn negotiated_before(_: &mut Context, _: Arguments) -> Answer {
    let text = "Capabilities negotiation is already complete, command ignored";
    Err(Failure::new(Class::CommandNotFound, text))
}

pub(super) fn hot(context: &mut Context, mut arguments: Arguments) -> Answer {
    let seconds = arguments.integer_if_given("seconds")?.unwrap_or(1);
    arguments.finish()?;
    if !(1..=LONGEST_LOOK).contains(&seconds) {
        let range = format!("a number from 1 to {LONGEST_LOOK}");
        return Err(Failure::expects("seconds", &range));
    }
    let newest = Duration::from_secs(seconds.unsigned_abs());
    Ok(Reply::Value(crate::stats::hot(context.manager, newest)))
}

pub(super) fn registers(context: &mut Context, mut arguments: Arguments) -> Answer {
    let count = arguments.boolean_if_given("count")?;
    arguments.finish()?;
    Ok(Reply::Value(context.manager.registers.look(count)))
}
