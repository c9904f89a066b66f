//! Medians, the tables, the JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::contender::Contender;
use super::counters::Counters;
use super::operation::Operation;
use super::registers::Touched;
use crate::report::{HostMachine, Side, shown};

/// One operation, done `count` times, and what was counted meanwhile.
#[derive(Debug, Serialize)]
pub(crate) struct Window {
    pub(super) round: u32,
    pub(super) contender: &'static str,
    pub(super) operation: &'static str,
    pub(super) count: u64,
    /// By the guest's clock.
    pub(super) nanoseconds: u64,
    /// All of it, that of asking and answering included; empty for QEMU.
    pub(super) counted: Counters,
}

/// The registers that a driver touches for an operation.
#[derive(Debug, Serialize)]
struct Touching {
    contender: &'static str,
    operation: &'static str,
    registers: Vec<Touched>,
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub(super) windows: Vec<Window>,
    touching: Vec<Touching>,
}

impl Results {
    /// Takes what was touched; what was known of the same operation goes.
    pub(super) fn touch(
        &mut self,
        contender: &'static str,
        operation: &'static str,
        registers: Vec<Touched>,
    ) {
        self.touching
            .retain(|known| (known.contender, known.operation) != (contender, operation));
        self.touching.push(Touching {
            contender,
            operation,
            registers,
        });
    }

    /// What `quantity` came to for one operation, in each round; without what the asking costs.
    fn samples(&self, contender: Contender, operation: Operation, quantity: &Quantity) -> Vec<f64> {
        let of = |wanted: Operation| {
            let mine = move |window: &&Window| {
                window.contender == contender.name() && window.operation == wanted.name()
            };
            self.windows.iter().filter(mine)
        };
        let sample = |window: &Window| {
            let mut total = quantity.total(window)?;
            if quantity.is_counted() {
                let mut asking = of(Operation::Nothing).filter(|nothing| nothing.round == window.round);
                total -= quantity.total(asking.next()?)?;
            }
            Some(total.max(0.0) / window.count as f64)
        };
        of(operation).filter_map(sample).collect()
    }
}

/// Something that is shown of each operation.
#[derive(Debug)]
struct Quantity {
    title: &'static str,
    unit: Unit,
    of: Of,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Microseconds,
    Times,
    Instructions,
}

#[derive(Debug, Clone, Copy)]
enum Of {
    /// The guest's own clock.
    Clock,
    /// The sum of these counters.
    Counters(&'static [&'static str]),
    /// CPU time of the CPUs' threads, or of all others of the process.
    Threads { vcpus: bool },
}

impl Quantity {
    fn is_counted(&self) -> bool {
        !matches!(self.of, Of::Clock)
    }

    /// Of a whole window, in the quantity's unit.
    fn total(&self, window: &Window) -> Option<f64> {
        let total = match self.of {
            Of::Clock => Some(window.nanoseconds),
            Of::Counters(names) => window.counted.sum(|name| names.contains(&name)),
            Of::Threads { vcpus } => window.counted.sum(|name| {
                name.strip_prefix("cpu-ns.")
                    .is_some_and(|thread| thread.starts_with("vcpu") == vcpus)
            }),
        }? as f64;
        Some(if self.unit == Unit::Microseconds {
            total / 1e3
        } else {
            total
        })
    }

    fn show(&self, median: Option<f64>) -> String {
        match (self.unit, median) {
            (_, None) => "-".into(),
            (Unit::Microseconds, some) => shown(some),
            (Unit::Times, Some(times)) if times < 0.005 => "0".into(),
            (Unit::Times, Some(times)) => format!("{times:.2}"),
            (Unit::Instructions, Some(count)) => format!("{count:.0}"),
        }
    }
}

static CLOCK: Quantity = Quantity {
    title: "microseconds",
    unit: Unit::Microseconds,
    of: Of::Clock,
};

const fn times(title: &'static str, names: &'static [&'static str]) -> Quantity {
    Quantity {
        title,
        unit: Unit::Times,
        of: Of::Counters(names),
    }
}

const fn spent(title: &'static str, of: Of) -> Quantity {
    Quantity {
        title,
        unit: Unit::Microseconds,
        of,
    }
}

/// What ours counts.
static COUNTED: [Quantity; 14] = [
    times("exits to user mode: MMIO read", &["exits.mmio-read"]),
    times("exits to user mode: MMIO write", &["exits.mmio-write"]),
    times(
        "exits to user mode: port I/O",
        &["exits.port-read", "exits.port-write"],
    ),
    times("doorbells, no exit to user mode", &["exits.doorbell"]),
    times("HLT: the CPU sleeps", &["exits.halt"]),
    times("interrupts delivered", &["exits.interrupt"]),
    times("kicks by devices", &["kicks.device"]),
    times("kicks by the timer", &["kicks.timer"]),
    Quantity {
        title: "guest instructions",
        unit: Unit::Instructions,
        of: Of::Counters(&["instructions"]),
    },
    spent("microseconds in guest mode", Of::Counters(&["time-ns.guest"])),
    spent(
        "microseconds in the kernel's part",
        Of::Counters(&["time-ns.kernel"]),
    ),
    spent(
        "microseconds in user mode, at exits",
        Of::Counters(&["time-ns.user"]),
    ),
    spent(
        "CPU microseconds of the vCPU's thread",
        Of::Threads { vcpus: true },
    ),
    spent(
        "CPU microseconds of all other threads",
        Of::Threads { vcpus: false },
    ),
];

/// A line of the table.
#[derive(Debug, Serialize)]
struct Row {
    contender: &'static str,
    what: &'static str,
    /// By operation, for one of it.
    values: BTreeMap<&'static str, Side>,
    #[serde(skip)]
    text: String,
}

impl Row {
    fn new(results: &Results, contender: Contender, quantity: &Quantity) -> Self {
        let mut text = format!("| {}: {} |", contender.title(), quantity.title);
        let mut values = BTreeMap::new();
        for operation in Operation::MEASURED {
            let side = Side::new(results.samples(contender, operation, quantity));
            let _ = write!(text, " {} |", quantity.show(side.median()));
            values.insert(operation.name(), side);
        }
        Self {
            contender: contender.name(),
            what: quantity.title,
            values,
            text,
        }
    }
}

/// Everything, for people and for programs.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    machine: HostMachine,
    rounds: u32,
    /// The host's CPUs that were free before the first round.
    free_cpus: f64,
    /// Why KVM is not in the table.
    kvm_left_out: Option<String>,
    rows: Vec<Row>,
    registers: Vec<Touching>,
    windows: Vec<Window>,
}

impl Table {
    pub(super) fn new(
        contenders: &[Contender],
        kvm_left_out: Option<String>,
        free_cpus: f64,
        rounds: u32,
        results: Results,
    ) -> Self {
        let clocks = contenders.iter().map(|contender| (*contender, &CLOCK));
        let ours = contenders
            .iter()
            .filter(|contender| **contender != Contender::Tcg);
        let counted = ours.flat_map(|contender| COUNTED.iter().map(move |quantity| (*contender, quantity)));
        let rows = clocks
            .chain(counted)
            .map(|(contender, quantity)| Row::new(&results, contender, quantity))
            .collect();
        Self {
            machine: HostMachine::here(),
            rounds,
            free_cpus,
            kvm_left_out,
            rows,
            registers: results.touching,
            windows: results.windows,
        }
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "{}; medians of {} rounds; {:.1} CPUs of the host were free before\n",
            self.machine.in_words(),
            self.rounds,
            self.free_cpus
        );
        if let Some(reason) = &self.kvm_left_out {
            let _ = writeln!(text, "KVM is left out: {reason}");
        }
        text += "\n| for one operation |";
        for operation in Operation::MEASURED {
            let _ = write!(text, " {} |", operation.title());
        }
        text += "\n|---|--:|--:|--:|--:|--:|--:|\n";
        for row in &self.rows {
            let _ = writeln!(text, "{}", row.text);
        }
        text += "\n| operation | on | registers for which the CPU leaves guest mode for user mode, times for one operation |\n|---|---|---|\n";
        for touching in &self.registers {
            let _ = writeln!(text, "{}", line(touching));
        }
        text
    }
}

fn line(touching: &Touching) -> String {
    let named = |operation: &&Operation| operation.name() == touching.operation;
    let operation = Operation::MEASURED.iter().find(named);
    let registers = touching.registers.iter().map(|touched| {
        let how = touched.how.strip_prefix("mmio-").unwrap_or(&touched.how);
        format!("{how} {} {:.2}", touched.register, touched.times)
    });
    let registers: Vec<String> = registers.collect();
    let registers = if registers.is_empty() {
        "none".into()
    } else {
        registers.join(", ")
    };
    let title = operation.map_or(touching.operation, |operation| operation.title());
    format!("| {title} | {} | {registers} |", touching.contender)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn window(round: u32, operation: Operation, count: u64, writes: u64) -> Window {
        let stats = json!({ "vcpus": [{ "exits": { "mmio-write": writes } }] });
        Window {
            round,
            contender: "soft",
            operation: operation.name(),
            count,
            nanoseconds: 5000 * count,
            counted: Counters::of_guest(&stats),
        }
    }

    #[test]
    fn what_the_asking_costs_is_taken_off_in_its_own_round() {
        let read = Operation::MEASURED[0];
        let mut results = Results::default();
        for (round, asking) in [(1, 10), (2, 30)] {
            results.windows.push(window(round, Operation::Nothing, 1, asking));
            results.windows.push(window(round, read, 10, asking + 70));
        }
        let of = |quantity| results.samples(Contender::Soft, read, quantity);
        assert_eq!(of(&COUNTED[1]), [7.0, 7.0]);
        assert_eq!(of(&CLOCK), [5.0, 5.0]);
        assert_eq!(of(&COUNTED[0]), [] as [f64; 0], "no counter, no sample");
        let other = results.samples(Contender::Tcg, read, &CLOCK);
        assert_eq!(other, [] as [f64; 0]);
    }

    #[test]
    fn every_row_is_shown_and_what_was_not_counted_is_a_dash() {
        let read = Operation::MEASURED[0];
        let mut results = Results::default();
        results.windows.push(window(1, Operation::Nothing, 1, 1));
        results.windows.push(window(1, read, 2, 3));
        let register = |times| Touched {
            register: "AHCI PxCI".into(),
            how: "mmio-write".into(),
            times,
        };
        results.touch("soft", read.name(), vec![register(5.0)]);
        results.touch("soft", read.name(), vec![register(1.0)]);
        results.touch("soft", Operation::MEASURED[1].name(), Vec::new());
        let contenders = [Contender::Soft, Contender::Tcg];
        let text = Table::new(&contenders, Some("slow".into()), 2.0, 1, results).text();
        for line in [
            "KVM is left out: slow",
            "| software CPU: microseconds | 5.00 | - | - | - | - | - |",
            "| QEMU TCG: microseconds | - | - | - | - | - | - |",
            "| software CPU: exits to user mode: MMIO write | 1.00 | - | - | - | - | - |",
            "| 4 KiB read, AHCI | soft | write AHCI PxCI 1.00 |",
            "| 4 KiB read, virtio | soft | none |",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
        assert_eq!(
            text.lines()
                .filter(|line| line.starts_with("| software CPU"))
                .count(),
            1 + COUNTED.len()
        );
    }
}
