//! Medians, ratios, means, the table, the JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::CpuOptions;
use super::goals::{ALL_OVER_TCG, GOALS, Goal, SINGLE_OVER_NATIVE, SINGLE_OVER_TCG};
use super::place::Place;
use crate::Common;
use crate::error::Error;
use crate::report::{HostMachine, Side, shown};

/// What the program said, by test and place.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    /// In the order of the list.
    tests: Vec<Test>,
}

#[derive(Debug)]
struct Test {
    group: String,
    name: String,
    unit: String,
    rates: BTreeMap<Place, Vec<f64>>,
    /// Check values, which have to be one.
    checks: Vec<String>,
    /// Why it did not run.
    missing: Vec<String>,
}

impl Collected {
    /// Takes a line of the program's.
    pub(crate) fn add(&mut self, place: Place, line: &str) -> Result<(), Error> {
        let nonsense = || Error::Nonsense {
            side: place.name(),
            line: line.to_owned(),
        };
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["CPU", group, name, unit, rate, check] => {
                let rate: f64 = rate.parse().map_err(|_| nonsense())?;
                if !(rate.is_finite() && rate > 0.0) {
                    return Err(nonsense());
                }
                let test = self.test(group, name);
                test.unit = unit.to_owned();
                test.rates.entry(place).or_default().push(rate);
                if !test.checks.iter().any(|known| known == check) {
                    test.checks.push(check.to_owned());
                }
            }
            ["CPU-MISSING", group, name, ref reason @ ..] => {
                let reason = format!("{}: {}", place.name(), reason.join(" "));
                let missing = &mut self.test(group, name).missing;
                if !missing.contains(&reason) {
                    missing.push(reason);
                }
            }
            _ => return Err(nonsense()),
        }
        Ok(())
    }

    fn test(&mut self, group: &str, name: &str) -> &mut Test {
        let found = self.tests.iter().position(|test| test.name == name);
        let index = found.unwrap_or_else(|| {
            self.tests.push(Test {
                group: group.to_owned(),
                name: name.to_owned(),
                unit: String::new(),
                rates: BTreeMap::new(),
                checks: Vec::new(),
                missing: Vec::new(),
            });
            self.tests.len() - 1
        });
        &mut self.tests[index]
    }
}

/// A test with its medians, in units a second.
#[derive(Debug, Serialize)]
struct Row {
    group: String,
    name: String,
    unit: String,
    ours: Side,
    tcg: Side,
    native: Side,
    over_tcg: Option<f64>,
    over_native: Option<f64>,
    /// `None` if it was not measured everywhere.
    met: Option<bool>,
    /// It came to the same result everywhere and each time.
    same_results: bool,
    missing: Vec<String>,
}

impl Row {
    fn new(test: Test) -> Self {
        let mut rates = test.rates;
        let mut side = |place| Side::new(rates.remove(&place).unwrap_or_default());
        let (ours, tcg, native) = (side(Place::Ours), side(Place::Tcg), side(Place::Native));
        let over_tcg = ours.over(&tcg);
        let over_native = ours.over(&native);
        let same_results = test.checks.len() <= 1;
        let met = over_tcg
            .zip(over_native)
            .map(|(tcg, native)| same_results && (tcg >= SINGLE_OVER_TCG || native >= SINGLE_OVER_NATIVE));
        Self {
            group: test.group,
            name: test.name,
            unit: test.unit,
            ours,
            tcg,
            native,
            over_tcg,
            over_native,
            met,
            same_results,
            missing: test.missing,
        }
    }
}

/// The geometric means of a group, or of all groups.
#[derive(Debug, Serialize)]
struct Mean {
    name: &'static str,
    over_tcg: Option<f64>,
    over_native: Option<f64>,
    bar_over_tcg: f64,
    bar_over_native: Option<f64>,
    /// `None` if one of its tests is missing.
    met: Option<bool>,
}

impl Mean {
    fn new(name: &'static str, ratios: [Option<f64>; 2], bars: (f64, Option<f64>)) -> Self {
        let [over_tcg, over_native] = ratios;
        let (bar_over_tcg, bar_over_native) = bars;
        let met = over_tcg.and_then(|tcg| {
            let native = match bar_over_native {
                Some(bar) => over_native? >= bar,
                None => true,
            };
            Some(tcg >= bar_over_tcg && native)
        });
        Self {
            name,
            over_tcg,
            over_native,
            bar_over_tcg,
            bar_over_native,
            met,
        }
    }

    fn of_group(goal: &Goal, rows: &[Row]) -> Self {
        let of = |pick: fn(&Row) -> Option<f64>| {
            geometric_mean(rows.iter().filter(|row| row.group == goal.group).map(pick))
        };
        let ratios = [of(|row| row.over_tcg), of(|row| row.over_native)];
        Self::new(goal.title, ratios, (goal.over_tcg, goal.over_native))
    }
}

/// `None` if there is nothing, or one of the values is missing.
fn geometric_mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let logarithms: Vec<f64> = values.map(|value| value.map(f64::ln)).collect::<Option<_>>()?;
    let count = logarithms.len() as f64;
    (count > 0.0).then(|| (logarithms.iter().sum::<f64>() / count).exp())
}

/// Everything.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    machine: HostMachine,
    accelerator: String,
    rounds: u32,
    window_ms: u32,
    windows: u32,
    rows: Vec<Row>,
    groups: Vec<Mean>,
    all: Mean,
}

impl Table {
    pub(crate) fn new(common: &Common, options: &CpuOptions, collected: Collected) -> Self {
        let rows: Vec<Row> = collected.tests.into_iter().map(Row::new).collect();
        let groups: Vec<Mean> = GOALS.iter().map(|goal| Mean::of_group(goal, &rows)).collect();
        let of = |pick: fn(&Mean) -> Option<f64>| geometric_mean(groups.iter().map(pick));
        let ratios = [of(|mean| mean.over_tcg), of(|mean| mean.over_native)];
        let all = Mean::new("all groups", ratios, (ALL_OVER_TCG, None));
        Self {
            machine: HostMachine::here(),
            accelerator: common.accel.clone(),
            rounds: options.rounds,
            window_ms: options.window,
            windows: options.windows,
            rows,
            groups,
            all,
        }
    }

    /// True if everything was measured, right, and fast enough.
    pub(crate) fn all_met(&self) -> bool {
        let means = self.groups.iter().chain([&self.all]);
        let mut met = self
            .rows
            .iter()
            .map(|row| row.met)
            .chain(means.map(|mean| mean.met));
        met.all(|met| met == Some(true))
    }

    /// For people, as Markdown.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "{}; accelerator {}; medians of {} rounds, each the best of {} windows of {} ms\n\n",
            self.machine.in_words(),
            self.accelerator,
            self.rounds,
            self.windows,
            self.window_ms
        );
        text += "| test | a second | ours | QEMU TCG | native | ours/TCG | ours/native | met |\n\
                 |---|---|--:|--:|--:|--:|--:|---|\n";
        for (goal, mean) in GOALS.iter().zip(&self.groups) {
            for row in self.rows.iter().filter(|row| row.group == goal.group) {
                self.write_row(&mut text, row);
            }
            write_mean(&mut text, mean);
        }
        write_mean(&mut text, &self.all);
        let _ = writeln!(
            text,
            "\nA single test meets its bar with {SINGLE_OVER_TCG} x TCG or {SINGLE_OVER_NATIVE} of native."
        );
        for row in &self.rows {
            if !row.same_results {
                let _ = writeln!(
                    text,
                    "WRONG RESULT: {} did not come out the same everywhere.",
                    row.name
                );
            }
            if row.met.is_none() {
                let _ = writeln!(text, "NOT MEASURED: {} ({})", row.name, row.missing.join("; "));
            }
        }
        text
    }

    fn write_row(&self, text: &mut String, row: &Row) {
        let rate = |side: &Side| side.median().map_or_else(|| "-".into(), short);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            row.name,
            row.unit,
            rate(&row.ours),
            rate(&row.tcg),
            rate(&row.native),
            shown(row.over_tcg),
            shown(row.over_native),
            verdict(row.met)
        );
    }
}

fn write_mean(text: &mut String, mean: &Mean) {
    let native_bar = mean
        .bar_over_native
        .map(|bar| format!(", {bar} of native"))
        .unwrap_or_default();
    let _ = writeln!(
        text,
        "| **{}** (bar: {} x TCG{native_bar}) | | | | | **{}** | **{}** | {} |",
        mean.name,
        mean.bar_over_tcg,
        shown(mean.over_tcg),
        shown(mean.over_native),
        verdict(mean.met)
    );
}

fn verdict(met: Option<bool>) -> &'static str {
    match met {
        Some(true) => "yes",
        Some(false) => "NO",
        None => "not measured",
    }
}

/// Three significant digits and a prefix.
fn short(rate: f64) -> String {
    for (unit, prefix) in [(1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if rate >= unit {
            return format!("{} {prefix}", shown(Some(rate / unit)));
        }
    }
    shown(Some(rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collected(lines: &[(Place, &str)]) -> Vec<Row> {
        let mut collected = Collected::default();
        for (place, line) in lines {
            collected.add(*place, line).unwrap();
        }
        collected.tests.into_iter().map(Row::new).collect()
    }

    #[test]
    fn a_single_test_may_meet_either_bar() {
        let row = |ours: &str, tcg: &str, native: &str| {
            let line = |rate: &str| format!("CPU integer sort elements {rate} 0a");
            let rows = collected(&[
                (Place::Ours, &line(ours)),
                (Place::Tcg, &line(tcg)),
                (Place::Native, &line(native)),
            ]);
            rows.into_iter().next().unwrap()
        };
        assert_eq!(row("30", "20", "100").met, Some(true));
        assert_eq!(row("95", "90", "100").met, Some(true));
        assert_eq!(row("29", "20", "100").met, Some(false));
        assert_eq!(row("30", "20", "100").over_native, Some(0.3));
    }

    #[test]
    fn a_different_result_is_never_good() {
        let rows = collected(&[
            (Place::Ours, "CPU integer sort elements 1e9 0a"),
            (Place::Tcg, "CPU integer sort elements 1e6 0b"),
            (Place::Native, "CPU integer sort elements 1e9 0b"),
        ]);
        assert_eq!((rows[0].same_results, rows[0].met), (false, Some(false)));
    }

    #[test]
    fn what_is_missing_is_named() {
        let rows = collected(&[
            (Place::Ours, "CPU-MISSING kernel pipe-2-cpus needs 2 CPUs"),
            (Place::Native, "CPU kernel pipe-2-cpus round-trips 5e4 02"),
        ]);
        assert_eq!(rows[0].met, None);
        assert_eq!(rows[0].missing, ["ostler: needs 2 CPUs"]);
        let mean = Mean::of_group(&GOALS[3], &rows);
        assert_eq!(mean.met, None);
    }

    #[test]
    fn garbage_is_refused() {
        let mut collected = Collected::default();
        for line in ["CPU", "CPU a b c", "CPU a b c nan 1", "CPU a b c -1 1", "hello"] {
            assert!(collected.add(Place::Ours, line).is_err(), "{line}");
        }
    }

    #[test]
    fn means_are_geometric_and_held_against_both_bars() {
        let mean = geometric_mean([Some(2.0), Some(8.0)].into_iter()).unwrap();
        assert!((mean - 4.0).abs() < 1e-12);
        assert_eq!(geometric_mean([Some(2.0), None].into_iter()), None);
        assert_eq!(geometric_mean([].into_iter()), None);
        let met = |tcg, native| Mean::new("x", [Some(tcg), Some(native)], (2.0, Some(0.45))).met;
        assert_eq!(met(2.0, 0.45), Some(true));
        assert_eq!(met(1.9, 0.9), Some(false));
        assert_eq!(met(9.0, 0.4), Some(false));
    }

    #[test]
    fn rates_are_short() {
        assert_eq!(short(12_345_678.0), "12.3 M");
        assert_eq!(short(3.5e9), "3.50 G");
        assert_eq!(short(4.2), "4.20");
    }
}
