//! Things of ours beside the same things of others: samples, medians, what they are held against, the table, the JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::report::{HostMachine, Side, shown};

/// Samples by what was measured and on whom.
#[derive(Debug, Default)]
pub(crate) struct Figures(BTreeMap<String, BTreeMap<String, Vec<f64>>>);

impl Figures {
    /// Adds a sample.
    pub(crate) fn add(&mut self, what: &str, whose: &str, sample: f64) {
        let of_all = self.0.entry(what.into()).or_default();
        of_all.entry(whose.into()).or_default().push(sample);
    }

    fn take(&self, what: &str, whose: &str) -> Vec<f64> {
        let samples = self.0.get(what).and_then(|of_all| of_all.get(whose));
        samples.cloned().unwrap_or_default()
    }
}

/// What our median over the other's has to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bar {
    Most(f64),
    Least(f64),
    /// Of ours alone, in the row's unit, as the next.
    MostOfOurs(f64),
    LeastOfOurs(f64),
    None,
}

/// What is shown: name, unit, the figures' name, ours, whose figure it is held against, the bar.
pub(crate) type Line = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    Bar,
);

/// Everything that was measured, and where.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    machine: HostMachine,
    /// CPUs that were free before the first measurement.
    free_cpus: f64,
    rounds: u32,
    /// Seconds of one measurement.
    seconds: f64,
    rows: Vec<Row>,
}

/// One measured thing beside another.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    unit: &'static str,
    bar: Bar,
    ours: Side,
    beside: &'static str,
    other: Side,
    ratio: Option<f64>,
    met: Option<bool>,
}

impl Row {
    fn new((name, unit, what, whose, beside, bar): Line, figures: &Figures) -> Self {
        let ours = Side::new(figures.take(what, whose));
        let other = Side::new(figures.take(what, beside));
        let ratio = ours.over(&other);
        let met = match bar {
            Bar::Most(most) => ratio.map(|ratio| ratio <= most),
            Bar::Least(least) => ratio.map(|ratio| ratio >= least),
            Bar::MostOfOurs(most) => ours.median().map(|median| median <= most),
            Bar::LeastOfOurs(least) => ours.median().map(|median| median >= least),
            Bar::None => None,
        };
        Self {
            name,
            unit,
            bar,
            ours,
            beside,
            other,
            ratio,
            met,
        }
    }
}

impl Table {
    pub(crate) fn new(lines: &[Line], free_cpus: f64, rounds: u32, seconds: f64, figures: &Figures) -> Self {
        Self {
            machine: HostMachine::here(),
            free_cpus,
            rounds,
            seconds,
            rows: lines.iter().map(|line| Row::new(*line, figures)).collect(),
        }
    }

    /// True if every bar was measured and is met.
    pub(crate) fn all_met(&self) -> bool {
        self.rows
            .iter()
            .all(|row| row.met == Some(true) || row.bar == Bar::None)
    }

    /// The table, for people: what was measured.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "{}; {:.1} CPUs free before; medians of {} rounds, {} s each\n\n",
            self.machine.in_words(),
            self.free_cpus,
            self.rounds,
            self.seconds
        );
        text += "| what | unit | ours | beside | its figure | ratio | bar | met |\n|---|---|--:|---|--:|--:|---|---|\n";
        for row in self.rows.iter().filter(|row| row.ours.median().is_some()) {
            let bar = match row.bar {
                Bar::Most(most) => format!("at most {} x", shown(Some(most))),
                Bar::Least(least) => format!("at least {} x", shown(Some(least))),
                Bar::MostOfOurs(most) => format!("at most {most}"),
                Bar::LeastOfOurs(least) => format!("at least {least}"),
                Bar::None => "none".into(),
            };
            let met = match row.met {
                Some(true) => "yes",
                Some(false) => "NO",
                None => "",
            };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {bar} | {met} |",
                row.name,
                row.unit,
                shown(row.ours.median()),
                row.beside,
                shown(row.other.median()),
                shown(row.ratio)
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &[Line] = &[
        ("stream", "Gbit/s", "tcp", "ours", "other", Bar::Least(5.0)),
        ("time", "us", "time", "ours", "other", Bar::Most(1.5)),
        ("entry", "bytes", "entry", "ours", "", Bar::MostOfOurs(64.0)),
        ("guests", "Gbit/s", "guests", "ours", "other", Bar::Least(1.0)),
    ];

    #[test]
    fn bars_are_held_against_medians() {
        let mut figures = Figures::default();
        for (ours, other) in [(1.0, 2.0), (9.0, 6.0), (2.0, 2.0)] {
            figures.add("tcp", "ours", ours);
            figures.add("tcp", "other", other);
            figures.add("time", "ours", ours);
            figures.add("time", "other", other);
        }
        figures.add("entry", "ours", 65.0);
        let table = Table::new(LINES, 2.0, 3, 1.0, &figures);
        let row = |name: &str| table.rows.iter().find(|row| row.name == name).unwrap();
        assert_eq!((row("stream").ratio, row("stream").met), (Some(1.0), Some(false)));
        assert_eq!(row("time").met, Some(true));
        assert_eq!(row("entry").met, Some(false));
        assert_eq!(row("guests").met, None);
        assert!(!table.all_met());
        let text = table.text();
        assert!(
            text.contains("| stream | Gbit/s | 2.00 | other | 2.00 | 1.00 | at least 5.00 x | NO |"),
            "{text}"
        );
        assert!(
            !text.contains("guests"),
            "what was not measured is not shown: {text}"
        );
    }
}
