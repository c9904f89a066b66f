//! `ostler net fdb`: the forwarding table of a network.

use clap::{Args, Subcommand};
use ostler_hostnet::Mac;

use super::back_end::Which;
use super::places::Places;
use super::tables;
use super::{Shown, shown};
use crate::failure::Failure;

/// Options of `ostler net fdb`.
#[derive(Args)]
pub struct FdbArgs {
    /// The network.
    network: String,
    #[command(flatten)]
    which: WhichArgs,
    #[command(subcommand)]
    command: Option<FdbCommand>,
}

#[derive(Args)]
struct WhichArgs {
    /// Only stations at this port.
    #[arg(long)]
    port: Option<String>,
    /// Only stations in this VLAN.
    #[arg(long, value_name = "N")]
    vlan: Option<u16>,
}

#[derive(Subcommand)]
enum FdbCommand {
    /// The stations that are known.
    Show {
        #[command(flatten)]
        which: WhichArgs,
    },
    /// Enter a station that does not age.
    Add {
        /// The station's address.
        mac: Mac,
        /// Its port.
        #[arg(long)]
        port: String,
        /// Its VLAN. [default: 1 at a switch of ours, the untagged frames' elsewhere]
        #[arg(long, value_name = "N")]
        vlan: Option<u16>,
    },
    /// Take a station out, however it came in.
    Remove {
        /// The station's address.
        mac: Mac,
        #[command(flatten)]
        which: WhichArgs,
    },
    /// Forget the stations that were learned.
    Flush {
        #[command(flatten)]
        which: WhichArgs,
    },
}

impl WhichArgs {
    /// What is said here, or in front of the subcommand.
    fn or(self, before: Self) -> Which {
        Which {
            port: self.port.or(before.port),
            vlan: self.vlan.or(before.vlan),
        }
    }
}

/// Does what the user asks for.
pub fn run(args: FdbArgs, places: &Places) -> Result<Option<Shown>, Failure> {
    let (network, before) = (args.network, args.which);
    let mut back_end = places.find(&network)?;
    let nothing = WhichArgs {
        port: None,
        vlan: None,
    };
    match args.command.unwrap_or(FdbCommand::Show { which: nothing }) {
        FdbCommand::Show { which } => {
            let stations = back_end.stations(&network, &which.or(before))?;
            return Ok(Some(shown(&stations, tables::stations(&stations))));
        }
        FdbCommand::Add { mac, port, vlan } => {
            back_end.add_station(&network, &port, mac, vlan.or(before.vlan))?;
        }
        FdbCommand::Remove { mac, which } => back_end.remove_station(&network, mac, &which.or(before))?,
        FdbCommand::Flush { which } => back_end.flush(&network, &which.or(before))?,
    }
    Ok(None)
}
