//! The log of changes as a file: one write in place and one sync for each change.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::entry::{self, Entry, FIRST, PAGE, Unreadable};
use crate::Error;
use crate::files::{steps, sync_folder_of, write_durably};

/// Most bytes that are read of a log, whatever is in its place.
const MAX_READ: u64 = 64 << 20;

/// A log that is written.
pub struct Log {
    file: File,
    path: PathBuf,
    length: usize,
    generation: u64,
    /// Where the next change goes.
    next: usize,
    /// Of the last change.
    number: u64,
    /// Nobody knows what came to last of something that could not be written.
    is_doubtful: bool,
}

impl Log {
    /// Makes an empty log of `length` bytes, in place of what is at `path`. All its bytes are written once, so that the file system
    /// has nothing to note when they are written again.
    pub fn make(path: &Path, length: usize) -> io::Result<Self> {
        let mut bytes = vec![0; length];
        let head = entry::head(1);
        bytes[entry::place(1)..][..head.len()].copy_from_slice(&head);
        write_durably(path, &bytes)?;
        Self::of(path, length, 1)
    }

    fn of(path: &Path, length: usize, generation: u64) -> io::Result<Self> {
        Ok(Self {
            file: OpenOptions::new().read(true).write(true).open(path)?,
            path: path.into(),
            length,
            generation,
            next: FIRST,
            number: 0,
            is_doubtful: false,
        })
    }

    /// Opens the log at `path`, and says what is in it; makes one of `length` bytes if there is none. One of which nothing can be read is
    /// set aside.
    pub fn open(path: &Path, length: usize) -> Result<(Self, Vec<Entry>), Error> {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MAX_READ).read_to_end(&mut bytes));
        let make = || Self::make(path, length).map_err(Error::file("make the log of changes", path));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((make()?, Vec::new())),
            Err(error) => return Err(Error::file("read the log of changes", path)(error)),
        }
        let generation = match entry::generation(&bytes) {
            Ok(generation) => generation,
            Err(why @ Unreadable::Version(_)) => {
                return Err(Error::ChangeLog {
                    path: path.into(),
                    why: why.to_string(),
                });
            }
            Err(why @ Unreadable::NoHead) => {
                set_aside(path, why).map_err(Error::file("set the log of changes aside", path))?;
                return Ok((make()?, Vec::new()));
            }
        };
        let log =
            Self::of(path, bytes.len(), generation).map_err(Error::file("write the log of changes", path))?;
        Ok((log, entry::entries(&bytes, generation)))
    }

    /// Its length in bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Whether a change of so many bytes could be in it if nothing else was.
    pub fn could_hold(&self, change: usize) -> bool {
        FIRST + entry::room_for(change) + PAGE <= self.length
    }

    /// Whether there is room for a change of so many bytes, and for one more that takes it back.
    pub fn has_room(&self, change: usize) -> bool {
        !self.is_doubtful && self.next + entry::room_for(change) + PAGE <= self.length
    }

    /// Whether this generation has nothing yet.
    pub fn is_empty(&self) -> bool {
        self.number == 0 && !self.is_doubtful
    }

    /// Adds a change for good, and returns its number. After an error nobody knows whether it is in there, until another generation
    /// begins.
    pub fn append(&mut self, change: &[u8]) -> io::Result<u64> {
        let number = self.number + 1;
        let bytes = entry::entry(change, self.generation, number);
        if self.is_doubtful || self.next + bytes.len() > self.length {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.write(self.next, &bytes)?;
        self.next += entry::room_for(change.len());
        self.number = number;
        Ok(number)
    }

    /// Forgets all that is in it, for good.
    pub fn begin_generation(&mut self) -> io::Result<()> {
        let generation = self.generation + 1;
        self.write(entry::place(generation), &entry::head(generation))?;
        self.generation = generation;
        self.next = FIRST;
        self.number = 0;
        self.is_doubtful = false;
        Ok(())
    }

    fn write(&mut self, at: usize, bytes: &[u8]) -> io::Result<()> {
        let written = steps::write_at(&self.file, &self.path, at, bytes)
            .and_then(|()| steps::sync_data(&self.file, &self.path));
        self.is_doubtful |= written.is_err();
        written
    }
}

/// Keeps a log that cannot be read for whoever wants to look into it.
fn set_aside(path: &Path, why: Unreadable) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".damaged");
    crate::log::note!(
        "\"{}\" is set aside as \"{}\": {why}",
        path.display(),
        aside.display()
    );
    steps::rename(path, Path::new(&aside))?;
    sync_folder_of(path)
}
