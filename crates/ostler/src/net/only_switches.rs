//! What only switches of ours have: multicast groups, mirrors, routers with leases.

use clap::Subcommand;
use serde_json::{Value, json};

use super::places::Places;
use super::{Shown, shown, tables};
use crate::failure::Failure;

/// What can be asked of a switch of ours.
#[derive(Subcommand)]
pub enum SwitchCommand {
    /// Who is in which multicast group, and who asks. Only at switches of ours.
    Groups {
        /// The network.
        network: String,
        /// Only those of this port.
        #[arg(long)]
        port: Option<String>,
        /// Only those in this VLAN.
        #[arg(long, value_name = "N")]
        vlan: Option<u16>,
    },
    /// Copies of some ports' frames for another port: list, add, remove. Only at switches of ours.
    #[command(subcommand)]
    Mirror(MirrorCommand),
    /// The addresses that routers gave to guests. Only at switches of ours.
    Leases {
        /// The network.
        network: String,
        /// Only those of the router at this port.
        #[arg(long)]
        port: Option<String>,
    },
}

#[derive(Subcommand)]
pub enum MirrorCommand {
    /// The mirrors.
    List {
        /// The network.
        network: String,
    },
    /// Copy the frames of ports to another one, which does nothing else from then on.
    Add {
        /// The network.
        network: String,
        /// The port that sends the copies.
        to: String,
        /// Copy what these ports receive.
        #[arg(
            long,
            value_name = "PORTS",
            value_delimiter = ',',
            required_unless_present = "egress"
        )]
        ingress: Vec<String>,
        /// Copy what these ports send.
        #[arg(long, value_name = "PORTS", value_delimiter = ',')]
        egress: Vec<String>,
    },
    /// End the mirror to a port, which is an ordinary one again.
    Remove {
        /// The network.
        network: String,
        /// The port.
        to: String,
    },
}

/// Does what the user asks for.
pub fn run(command: SwitchCommand, places: &Places) -> Result<Option<Shown>, Failure> {
    let ask = |network: &str, command: &str, arguments: Value| {
        places.find(network)?.execute(network, command, arguments)
    };
    Ok(match command {
        SwitchCommand::Groups { network, port, vlan } => {
            let answer = ask(&network, "groups", json!({ "port": port, "vlan": vlan }))?;
            Some(shown(&answer, tables::groups(&answer)))
        }
        SwitchCommand::Leases { network, port } => {
            let answer = ask(&network, "leases", json!({ "port": port }))?;
            Some(shown(&answer, tables::leases(&answer)))
        }
        SwitchCommand::Mirror(MirrorCommand::List { network }) => {
            let answer = ask(&network, "mirrors", Value::Null)?;
            Some(shown(&answer, tables::mirrors(&answer)))
        }
        SwitchCommand::Mirror(MirrorCommand::Add {
            network,
            to,
            ingress,
            egress,
        }) => {
            let arguments = json!({ "to": to, "ingress": ingress, "egress": egress });
            ask(&network, "mirror-set", arguments)?;
            None
        }
        SwitchCommand::Mirror(MirrorCommand::Remove { network, to }) => {
            ask(&network, "mirror-clear", json!({ "port": to }))?;
            None
        }
    })
}
