//! What can go wrong with a user-mode network as a whole; a guest's connections fail by themselves.

use std::io;
use std::net::SocketAddr;

/// Why the network cannot start, or has ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A forwarded port cannot be had.
    #[error("cannot forward the host's {transport} port {listen}: {source}; choose another port")]
    Forward {
        /// `TCP` or `UDP`.
        transport: &'static str,
        /// The port with its address.
        listen: SocketAddr,
        /// What the host said.
        source: io::Error,
    },
    /// The host failed while waiting for something to happen.
    #[error("waiting for the network's sockets failed: {0}")]
    Wait(#[source] io::Error),
    /// There is no cable to a switch of the same process.
    #[error("cannot make the network's cable: {0}; the host may be out of descriptors")]
    Pipe(#[source] io::Error),
    /// The guest's process wrote what is no frame.
    #[error("the guest's side of the network sent a frame of {0} bytes")]
    Cable(usize),
}
