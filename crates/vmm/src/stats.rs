//! Everything that is counted, as the control socket shows it.

use std::sync::Arc;
use std::time::Duration;

use ostler_accel::{Effort, ExitCause, HotSpot, KickSource, Profile, Profiler, TimeSpent, VcpuStats};
use ostler_virtio::DeviceMetrics;
use serde_json::{Map, Value, json};

use crate::manager::Manager;

/// Most addresses of a profile that are shown.
const SPOTS: usize = 100;

/// Where guest code was found in the last `newest`; null where that cannot be seen. Watches on for that long.
pub(crate) fn hot(manager: &Manager, newest: Duration) -> Value {
    let look = |profiler: &Arc<dyn Profiler>| profile(&profiler.look(newest, SPOTS));
    manager.profiler.as_ref().map_or(Value::Null, look)
}

/// Everything that is counted.
pub(crate) fn stats(manager: &Manager) -> Value {
    let vcpus = manager.cpus().map(|(index, seat)| {
        let mut value = vcpu(&seat.view.stats);
        value["index"] = index.into();
        value["thread-id"] = seat.view.thread_id().into();
        value
    });
    let devices = manager.devices().iter().map(|device| {
        let function = &device.named.device;
        device_counters(device.id(), function.kind(), function.metrics())
    });
    let drives = manager
        .drives
        .iter()
        .map(|drive| device_counters(&drive.name, drive.kind.name(), &drive.metrics));
    let consoles = manager.consoles.iter().map(|named| {
        let seen = named.console.counters();
        json!({
            "name": named.name,
            "output-bytes": seen.output,
            "input-bytes": seen.input,
            "lost-bytes": seen.lost,
            "readers": seen.readers,
        })
    });
    json!({
        "name": manager.spec.name,
        "state": manager.state().name(),
        "accelerator": manager.spec.accelerator.name(),
        "memory-bytes": manager.spec.memory,
        "uptime-ns": manager.started.elapsed().as_nanos() as u64,
        "vcpus": vcpus.collect::<Vec<_>>(),
        "devices": devices.chain(drives).collect::<Vec<_>>(),
        "consoles": consoles.collect::<Vec<_>>(),
    })
}

/// What one device counts.
fn device_counters(name: &str, kind: &str, metrics: &DeviceMetrics) -> Value {
    let counters = metrics.snapshot().named().into_iter();
    let counters: Map<_, _> = counters.map(|(n, v)| (n.replace('_', "-"), v.into())).collect();
    json!({ "name": name, "kind": kind, "counters": counters })
}

/// The counters of one CPU; what cannot be measured is null.
fn vcpu(stats: &VcpuStats) -> Value {
    stats.refresh();
    let exits: Map<_, _> = ExitCause::ALL
        .iter()
        .map(|&c| (c.name().into(), stats.exits_if_measured(c).into()))
        .collect();
    let kicks: Map<_, _> = KickSource::ALL
        .iter()
        .map(|&s| (s.name().into(), stats.kicks(s).into()))
        .collect();
    let times: Map<_, _> = TimeSpent::ALL
        .iter()
        .map(|&t| (t.name().into(), stats.time(t).into()))
        .collect();
    let software: Map<_, _> = Effort::ALL
        .iter()
        .map(|&e| (e.name().into(), stats.effort(e).into()))
        .collect();
    json!({
        "exits": exits,
        "kicks": kicks,
        "time-ns": times,
        "instructions": stats.instructions(),
        "software": software,
    })
}

/// A profile; addresses are texts, because many readers of JSON take numbers of 64 bits for floating point.
fn profile(profile: &Profile) -> Value {
    let spot = |spot: &HotSpot| {
        json!({
            "address": format!("{:#x}", spot.address),
            "privilege": if spot.user { "user" } else { "kernel" },
            "samples": spot.samples,
            "share": spot.samples as f64 / profile.samples.max(1) as f64,
            "symbol": spot.symbol.as_ref().map(|symbol| &symbol.name),
            "offset": spot.symbol.as_ref().map(|symbol| symbol.offset),
        })
    };
    json!({ "samples": profile.samples, "addresses": profile.spots.iter().map(spot).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_fetched_for_each_look_and_what_is_not_measured_is_null() {
        let stats = VcpuStats::default();
        stats.set_exits_unavailable(ExitCause::Doorbell);
        stats.set_refresher(|stats| stats.set_exits(ExitCause::Halt, stats.exits(ExitCause::Halt) + 7));
        for halts in [7, 14] {
            let shown = vcpu(&stats);
            assert_eq!(shown["exits"]["halt"], halts);
            assert_eq!(shown["exits"]["port-read"], 0);
            assert_eq!(shown["exits"]["doorbell"], Value::Null);
            assert_eq!(shown["kicks"]["control"], 0);
            assert_eq!(shown["kicks"]["timer"], Value::Null);
            assert_eq!(shown["time-ns"]["guest"], Value::Null);
            assert_eq!(shown["instructions"], Value::Null);
            assert_eq!(shown["software"]["tlb-misses"], Value::Null);
        }
        stats.set_effort(Effort::TlbMisses, 3);
        assert_eq!(vcpu(&stats)["software"]["tlb-misses"], 3);
    }

    #[test]
    fn a_profile_tells_shares_and_names() {
        let spot = |address, symbol: Option<&str>| HotSpot {
            address,
            user: symbol.is_none(),
            samples: 3,
            symbol: symbol.map(|name| ostler_accel::Symbol {
                name: name.into(),
                offset: 16,
            }),
        };
        let shown = profile(&Profile {
            samples: 12,
            spots: vec![spot(u64::MAX - 15, Some("schedule")), spot(0x40_1000, None)],
        });
        assert_eq!(shown["samples"], 12);
        assert_eq!(
            shown["addresses"],
            json!([
                { "address": "0xfffffffffffffff0", "privilege": "kernel", "samples": 3, "share": 0.25,
                  "symbol": "schedule", "offset": 16 },
                { "address": "0x401000", "privilege": "user", "samples": 3, "share": 0.25,
                  "symbol": null, "offset": null },
            ])
        );
        assert_eq!(
            profile(&Profile::default()),
            json!({ "samples": 0, "addresses": [] })
        );
    }
}
