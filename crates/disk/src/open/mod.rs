//! Opening disks, for whoever starts the guest; the guest's process never calls this.
//!
//! A disk is opened by the format that its owner declared. Nothing looks into the file to guess one: a guest writes the
//! first bytes of its raw disk, and could pick a format (and with it other files of the host) for the next start.

mod lock;
pub(crate) use lock::release_last;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use rustix::fs::OFlags;

use crate::Error;

/// How often a device that is busy is tried again, and after how long each time: one second in all.
const BUSY_TRIES: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// How a disk's bytes lie in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Byte for byte.
    #[default]
    Raw,
}

/// The format table: one line a format.
const FORMATS: &[(&str, Format)] = &[("raw", Format::Raw)];

impl Format {
    /// The name that users write.
    pub fn name(self) -> &'static str {
        FORMATS
            .iter()
            .find(|(_, format)| *format == self)
            .map_or("raw", |(name, _)| name)
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let found = FORMATS.iter().find(|(known, _)| *known == name);
        found
            .map(|(_, format)| *format)
            .ok_or_else(|| Error::Format(name.into()))
    }
}

/// How to open a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskOptions {
    /// Declared, never guessed.
    pub format: Format,
    /// The guest may not write.
    pub readonly: bool,
    /// Bypass the host's page cache (`O_DIRECT`).
    pub direct: bool,
}

/// Opens and locks the disk at `path`.
///
/// The descriptor carries everything that the guest's process needs: access mode, `O_DIRECT`, and the locks, which
/// belong to the open file description and so go with it through a socket; they end with its last copy.
///
/// One guest may have a disk for writing, or several for reading. The locks are QEMU's, so the rule holds between our
/// guests and QEMU's as well.
pub fn open(path: &Path, options: DiskOptions) -> Result<File, Error> {
    let refused = |source: io::Error| Error::Open {
        path: path.into(),
        source,
    };
    // Looked at first, because opening a device of another kind may do something. O_NONBLOCK: should it have become a
    // FIFO by now, opening it does not hang.
    let kind = std::fs::metadata(path).map_err(refused)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(Error::Kind { path: path.into() });
    }
    let mut flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    if options.direct {
        flags |= libc::O_DIRECT;
    }
    // On a block device O_EXCL means: not while it is mounted.
    if kind.is_block_device() && !options.readonly {
        flags |= libc::O_EXCL;
    }
    let mut how = OpenOptions::new();
    how.read(true).write(!options.readonly).custom_flags(flags);
    let file = open_patiently(&how, path).map_err(|source| match source.raw_os_error() {
        Some(libc::EBUSY) => Error::InUse { path: path.into() },
        Some(libc::EINVAL) if options.direct => Error::NoDirect { path: path.into() },
        _ => refused(source),
    })?;
    // io_uring would take the flag as "fail rather than wait for the disk".
    let status = rustix::fs::fcntl_getfl(&file).map_err(|e| refused(e.into()))?;
    rustix::fs::fcntl_setfl(&file, status - OFlags::NONBLOCK).map_err(|e| refused(e.into()))?;
    match lock::acquire(&file, !options.readonly) {
        Ok(true) => Ok(file),
        Ok(false) => Err(Error::InUse { path: path.into() }),
        Err(source) => Err(refused(source)),
    }
}

/// Takes the locks that [`open`] takes, on a file that someone else opened and handed over; `name` is what to call it.
///
/// They belong to the open file description: where whoever opened it took them before, nothing changes.
pub fn lock(file: &File, name: &Path) -> Result<(), Error> {
    let refused = |source: io::Error| Error::Open {
        path: name.into(),
        source,
    };
    let flags = rustix::fs::fcntl_getfl(file).map_err(|e| refused(e.into()))?;
    match lock::acquire(file, flags & OFlags::RWMODE != OFlags::RDONLY) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::InUse { path: name.into() }),
        Err(source) => Err(refused(source)),
    }
}

/// Opens `path`, and tries again for a while if it is a device that someone has to himself: the kernel takes down the
/// ring of a queue that was just closed later than the call that closes it, and the ring holds the device.
fn open_patiently(how: &OpenOptions, path: &Path) -> io::Result<File> {
    for _ in 0..BUSY_TRIES {
        match how.open(path) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => std::thread::sleep(BUSY_PAUSE),
            result => return result,
        }
    }
    how.open(path)
}

#[cfg(test)]
mod tests;
