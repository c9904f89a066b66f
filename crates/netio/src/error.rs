//! What can go wrong with a network back end.

use std::io;

/// Why a back end cannot be opened or went away.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No tap of that name exists, and none was made.
    #[error("the tap {name:?} does not exist; make it with: ip tuntap add {name} mode tap")]
    NoTap {
        /// The interface asked for.
        name: String,
    },
    /// Someone else is attached to the tap.
    #[error("the tap {name:?} is in use by another guest; stop that guest or give this one another tap")]
    TapBusy {
        /// The interface asked for.
        name: String,
    },
    /// An interface of another kind.
    #[error("the interface {name:?} is no tap; make one with: ip tuntap add NAME mode tap")]
    NotATap {
        /// The interface asked for.
        name: String,
    },
    /// An interface name that Linux does not allow.
    #[error("{name:?} is no interface name: 1 to 15 characters without '/' and blanks")]
    Name {
        /// The name.
        name: String,
    },
    /// The host refused a step of setting a back end up.
    #[error("{what} failed for {name}: {source}")]
    Setup {
        /// The step.
        what: &'static str,
        /// The interface or socket.
        name: String,
        /// What the host said.
        source: io::Error,
    },
    /// A queue pair that the back end has not, or that is open already.
    #[error("queue pair {index} is not there or open already; the back end has {pairs}")]
    NoQueue {
        /// The pair asked for.
        index: usize,
        /// How many there are.
        pairs: usize,
    },
    /// Offloads that the back end does not have.
    #[error("the network back end cannot do the offloads {0:?}")]
    Offloads(crate::Offloads),
    /// Only a card at a switch has a plug.
    #[error("the card is not at a switch, and has no plug to replace")]
    NoPlug,
    /// The peer is gone; the link is down from now on.
    #[error("the network peer closed the connection")]
    Closed,
    /// The host failed while moving frames.
    #[error("moving frames failed: {0}")]
    Io(#[from] io::Error),
}
