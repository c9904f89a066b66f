//! Samples, medians, the table and the JSON.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::Options;
use crate::error::Error;

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
    /// For comparison only.
    None,
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
    /// Whether the bar is met; `None` if it was not measured, or there is none.
    met: Option<bool>,
    /// Why it was not measured.
    why: Option<String>,
}

/// Samples of one side, with their median.
#[derive(Debug, Serialize)]
pub(crate) struct Side {
    median: Option<f64>,
    samples: Vec<f64>,
}

impl Side {
    pub(crate) fn new(samples: Vec<f64>) -> Self {
        Self {
            median: median(&samples),
            samples,
        }
    }

    pub(crate) fn median(&self) -> Option<f64> {
        self.median
    }

    /// Our median over another's.
    pub(crate) fn over(&self, other: &Side) -> Option<f64> {
        self.median.zip(other.median).map(|(ours, other)| ours / other)
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
        let ratio = ours.over(&peer);
        let met = match bar {
            Bar::Least(least) => ours.median.map(|median| median >= least),
            Bar::Most(most) => ours.median.map(|median| median <= most),
            Bar::TimesPeer(times) => ratio.map(|ratio| ratio <= times),
            Bar::None => None,
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
            why: None,
        }
    }

    /// The samples say nothing about the bar, for this reason.
    pub(crate) fn not_judged(mut self, why: String) -> Self {
        self.met = None;
        self.why = Some(why);
        self
    }

    #[cfg(test)]
    pub(crate) fn met(&self) -> Option<bool> {
        self.met
    }

    /// True if there is a bar of which nothing is known.
    fn is_open(&self) -> bool {
        self.met.is_none() && self.bar != Bar::None
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
    machine: HostMachine,
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
pub(crate) struct HostMachine {
    cpus: usize,
    memory_gib: u64,
    kernel: String,
    /// The CPU offers VMX or SVM.
    virtualization: bool,
}

impl HostMachine {
    pub(crate) fn here() -> Self {
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

    pub(crate) fn in_words(&self) -> String {
        let virtualization = if self.virtualization { "with" } else { "without" };
        format!(
            "{} CPUs, {} GiB, Linux {}, {virtualization} virtualization hardware",
            self.cpus, self.memory_gib, self.kernel
        )
    }
}

/// Writes results for programs.
pub(crate) fn write_json(path: &Path, results: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(results).map_err(|e| Error::Write(path.into(), e.into()))?;
    fs::write(path, text + "\n").map_err(|e| Error::Write(path.into(), e))
}

impl Report {
    pub(crate) fn new(options: &Options, instructions_per_block: f64, rows: Vec<Row>) -> Self {
        Self {
            machine: HostMachine::here(),
            accelerator: options.common.accel.clone(),
            runs: options.runs,
            seconds: options.seconds,
            instructions_per_block,
            rows,
        }
    }

    /// True if every bar was measured and is met.
    pub(crate) fn all_met(&self) -> bool {
        self.rows
            .iter()
            .all(|row| row.met == Some(true) || row.bar == Bar::None)
    }

    /// The table, for people.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{}; accelerator {}; medians of {} runs\n\n",
            self.machine.in_words(),
            self.accelerator,
            self.runs
        );
        text += "| what | unit | ours | QEMU TCG | ratio | bar | met |\n|---|---|--:|--:|--:|---|---|\n";
        for row in &self.rows {
            let met = match row.met {
                Some(true) => "yes",
                Some(false) => "NO",
                None if row.bar == Bar::None => "",
                None => "not measured",
            };
            let (ours, peer, ratio) = (shown(row.ours.median), shown(row.peer.median), shown(row.ratio));
            let bar = match row.bar {
                Bar::Least(least) => format!("at least {least}"),
                Bar::Most(most) => format!("at most {most}"),
                Bar::TimesPeer(times) => format!("at most {times} x QEMU's"),
                Bar::None => "none".into(),
            };
            let _ = writeln!(
                text,
                "| {} | {} | {ours} | {peer} | {ratio} | {bar} | {met} |",
                row.name, row.unit
            );
        }
        for row in self.rows.iter().filter(|row| row.is_open()) {
            let why = row.why.as_deref().unwrap_or("no samples");
            let _ = write!(text, "\nNOT MEASURED: {} ({why})", row.name);
        }
        if self.rows.iter().any(Row::is_open) {
            text.push('\n');
        }
        text
    }
}

/// Three significant digits or so.
pub(crate) fn shown(number: Option<f64>) -> String {
    match number {
        None => "-".into(),
        Some(large) if large >= 100.0 => format!("{large:.0}"),
        Some(middle) if middle >= 10.0 => format!("{middle:.1}"),
        Some(tiny) if tiny > 0.0 && tiny < 0.05 => {
            let digits = 1 - tiny.log10().floor() as i32;
            format!("{tiny:.*}", digits.clamp(2, 9) as usize)
        }
        Some(small) => format!("{small:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_not_lost() {
        let text: Vec<_> = [0.0, 0.00123, 0.0456, 0.05, 1.234, 12.34, 123.4, -0.001]
            .map(|number| shown(Some(number)))
            .into();
        assert_eq!(
            text,
            ["0.00", "0.0012", "0.046", "0.05", "1.23", "12.3", "123", "-0.00"]
        );
    }

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
        assert_eq!(met(Bar::None, &[8.0], &[2.0]), None);
    }

    #[test]
    fn what_was_not_measured_is_not_met_and_said_loudly() {
        let row = |bar, ours: &[f64]| Row::new("x", "s", Better::Lower, bar, ours.to_vec(), vec![1.0]);
        let report = |rows| Report {
            machine: HostMachine::here(),
            accelerator: "soft".into(),
            runs: 1,
            seconds: 1,
            instructions_per_block: 1.0,
            rows,
        };
        let good = report(vec![row(Bar::Most(2.0), &[1.0]), row(Bar::None, &[])]);
        assert!(good.all_met() && !good.table().contains("NOT MEASURED"));
        let open = report(vec![row(Bar::Most(2.0), &[])]);
        assert!(!open.all_met());
        assert!(open.table().ends_with("\nNOT MEASURED: x (no samples)\n"));
        let busy = row(Bar::Most(2.0), &[1.0]).not_judged("the host was busy".into());
        let busy = report(vec![busy]);
        assert!(!busy.all_met());
        assert!(busy.table().contains("NOT MEASURED: x (the host was busy)"));
    }
}
