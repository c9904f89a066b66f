//! The memory balloon.

use std::time::UNIX_EPOCH;

use ostler_virtio::balloon::{BalloonControl, NAMES, PAGE_SIZE};
use serde_json::{Map, Value, json};

use super::{Answer, Context, Reply};
use crate::control::arguments::Arguments;
use crate::control::failure::{Class, Failure};
use crate::manager::Manager;

fn find(manager: &Manager) -> Result<&BalloonControl, Failure> {
    let text = "No balloon device has been activated";
    let found = manager.balloon();
    found.ok_or_else(|| Failure::new(Class::DeviceNotActive, text))
}

/// Asks the guest to leave itself `bytes` of memory; more than it has means all of it.
pub(super) fn set_target(manager: &Manager, bytes: i64) -> Result<(), Failure> {
    let balloon = find(manager)?;
    let left = u64::try_from(bytes).ok().filter(|bytes| *bytes > 0);
    let left = left.ok_or_else(|| Failure::expects("target", "a size"))?;
    let inside = manager.spec.memory.saturating_sub(left) / PAGE_SIZE;
    balloon.set_wanted(u32::try_from(inside).unwrap_or(u32::MAX));
    Ok(())
}

/// `balloon`.
pub(super) fn inflate(context: &mut Context, mut arguments: Arguments) -> Answer {
    let bytes = arguments.integer("value")?;
    arguments.finish()?;
    set_target(context.manager, bytes)?;
    Ok(Reply::nothing())
}

/// Bytes of memory that the guest has outside the balloon.
pub(super) fn actual(manager: &Manager) -> Result<u64, Failure> {
    find(manager)?;
    Ok(manager.balloon_memory())
}

/// `query-balloon`.
pub(super) fn query(context: &mut Context, arguments: Arguments) -> Answer {
    arguments.finish()?;
    let actual = actual(context.manager)?;
    Ok(Reply::Value(json!({ "actual": actual })))
}

/// The value of the property `guest-stats`; what the guest did not tell is QEMU's -1.
pub(super) fn statistics(balloon: &BalloonControl) -> Value {
    let said = balloon.statistics();
    let values = NAMES.iter().zip(said.values);
    let values: Map<_, _> = values
        .map(|(name, value)| ((*name).to_owned(), value.unwrap_or(u64::MAX).into()))
        .collect();
    let updated = said.updated.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    json!({ "stats": values, "last-update": updated.map_or(0, |since| since.as_secs()) })
}

/// Sets the property `guest-stats-polling-interval`, in seconds.
pub(super) fn set_interval(balloon: &BalloonControl, seconds: i64) -> Result<(), Failure> {
    if seconds < 0 {
        return Err(Failure::generic("timer value must be greater than zero"));
    }
    let seconds = u32::try_from(seconds).map_err(|_| Failure::generic("timer value is too big"))?;
    balloon.set_interval(seconds);
    Ok(())
}
