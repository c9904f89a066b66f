//! `ostler net host network`: bridges of the kernel with the host's address and rules of its firewall.

use clap::Subcommand;
use ostler_hostnet::{BridgeSettings, Error, Forward, Kernel, Network, Ports, Subnet};

use super::host::BridgeArgs;

/// What the user asks for.
#[derive(Subcommand)]
pub enum NetworkCommand {
    /// The networks.
    List,
    /// Make a network: a bridge of the kernel, the host's address at it, and rules of the firewall.
    Create {
        /// The network's name, and the bridge's.
        name: String,
        /// The host's address there, such as 10.9.0.1/24.
        #[arg(long, value_name = "ADDRESS/BITS")]
        address: Subnet,
        #[command(flatten)]
        rules: RuleArgs,
        #[command(flatten)]
        settings: BridgeArgs,
    },
    /// Give a bridge that has an address other rules, all at once.
    Set {
        /// The bridge.
        name: String,
        #[command(flatten)]
        rules: RuleArgs,
    },
    /// End a network: its bridge and its rules. Ports are left to the host.
    Delete {
        /// The network's name.
        name: String,
    },
}

/// Whom a network's stations reach.
#[derive(clap::Args)]
pub struct RuleArgs {
    /// nat: others by the host's address, and only answers come in; route: others, and others them, by their own addresses; isolated:
    /// each other and the host; open: what the host's own rules say.
    #[arg(long, value_name = "MODE", default_value = "nat")]
    forward: Forward,
    /// For nat: the host's ports that TCP and UDP leave by. [default: 1024-65535]
    #[arg(long, value_name = "FIRST-LAST")]
    ports: Option<Ports>,
    /// For nat and route: the only interface by which packets leave and come in. [default: as the host's routes say]
    #[arg(long, value_name = "INTERFACE")]
    out: Option<String>,
}

impl RuleArgs {
    fn network(self, name: String, address: Subnet) -> Network {
        Network {
            name,
            forward: self.forward,
            address,
            ports: self.ports.unwrap_or_default(),
            out: self.out,
        }
    }
}

/// Does it; a list is what there is to be shown.
pub fn execute(command: NetworkCommand) -> Result<Option<Vec<Network>>, Error> {
    let mut kernel = Kernel::open()?;
    match command {
        NetworkCommand::List => return kernel.networks().map(Some),
        NetworkCommand::Create {
            name,
            address,
            rules,
            settings,
        } => {
            let settings: BridgeSettings = settings.settings();
            kernel.create_network(&rules.network(name, address), &settings)?;
        }
        NetworkCommand::Set { name, rules } => {
            let address = kernel.address_of(&name)?;
            kernel.set_network(&rules.network(name, address))?;
        }
        NetworkCommand::Delete { name } => kernel.delete_network(&name)?,
    }
    Ok(None)
}
