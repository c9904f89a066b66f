//! `ostler net uplink`: the host's own way out as a port of a bridge.

use std::os::fd::AsFd;
use std::time::Duration;

use clap::Subcommand;
use ostler_hostnet::Kernel;

use super::host::failure;
use super::model::Kind;
use super::places::Places;
use crate::failure::{Failure, say};

/// How long a user has to confirm that he is not cut off.
const PATIENCE: Duration = Duration::from_secs(60);

/// What can be asked of uplinks.
#[derive(Subcommand)]
pub enum UplinkCommand {
    /// Make the host's interface a port, with its addresses and routes moved to the bridge. It is undone after a minute unless you
    /// type `yes`.
    Join {
        /// The network, a bridge of the kernel.
        network: String,
        /// The interface.
        interface: String,
    },
    /// Take it out again, with the bridge's addresses and routes.
    Leave {
        /// The network.
        network: String,
        /// The interface.
        interface: String,
    },
}

/// Refuses networks whose own interface cannot have the host's addresses.
fn check(network: &str, places: &Places) -> Result<(), Failure> {
    match places.find(network)?.kind() {
        Kind::Bridge => Ok(()),
        other => Err(Failure::bad_input(format!(
            "`{network}` is {other}, and an uplink joins a bridge of the kernel only; add the interface by `ostler net port add`, which \
             leaves addresses and routes alone"
        ))),
    }
}

/// Does what the user asks for.
pub fn run(command: UplinkCommand, places: &Places) -> Result<(), Failure> {
    match command {
        UplinkCommand::Leave { network, interface } => {
            check(&network, places)?;
            let mut kernel = Kernel::open().map_err(failure)?;
            kernel.leave_uplink(&network, &interface).map_err(failure)
        }
        UplinkCommand::Join { network, interface } => {
            check(&network, places)?;
            join(&network, &interface)
        }
    }
}

fn join(network: &str, interface: &str) -> Result<(), Failure> {
    // A connection that breaks must not end us before the change is undone: the end of input tells.
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGQUIT] {
        // SAFETY: ignoring a signal installs no handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let mut kernel = Kernel::open().map_err(failure)?;
    let joined = kernel.join_uplink(network, interface).map_err(failure)?;
    say(format_args!(
        "{interface} is a port of {network} now; type yes within {} seconds to keep that",
        PATIENCE.as_secs()
    ));
    let confirmed = joined.confirm_by(std::io::stdin().as_fd(), PATIENCE);
    match confirmed.map_err(failure)? {
        true => Ok(()),
        false => Err(Failure::bad_input(format!(
            "nobody confirmed, so {interface} has its addresses and routes back"
        ))),
    }
}
