//! The bytes of volumes: copied, zeroed, allocated; what is a hole stays one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate};
use rustix::io::Errno;

/// Bytes that are moved at a time.
const CHUNK: usize = 1 << 20;
/// A run of zeroes as long as this is left out of a copy.
const GRAIN: usize = 64 << 10;

/// The next data of a file at or after `at`: where it begins and ends, or `None` if only a hole is left before `end`.
///
/// A file system that knows nothing of holes says that all is data.
pub fn next_data(file: &File, at: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= end {
        return Ok(None);
    }
    let begin = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(begin) if begin < end => begin.max(at),
        Ok(_) | Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((at, end))),
        Err(error) => return Err(error.into()),
    };
    let stop = match rustix::fs::seek(file, SeekFrom::Hole(begin)) {
        Ok(stop) => stop,
        // It became shorter meanwhile.
        Err(Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // What was written in between may make it look empty: one byte is always gone on with.
    Ok(Some((begin, stop.clamp(begin + 1, end))))
}

/// Fills `to`, which is empty, with what `from` has; it shares the blocks if the file system can do that.
///
/// With `share_only` nothing is copied: where blocks cannot be shared, that is an error.
pub fn copy(from: &File, to: &File, share_only: bool) -> io::Result<()> {
    match rustix::fs::ioctl_ficlone(to, from) {
        Ok(()) => return Ok(()),
        Err(error) if share_only => return Err(error.into()),
        Err(_) => {}
    }
    let end = from.metadata()?.len();
    to.set_len(end)?;
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    while let Some((begin, stop)) = next_data(from, at, end)? {
        at = begin;
        while at < stop {
            let room = CHUNK.min(usize::try_from(stop - at).unwrap_or(CHUNK));
            let count = match from.read_at(&mut chunk[..room], at) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            write_data(to, &chunk[..count], at)?;
            at += count as u64;
        }
    }
    Ok(())
}

/// Writes bytes to where nothing but zeroes is, and leaves out long runs of zeroes.
fn write_data(to: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    for (number, piece) in bytes.chunks(GRAIN).enumerate() {
        if piece.iter().any(|byte| *byte != 0) {
            to.write_all_at(piece, at + (number * GRAIN) as u64)?;
        }
    }
    Ok(())
}

/// Gives the bytes from `at` to `end`, which are zeroes or behind the end of the file, blocks on the file system.
pub fn allocate(file: &File, at: u64, end: u64) -> io::Result<()> {
    if at >= end {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::empty(), at, end - at) {
        Ok(()) => Ok(()),
        // Callers have nothing but zeroes there: a new file, or what is behind the end of one.
        Err(Errno::OPNOTSUPP) => write_zeroes(file, at, end),
        Err(error) => Err(error.into()),
    }
}

/// Makes the bytes from `at` to `end` a hole, or zeroes where there are no holes. The file is as long as before.
pub fn punch(file: &File, at: u64, end: u64) -> io::Result<()> {
    if at >= end {
        return Ok(());
    }
    let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(file, how, at, end - at) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP) => write_zeroes(file, at, end),
        Err(error) => Err(error.into()),
    }
}

/// Writes zeroes over all data of a file, to its last block, and waits until they are there. Holes stay.
pub fn wipe(file: &File) -> io::Result<()> {
    let end = file.metadata()?.len();
    let mut at = 0;
    while let Some((begin, stop)) = next_data(file, at, end)? {
        write_zeroes(file, begin, stop)?;
        at = stop;
    }
    file.sync_all()
}

fn write_zeroes(file: &File, mut at: u64, end: u64) -> io::Result<()> {
    let zeroes = vec![0; CHUNK];
    while at < end {
        let room = CHUNK.min(usize::try_from(end - at).unwrap_or(CHUNK));
        file.write_all_at(&zeroes[..room], at)?;
        at += room as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn sparse(folder: &std::path::Path) -> File {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(folder.join("from"))
            .unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(b"in the middle", 3 << 20).unwrap();
        file.write_all_at(b"last", (8 << 20) - 4).unwrap();
        file
    }

    #[test]
    fn a_copy_has_the_bytes_and_the_holes() {
        let folder = tempfile::tempdir().unwrap();
        let from = sparse(folder.path());
        // Data that is nothing but zeroes takes no room in the copy either.
        from.write_all_at(&vec![0; 1 << 20], 5 << 20).unwrap();
        from.sync_all().unwrap();
        let to = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(folder.path().join("to"))
            .unwrap();
        copy(&from, &to, false).unwrap();
        to.sync_all().unwrap();
        let bytes = |file: &File| {
            let mut bytes = vec![0; 8 << 20];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        assert_eq!(to.metadata().unwrap().len(), 8 << 20);
        assert!(bytes(&to) == bytes(&from), "the copy differs");
        let blocks = |file: &File| file.metadata().unwrap().blocks();
        assert!(
            blocks(&to) <= blocks(&from) && blocks(&to) * 512 < 1 << 20,
            "{}",
            blocks(&to)
        );
    }

    #[test]
    fn wiping_and_punching_leave_zeroes() {
        let folder = tempfile::tempdir().unwrap();
        let file = sparse(folder.path());
        let all_zero = |at: u64, length: usize| {
            let mut bytes = vec![1; length];
            file.read_exact_at(&mut bytes, at).unwrap();
            bytes.iter().all(|byte| *byte == 0)
        };
        punch(&file, 3 << 20, 4 << 20).unwrap();
        assert!(all_zero(3 << 20, 1 << 20) && !all_zero((8 << 20) - 4, 4));
        wipe(&file).unwrap();
        assert!(all_zero(0, 8 << 20));
        let meta = file.metadata().unwrap();
        assert_eq!(meta.len(), 8 << 20);
        assert!(meta.blocks() * 512 < 1 << 20, "holes stay");
    }

    #[test]
    fn data_is_found_between_holes() {
        let folder = tempfile::tempdir().unwrap();
        let file = sparse(folder.path());
        let (begin, end) = next_data(&file, 0, 8 << 20).unwrap().unwrap();
        assert!(begin <= 3 << 20 && end > 3 << 20, "{begin} {end}");
        assert_eq!(next_data(&file, 8 << 20, 8 << 20).unwrap(), None);
        // Not behind what was asked for.
        assert!(
            next_data(&file, 0, 1 << 20)
                .unwrap()
                .is_none_or(|(_, end)| end <= 1 << 20)
        );
    }
}
