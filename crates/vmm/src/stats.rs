//! Everything that is counted, as the control socket shows it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Instant;

use ostler_accel::{ExitCause, KickSource, TimeSpent, VcpuStats};
use ostler_virtio::DeviceMetrics;
use ostler_virtio::net::NetControl;
use serde_json::{Map, Value, json};

use crate::console::Console;
use crate::control::View;
use crate::driver::{DriverHandle, State};

/// What the control socket looks at.
pub(crate) struct Sight {
    pub name: String,
    pub accelerator: &'static str,
    pub memory: u64,
    pub started: Instant,
    pub driver: DriverHandle,
    pub cpus: Vec<(Arc<VcpuStats>, Arc<AtomicI32>)>,
    pub devices: Vec<(String, &'static str, Arc<DeviceMetrics>)>,
    pub nets: Vec<(String, NetControl)>,
    pub consoles: Vec<(&'static str, Arc<Console>)>,
}

impl View for Sight {
    fn state(&self) -> State {
        self.driver.state()
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn accelerator(&self) -> &str {
        self.accelerator
    }

    fn vcpu_threads(&self) -> Vec<i32> {
        self.cpus
            .iter()
            .map(|(_, thread)| thread.load(Ordering::Relaxed))
            .collect()
    }

    fn nets(&self) -> &[(String, NetControl)] {
        &self.nets
    }

    fn stats(&self) -> Value {
        let vcpus = self.cpus.iter().enumerate().map(|(index, (stats, thread))| {
            let mut value = vcpu(stats);
            value["index"] = index.into();
            value["thread-id"] = thread.load(Ordering::Relaxed).into();
            value
        });
        let devices = self.devices.iter().map(|(name, kind, metrics)| {
            let counters = metrics.snapshot().named();
            let counters: Map<_, _> = counters
                .into_iter()
                .map(|(n, v)| (n.replace('_', "-"), v.into()))
                .collect();
            json!({ "name": name, "kind": kind, "counters": counters })
        });
        let consoles = self.consoles.iter().map(|(name, console)| {
            let seen = console.counters();
            json!({
                "name": name,
                "output-bytes": seen.output,
                "input-bytes": seen.input,
                "lost-bytes": seen.lost,
                "readers": seen.readers,
            })
        });
        json!({
            "name": self.name,
            "state": self.driver.state().name(),
            "accelerator": self.accelerator,
            "memory-bytes": self.memory,
            "uptime-ns": self.started.elapsed().as_nanos() as u64,
            "vcpus": vcpus.collect::<Vec<_>>(),
            "devices": devices.collect::<Vec<_>>(),
            "consoles": consoles.collect::<Vec<_>>(),
        })
    }
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
    json!({ "exits": exits, "kicks": kicks, "time-ns": times, "instructions": stats.instructions() })
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
        }
    }
}
