//! `ostler net tap`: taps of the host, for guests.

use clap::Subcommand;
use ostler_hostnet::{Kernel, TapSpec};

use super::back_end::PortWish;
use super::host::failure;
use super::places::Places;
use super::port::Place;
use super::{Shown, shown, tables};
use crate::failure::Failure;

/// What can be asked of taps.
#[derive(Subcommand)]
pub enum TapCommand {
    /// All taps.
    List,
    /// Make a tap that stays.
    Add {
        /// Its name.
        name: String,
        /// The network that it becomes a port of.
        #[arg(long, value_name = "NAME")]
        network: Option<String>,
        /// The number of the user who may open it.
        #[arg(long, value_name = "UID")]
        owner: Option<u32>,
        /// The number of the group that may.
        #[arg(long, value_name = "GID")]
        group: Option<u32>,
        /// Several queue pairs.
        #[arg(long)]
        multi_queue: bool,
    },
    /// End a tap.
    Remove {
        /// Its name.
        name: String,
    },
}

/// Does what the user asks for.
pub fn run(command: TapCommand, places: &Places) -> Result<Option<Shown>, Failure> {
    let mut kernel = Kernel::open().map_err(failure)?;
    match command {
        TapCommand::List => {
            let taps = kernel.taps().map_err(failure)?;
            return Ok(Some(shown(&taps, tables::taps(&taps))));
        }
        TapCommand::Add {
            name,
            network,
            owner,
            group,
            multi_queue,
        } => {
            let back_end = network.as_ref().map(|network| places.find(network)).transpose()?;
            let spec = TapSpec {
                name: name.clone(),
                owner,
                group,
                multi_queue,
                bridge: None,
            };
            kernel.create_tap(&spec).map_err(failure)?;
            if let (Some(network), Some(mut back_end)) = (network, back_end) {
                let added = back_end.add_port(&network, &name, Place::Interface(None), PortWish::default());
                if let Err(cause) = added {
                    return Err(match kernel.delete_tap(&name) {
                        Ok(()) => cause,
                        Err(error) => Failure::failed(format!(
                            "{}; and the tap {name} could not be taken away again: {error}",
                            cause.message
                        )),
                    });
                }
            }
        }
        TapCommand::Remove { name } => kernel.delete_tap(&name).map_err(failure)?,
    }
    Ok(None)
}
