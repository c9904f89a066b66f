//! `./bench daemon`: `ostler daemon` beside Debian's libvirtd, both called by the same client over their unix sockets.

mod client;
mod crowd;
mod echo;
mod host;
mod peer;
mod table;
mod tls;
mod work;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::beside::{Figures, Table};
use crate::error::Error;
use crate::{Common, proc, report};
use host::Host;
use table::Whose;

/// Where both keep what lasts, on one file system.
const FOLDER: &str = "target/bench-daemon";
/// Guests, as the bars have it.
const DOMAINS: u32 = 1_000;
/// Guests of a host that has many.
const MANY: u32 = 10_000;

/// Measures the daemon beside libvirtd.
#[derive(clap::Args, Debug)]
pub(crate) struct DaemonOptions {
    /// How often everything is measured; medians are shown.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each measurement of a rate.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
}

/// Measures, prints and writes. True if every bar is met.
pub(crate) fn run(common: &Common, options: &DaemonOptions) -> Result<bool, Error> {
    host::enter()?;
    let free_cpus = proc::free_cpus(Duration::from_secs(1));
    let mut figures = Figures::default();
    let span = Duration::from_secs(options.seconds.into());
    for round in 1..=options.rounds {
        for whose in [Whose::Ours, Whose::Libvirtd] {
            eprintln!("round {round} of {}: {}", options.rounds, whose.name());
            let folder = place(whose)?;
            clear(&folder)?;
            both(common, &folder, whose, span, &mut figures)?;
        }
        eprintln!("round {round} of {}: ours alone", options.rounds);
        let folder = place(Whose::Ours)?;
        clear(&folder)?;
        ours_alone(common, &folder, span, &mut figures)?;
    }
    let _ = fs::remove_dir_all(FOLDER);
    let table = Table::new(
        table::LINES,
        free_cpus,
        options.rounds,
        options.seconds.into(),
        &figures,
    );
    print!("{}", table.text());
    let path = common.json.clone();
    let path = path.unwrap_or_else(|| PathBuf::from("target/bench-daemon.json"));
    report::write_json(&path, &table)?;
    println!("\nAll samples are in {}.", path.display());
    Ok(table.all_met())
}

/// The folder of a daemon.
fn place(whose: Whose) -> Result<PathBuf, Error> {
    let folder = Path::new(FOLDER).join(whose.name());
    std::path::absolute(&folder).map_err(|e| Error::Write(folder, e))
}

/// Nothing is left of an earlier daemon.
fn clear(folder: &Path) -> Result<(), Error> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).map_err(|e| Error::Write(folder.into(), e))
}

/// What is measured on both.
fn both(
    common: &Common,
    folder: &Path,
    whose: Whose,
    span: Duration,
    figures: &mut Figures,
) -> Result<(), Error> {
    let name = whose.name();
    let host = Host::start(common, whose, folder, "")?;
    figures.add("fresh", name, host.memory_mib());
    let mut client = host.client()?;
    figures.add("sequential", name, work::sequential(&mut client, span)?);
    figures.add("pipelined", name, work::pipelined(&mut client, span)?);
    figures.add("define", name, work::define(&mut client, 0..DOMAINS)?);
    figures.add("list", name, work::list_with_states(&mut client, DOMAINS)?);
    figures.add("stats", name, work::all_stats(&mut client, DOMAINS)?);
    drop(client);
    figures.add("full", name, host.memory_mib());
    let crowd = crowd::call(&host, span)?;
    figures.add("crowd", name, crowd.rate);
    figures.add("least", name, crowd.least_over_mean);
    host.stop()?;
    let (host, seconds) = Host::restart(common, whose, folder, "")?;
    figures.add("restart", name, seconds);
    host.stop()?;
    if whose == Whose::Ours {
        figures.add("sequential", table::ECHO, echo::sequential(folder, span)?);
    }
    Ok(())
}

/// What only ours is asked for.
fn ours_alone(common: &Common, folder: &Path, span: Duration, figures: &mut Figures) -> Result<(), Error> {
    let name = Whose::Ours.name();
    let keys = tls::Keys::make(folder)?;
    let host = Host::start(common, Whose::Ours, folder, &keys.configuration())?;
    figures.add("tls", name, keys.connections(span)?);
    figures.add("start", name, work::first_instruction(host.client()?, folder)?);
    let mut client = host.client()?;
    work::define(&mut client, 0..MANY)?;
    figures.add("many", name, work::list(&mut client, MANY)?);
    drop(client);
    host.stop()
}
