//! `ostler net stp`: the spanning tree of a network.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::model::{Kind, Network, PortStp, Stp};
use super::network::TreeArgs;
use super::places::Places;
use super::{Shown, shown, tables};
use crate::failure::Failure;

/// Options of `ostler net stp`.
#[derive(Args)]
pub struct StpArgs {
    /// The network.
    network: String,
    #[command(subcommand)]
    command: Option<StpCommand>,
}

#[derive(Subcommand)]
enum StpCommand {
    /// The bridge's part, and that of each port.
    Show,
    /// Change the bridge's part. That of a port is changed by `ostler net port set`.
    Set(TreeArgs),
}

/// The spanning tree of a network.
#[derive(Serialize)]
pub struct Tree {
    pub name: String,
    pub kind: Kind,
    pub stp: Stp,
    pub ports: Vec<Leaf>,
}

/// A port's part in it.
#[derive(Serialize)]
pub struct Leaf {
    pub name: String,
    pub stp: Option<PortStp>,
}

impl From<Network> for Tree {
    fn from(network: Network) -> Self {
        let leaf = |port: super::model::Port| Leaf {
            name: port.name,
            stp: port.stp,
        };
        Self {
            name: network.name,
            kind: network.kind,
            stp: network.stp,
            ports: network.ports.into_iter().map(leaf).collect(),
        }
    }
}

/// Does what the user asks for.
pub fn run(args: StpArgs, places: &Places) -> Result<Option<Shown>, Failure> {
    let mut back_end = places.find(&args.network)?;
    match args.command.unwrap_or(StpCommand::Show) {
        StpCommand::Show => {
            let tree = Tree::from(back_end.network(&args.network)?);
            Ok(Some(shown(&tree, tables::tree(&tree))))
        }
        StpCommand::Set(tree) => {
            back_end.set(&args.network, tree.wish())?;
            Ok(None)
        }
    }
}
