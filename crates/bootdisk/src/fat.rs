//! FAT12, FAT16 and FAT32, by `fatfs`.

use std::io::{self, Read, Write};

use fatfs::{FileSystem, FsOptions};

use crate::Error;
use crate::source::Part;
use crate::volume::{CHUNK, Volume};

/// Names that are taken from a folder.
const MAX_NAMES: usize = 4096;
/// Longest path in bytes, and most folders in one.
const MAX_PATH: usize = 4096;
const MAX_DEPTH: usize = 64;

/// A FAT file system.
pub(crate) struct FatVolume(FileSystem<Part>);

impl FatVolume {
    /// True if there is such a boot sector, with sizes that cannot overflow.
    pub fn is_here(part: &Part) -> bool {
        let mut sector = [0; 512];
        if part.read_at(0, &mut sector).is_err() {
            return false;
        }
        let word = |at: usize| u16::from_le_bytes([sector[at], sector[at + 1]]);
        let long = |at: usize| u32::from(word(at)) | u32::from(word(at + 2)) << 16;
        let jump = matches!(sector[0], 0xeb | 0xe9) && sector[510..] == [0x55, 0xaa];
        let bytes = u64::from(word(11));
        let shape = matches!(bytes, 512 | 1024 | 2048 | 4096)
            && sector[13].is_power_of_two()
            && matches!(sector[16], 1 | 2);
        let sectors = match word(19) {
            0 => u64::from(long(32)),
            few => few.into(),
        };
        let fat = match word(22) {
            0 => u64::from(long(36)),
            few => few.into(),
        };
        let tables = u64::from(word(14)) + u64::from(sector[16]) * fat + u64::from(word(17)) * 32 / 512;
        jump && shape && tables < sectors && sectors * bytes <= part.length()
    }

    pub fn open(part: Part) -> Result<Self, Error> {
        let options = FsOptions::new().update_accessed_date(false);
        FileSystem::new(part, options).map(Self).map_err(damaged)
    }
}

fn damaged(error: io::Error) -> Error {
    Error::Damaged(error.to_string())
}

/// The path as `fatfs` wants it, which goes down one call a part; `None` for one that no FAT can have.
fn plain(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    (parts.len() <= MAX_DEPTH && path.len() <= MAX_PATH).then(|| parts.join("/"))
}

/// `None` for what is not there.
fn found<T>(result: io::Result<T>) -> Result<Option<T>, Error> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // A file where a folder should be, or the other way round.
        Err(error) if error.kind() == io::ErrorKind::Other && error.to_string().starts_with("Is ") => {
            Ok(None)
        }
        Err(error) if error.kind() == io::ErrorKind::Other && error.to_string().starts_with("Not ") => {
            Ok(None)
        }
        Err(error) => Err(damaged(error)),
    }
}

impl Volume for FatVolume {
    fn kind(&self) -> &'static str {
        "FAT"
    }

    fn uuid(&self) -> String {
        let id = self.0.volume_id();
        format!("{:04X}-{:04X}", id >> 16, id & 0xffff)
    }

    fn label(&self) -> String {
        self.0.volume_label()
    }

    fn copy(&self, path: &str, most: u64, into: &mut dyn Write) -> Result<Option<u64>, Error> {
        let Some(real) = plain(path) else {
            return Ok(None);
        };
        let Some(mut file) = found(self.0.root_dir().open_file(&real))? else {
            return Ok(None);
        };
        let mut done = 0;
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = file.read(&mut chunk).map_err(damaged)?;
            if count == 0 {
                return Ok(Some(done));
            }
            done += count as u64;
            if done > most {
                return Err(Error::TooLarge {
                    path: path.into(),
                    size: done,
                    most,
                });
            }
            into.write_all(&chunk[..count]).map_err(Error::Write)?;
        }
    }

    fn names(&self, path: &str) -> Result<Vec<String>, Error> {
        let root = self.0.root_dir();
        let Some(path) = plain(path) else {
            return Ok(Vec::new());
        };
        let folder = match path.as_str() {
            "" => root,
            path => match found(root.open_dir(path))? {
                Some(folder) => folder,
                None => return Ok(Vec::new()),
            },
        };
        let mut names = Vec::new();
        for entry in folder.iter().take(MAX_NAMES) {
            names.push(entry.map_err(damaged)?.file_name());
        }
        Ok(names)
    }

    fn exists(&self, path: &str) -> Result<bool, Error> {
        let Some(path) = plain(path) else {
            return Ok(false);
        };
        let root = self.0.root_dir();
        Ok(path.is_empty()
            || found(root.open_file(&path))?.is_some()
            || found(root.open_dir(&path))?.is_some())
    }
}
