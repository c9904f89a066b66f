//! The file systems of a disk.

use std::io::Write;

use crate::Error;
use crate::ext4::Ext4Volume;
use crate::fat::FatVolume;
use crate::iso9660::IsoVolume;
use crate::partitions::{self, Partition, Table};
use crate::source::Source;

/// Bytes of a file that are read and passed on at a time: few enough to stay in a CPU's cache in between.
pub(crate) const CHUNK: usize = 256 << 10;

/// A file system that is read. Paths are absolute, with slashes.
pub(crate) trait Volume {
    /// "ext4", "FAT" or "ISO 9660".
    fn kind(&self) -> &'static str;

    /// As `search --fs-uuid` compares it.
    fn uuid(&self) -> String;

    fn label(&self) -> String;

    /// Copies a file of `most` bytes at most, and returns how many it has; `None` if there is no such file.
    fn copy(&self, path: &str, most: u64, into: &mut dyn Write) -> Result<Option<u64>, Error>;

    /// All of a file.
    fn read(&self, path: &str, most: u64) -> Result<Option<Vec<u8>>, Error> {
        let mut bytes = Vec::new();
        let found = self.copy(path, most, &mut bytes)?;
        Ok(found.map(|_| bytes))
    }

    /// The names in a folder, a bounded number of them; none if there is no such folder.
    fn names(&self, path: &str) -> Result<Vec<String>, Error>;

    /// True if there is a file or a folder.
    fn exists(&self, path: &str) -> Result<bool, Error>;
}

/// The volumes of a disk, with their partitions.
pub(crate) struct Volumes {
    list: Vec<(Partition, Option<Box<dyn Volume>>)>,
    source: Source,
}

/// Opens every file system that is known.
pub(crate) fn open_all(source: &Source) -> Result<Volumes, Error> {
    let mut list: Vec<(Partition, Option<Box<dyn Volume>>)> = Vec::new();
    let found = partitions::list(source)?;
    // A hybrid image is a CD-ROM as a whole, and has partitions beside.
    let whole = source.part(0, u64::MAX);
    if found.iter().all(|partition| partition.number != 0) && IsoVolume::is_here(&whole) {
        let partition = Partition {
            table: Table::None,
            number: 0,
            part: whole.clone(),
        };
        list.push((partition, Some(Box::new(IsoVolume::open(whole)?))));
    }
    for partition in found {
        let part = &partition.part;
        let volume: Option<Box<dyn Volume>> = if IsoVolume::is_here(part) {
            Some(Box::new(IsoVolume::open(part.clone())?))
        } else if Ext4Volume::is_here(part) {
            Some(Box::new(Ext4Volume::open(part.clone())?))
        } else if FatVolume::is_here(part) {
            // What looks like FAT and is none has no system.
            FatVolume::open(part.clone())
                .ok()
                .map(|volume| Box::new(volume) as Box<dyn Volume>)
        } else {
            None
        };
        list.push((partition, volume));
    }
    Ok(Volumes {
        list,
        source: source.clone(),
    })
}

impl Volumes {
    /// A disk whose only partition is `volume`.
    #[cfg(any(test, fuzzing))]
    pub fn of(volume: Box<dyn Volume>, source: Source) -> Self {
        let partition = Partition {
            table: Table::Gpt,
            number: 1,
            part: source.part(0, u64::MAX),
        };
        Self {
            list: vec![(partition, Some(volume))],
            source,
        }
    }

    /// The volume at `index`.
    pub fn get(&self, index: usize) -> Option<&dyn Volume> {
        self.list.get(index)?.1.as_deref()
    }

    /// Every volume with its index.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &dyn Volume)> {
        (0..self.list.len()).filter_map(|index| Some((index, self.get(index)?)))
    }

    /// An error if the disk was read so often that it leads in circles.
    pub fn check(&self) -> Result<(), Error> {
        match self.source.is_exhausted() {
            true => Err(Error::Exhausted),
            false => Ok(()),
        }
    }

    /// What GRUB calls the volume at `index`.
    pub fn grub_name(&self, index: usize) -> String {
        match self
            .list
            .get(index)
            .map(|(partition, _)| (partition.table, partition.number))
        {
            Some((Table::Gpt, number)) => format!("hd0,gpt{number}"),
            Some((Table::Mbr, number)) => format!("hd0,msdos{number}"),
            _ => "hd0".into(),
        }
    }

    /// The index of what GRUB calls `name`: hd0, hd0,1, hd0,gpt1, hd0,msdos1, or cd0 for the whole disk.
    pub fn by_grub_name(&self, name: &str) -> Option<usize> {
        let number = match name.split_once(',') {
            None if matches!(name, "hd0" | "cd0" | "cd") => 0,
            Some(("hd0", partition)) => partition
                .trim_start_matches(|c: char| c.is_ascii_alphabetic())
                .parse::<u32>()
                .ok()
                .filter(|number| *number > 0)?,
            _ => return None,
        };
        self.list
            .iter()
            .position(|(partition, _)| partition.number == number)
    }

    /// What there is, for people.
    pub fn describe(&self) -> String {
        let named = self.list.iter().map(|(partition, volume)| {
            let kind = volume.as_deref().map_or("of an unknown kind", Volume::kind);
            match partition.number {
                0 => format!("all of it is {kind}"),
                number => format!("partition {number} is {kind}"),
            }
        });
        named.collect::<Vec<_>>().join(", ")
    }
}
