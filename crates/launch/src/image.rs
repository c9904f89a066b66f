//! Boot images.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::MemfdFlags;

use crate::{Error, cannot};

/// Largest kernel or initial RAM disk that is read from a pipe, in bytes.
const MAX_PIPED: u64 = 4 << 30;

/// Opens a boot image. One that comes through a pipe is read now, because every reset loads it again.
pub fn open_image(what: &str, path: &Path) -> Result<File, Error> {
    let refused = |error: io::Error| cannot("read the", what, path, &error);
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(path)
        .map_err(refused)?;
    let kind = file.metadata().map_err(refused)?.file_type();
    if kind.is_file() {
        return Ok(file);
    }
    if !kind.is_fifo() {
        return Err(Error::Input(format!(
            "the {what} \"{}\" is no file",
            path.display()
        )));
    }
    let memory =
        rustix::fs::memfd_create("boot-image", MemfdFlags::CLOEXEC).map_err(|e| refused(e.into()))?;
    let mut copy = File::from(memory);
    io::copy(&mut file.take(MAX_PIPED), &mut copy).map_err(refused)?;
    copy.rewind().map_err(refused)?;
    Ok(copy)
}
