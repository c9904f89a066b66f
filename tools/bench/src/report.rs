//! Samples, medians, the table and the JSON.

use std::fmt::Write;
use std::fs;

use serde::Serialize;

use crate::Options;

/// Which way is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// What our median is held against.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bar {
    /// A number of the row's unit.
    Least(f64),
    /// The same.
    Most(f64),
    /// A multiple of the peer's median.
    TimesPeer(f64),
}

/// One measured thing.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    name: &'static str,
    unit: &'static str,
    better: Better,
    bar: Bar,
    ours: Side,
    peer: Side,
    /// Our median over the peer's.
    ratio: Option<f64>,
    /// Whether the bar is met; `None` if it was not measured.
    met: Option<bool>,
}

#[derive(Debug, Serialize)]
struct Side {
    median: Option<f64>,
    samples: Vec<f64>,
}

impl Side {
    fn new(samples: Vec<f64>) -> Self {
        Self {
            median: median(&samples),
            samples,
        }
    }
}

impl Row {
    pub(crate) fn new(
        name: &'static str,
        unit: &'static str,
        better: Better,
        bar: Bar,
        ours: Vec<f64>,
        peer: Vec<f64>,
    ) -> Self {
        let (ours, peer) = (Side::new(ours), Side::new(peer));
        let ratio = ours.median.zip(peer.median).map(|(ours, peer)| ours / peer);
        let met = match bar {
            Bar::Least(least) => ours.median.map(|median| median >= least),
            Bar::Most(most) => ours.median.map(|median| median <= most),
            Bar::TimesPeer(times) => ratio.map(|ratio| ratio <= times),
        };
        Self {
            name,
            unit,
            better,
            bar,
            ours,
            peer,
            ratio,
            met,
        }
    }
}

fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// Everything that was measured, and where.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    accelerator: String,
    runs: u32,
    /// Seconds that a loop inside a guest ran.
    seconds: u64,
    /// Instructions of one SHA-256 block, counted by single steps.
    instructions_per_block: f64,
    rows: Vec<Row>,
}

/// The machine in general words.
#[derive(Debug, Serialize)]
struct Machine {
    cpus: usize,
    memory_gib: u64,
    kernel: String,
    /// The CPU offers VMX or SVM.
    virtualization: bool,
}

impl Machine {
    fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let kib = read("/proc/meminfo")
            .split_whitespace()
            .nth(1)
            .and_then(|word| word.parse().ok())
            .unwrap_or(0);
        let release = read("/proc/sys/kernel/osrelease");
        let flags = read("/proc/cpuinfo");
        Self {
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: (kib + (1 << 19)) >> 20,
            kernel: release.split('-').next().unwrap_or_default().trim().to_owned(),
            virtualization: flags
                .split_whitespace()
                .any(|flag| flag == "vmx" || flag == "svm"),
        }
    }
}

impl Report {
    pub(crate) fn new(options: &Options, instructions_per_block: f64, rows: Vec<Row>) -> Self {
        Self {
            machine: Machine::here(),
            accelerator: options.accel.clone(),
            runs: options.runs,
            seconds: options.seconds,
            instructions_per_block,
            rows,
        }
    }

    /// True if no bar that was measured is missed.
    pub(crate) fn all_met(&self) -> bool {
        self.rows.iter().all(|row| row.met != Some(false))
    }

    /// The table, for people.
    pub(crate) fn table(&self) -> String {
        let machine = &self.machine;
        let virtualization = if machine.virtualization { "with" } else { "without" };
        let mut text = format!(
            "{} CPUs, {} GiB, Linux {}, {virtualization} virtualization hardware; accelerator {}; medians of {} runs\n\n",
            machine.cpus, machine.memory_gib, machine.kernel, self.accelerator, self.runs
        );
        text += "| what | unit | ours | QEMU TCG | ratio | bar | met |\n|---|---|--:|--:|--:|---|---|\n";
        for row in &self.rows {
            let met = match row.met {
                Some(true) => "yes",
                Some(false) => "NO",
                None => "not measured",
            };
            let (ours, peer, ratio) = (shown(row.ours.median), shown(row.peer.median), shown(row.ratio));
            let bar = match row.bar {
                Bar::Least(least) => format!("at least {least}"),
                Bar::Most(most) => format!("at most {most}"),
                Bar::TimesPeer(times) => format!("at most {times} x QEMU's"),
            };
            let _ = writeln!(
                text,
                "| {} | {} | {ours} | {peer} | {ratio} | {bar} | {met} |",
                row.name, row.unit
            );
        }
        text
    }
}

/// Three significant digits or so.
fn shown(number: Option<f64>) -> String {
    match number {
        None => "-".into(),
        Some(large) if large >= 100.0 => format!("{large:.0}"),
        Some(middle) if middle >= 10.0 => format!("{middle:.1}"),
        Some(small) => format!("{small:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn bars_are_held_against_medians() {
        let met = |bar, ours: &[f64], peer: &[f64]| {
            Row::new("x", "s", Better::Lower, bar, ours.to_vec(), peer.to_vec()).met
        };
        assert_eq!(met(Bar::Least(150.0), &[151.0, 1.0, 170.0], &[]), Some(true));
        assert_eq!(met(Bar::Most(50.0), &[51.0], &[]), Some(false));
        assert_eq!(met(Bar::TimesPeer(4.0), &[8.1], &[2.0]), Some(false));
        assert_eq!(met(Bar::TimesPeer(4.0), &[8.0], &[2.0]), Some(true));
        assert_eq!(met(Bar::TimesPeer(4.0), &[8.0], &[]), None);
    }
}
