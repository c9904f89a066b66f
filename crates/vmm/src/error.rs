use std::io;

/// Why a guest's process could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The specification asks for something that cannot be.
    #[error("{0}")]
    Specification(String),
    /// The host refused a call.
    #[error("the host refused to {action}: {source}")]
    Host {
        /// What was tried, as "start a thread".
        action: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// The other end of the hand-over or of the link does not follow the protocol.
    #[error("the process that started this one sent {0}; both must be the same version of ostler")]
    Protocol(String),
    /// A part of the machine could not be built or used.
    #[error("{what}: {source}")]
    Part {
        /// Which part, as "the disk of slot 2".
        what: String,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// Wraps what the host said to `action`.
    pub fn host(action: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Host {
            action,
            source: source.into(),
        }
    }

    /// Wraps what a part of the machine said.
    pub fn part(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Part {
            what: what.into(),
            source: source.into(),
        }
    }
}
