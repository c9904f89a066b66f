//! `ostler top`: where a guest's CPUs spend their time, and why they leave guest mode.

mod hot;
mod software;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::control_client::ControlClient;
use crate::failure::Failure;

/// Rows of hot addresses in the live table, unless told.
const HOT_ROWS: u8 = 10;

/// Options of `ostler top`.
#[derive(Args)]
pub struct TopArgs {
    /// The guest's control socket.
    #[arg(value_name = "CONTROL")]
    control: PathBuf,
    /// Print everything that is counted, once, as JSON; with --hot after a look of --every seconds.
    #[arg(long)]
    json: bool,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
    /// How many of the addresses to show at which guest code is found most; 0 looks for none. Software CPU only [default: 10,
    /// with --json 0].
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u8).range(0..=100))]
    hot: Option<u8>,
}

impl TopArgs {
    fn hot_rows(&self) -> u8 {
        self.hot.unwrap_or(if self.json { 0 } else { HOT_ROWS })
    }
}

/// One look at everything that is to be shown.
fn look(client: &mut ControlClient, args: &TopArgs) -> Result<Value, Failure> {
    let mut stats = client.execute("x-ostler-stats", Value::Null)?;
    let rows = usize::from(args.hot_rows());
    if rows > 0 {
        let mut hot = client.execute("x-ostler-hot", json!({ "seconds": args.every }))?;
        if let Some(addresses) = hot.get_mut("addresses").and_then(Value::as_array_mut) {
            addresses.truncate(rows);
        }
        if let Some(stats) = stats.as_object_mut() {
            stats.insert("hot".into(), hot);
        }
    }
    Ok(stats)
}

/// Shows a guest's counters until it is over.
pub fn run(args: TopArgs) -> Result<ExitCode, Failure> {
    let mut client = ControlClient::connect(&args.control)?;
    let mut before = look(&mut client, &args)?;
    if args.json {
        if args.hot_rows() > 0 {
            sleep(Duration::from_secs(args.every));
            before = look(&mut client, &args)?;
        }
        // A reader that went away has seen enough.
        let _ = writeln!(io::stdout(), "{before:#}");
        return Ok(ExitCode::SUCCESS);
    }
    // Home and clear: the table is drawn over itself.
    let clear = if io::stdout().is_terminal() {
        "\x1b[H\x1b[2J"
    } else {
        ""
    };
    loop {
        sleep(Duration::from_secs(args.every));
        let Ok(now) = look(&mut client, &args) else {
            println!("the guest is over");
            return Ok(ExitCode::SUCCESS);
        };
        if write!(io::stdout(), "{clear}{}", table(&before, &now))
            .and_then(|()| io::stdout().flush())
            .is_err()
        {
            return Ok(ExitCode::SUCCESS);
        }
        before = now;
    }
}

/// The table of what happened between two looks.
fn table(before: &Value, now: &Value) -> String {
    let elapsed = difference(before, now, "/uptime-ns").unwrap_or(0).max(1) as f64 / 1e9;
    let text = |pointer: &str| {
        now.pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or("?")
            .to_owned()
    };
    let mut out = format!(
        "{}: {}, accelerator {}, up {:.0} s\n\n",
        text("/name"),
        text("/state"),
        text("/accelerator"),
        now["uptime-ns"].as_u64().unwrap_or(0) as f64 / 1e9
    );
    out += &vcpu_table(before, now, elapsed);
    out += &software::table(before, now, elapsed);
    out += &hot::table(&now["hot"]);
    out += &cause_table(before, now, elapsed, "exits");
    out += &cause_table(before, now, elapsed, "kicks");
    out + &device_table(before, now, elapsed)
}

fn vcpu_table(before: &Value, now: &Value, elapsed: f64) -> String {
    let mut out = format!(
        "{:<8}{:>9}{:>9}{:>9}{:>9}{:>11}{:>11}{:>9}\n",
        "CPU", "guest", "kernel", "user", "idle", "exits/s", "kicks/s", "MIPS"
    );
    for index in 0..now["vcpus"].as_array().map_or(0, Vec::len) {
        let at = |rest: &str| format!("/vcpus/{index}/{rest}");
        out += &format!("{:<8}", format!("vcpu{index}"));
        for place in ["guest", "kernel", "user", "idle"] {
            let share = difference(before, now, &at(&format!("time-ns/{place}")));
            out += &match share {
                Some(nanoseconds) => format!("{:>8.1}%", nanoseconds as f64 / elapsed / 1e7),
                None => format!("{:>9}", "n/a"),
            };
        }
        for group in ["exits", "kicks"] {
            out += &format!("{:>11.0}", sum(before, now, &at(group)) as f64 / elapsed);
        }
        out += &match difference(before, now, &at("instructions")) {
            Some(count) => format!("{:>9.1}\n", count as f64 / elapsed / 1e6),
            None => format!("{:>9}\n", "n/a"),
        };
    }
    out
}

/// The causes that occurred, of all CPUs together, and last those that are not counted here.
fn cause_table(before: &Value, now: &Value, elapsed: f64, group: &str) -> String {
    let mut out = format!("\n{:<20}{:>12}{:>16}\n", group, "per second", "in all");
    let Some(names) = now
        .pointer(&format!("/vcpus/0/{group}"))
        .and_then(Value::as_object)
    else {
        return out;
    };
    let cpus = now["vcpus"].as_array().map_or(0, Vec::len);
    let mut unavailable = String::new();
    for name in names.keys() {
        let pointer = |cpu: usize| format!("/vcpus/{cpu}/{group}/{name}");
        let rate: u64 = (0..cpus)
            .filter_map(|cpu| difference(before, now, &pointer(cpu)))
            .sum();
        let counts: Vec<u64> = (0..cpus)
            .filter_map(|cpu| now.pointer(&pointer(cpu)).and_then(Value::as_u64))
            .collect();
        let total: u64 = counts.iter().sum();
        if counts.is_empty() {
            unavailable += &format!("{name:<20}{:>12}{:>16}\n", "n/a", "n/a");
        } else if total > 0 {
            out += &format!("{name:<20}{:>12.0}{total:>16}\n", rate as f64 / elapsed);
        }
    }
    out + &unavailable
}

fn device_table(before: &Value, now: &Value, elapsed: f64) -> String {
    let columns = [
        "kicks",
        "interrupts",
        "requests",
        "bytes-to-guest",
        "bytes-from-guest",
    ];
    let mut out = format!("\n{:<12}", "device");
    for column in columns {
        out += &format!("{:>20}", format!("{column}/s"));
    }
    out.push('\n');
    for (index, device) in now["devices"].as_array().into_iter().flatten().enumerate() {
        out += &format!("{:<12}", device["name"].as_str().unwrap_or("?"));
        for column in columns {
            let change = difference(before, now, &format!("/devices/{index}/counters/{column}")).unwrap_or(0);
            out += &format!("{:>20.0}", change as f64 / elapsed);
        }
        out.push('\n');
    }
    out
}

/// How much a counter grew; `None` where it cannot be measured.
fn difference(before: &Value, now: &Value, pointer: &str) -> Option<u64> {
    let old = before.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    Some(now.pointer(pointer)?.as_u64()?.saturating_sub(old))
}

/// How much a group of counters grew.
fn sum(before: &Value, now: &Value, pointer: &str) -> u64 {
    let Some(group) = now.pointer(pointer).and_then(Value::as_object) else {
        return 0;
    };
    group
        .keys()
        .filter_map(|name| difference(before, now, &format!("{pointer}/{name}")))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn look(seconds: u64, guest: Value, halts: u64) -> Value {
        json!({
            "name": "g", "state": "running", "accelerator": "soft", "uptime-ns": seconds * 1_000_000_000,
            "vcpus": [{
                "exits": { "halt": halts, "doorbell": 0, "interrupt": null }, "kicks": { "timer": halts },
                "time-ns": { "guest": guest, "kernel": null, "user": 0, "idle": 0 }, "instructions": null,
            }],
            "devices": [{ "name": "disk0", "counters": { "kicks": halts, "requests": 2 * halts } }],
        })
    }

    #[test]
    fn rates_are_per_second_and_what_is_not_measured_says_so() {
        let text = table(&look(10, json!(0), 100), &look(12, json!(1_000_000_000), 300));
        let cpu = text.lines().find(|line| line.starts_with("vcpu0")).unwrap();
        assert!(
            cpu.contains("50.0%") && cpu.contains("n/a") && cpu.contains("100"),
            "{cpu}"
        );
        let halt = text.lines().find(|line| line.starts_with("halt")).unwrap();
        assert!(halt.contains("100") && halt.contains("300"), "{halt}");
        let interrupt = text.lines().find(|line| line.starts_with("interrupt")).unwrap();
        assert_eq!(interrupt.matches("n/a").count(), 2, "{interrupt}");
        assert!(
            !text.contains("doorbell"),
            "a cause that never occurred is left out"
        );
        assert!(
            text.lines()
                .any(|line| line.starts_with("disk0") && line.contains("200")),
            "{text}"
        );
    }

    #[test]
    fn any_answer_makes_a_table() {
        for value in [json!(null), json!({}), json!({ "vcpus": [1], "devices": [2] })] {
            table(&value, &value);
        }
    }
}
