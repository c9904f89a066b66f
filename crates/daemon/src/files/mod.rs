//! Files that last: written whole and for good, or not at all.

#[cfg(test)]
pub mod faults;
#[cfg(test)]
mod power_cut;
pub mod steps;

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::Error;

/// How the name of a file ends that is not whole yet: as no definition's does, whatever it is called.
pub const UNFINISHED: &str = ".new";

/// Where the file at `path` is until it is whole.
fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(UNFINISHED);
    name.into()
}

/// The folder of a file, or of a folder.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Writes a file whole and for good: a daemon that is killed, or a host that loses power, leaves the old one or the new one. Only
/// this user may read it.
pub fn write_durably(path: &Path, contents: &[u8]) -> io::Result<()> {
    let written = write_beside(path, contents).and_then(|file| {
        // Before it has its name: a name may last sooner than what it stands for.
        steps::sync_file(&file, &unfinished(path))?;
        put_in_place(path)
    });
    written.inspect_err(|_| forget_beside(path))?;
    sync_folder_of(path)
}

/// Writes what is to be the file at `path` beside it. Nothing of that lasts yet.
pub fn write_beside(path: &Path, contents: &[u8]) -> io::Result<File> {
    let new = unfinished(path);
    let written = match steps::write_new(&new, contents) {
        // One of a daemon that was killed is there, with a mode of its own.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            remove_if_there(&new)?;
            steps::write_new(&new, contents)
        }
        written => written,
    };
    written.inspect_err(|_| forget_beside(path))
}

/// Gives what [`write_beside`] has written its name. Nothing of that lasts yet.
pub fn put_in_place(path: &Path) -> io::Result<()> {
    steps::rename(&unfinished(path), path)
}

/// Removes what [`write_beside`] has written.
pub fn forget_beside(path: &Path) {
    // What stays goes when definitions are read.
    let _ = remove_if_there(&unfinished(path));
}

/// Has the kernel begin to write what a file has, and waits for nothing.
pub fn begin_writing(file: &File) {
    // Only a hint: whoever needs the contents to last syncs the file.
    // SAFETY: the descriptor is open, and no memory is passed.
    let _ = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Makes what happened to the name of a file last.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    sync_folder(folder_of(path))
}

/// Makes what happened to the names in a folder last.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    steps::sync_folder(folder)
}

/// Makes a folder that only this user may enter, and those above it that are not there. They last.
pub fn make_private_folder(path: &Path) -> Result<(), Error> {
    make_folders(path).map_err(Error::file("make the folder", path))
}

fn make_folders(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = folder_of(path);
    make_folders(above)?;
    match steps::make_folder(path) {
        // Somebody else made it just now.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.and_then(|()| sync_folder(above)),
    }
}

/// Makes a link that leads to `to`. It may be there already.
pub fn link_if_not_there(to: &Path, at: &Path) -> io::Result<()> {
    match steps::link(to, at) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Removes a file that may not be there.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match steps::remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The names in a folder that are text.
pub fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}
