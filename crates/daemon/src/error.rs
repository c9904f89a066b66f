//! Why the daemon cannot start.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why the daemon cannot start.
#[derive(Debug, Error)]
pub enum Error {
    /// A file or folder.
    #[error("cannot {action} \"{path}\": {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The log of changes cannot be read, and may have definitions that are nowhere else.
    #[error(
        "the log of changes \"{}\" cannot be used: {why}; start and end the daemon once that wrote it, or move the file away to go on without it",
        path.display()
    )]
    ChangeLog {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
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
    /// A certificate, a key or a revocation list is of no use.
    #[error("\"{}\" is of no use for TLS: {why}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Somebody listens at the socket already.
    #[error("{who} listens at \"{}\"; end it first, or choose another socket", path.display())]
    SocketTaken {
        /// The socket.
        path: PathBuf,
        /// The process.
        who: String,
    },
    /// An address cannot be listened at.
    #[error("cannot listen at {address}: {source}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// What the host said.
        source: io::Error,
    },
    /// A socket of systemd's cannot be used.
    #[error("the socket \"{name}\" of systemd cannot be used: {why}")]
    Activation {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// There is no such group.
    #[error("there is no group \"{0}\"; make it with \"groupadd --system {0}\", or configure another")]
    NoGroup(String),
    /// Another daemon has the folder.
    #[error("another daemon uses \"{0}\"; stop it, or choose another folder by --runtime")]
    InUse(PathBuf),
    /// The host refused something else.
    #[error("the host refused to {action}: {source}")]
    Host {
        /// What was tried.
        action: &'static str,
        /// What the host said.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: `action` on `path` failed.
    pub(crate) fn file<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl Fn(E) -> Self {
        move |source| Self::File {
            action,
            path: path.into(),
            source: source.into(),
        }
    }
}
