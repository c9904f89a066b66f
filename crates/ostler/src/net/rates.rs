//! How much passes, from counters that were read twice.

use std::time::Duration;

use super::model::{Counters, Port, Rates};

/// Gives ports the rates since `before`, which was so long ago. A port that came meanwhile, or counts anew, has none.
pub fn rate(before: &[Port], now: &mut [Port], elapsed: Duration) {
    for port in now {
        let old = before.iter().find(|old| old.name == port.name);
        let old = old.and_then(|old| old.counters.as_ref());
        port.rates = match (old, &port.counters) {
            (Some(old), Some(new)) => between(old, new, elapsed),
            _ => None,
        };
    }
}

/// Of counters that were read so long after each other; `None` if they began anew meanwhile.
fn between(old: &Counters, new: &Counters, elapsed: Duration) -> Option<Rates> {
    let per_second = |old: u64, new: u64, unit: u64| {
        let more = new.checked_sub(old)?.saturating_mul(unit);
        Some((more as f64 / elapsed.as_secs_f64()).round()).filter(|rate| rate.is_finite())
    };
    Some(Rates {
        received: per_second(old.received, new.received, 1)?,
        received_bits: per_second(old.received_bytes, new.received_bytes, 8)?,
        sent: per_second(old.sent, new.sent, 1)?,
        sent_bits: per_second(old.sent_bytes, new.sent_bytes, 8)?,
    })
}

/// A rate for people, in at most four digits.
pub fn bits(rate: f64) -> String {
    let units = ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"];
    let mut value = rate;
    let mut unit = units[0];
    for next in &units[1..] {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    match value {
        _ if unit == units[0] => format!("{value:.0} {unit}"),
        ..10.0 => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn port(name: &str, received: u64) -> Port {
        serde_json::from_value(json!({
            "name": name, "kind": "tap", "place": name, "up": true, "forwarding": true, "why-down": null, "mtu": 1500, "flags": [],
            "vlans": null, "stp": null, "counters": { "received": received, "received-bytes": received * 100 },
        }))
        .unwrap()
    }

    #[test]
    fn rates_are_differences_by_time() {
        let before = [port("a", 10), port("again", 10)];
        let mut now = [port("a", 30), port("again", 5), port("new", 7)];
        rate(&before, &mut now, Duration::from_secs(2));
        let rates = now[0].rates.as_ref().unwrap();
        assert_eq!(
            (rates.received, rates.received_bits, rates.sent),
            (10.0, 8000.0, 0.0)
        );
        assert!(now[1].rates.is_none() && now[2].rates.is_none());
        rate(&before, &mut now, Duration::ZERO);
        assert!(now[0].rates.is_none());
    }

    #[test]
    fn rates_are_short() {
        let shown = [0.0, 999.0, 1200.0, 15_400.0, 3.2e9, 5e15].map(bits);
        assert_eq!(
            shown,
            [
                "0 bit/s",
                "999 bit/s",
                "1.2 kbit/s",
                "15 kbit/s",
                "3.2 Gbit/s",
                "5000 Tbit/s"
            ]
        );
    }
}
