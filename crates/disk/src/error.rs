//! What can go wrong with a disk.

use std::io;
use std::path::PathBuf;

/// Why a disk cannot be opened or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be opened.
    #[error("the disk {path} cannot be opened: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// Another process holds locks that exclude this use.
    #[error("the disk {path} is in use by another guest; stop that guest or open the disk readonly in both")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// Neither a file nor a block device.
    #[error("{path} is no disk: give a regular file or a block device")]
    Kind {
        /// The file.
        path: PathBuf,
    },
    /// A format that nobody knows.
    #[error("the disk format {0:?} is not known; known formats: raw")]
    Format(String),
    /// The file system has no direct I/O.
    #[error("the disk {path} lies on a file system without direct I/O; open it without `direct`")]
    NoDirect {
        /// The file.
        path: PathBuf,
    },
    /// The host refused an operation on the open disk.
    #[error("the disk could not be {what}: {source}")]
    Host {
        /// What was tried, as a participle.
        what: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// A change to a disk that may not be changed.
    #[error("the disk is read-only")]
    ReadOnly,
    /// A block device has the size that the host gave it.
    #[error("a block device cannot be resized from here; resize it on the host, then refresh the disk")]
    BlockDevice,
    /// A size that this disk cannot have.
    #[error("the disk cannot have {0} bytes; give a multiple of its block size (512, or 4096) below 8 EiB")]
    Size(u64),
}

/// Why one request failed. The disk lives on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A write, discard or write-zeroes on a read-only disk.
    #[error("the disk is read-only")]
    ReadOnly,
    /// The request reaches past the end of the disk, or its offset or length is no multiple of 512 (with direct I/O, of
    /// the block that the disk announces).
    #[error("the request lies outside the disk or between its sectors")]
    OutOfRange,
    /// The disk cannot do this kind of request.
    #[error("the disk does not support this request")]
    Unsupported,
    /// The host's file system is full.
    #[error("no space is left on the host")]
    NoSpace,
    /// The host failed with this `errno`.
    #[error("the host failed with {}", io::Error::from_raw_os_error(*.0))]
    Host(i32),
}

impl RequestError {
    /// The failure that the (positive) `errno` stands for.
    pub fn from_errno(errno: i32) -> Self {
        match errno {
            libc::ENOSPC | libc::EDQUOT | libc::EFBIG => Self::NoSpace,
            libc::EOPNOTSUPP => Self::Unsupported,
            other => Self::Host(other),
        }
    }
}
