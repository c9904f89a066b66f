//! Everything that is counted of a guest at one moment.

use std::collections::BTreeMap;
use std::fs;

use serde::Serialize;
use serde_json::Value;

/// Counters by name: `exits.halt`, `time-ns.user`, `device.net0.requests`, `cpu-ns.vcpu0` (a thread's CPU time).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Counters(pub(super) BTreeMap<String, u64>);

impl Counters {
    /// From an answer of `x-ostler-stats`. What the accelerator cannot count is not there.
    pub(super) fn of_guest(stats: &Value) -> Self {
        let mut counters = Self::default();
        for vcpu in list(stats, "vcpus") {
            for group in ["exits", "kicks", "time-ns"] {
                counters.add_all(group, &vcpu[group]);
            }
            counters.add("instructions", &vcpu["instructions"]);
        }
        for device in list(stats, "devices") {
            let name = device["name"].as_str().unwrap_or_default();
            counters.add_all(&format!("device.{name}"), &device["counters"]);
        }
        if let Some(thread) = stats.pointer("/vcpus/0/thread-id").and_then(Value::as_u64) {
            counters.add_threads(thread);
        }
        counters
    }

    fn add_all(&mut self, group: &str, values: &Value) {
        for (name, value) in values.as_object().into_iter().flatten() {
            self.add(&format!("{group}.{name}"), value);
        }
    }

    fn add(&mut self, name: &str, value: &Value) {
        if let Some(value) = value.as_u64() {
            *self.0.entry(name.to_owned()).or_default() += value;
        }
    }

    /// CPU time of each thread of the process that `thread` belongs to (Documentation/scheduler/sched-stats.rst).
    fn add_threads(&mut self, thread: u64) {
        // A thread's folder shows its whole process.
        let tasks = fs::read_dir(format!("/proc/{thread}/task"));
        for task in tasks.into_iter().flatten().flatten() {
            let text = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let spent = text("schedstat")
                .split_whitespace()
                .next()
                .and_then(|ns| ns.parse::<u64>().ok());
            if let Some(spent) = spent {
                *self
                    .0
                    .entry(format!("cpu-ns.{}", text("comm").trim()))
                    .or_default() += spent;
            }
        }
    }

    /// What was added since `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        let difference = |(name, now): (&String, &u64)| {
            let then = before.0.get(name).copied().unwrap_or(0);
            (name.clone(), now.saturating_sub(then))
        };
        Self(self.0.iter().map(difference).collect())
    }

    /// The sum of the counters that `wanted` names; `None` if none of them is counted.
    pub(super) fn sum(&self, wanted: impl Fn(&str) -> bool) -> Option<u64> {
        let values = self
            .0
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(_, value)| *value);
        values.reduce(|sum, value| sum + value)
    }
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counters_are_flat_and_what_is_not_counted_is_not_there() {
        let stats = |halts: u64| {
            json!({
                "vcpus": [
                    { "exits": { "halt": halts, "doorbell": null }, "instructions": 5 },
                    { "exits": { "halt": 1, "doorbell": null }, "instructions": null },
                ],
                "devices": [{ "name": "net0", "counters": { "kicks": 3 } }],
            })
        };
        let (before, now) = (Counters::of_guest(&stats(2)), Counters::of_guest(&stats(9)));
        let of = |name: &'static str| move |known: &str| known == name;
        assert_eq!(now.sum(of("exits.halt")), Some(10));
        assert_eq!(now.sum(of("exits.doorbell")), None);
        assert_eq!(now.sum(of("device.net0.kicks")), Some(3));
        assert_eq!(now.since(&before).sum(of("exits.halt")), Some(7));
        assert_eq!(now.since(&before).sum(of("instructions")), Some(0));
        assert_eq!(now.sum(|name| name.starts_with("exits.")), Some(10));
    }

    #[test]
    fn threads_have_their_cpu_time() {
        let mut counters = Counters::default();
        counters.add_threads(std::process::id().into());
        assert!(
            counters
                .sum(|name| name.starts_with("cpu-ns."))
                .is_some_and(|ns| ns > 0)
        );
    }
}
