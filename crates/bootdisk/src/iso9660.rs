//! ISO 9660 (ECMA-119) with the names of Rock Ridge (IEEE P1282), as on installation media.
//!
//! Sections cited are of ECMA-119, 3rd edition. Links and folders that Rock Ridge has moved are not followed.

use std::io::Write;

use crate::Error;
use crate::source::Part;
use crate::volume::{CHUNK, Volume};

/// Bytes of a logical sector (6.1.2) and of a logical block, which media of other sizes do not exist of.
const SECTOR: u64 = 2048;
/// The primary volume descriptor is the first one, in this sector (8.4).
const DESCRIPTOR: u64 = 16 * SECTOR;
/// In it: the volume's name, the record of its root, and when it was modified.
const LABEL: std::ops::Range<usize> = 40..72;
const ROOT: std::ops::Range<usize> = 156..190;
const MODIFIED: std::ops::Range<usize> = 830..846;

/// Least bytes of a directory record, and its flags (9.1).
const RECORD: usize = 34;
const NAME: usize = 33;
const IS_FOLDER: u8 = 0x02;
const GOES_ON: u8 = 0x80;

/// Most bytes of a folder, and most folders in a path.
const MAX_FOLDER: u64 = 1 << 20;
const MAX_DEPTH: usize = 64;
/// Names that are taken from a folder.
const MAX_NAMES: usize = 4096;

/// A file system on a CD-ROM, or on a disk that was made from one.
pub(crate) struct IsoVolume {
    part: Part,
    descriptor: Vec<u8>,
}

/// A file or a folder.
struct Entry {
    name: String,
    /// A name of Rock Ridge is meant as it is; others are of capital letters.
    exact: bool,
    start: u64,
    size: u64,
    flags: u8,
}

impl IsoVolume {
    /// True if there is such a descriptor.
    pub fn is_here(part: &Part) -> bool {
        let mut start = [0; 7];
        part.read_at(DESCRIPTOR, &mut start).is_ok() && start == *b"\x01CD001\x01"
    }

    pub fn open(part: Part) -> Result<Self, Error> {
        let mut descriptor = vec![0; SECTOR as usize];
        part.read_at(DESCRIPTOR, &mut descriptor)?;
        Ok(Self { part, descriptor })
    }

    fn root(&self) -> Entry {
        let root = &self.descriptor[ROOT];
        Entry::new(root, "/".into(), true)
    }

    /// All bytes of a folder.
    fn contents(&self, entry: &Entry) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.copy_contents(entry, &mut bytes)?;
        Ok(bytes)
    }

    fn copy_contents(&self, entry: &Entry, into: &mut dyn Write) -> Result<(), Error> {
        let end = entry.start.checked_add(entry.size);
        if end.is_none_or(|end| end > self.part.length()) {
            return Err(Error::Damaged(format!("\"{}\" lies behind its end", entry.name)));
        }
        let mut chunk = vec![0; CHUNK.min(entry.size as usize)];
        let mut done = 0;
        while done < entry.size {
            let count = chunk.len().min((entry.size - done) as usize);
            self.part.read_at(entry.start + done, &mut chunk[..count])?;
            into.write_all(&chunk[..count]).map_err(Error::Write)?;
            done += count as u64;
        }
        Ok(())
    }

    /// What is in a folder.
    fn entries(&self, folder: &Entry) -> Result<Vec<Entry>, Error> {
        if folder.size > MAX_FOLDER {
            return Err(Error::Damaged(format!(
                "the folder \"{}\" is too large",
                folder.name
            )));
        }
        let bytes = self.contents(folder)?;
        let mut entries = Vec::new();
        // Records do not go on in the next sector (6.8.1.1).
        for sector in bytes.chunks(SECTOR as usize) {
            for record in records(sector) {
                let own = own_name(record);
                // The folder itself, and the one above.
                if matches!(own, [0 | 1]) || entries.len() >= MAX_NAMES {
                    continue;
                }
                let rock_ridge = self.rock_ridge_name(record);
                let exact = rock_ridge.is_some();
                entries.push(Entry::new(
                    record,
                    rock_ridge.unwrap_or_else(|| plain(own)),
                    exact,
                ));
            }
        }
        Ok(entries)
    }

    /// The name by Rock Ridge's NM fields, which may go on in one more area (SUSP 1.12, 5.1).
    fn rock_ridge_name(&self, record: &[u8]) -> Option<String> {
        let after_name = NAME + own_name(record).len();
        let fields = record.get(after_name.next_multiple_of(2)..)?;
        let mut name = Vec::new();
        let more = read_names(fields, &mut name);
        if let Some((block, offset, length)) = more {
            let mut area = vec![0; (length as usize).min(SECTOR as usize)];
            let at = u64::from(block) * SECTOR + u64::from(offset);
            if self.part.read_at(at, &mut area).is_ok() {
                read_names(&area, &mut name);
            }
        }
        (!name.is_empty()).then(|| String::from_utf8_lossy(&name).into_owned())
    }

    /// The file or folder at a path.
    fn find(&self, path: &str) -> Result<Option<Entry>, Error> {
        let mut way = vec![self.root()];
        for part in path.split('/') {
            let here = &way[way.len() - 1];
            match part {
                "" | "." => continue,
                ".." => way.truncate((way.len() - 1).max(1)),
                _ if here.flags & IS_FOLDER == 0 || way.len() > MAX_DEPTH => return Ok(None),
                name => match self
                    .entries(here)?
                    .into_iter()
                    .find(|entry| entry.is_called(name))
                {
                    Some(entry) => way.push(entry),
                    None => return Ok(None),
                },
            }
        }
        Ok(way.pop())
    }
}

/// Collects the names in a system use area. Returns where it goes on: block, offset and bytes.
fn read_names(fields: &[u8], name: &mut Vec<u8>) -> Option<(u32, u32, u32)> {
    let mut rest = fields;
    let mut more = None;
    while let Some((field, next)) = rest
        .get(2)
        .and_then(|length| rest.split_at_checked((*length).into()))
        && field.len() >= 4
    {
        match &field[..2] {
            b"NM" => name.extend(field.get(5..).unwrap_or_default()),
            b"CE" => more = Some((u32_at(field, 4), u32_at(field, 12), u32_at(field, 20))),
            _ => {}
        }
        rest = next;
    }
    more
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    four.map_or(0, u32::from_le_bytes)
}

/// The directory records in a sector; what is left of it is zeroes.
fn records(sector: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = sector;
    std::iter::from_fn(move || {
        let length = usize::from(*rest.first()?);
        let (record, next) = rest.split_at_checked(length)?;
        rest = next;
        (length >= RECORD).then_some(record)
    })
}

/// The name in a record, as ECMA-119 has it.
fn own_name(record: &[u8]) -> &[u8] {
    let length = usize::from(record[NAME - 1]);
    record.get(NAME..NAME + length).unwrap_or_default()
}

/// Such a name without its version (7.5.1), in small letters.
fn plain(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name).to_ascii_lowercase();
    let text = text.split(';').next().unwrap_or_default();
    text.trim_end_matches('.').to_owned()
}

impl Entry {
    /// What a record of at least [`RECORD`] bytes is about.
    fn new(record: &[u8], name: String, exact: bool) -> Self {
        Self {
            name,
            exact,
            start: u64::from(u32_at(record, 2)) * SECTOR,
            size: u32_at(record, 10).into(),
            flags: record[25],
        }
    }

    fn is_called(&self, name: &str) -> bool {
        match self.exact {
            true => self.name == name,
            false => self.name.eq_ignore_ascii_case(name),
        }
    }
}

impl Volume for IsoVolume {
    fn kind(&self) -> &'static str {
        "ISO 9660"
    }

    /// The time of the last change, as GRUB writes it.
    fn uuid(&self) -> String {
        let digits = String::from_utf8_lossy(&self.descriptor[MODIFIED]).into_owned();
        if !digits.is_ascii() {
            return String::new();
        }
        let parts = [0..4, 4..6, 6..8, 8..10, 10..12, 12..14, 14..16];
        parts.map(|part| &digits[part]).join("-")
    }

    fn label(&self) -> String {
        String::from_utf8_lossy(&self.descriptor[LABEL])
            .trim_end()
            .to_owned()
    }

    fn copy(&self, path: &str, most: u64, into: &mut dyn Write) -> Result<Option<u64>, Error> {
        let Some(entry) = self.find(path)?.filter(|entry| entry.flags & IS_FOLDER == 0) else {
            return Ok(None);
        };
        if entry.size > most || entry.flags & GOES_ON != 0 {
            return Err(Error::TooLarge {
                path: path.into(),
                size: entry.size,
                most,
            });
        }
        self.copy_contents(&entry, into)?;
        Ok(Some(entry.size))
    }

    fn names(&self, path: &str) -> Result<Vec<String>, Error> {
        let Some(folder) = self.find(path)?.filter(|entry| entry.flags & IS_FOLDER != 0) else {
            return Ok(Vec::new());
        };
        Ok(self
            .entries(&folder)?
            .into_iter()
            .map(|entry| entry.name)
            .collect())
    }

    fn exists(&self, path: &str) -> Result<bool, Error> {
        Ok(self.find(path)?.is_some())
    }
}
