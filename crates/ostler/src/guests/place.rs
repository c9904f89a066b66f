//! Which daemon is asked.

use std::path::PathBuf;

use clap::Args;
use ostler_daemon::{Scope, config};

use crate::daemon::{read_config, scope};
use crate::failure::Failure;

/// Options that all commands for guests have.
#[derive(Args)]
pub struct Place {
    /// Socket of the daemon [default: where it listens by its configuration].
    #[arg(long, value_name = "PATH", conflicts_with_all = ["system", "session"])]
    socket: Option<PathBuf>,
    /// The host's guests, as for root.
    #[arg(long, conflicts_with = "session")]
    system: bool,
    /// This user's own guests, as for anybody but root.
    #[arg(long)]
    session: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

impl Place {
    /// Sockets at which the daemon may listen, those of clients that may change things first.
    pub fn sockets(&self, only_look: bool) -> Result<Vec<PathBuf>, Failure> {
        let mut sockets = match &self.socket {
            Some(path) => vec![path.clone()],
            None => {
                let scope = if self.system {
                    Scope::System
                } else {
                    scope(self.session)
                };
                read_config(None, scope)?.unix.sockets
            }
        };
        if only_look {
            let others: Vec<_> = sockets.iter().map(|path| config::readonly(path)).collect();
            sockets.extend(others);
        }
        Ok(sockets)
    }
}
