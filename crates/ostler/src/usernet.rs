//! `ostler usernet`: the process of one guest's user-mode network.
//!
//! A guest's process opens nothing after its start, and user-mode NAT opens sockets all the time: so it has a process of
//! its own, which ends with the guest's end of the cable.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::Child;

use clap::Args;
use ostler_launch::usernet::READY;
use ostler_usernet::{Config, Network};

use crate::failure::Failure;

/// Options of the hidden subcommand.
#[derive(Args)]
pub struct UsernetArgs {
    /// What the network is to be, in JSON.
    config: String,
}

/// A network's process. Dropping it ends it.
pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the process of the network that `config` describes, and returns the guest's end of its cable.
pub fn start(config: &Config) -> Result<(Process, UnixStream), Failure> {
    let (child, cable) = ostler_launch::usernet::start(config)?;
    Ok((Process(child), cable))
}

/// Runs the network whose cable is on standard input.
pub fn run(args: UsernetArgs) -> Result<(), Failure> {
    // It was started through /proc/self/exe, and would be listed as "exe".
    let _ = rustix::thread::set_name(c"usernet");
    let config: Config = serde_json::from_str(&args.config)
        .map_err(|error| Failure::bad_input(format!("no network is described by the argument: {error}")))?;
    let cable = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| Failure::failed(format!("standard input is no socket: {error}")))?;
    let opened = Network::open(config, cable);
    let line = match &opened {
        Ok(_) => READY.to_owned(),
        Err(error) => error.to_string(),
    };
    // Whoever started it may be gone; then so is the cable.
    let _ = writeln!(std::io::stdout(), "{line}");
    match opened {
        Ok(network) => network.run().map_err(|error| Failure::chained(&error)),
        // The one who started it says why.
        Err(_) => Ok(()),
    }
}
