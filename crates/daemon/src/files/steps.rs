//! The steps by which files come to last, one call of the kernel's each. Tests take them down, to play what a power cut leaves of them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::Path;

#[cfg(test)]
use super::power_cut::tape::{Step, note};

/// Makes a folder that only this user may enter.
pub fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)?;
    #[cfg(test)]
    note(Step::MakeFolder(path.into()));
    Ok(())
}

/// Makes a file with these contents that only this user may read.
pub fn write_new(path: &Path, contents: &[u8]) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(contents)?;
    #[cfg(test)]
    note(Step::Write(path.into(), contents.into()));
    Ok(file)
}

/// Makes the contents of a file last, which is at `path`.
pub fn sync_file(file: &File, path: &Path) -> io::Result<()> {
    file.sync_all()
        .map_err(|error| io::Error::new(error.kind(), format!("\"{}\": {error}", path.display())))?;
    #[cfg(test)]
    note(Step::SyncFile(path.into()));
    Ok(())
}

/// Gives a file another name in its folder, in place of what has it.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    #[cfg(test)]
    note(Step::Rename(from.into(), to.into()));
    Ok(())
}

/// Removes a file or a link.
pub fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    #[cfg(test)]
    note(Step::Remove(path.into()));
    Ok(())
}

/// Makes a link that leads to `to`.
pub fn link(to: &Path, at: &Path) -> io::Result<()> {
    symlink(to, at)?;
    #[cfg(test)]
    note(Step::Link(to.into(), at.into()));
    Ok(())
}

/// Makes what happened to the names in a folder last.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    #[cfg(test)]
    note(Step::SyncFolder(path.into()));
    Ok(())
}
