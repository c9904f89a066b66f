use std::io;

/// The host refused a thread, an event or a poll.
#[derive(Debug, thiserror::Error)]
#[error("the host refused {what} for a device: {source}")]
pub struct Error {
    /// What was asked for.
    pub what: &'static str,
    /// What the host said.
    pub source: io::Error,
}

impl Error {
    /// An error of the host while `what` was asked for.
    pub fn host(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { what, source }
    }
}
