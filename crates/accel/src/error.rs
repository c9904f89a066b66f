use std::io;

/// Why an accelerator could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host refused a call.
    #[error("the host refused to {action}: {source}")]
    Host {
        /// What was tried, as "create a vCPU".
        action: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// This accelerator, or this host, lacks something that is needed.
    #[error("{0}")]
    Unsupported(String),
    /// A state that no CPU of this model can be in.
    #[error("the CPU state cannot be taken over: {0}")]
    BadState(String),
}

impl Error {
    /// Wraps what the host said to `action`.
    pub fn host(action: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Host {
            action,
            source: source.into(),
        }
    }
}
