//! What clients are told without having asked.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::driver::Event;

/// What the driver tells, as clients get it but without its time.
pub(super) fn of_driver(event: Event) -> Value {
    match event {
        Event::Stop => json!({ "event": "STOP" }),
        Event::Resume => json!({ "event": "RESUME" }),
        Event::PowerDown => json!({ "event": "POWERDOWN" }),
        Event::Suspend => json!({ "event": "SUSPEND" }),
        Event::WakeUp => json!({ "event": "WAKEUP" }),
        Event::Reset { by_guest } => {
            let reason = if by_guest {
                "guest-reset"
            } else {
                "host-qmp-system-reset"
            };
            json!({ "event": "RESET", "data": { "guest": by_guest, "reason": reason } })
        }
        Event::Shutdown { by_guest, reason } => {
            json!({ "event": "SHUTDOWN", "data": { "guest": by_guest, "reason": reason } })
        }
        Event::Watchdog(action) => json!({ "event": "WATCHDOG", "data": { "action": action.name() } }),
        Event::Panicked => json!({ "event": "GUEST_PANICKED", "data": { "action": "poweroff" } }),
    }
}

/// Gives an event the time of now.
pub(super) fn stamp(mut event: Value) -> Value {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    event["timestamp"] = json!({ "seconds": now.as_secs(), "microseconds": now.subsec_micros() });
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_carry_their_time() {
        let value = stamp(of_driver(Event::Reset { by_guest: true }));
        assert_eq!(value["event"], "RESET");
        assert_eq!(value["data"]["guest"], true);
        assert!(value["timestamp"]["seconds"].as_u64().unwrap() > 1_700_000_000);
        assert!(value["timestamp"]["microseconds"].as_u64().unwrap() < 1_000_000);
    }
}
