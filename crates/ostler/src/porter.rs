//! `ostler porter`: the process that connects what a guest's own process asks for through its plugs.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use crate::failure::Failure;

/// Serves the plugs that are handed over on standard input.
pub fn run() -> Result<(), Failure> {
    // It was started through /proc/self/exe, and would be listed as "exe".
    let _ = rustix::thread::set_name(c"porter");
    let link = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| Failure::failed(format!("standard input is no socket: {error}")))?;
    Ok(ostler_launch::porter::run(UnixStream::from(link))?)
}
