//! Why a measurement failed.

use std::io;
use std::path::PathBuf;

/// One sentence each.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file that ./bench should have put there.
    #[error("cannot read {0}: {1}; start ./bench, which makes it")]
    Read(PathBuf, io::Error),
    /// The results could not be written.
    #[error("cannot write {0}: {1}")]
    Write(PathBuf, io::Error),
    /// A program could not be started.
    #[error("cannot start {0}: {1}")]
    Start(String, io::Error),
    /// A guest ended or hung before it said what was waited for.
    #[error("{side} did not say {wanted:?} ({reason}); the end of what it said:\n{tail}")]
    Silent {
        /// Who.
        side: &'static str,
        /// What was waited for.
        wanted: String,
        /// Ended, or too slow.
        reason: &'static str,
        /// Its last lines, standard error included.
        tail: String,
    },
    /// A guest said something that makes no sense.
    #[error("{side} said {line:?}, which is no result")]
    Nonsense {
        /// Who.
        side: &'static str,
        /// The line.
        line: String,
    },
    /// The host said no.
    #[error("{0} failed: {1}")]
    Host(&'static str, io::Error),
}
