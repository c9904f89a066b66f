//! Why there is nothing to start.

use std::io;

/// What was wrong with an image. Each is a sentence that goes on after "the disk F ".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image itself.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// What was read could not be passed on.
    #[error("cannot be copied from: {0}")]
    Write(io::Error),
    /// No configuration of a boot loader. The text says what there is instead.
    #[error("has no GRUB configuration and no boot loader entries ({0})")]
    NoSystem(String),
    /// A file that the configuration names.
    #[error("names the {what} \"{path}\" for \"{title}\", which is not there")]
    Missing {
        /// The system's title.
        title: String,
        /// Kernel or initial RAM disk.
        what: &'static str,
        /// Its path.
        path: String,
    },
    /// A file above its bound.
    #[error("has a file \"{path}\" of {size} bytes, where at most {most} are taken")]
    TooLarge {
        /// Its path.
        path: String,
        /// Its size in bytes.
        size: u64,
        /// The bound in bytes.
        most: u64,
    },
    /// A configuration that this reader does not understand.
    #[error("has a configuration \"{path}\" that cannot be followed: {why}")]
    Configuration {
        /// Its path.
        path: String,
        /// The reason.
        why: String,
    },
    /// A damaged file system.
    #[error("has a damaged file system: {0}")]
    Damaged(String),
    /// A bound that no system comes near.
    #[error("takes too many reads to find a system on")]
    Exhausted,
}
