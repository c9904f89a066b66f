//! `./bench loop`: what a guest's I/O costs by the devices of a PC and by virtio: exits by cause, and microseconds.
//!
//! | file | holds |
//! |---|---|
//! | `operation` | what is done again and again, and what the guest is asked for it |
//! | `contender` | who runs the guest, and by which command |
//! | `cable` | the peer of the guest's cards, the same for all contenders |
//! | `session` | one guest, from its start through all operations |
//! | `counters` | everything that is counted at one moment, and differences |
//! | `registers` | the names of registers by their addresses |
//! | `table` | medians, the tables, the JSON |
//!
//! The guest's part is `tools/guest-bench/src/io_loop.rs`.

mod cable;
mod contender;
mod counters;
mod operation;
mod registers;
mod session;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use crate::error::Error;
use crate::{Common, proc, report};
use contender::{Contender, Files};
use operation::Counts;
use table::{Results, Table};

/// Shows what a guest's I/O costs: exits by cause, and microseconds.
#[derive(clap::Args, Debug)]
pub(crate) struct LoopOptions {
    /// How often everything is measured; medians are shown.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Few operations, one round: to see that it works.
    #[arg(long)]
    quick: bool,
    /// Leave QEMU out.
    #[arg(long)]
    ours_only: bool,
}

impl LoopOptions {
    fn rounds(&self) -> u32 {
        if self.quick { 1 } else { self.rounds }
    }

    fn counts(&self) -> Counts {
        if self.quick { Counts::QUICK } else { Counts::FULL }
    }
}

/// Measures, prints and writes.
pub(crate) fn run(common: &Common, options: &LoopOptions) -> Result<bool, Error> {
    let (contenders, left_out) = Contender::all(common, options.ours_only)?;
    if let Some(reason) = &left_out {
        eprintln!("LEFT OUT KVM: {reason}");
    }
    let free_cpus = proc::free_cpus(Duration::from_secs(1));
    let (files, counts) = (Files::prepare(common)?, options.counts());
    let mut results = Results::default();
    for round in 1..=options.rounds() {
        for contender in &contenders {
            eprintln!("round {round} of {}: {}", options.rounds(), contender.name());
            session::run(common, *contender, &files, counts, round, &mut results)?;
        }
    }
    let table = Table::new(&contenders, left_out, free_cpus, options.rounds(), results);
    print!("{}", table.text());
    let path = common.json.clone();
    let path = path.unwrap_or_else(|| PathBuf::from("target/bench-loop.json"));
    report::write_json(&path, &table)?;
    println!("\nAll samples are in {}.", path.display());
    Ok(true)
}
