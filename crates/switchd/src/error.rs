//! What can go wrong with a switch's process.

use std::io;
use std::path::PathBuf;

/// A configuration, a request or the host stands in the way.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration file is wrong. Nothing of it was used.
    #[error("\"{}\", line {line}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The configuration file cannot be read.
    #[error("cannot read the configuration \"{}\": {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A port that cannot be as it is described.
    #[error("port \"{port}\": {reason}")]
    Port {
        /// Its name.
        port: String,
        /// What is wrong.
        reason: String,
    },
    /// Something that the core refuses.
    #[error(transparent)]
    Switch(#[from] ostler_switch::Error),
    /// A name that cannot be.
    #[error(
        "\"{0}\" is no name of a switch or a port; write 1 to 64 letters, digits and the characters . _ - / :"
    )]
    Name(String),
    /// Nobody said where sockets go.
    #[error(
        "there is no folder for the control socket of switch \"{0}\": XDG_RUNTIME_DIR is not set; give its path instead of its name"
    )]
    NoFolder(String),
    /// The host refused.
    #[error("{what} \"{name}\": {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// On what.
        name: String,
        /// What the host said.
        source: io::Error,
    },
    /// The wait for events failed.
    #[error(transparent)]
    Worker(#[from] ostler_worker::Error),
    /// Nobody answers.
    #[error("no switch answers at \"{}\": {source}; start one with `ostler switch run`", path.display())]
    NoSwitch {
        /// Its control socket.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The switch refused a command.
    #[error("the switch refused {command}: {reason}")]
    Refused {
        /// Which.
        command: String,
        /// Its own words.
        reason: String,
    },
    /// The other end of the control socket says what makes no sense.
    #[error("what answers at the control socket is no switch: {0}")]
    Protocol(String),
}

impl Error {
    pub(crate) fn port(port: &str, reason: impl ToString) -> Self {
        Self::Port {
            port: port.into(),
            reason: reason.to_string(),
        }
    }
}
