//! `./bench cpu`: one program, one list of tests, run natively, in a guest on ours and in a guest on QEMU's TCG, in
//! alternating rounds.
//!
//! | file | holds |
//! |---|---|
//! | `place` | where the program runs, and reading what it says |
//! | `foreign` | programs of Debian's that the tests start, for the guest |
//! | `goals` | the bars, by group |
//! | `table` | medians, ratios, means, the table, the JSON |
//!
//! The tests themselves are in the guests' program, `tools/guest-bench/src/cpu/`.

mod foreign;
mod goals;
mod place;
mod table;

use std::fs;
use std::path::PathBuf;

use crate::error::Error;
use crate::{Common, report};
use place::{Files, Place};
use table::{Collected, Table};

/// Compares CPUs: a list of tests run natively, on ours and on QEMU's TCG.
#[derive(clap::Args, Debug)]
pub(crate) struct CpuOptions {
    /// How often everything is measured; medians are shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Milliseconds of a window; the best one counts.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    window: u32,
    /// Windows of a test.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    windows: u32,
    /// Only this test. Repeat for more.
    #[arg(long = "only", value_name = "TEST")]
    only: Vec<String>,
}

/// Measures, prints and writes. True if every bar is met.
pub(crate) fn run(common: &Common, options: &CpuOptions) -> Result<bool, Error> {
    let files = Files::prepare(common, options)?;
    let mut collected = Collected::default();
    for round in 1..=options.rounds {
        for place in Place::ALL {
            eprintln!("round {round} of {}: {}", options.rounds, place.name());
            for line in place::run(place, common, options, &files)? {
                collected.add(place, &line)?;
            }
        }
    }
    let table = Table::new(common, options, collected);
    print!("{}", table.text());
    let path = common
        .json
        .clone()
        .unwrap_or_else(|| PathBuf::from("target/bench-cpu.json"));
    report::write_json(&path, &table)?;
    println!("\nAll samples are in {}.", path.display());
    Ok(table.all_met())
}

fn read(path: &std::path::Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|e| Error::Read(path.into(), e))
}
