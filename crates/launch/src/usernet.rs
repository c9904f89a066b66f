//! Starting the process of a guest's user-mode network.

use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use ostler_usernet::Config;

use crate::Error;

/// What the process says once its ports are open; anything else is why they are not.
pub const READY: &str = "ready";

/// Starts the process of the network that `config` describes, and returns the guest's end of its cable. The process ends when that
/// is closed.
pub fn start(config: &Config) -> Result<(Child, UnixStream), Error> {
    let refused = |error| {
        Error::Failed(format!(
            "cannot start the process of the user-mode network: {error}"
        ))
    };
    let (ours, theirs) = UnixStream::pair().map_err(refused)?;
    let config = serde_json::to_string(config).map_err(|error| refused(error.into()))?;
    let mut child = Command::new("/proc/self/exe")
        .arg0("ostler")
        .args(["usernet", "--", &config])
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::piped())
        // Keys that send signals in the terminal are for the guest's parent.
        .process_group(0)
        .spawn()
        .map_err(refused)?;
    let mut line = String::new();
    let read = match child.stdout.take() {
        Some(stdout) => BufReader::new(stdout).read_line(&mut line).map(drop),
        None => Ok(()),
    };
    let why = match (read, line.trim_end()) {
        (Ok(()), READY) => return Ok((child, ours)),
        (Err(error), _) => refused(error),
        (Ok(()), "") => {
            Error::Failed("the process of the user-mode network ended before it was ready".into())
        }
        (Ok(()), why) => Error::Input(why.into()),
    };
    let _ = child.kill();
    let _ = child.wait();
    Err(why)
}
