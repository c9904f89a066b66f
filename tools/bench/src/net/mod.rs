//! `./bench net`: the switch and its way out beside the kernel's bridge, Open vSwitch, slirp4netns, and loops that only move frames.
//!
//! | file | holds |
//! |---|---|
//! | `space` | network namespaces with one interface each |
//! | `joint` | what joins two interfaces: our switch, a bare loop, the kernel's bridge, Open vSwitch |
//! | `bare` | the bare loops |
//! | `flood` | paced frames: CPU time of each, and the highest pace without loss |
//! | `stream` | how fast TCP is between two namespaces |
//! | `rings` | frames between rings in shared memory, as guests have them |
//! | `stations` | what many stations and VLANs cost in the core alone |
//! | `outside` | the way out of a network without privileges |
//! | `guests` | two guests that talk to each other |
//! | `table` | what is shown, and the bars |

mod bare;
mod flood;
mod guests;
mod joint;
mod outside;
mod rings;
pub(crate) mod space;
mod stations;
pub(crate) mod stream;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use crate::beside::{Figures, Table};
use crate::error::Error;
use crate::{Common, proc, report};
use joint::{Joint, Kind};
use space::Space;

/// Measures the switch and the user-mode network beside their peers.
#[derive(clap::Args, Debug)]
pub(crate) struct NetOptions {
    /// How often everything is measured; medians are shown.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of one measurement.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Only these groups.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Group>,
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    Rings,
    Ports,
    Tcp,
    Outside,
    Stations,
    Guests,
}

impl NetOptions {
    fn wants(&self, group: Group) -> bool {
        self.only.is_empty() || self.only.contains(&group)
    }

    fn span(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.clamp(0.1, 60.0))
    }
}

/// Measures, prints and writes. True if every bar is met.
pub(crate) fn run(common: &Common, options: &NetOptions) -> Result<bool, Error> {
    space::enter_hub()?;
    let free_cpus = proc::free_cpus(Duration::from_secs(1));
    let mut figures = Figures::default();
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        if options.wants(Group::Rings) {
            rings::measure(common, options.span(), &mut figures)?;
        }
        if options.wants(Group::Ports) {
            ports(common, options, &mut figures)?;
        }
        if options.wants(Group::Tcp) {
            tcp(common, options, &mut figures)?;
        }
        if options.wants(Group::Outside) {
            outside::measure(common, options.span(), &mut figures)?;
        }
        if options.wants(Group::Stations) {
            stations::measure(options.span(), &mut figures)?;
        }
        if options.wants(Group::Guests) {
            guests::measure(common, options.span(), &mut figures)?;
        }
    }
    let table = Table::new(table::LINES, free_cpus, options.rounds, options.seconds, &figures);
    print!("{}", table.text());
    let path = common.json.clone();
    let path = path.unwrap_or_else(|| PathBuf::from("target/bench-net.json"));
    report::write_json(&path, &table)?;
    println!("\nAll samples are in {}.", path.display());
    Ok(table.all_met())
}

/// Frames through two ports of each kind: CPU time of each frame, and the pace without loss.
fn ports(common: &Common, options: &NetOptions, figures: &mut Figures) -> Result<(), Error> {
    let (from, to) = (Space::new("bench-a", 1)?, Space::new("bench-b", 2)?);
    for kind in [Kind::Ours, Kind::Bare, Kind::OpenVswitch, Kind::Bridge] {
        let joint = Joint::of_interfaces(common, kind, [from.hub_end(), to.hub_end()])?;
        let path = flood::Path::between(&from, &to)?;
        flood::measure(&joint, "interface", kind, &path, options.span(), figures)?;
    }
    drop((from, to));
    for kind in [Kind::Ours, Kind::Bare, Kind::OpenVswitch] {
        let joint = Joint::of_taps(common, kind)?;
        let path = flood::Path::over_taps()?;
        flood::measure(&joint, "tap", kind, &path, options.span(), figures)?;
    }
    Ok(())
}

/// TCP between two namespaces.
fn tcp(common: &Common, options: &NetOptions, figures: &mut Figures) -> Result<(), Error> {
    for kind in [Kind::Ours, Kind::Bridge, Kind::OpenVswitch] {
        let (from, to) = (Space::new("bench-a", 1)?, Space::new("bench-b", 2)?);
        let _joint = Joint::of_interfaces(common, kind, [from.hub_end(), to.hub_end()])?;
        if kind == Kind::OpenVswitch {
            // Its datapath in user space passes on checksums that nobody computed.
            from.leave_nothing_undone()?;
            to.leave_nothing_undone()?;
        }
        let rate = stream::rate(&from, &to, options.span())?;
        figures.add("tcp", kind.name(), rate);
    }
    Ok(())
}
