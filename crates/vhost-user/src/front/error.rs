//! What a back end can do wrong, for the user to read.

use std::io;

/// Why a back end is not used any more.
#[derive(Debug, thiserror::Error)]
pub enum BackEndError {
    /// It hung up.
    #[error("it closed the connection")]
    Closed,
    /// It does not answer, or does not read what it is sent.
    #[error("it does not answer request {0}")]
    Silent(u32),
    /// The device was stopped meanwhile.
    #[error("the device was stopped")]
    Stopped,
    /// An answer with another request, another version or another length than belongs to it.
    #[error("its answer to request {asked} is of request {request}, with flags {flags:#x} and {len} bytes")]
    Answer {
        /// What it was asked.
        asked: u32,
        /// What it says that it was asked.
        request: u32,
        /// The header's flags.
        flags: u32,
        /// Bytes behind the header.
        len: u32,
    },
    /// It was asked to acknowledge, and said no.
    #[error("it refuses request {0}")]
    Refused(u32),
    /// A message that nobody asked for.
    #[error("it sent a message that nobody asked for")]
    Unasked,
    /// It lacks virtio 1, or the protocol's own features.
    #[error("it offers the features {0:#x}, without virtio 1 or vhost-user's protocol features")]
    Features(u64),
    /// It has fewer rings than the device.
    #[error("it serves {0} rings, fewer than the device has")]
    Rings(u64),
    /// It used something that it was not given.
    #[error("it broke ring {ring}: {what}")]
    Ring {
        /// Which.
        ring: usize,
        /// How.
        what: &'static str,
    },
    /// Anything else that the host says.
    #[error("the host refused {what}: {source}")]
    Host {
        /// What was asked for.
        what: &'static str,
        /// What the host said.
        source: io::Error,
    },
}

impl BackEndError {
    /// An error of the host while `what` was asked for.
    pub(crate) fn host<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Host {
            what,
            source: source.into(),
        }
    }
}
