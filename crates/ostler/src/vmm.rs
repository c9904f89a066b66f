//! `ostler vmm`: the process of one guest.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use clap::Args;
use vmm_sys_util::signal::{Error as SignalError, block_signal, unblock_signal};

use crate::failure::Failure;

/// Options of the hidden subcommand.
#[derive(Args)]
pub struct VmmArgs {
    /// The guest's name; it only tells processes apart in a listing.
    name: Option<String>,
}

/// Runs the guest that is handed over on standard input.
pub fn run(args: VmmArgs) -> Result<(), Failure> {
    let _ = args.name;
    // It was started through /proc/self/exe, and would be listed as "exe".
    let _ = rustix::thread::set_name(c"ostler");
    // The parent blocked them for itself; here they mean what they mean in any process.
    for signal in crate::run::handled_signals() {
        unblock_signal(signal)
            .map_err(|e| Failure::failed(format!("the host refused to unblock a signal: {e:?}")))?;
    }
    // But what these mean for the guest is the parent's to decide. Blocked before there are threads, which inherit it.
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
        match block_signal(signal) {
            Ok(()) | Err(SignalError::SignalAlreadyBlocked(_)) => {}
            Err(error) => {
                return Err(Failure::failed(format!(
                    "the host refused to block a signal: {error:?}"
                )));
            }
        }
    }
    let socket = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|e| Failure::failed(format!("standard input is no socket: {e}")))?;
    ostler_vmm::process::run(UnixStream::from(socket)).map_err(|error| Failure::chained(&error))
}
