//! `./bench`: measures Ostler's guests beside the same guests on QEMU's TCG, in alternating runs, and prints a table.
//!
//! | file | holds |
//! |---|---|
//! | `plan` | which guests are started, and what each measures |
//! | `side` | how a guest is started on ours and on the peer |
//! | `running` | a guest that runs: its console lines with their times |
//! | `proc` | what the host's /proc says of it: CPU time, memory |
//! | `first` | a kernel of three instructions, for the time to the first one |
//! | `steps` | how many instructions the hash loop takes |
//! | `network` | the namespace and tap that all guests use |
//! | `report` | samples, medians, the table, the JSON |

mod error;
mod first;
mod network;
mod plan;
mod proc;
mod report;
mod running;
mod side;
mod steps;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use error::Error;

/// Measures guests of ours beside the same guests on QEMU, and prints a table.
#[derive(Parser, Debug)]
#[command(version)]
pub(crate) struct Options {
    /// How often everything is measured; medians are shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// How long each loop inside a guest runs.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// The accelerator for our guests: soft or kvm.
    #[arg(long, default_value = "soft")]
    accel: String,
    /// Measure the peer only (to try the tool itself).
    #[arg(long)]
    peer_only: bool,
    /// Writes the results, raw samples included, to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// The folder with vmlinuz and initrd.img.
    #[arg(long, default_value = "target/guest")]
    guest: PathBuf,
    /// Our program.
    #[arg(long, default_value = "target/release/ostler")]
    ostler: PathBuf,
    /// The peer's program.
    #[arg(long, default_value = "qemu-system-x86_64")]
    qemu: PathBuf,
    /// The program that runs in the guests, linked statically.
    #[arg(long, default_value = "target/guest-programs/release/ostler-guest-bench")]
    guest_bench: PathBuf,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::from(2)
        }
    }
}

/// True if every bar that was measured is met.
fn run(options: &Options) -> Result<bool, Error> {
    let report = plan::run(options)?;
    print!("{}", report.table());
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&report).map_err(|e| Error::Write(path.clone(), e.into()))?;
        std::fs::write(path, text + "\n").map_err(|e| Error::Write(path.clone(), e))?;
    }
    Ok(report.all_met())
}
