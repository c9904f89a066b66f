//! Files that are memory of a guest.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ostler_disk::open::{DiskOptions, Format};
use ostler_vmm::spec::check_pmem_size;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::{Error, cannot};

/// What messages call such a file.
const FILE: &str = "the file of persistent memory";

/// A file that is open and locked.
#[derive(Debug)]
pub struct Persistent {
    /// The file.
    pub file: File,
    /// How many of its bytes are memory.
    pub size: u64,
    /// Whether it was not there before.
    pub made: bool,
}

/// Opens a file and locks it. With a size one that is not there is made, and one that is shorter grows, unless it is read-only; without
/// one all of the file is memory.
pub fn open(path: &Path, size: Option<u64>, readonly: bool) -> Result<Persistent, Error> {
    let made = size.is_some() && !readonly && make(path)?;
    let opened = open_file(path, size, readonly);
    if made && opened.is_err() {
        // It has nothing of anybody's.
        let _ = std::fs::remove_file(path);
    }
    opened.map(|(file, size)| Persistent { file, size, made })
}

fn open_file(path: &Path, size: Option<u64>, readonly: bool) -> Result<(File, u64), Error> {
    let refused = |action: &'static str| move |error: io::Error| cannot(action, FILE, path, &error);
    let meta = std::fs::metadata(path).map_err(refused("open"))?;
    if !meta.is_file() {
        return Err(Error::Input(format!(
            "\"{}\" cannot be persistent memory: it is no regular file; give it to the guest as a disk",
            path.display()
        )));
    }
    let options = DiskOptions {
        format: Format::Raw,
        readonly,
        direct: false,
    };
    // The locks are those of a disk: nobody may write to it meanwhile.
    let file = ostler_disk::open::open(path, options).map_err(|error| match error {
        ostler_disk::Error::InUse { .. } => Error::Input(format!(
            "the file \"{}\" of persistent memory is in use by another guest; stop that guest, or have it readonly in both",
            path.display()
        )),
        other => Error::Input(other.to_string()),
    })?;
    let meta = file.metadata().map_err(refused("read"))?;
    let size = size.unwrap_or(meta.len());
    check_pmem_size(size).map_err(|error| Error::Input(format!("\"{}\": {error}", path.display())))?;
    if !readonly {
        allocate(&file, size).map_err(refused("make room for"))?;
    } else if meta.len() < size {
        return Err(Error::Input(format!(
            "\"{}\" has {} bytes, fewer than its size as memory; a file that is read-only cannot grow",
            path.display(),
            meta.len()
        )));
    }
    Ok((file, size))
}

/// Makes an empty file. False if there is one.
fn make(path: &Path) -> Result<bool, Error> {
    let mut how = OpenOptions::new();
    match how.write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(cannot("make", FILE, path, &error)),
    }
}

/// Makes the file so long, and has the file system keep room for all of it: a write to memory cannot be refused when the host's disk is
/// full, it would end the guest's process.
fn allocate(file: &File, size: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size) {
        Ok(()) => Ok(()),
        // Where there is no such promise, it goes without.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) if file.metadata()?.len() < size => file.set_len(size),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 2 << 20;

    #[test]
    fn a_file_is_made_or_grows_and_its_room_is_kept() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory");
        let first = open(&path, Some(SIZE), false).unwrap();
        assert_eq!((first.size, first.made), (SIZE, true));
        drop(first);
        let meta = path.metadata().unwrap();
        assert_eq!((meta.len(), meta.mode() & 0o777), (SIZE, 0o600));
        assert!(meta.blocks() * 512 >= SIZE, "no hole");
        let second = open(&path, Some(2 * SIZE), false).unwrap();
        assert_eq!((second.size, second.made), (2 * SIZE, false));
        drop(second);
        let third = open(&path, None, true).unwrap();
        assert_eq!((third.size, third.made), (2 * SIZE, false));
        assert_eq!(path.metadata().unwrap().len(), 2 * SIZE);
    }

    #[test]
    fn what_cannot_be_memory_is_refused_in_a_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let short = folder.path().join("short");
        File::create(&short).unwrap().set_len(4096).unwrap();
        let none = folder.path().join("none");
        for (path, size, readonly, words) in [
            (&*short, None, false, "a multiple of 2 MiB"),
            (&*short, Some(SIZE), true, "cannot grow"),
            (&*none, None, false, "none"),
            (&*none, Some(SIZE), true, "none"),
            (&*none, Some(SIZE + 1), false, "a multiple of 2 MiB"),
            (folder.path(), None, false, "regular file"),
        ] {
            let said = open(path, size, readonly).unwrap_err().to_string();
            assert!(said.contains(words), "{said}");
        }
        assert_eq!(short.metadata().unwrap().len(), 4096);
        assert!(!none.exists());
    }

    #[test]
    fn a_file_that_another_guest_writes_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory");
        let _first = open(&path, Some(SIZE), false).unwrap();
        for readonly in [false, true] {
            let said = open(&path, None, readonly).unwrap_err().to_string();
            assert!(said.contains("in use"), "{said}");
        }
    }
}
