//! What KVM does for a guest while it is measured: its events by kind, counted by the host's kernel.
//!
//! They are KVM's trace points with histograms (Documentation/trace/histogram.rst), which the host's kernel keeps by itself: a
//! table for each row of what was measured says why one guest takes longer than another.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// KVM's trace points, and what each is counted by.
const EVENTS: [(&str, &str); 4] = [
    ("kvm_exit", "exit_reason"),
    ("kvm_msr", "ecx.hex,write"),
    ("kvm_eoi", "vector"),
    ("kvm_pv_eoi", "vector"),
];
/// What is shown of them: name, event, beginning of a key that counts (any, if it is empty).
const COLUMNS: [(&str, &str, &str); 8] = [
    ("exits", "kvm_exit", ""),
    // Exits are told apart by AMD's codes: SVM_EXIT_HLT, SVM_EXIT_MSR, SVM_EXIT_NPF, SVM_EXIT_INTR (arch/x86/include/uapi/asm/svm.h).
    ("halts", "kvm_exit", "exit_reason:120,"),
    ("MSRs", "kvm_exit", "exit_reason:124,"),
    ("memory", "kvm_exit", "exit_reason:1024,"),
    ("host's interrupts", "kvm_exit", "exit_reason:96,"),
    ("ends of interrupts", "kvm_eoi", ""),
    ("ends of them by MSR", "kvm_msr", "ecx:80b,write:1,"),
    ("ends without exit", "kvm_pv_eoi", ""),
];

/// Counts since the last look, if they were asked for.
#[derive(Debug)]
pub(super) struct Exits {
    /// The folder of KVM's trace points.
    events: Option<PathBuf>,
    last: BTreeMap<String, u64>,
    table: String,
}

impl Exits {
    /// Begins to count, with `tracing`, where the host's trace points are mounted.
    pub(super) fn new(tracing: Option<&Path>) -> Result<Self, Error> {
        let events = tracing.map(|tracing| tracing.join("events/kvm"));
        if let Some(events) = &events {
            for (event, keys) in EVENTS {
                let path = events.join(event).join("trigger");
                fs::write(&path, format!("hist:keys={keys}")).map_err(|e| Error::Write(path, e))?;
            }
        }
        let names: Vec<&str> = COLUMNS.iter().map(|(name, ..)| *name).collect();
        Ok(Self {
            events,
            last: BTreeMap::new(),
            table: format!(
                "| whose | what | times | {} |\n|---|---|--:|{}\n",
                names.join(" | "),
                "--:|".repeat(names.len())
            ),
        })
    }

    /// What was counted before does not belong to the next row.
    pub(super) fn forget(&mut self) {
        self.last = self.counts();
    }

    /// Adds a row: what was counted since the last look, for each of `times`.
    pub(super) fn row(&mut self, whose: &str, what: &str, times: f64) {
        let (before, now) = (std::mem::take(&mut self.last), self.counts());
        let _ = write!(self.table, "| {whose} | {what} | {times:.0} |");
        for (_, event, key) in COLUMNS {
            let sum = |counts: &BTreeMap<String, u64>| -> u64 {
                let begin = format!("{event} {key}");
                let of_it = counts.range(begin.clone()..);
                of_it
                    .take_while(|(name, _)| name.starts_with(&begin))
                    .map(|(_, count)| count)
                    .sum()
            };
            let _ = write!(
                self.table,
                " {:.2} |",
                sum(&now).saturating_sub(sum(&before)) as f64 / times
            );
        }
        self.table.push('\n');
        self.last = now;
    }

    /// The table, if anything was to be counted.
    pub(super) fn table(&self) -> Option<&str> {
        self.events.is_some().then_some(&*self.table)
    }

    /// All counts by event and keys: `kvm_msr ecx:80b,write:1,`.
    fn counts(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        let Some(events) = &self.events else {
            return counts;
        };
        for (event, _) in EVENTS {
            let text = fs::read_to_string(events.join(event).join("hist")).unwrap_or_default();
            let lines = text.lines().filter_map(parsed);
            counts.extend(lines.map(|(keys, count)| (format!("{event} {keys}"), count)));
        }
        counts
    }
}

/// A line `{ ecx: 80b, write: 1 } hitcount: 5` as `ecx:80b,write:1,` and 5.
fn parsed(line: &str) -> Option<(String, u64)> {
    let (keys, count) = line.split_once("} hitcount:")?;
    let keys = keys.trim_start().strip_prefix('{')?.replace(' ', "");
    Some((keys + ",", count.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_histograms_are_understood() {
        let line = "{ ecx:        80b, write:          1 } hitcount:        217";
        assert_eq!(parsed(line), Some(("ecx:80b,write:1,".into(), 217)));
        assert_eq!(parsed("# trigger info: hist:keys=vector"), None);
        assert_eq!(parsed("{ vector: 236 } hitcount: many"), None);
    }

    #[test]
    fn rows_are_what_was_counted_since_the_last_for_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let write = |event: &str, text: &str| {
            let event = folder.path().join("events/kvm").join(event);
            fs::create_dir_all(&event).unwrap();
            fs::write(event.join("hist"), text).unwrap();
        };
        let say = |exits: u32| {
            for (event, _) in EVENTS {
                write(event, "");
            }
            write(
                "kvm_exit",
                &format!("{{ exit_reason: 120 }} hitcount: {exits}\n{{ exit_reason: 1201 }} hitcount: 7\n"),
            );
        };
        say(10);
        let mut exits = Exits::new(Some(folder.path())).unwrap();
        exits.forget();
        say(30);
        exits.row("ours", "reads", 10.0);
        let table = exits.table().unwrap();
        assert!(
            table
                .ends_with("| ours | reads | 10 | 2.00 | 2.00 | 0.00 | 0.00 | 0.00 | 0.00 | 0.00 | 0.00 |\n"),
            "{table}"
        );
        assert!(Exits::new(None).unwrap().table().is_none());
    }
}
