//! The steps by which files come to last, one call of the kernel's each. Tests take them down, to play what a power cut leaves of them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;

#[cfg(test)]
use super::faults;
#[cfg(test)]
use super::power_cut::tape::{Step, note};

/// Files that are synced at a time.
const TOGETHER: usize = 16;

/// Makes a folder that only this user may enter.
pub fn make_folder(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    faults::step()?;
    DirBuilder::new().mode(0o700).create(path)?;
    #[cfg(test)]
    note(Step::MakeFolder(path.into()));
    Ok(())
}

/// Makes a file with these contents that only this user may read.
pub fn write_new(path: &Path, contents: &[u8]) -> io::Result<File> {
    #[cfg(test)]
    faults::step()?;
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(contents)?;
    #[cfg(test)]
    note(Step::Write(path.into(), contents.into()));
    Ok(file)
}

/// Makes the contents of a file last, which is at `path`.
pub fn sync_file(file: &File, path: &Path) -> io::Result<()> {
    #[cfg(test)]
    faults::step()?;
    file.sync_all()
        .map_err(|error| io::Error::new(error.kind(), format!("\"{}\": {error}", path.display())))?;
    #[cfg(test)]
    note(Step::SyncFile(path.into()));
    Ok(())
}

/// Makes the contents of files last; those that are not there are left out. Says of each file how it went.
pub fn sync_files(paths: &[PathBuf]) -> Vec<io::Result<()>> {
    let sync = |path: &PathBuf| -> io::Result<bool> {
        match File::open(path) {
            Ok(file) => file.sync_all().map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    };
    let done = many_at_a_time(paths, sync);
    let noted = |(path, synced): (&PathBuf, io::Result<bool>)| {
        #[cfg(test)]
        faults::step()?;
        #[cfg(test)]
        if matches!(synced, Ok(true)) {
            note(Step::SyncFile(path.into()));
        }
        synced
            .map(drop)
            .map_err(|error| io::Error::new(error.kind(), format!("\"{}\": {error}", path.display())))
    };
    paths.iter().zip(done).map(noted).collect()
}

/// Does something with each path, on several threads: a disk empties its cache once for all that wait for that.
fn many_at_a_time<T: Send>(paths: &[PathBuf], what: impl Fn(&PathBuf) -> T + Sync) -> Vec<T> {
    let what = &what;
    let share = paths.len().div_ceil(TOGETHER).max(1);
    let mut done = Vec::with_capacity(paths.len());
    thread::scope(|scope| {
        let parts = paths.chunks(share);
        let threads: Vec<_> = parts
            .map(|part| {
                let work = move || part.iter().map(what).collect::<Vec<_>>();
                (part, thread::Builder::new().spawn_scoped(scope, work))
            })
            .collect();
        for (part, thread) in threads {
            match thread.map(|thread| thread.join()) {
                Ok(Ok(results)) => done.extend(results),
                // The host has no thread for us, or something went wrong in it: here, then.
                _ => done.extend(part.iter().map(what)),
            }
        }
    });
    done
}

/// Writes into a file that is at `path`, over what is there.
pub fn write_at(file: &File, path: &Path, at: usize, bytes: &[u8]) -> io::Result<()> {
    #[cfg(test)]
    faults::step()?;
    #[cfg(not(test))]
    let _ = path;
    file.write_all_at(bytes, at as u64)?;
    #[cfg(test)]
    note(Step::WriteAt(path.into(), at, bytes.into()));
    Ok(())
}

/// Makes the contents of a file last, which is at `path` and as long as it was when it was synced before.
pub fn sync_data(file: &File, path: &Path) -> io::Result<()> {
    #[cfg(test)]
    faults::step()?;
    #[cfg(not(test))]
    let _ = path;
    file.sync_data()?;
    #[cfg(test)]
    note(Step::SyncFile(path.into()));
    // After an error of a disk its contents may last nevertheless.
    #[cfg(test)]
    faults::step()?;
    Ok(())
}

/// Gives a file another name in its folder, in place of what has it.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(test)]
    faults::step()?;
    fs::rename(from, to)?;
    #[cfg(test)]
    note(Step::Rename(from.into(), to.into()));
    Ok(())
}

/// Removes a file or a link.
pub fn remove(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    faults::step()?;
    fs::remove_file(path)?;
    #[cfg(test)]
    note(Step::Remove(path.into()));
    Ok(())
}

/// Makes a link that leads to `to`.
pub fn link(to: &Path, at: &Path) -> io::Result<()> {
    #[cfg(test)]
    faults::step()?;
    symlink(to, at)?;
    #[cfg(test)]
    note(Step::Link(to.into(), at.into()));
    Ok(())
}

/// Makes what happened to the names in a folder last.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    faults::step()?;
    File::open(path)?.sync_all()?;
    #[cfg(test)]
    note(Step::SyncFolder(path.into()));
    Ok(())
}
