//! Opening the files that are memory of the guest.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ostler_disk::open::{DiskOptions, Format};
use ostler_vmm::handoff::Descriptors;
use ostler_vmm::spec::{PmemSpec, check_pmem_size};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::options::PmemOption;
use crate::failure::Failure;

/// Opens and locks what `options` name. A file that is not there is made where a size is given, and `made` has its name then.
pub fn open(
    options: &[PmemOption],
    descriptors: &mut Descriptors,
    made: &mut Vec<PathBuf>,
) -> Result<Vec<PmemSpec>, Failure> {
    options
        .iter()
        .map(|option| open_one(option, descriptors, made))
        .collect()
}

fn open_one(
    option: &PmemOption,
    descriptors: &mut Descriptors,
    made: &mut Vec<PathBuf>,
) -> Result<PmemSpec, Failure> {
    let PmemOption { path, readonly, .. } = option;
    if option.size.is_some() && !readonly && make(path)? {
        made.push(path.clone());
    }
    let meta = std::fs::metadata(path).map_err(|error| cannot("open", path, &error))?;
    if !meta.is_file() {
        return Err(Failure::bad_input(format!(
            "\"{}\" cannot be persistent memory: it is no regular file; give it to the guest with --disk",
            path.display()
        )));
    }
    let options = DiskOptions {
        format: Format::Raw,
        readonly: *readonly,
        direct: false,
    };
    // The locks are those of a disk: nobody may write to it meanwhile.
    let file = ostler_disk::open::open(path, options).map_err(|error| match error {
        ostler_disk::Error::InUse { .. } => Failure::bad_input(format!(
            "the file \"{}\" of persistent memory is in use by another guest; stop that guest, or have it readonly in both",
            path.display()
        )),
        other => Failure::bad_input(other),
    })?;
    let meta = file.metadata().map_err(|error| cannot("read", path, &error))?;
    let size = option.size.unwrap_or(meta.len());
    check_pmem_size(size).map_err(|error| Failure::bad_input(format!("\"{}\": {error}", path.display())))?;
    if *readonly {
        if meta.len() < size {
            return Err(Failure::bad_input(format!(
                "\"{}\" has {} bytes, fewer than size= says; a file that is read-only cannot grow",
                path.display(),
                meta.len()
            )));
        }
    } else {
        allocate(&file, size).map_err(|error| cannot("make room for", path, &error))?;
    }
    Ok(PmemSpec {
        file: descriptors.push(file),
        size,
        readonly: *readonly,
    })
}

/// Makes an empty file. False if there is one.
fn make(path: &Path) -> Result<bool, Failure> {
    let mut how = OpenOptions::new();
    match how.write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(cannot("make", path, &error)),
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

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!(
        "cannot {what} the file \"{}\" of persistent memory: {error}; give another with --pmem",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 2 << 20;

    fn option(path: &Path, size: Option<u64>, readonly: bool) -> PmemOption {
        PmemOption {
            path: path.into(),
            size,
            readonly,
        }
    }

    fn tried(option: &PmemOption) -> Result<(PmemSpec, Vec<PathBuf>), Failure> {
        let mut made = Vec::new();
        let specs = open(std::slice::from_ref(option), &mut Descriptors::new(), &mut made)?;
        Ok((specs[0], made))
    }

    #[test]
    fn a_file_is_made_or_grows_and_its_room_is_kept() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory");
        let (spec, made) = tried(&option(&path, Some(SIZE), false)).unwrap();
        assert_eq!(
            (spec.size, spec.readonly, made),
            (SIZE, false, vec![path.clone()])
        );
        let meta = path.metadata().unwrap();
        assert_eq!((meta.len(), meta.mode() & 0o777), (SIZE, 0o600));
        assert!(meta.blocks() * 512 >= SIZE, "no hole");
        let (spec, made) = tried(&option(&path, Some(2 * SIZE), false)).unwrap();
        assert_eq!((spec.size, made), (2 * SIZE, vec![]));
        let (spec, _) = tried(&option(&path, None, true)).unwrap();
        assert_eq!((spec.size, spec.readonly), (2 * SIZE, true));
        assert_eq!(path.metadata().unwrap().len(), 2 * SIZE);
    }

    #[test]
    fn what_cannot_be_memory_is_refused_in_a_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let short = folder.path().join("short");
        File::create(&short).unwrap().set_len(4096).unwrap();
        let none = folder.path().join("none");
        for (wrong, words) in [
            (option(&short, None, false), "a multiple of 2 MiB"),
            (option(&short, Some(SIZE), true), "cannot grow"),
            (option(&none, None, false), "none"),
            (option(&none, Some(SIZE), true), "none"),
            (option(folder.path(), None, false), "regular file"),
        ] {
            let said = tried(&wrong).unwrap_err();
            assert!(said.message.contains(words), "{}", said.message);
        }
        assert_eq!(short.metadata().unwrap().len(), 4096);
        assert!(!none.exists());
    }

    #[test]
    fn a_file_that_another_guest_writes_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory");
        let mut first = Descriptors::new();
        open(&[option(&path, Some(SIZE), false)], &mut first, &mut Vec::new()).unwrap();
        for readonly in [false, true] {
            let said = tried(&option(&path, None, readonly)).unwrap_err();
            assert!(said.message.contains("in use"), "{}", said.message);
        }
    }
}
