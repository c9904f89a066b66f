//! `./bench`: measures Ostler's guests beside the same guests on QEMU's TCG, in alternating runs, and prints a table.
//!
//! | file | holds |
//! |---|---|
//! | `plan` | which guests are started, and what each measures |
//! | `rows` | the table of the bars, from those samples |
//! | `cpu/` | `./bench cpu`: the comparison of CPUs by a list of tests |
//! | `io_loop/` | `./bench loop`: what a guest's I/O costs, by the devices of a PC and by virtio |
//! | `beside` | things of ours beside the same things of others, in a table |
//! | `throughput/` | `./bench io`: how much virtio disks and cards carry |
//! | `daemon/` | `./bench daemon`: the daemon beside libvirtd |
//! | `net/` | `./bench net`: the switch and its way out beside their peers |
//! | `side` | how a guest is started on ours and on the peer |
//! | `running` | a guest that runs: its console lines with their times |
//! | `proc` | what the host's /proc says: CPU time, memory, free CPUs |
//! | `first` | a kernel of three instructions, for the time to the first one |
//! | `starting/` | `./bench start`: the way to firmware, to a kernel on a disk, and of a disk into a guest that runs |
//! | `control` | a client of a guest's control socket |
//! | `steps` | how many instructions the hash loop takes |
//! | `network` | the namespace and tap that all guests use |
//! | `report` | samples, medians, the table, the JSON |

mod beside;
mod control;
mod cpu;
mod daemon;
mod error;
mod first;
mod io_loop;
mod net;
mod network;
mod plan;
mod proc;
mod report;
mod rows;
mod running;
mod side;
mod starting;
mod steps;
mod throughput;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use error::Error;

/// Measures guests of ours beside the same guests on QEMU, and prints a table.
#[derive(Parser, Debug)]
#[command(version)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    common: Common,
    /// How often everything is measured; medians are shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// How long each loop inside a guest runs.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Measure the peer only (to try the tool itself).
    #[arg(long)]
    peer_only: bool,
}

#[derive(Subcommand, Debug)]
enum Command {
    Cpu(cpu::CpuOptions),
    Loop(io_loop::LoopOptions),
    Net(net::NetOptions),
    Io(throughput::IoOptions),
    Daemon(daemon::DaemonOptions),
    Start(starting::StartOptions),
}

/// Options of all benchmarks.
#[derive(Args, Debug)]
pub(crate) struct Common {
    /// The accelerator for our guests: soft or kvm.
    #[arg(long, global = true, default_value = "soft")]
    accel: String,
    /// Where the results go, raw samples included. [default: target/bench.json, target/bench-cpu.json, target/bench-loop.json, target/bench-net.json, target/bench-io.json, target/bench-daemon.json, target/bench-start.json]
    #[arg(long, global = true)]
    json: Option<PathBuf>,
    /// The folder with vmlinuz and initrd.img.
    #[arg(long, global = true, default_value = "target/guest")]
    guest: PathBuf,
    /// Our program.
    #[arg(long, global = true, default_value = "target/release/ostler")]
    ostler: PathBuf,
    /// The peer's program.
    #[arg(long, global = true, default_value = "qemu-system-x86_64")]
    qemu: PathBuf,
    /// The program that runs in the guests, linked statically.
    #[arg(
        long,
        global = true,
        default_value = "target/guest-programs/release/ostler-guest-bench"
    )]
    guest_bench: PathBuf,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let met = match &options.command {
        Some(Command::Cpu(cpu)) => cpu::run(&options.common, cpu),
        Some(Command::Loop(options_of_loop)) => io_loop::run(&options.common, options_of_loop),
        Some(Command::Net(options_of_net)) => net::run(&options.common, options_of_net),
        Some(Command::Io(options_of_io)) => throughput::run(&options.common, options_of_io),
        Some(Command::Daemon(options_of_daemon)) => daemon::run(&options.common, options_of_daemon),
        Some(Command::Start(options_of_start)) => starting::run(&options.common, options_of_start),
        None => run(&options),
    };
    match met {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::from(2)
        }
    }
}

/// True if every bar was measured and is met.
fn run(options: &Options) -> Result<bool, Error> {
    let report = plan::run(options)?;
    print!("{}", report.table());
    let path = options.common.json.clone();
    let path = path.unwrap_or_else(|| PathBuf::from("target/bench.json"));
    report::write_json(&path, &report)?;
    println!("\nAll samples are in {}.", path.display());
    Ok(report.all_met())
}
