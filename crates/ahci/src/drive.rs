//! Either kind of drive, as its port's worker sees it.

use ostler_disk::{Disk, RequestError, SECTOR_SIZE};

use crate::Error;
use crate::ata::{self, Geometry};
use crate::atapi::{BLOCK, Cdrom};
use crate::command::Work;
use crate::fis::{Registers, Taskfile};
use crate::port::DriveKind;

/// A drive's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drive {
    /// An ATA disk.
    Disk(ata::Disk),
    /// An ATAPI CD-ROM drive.
    Cdrom(Cdrom),
}

impl Drive {
    /// A drive of `kind` over `disk`, which only a CD-ROM drive can do without.
    pub fn new(kind: DriveKind, disk: Option<&dyn Disk>, serial: String) -> Result<Self, Error> {
        Ok(match kind {
            DriveKind::Disk => {
                let disk = disk.ok_or(Error::NoDisk)?;
                let (topology, features) = (disk.topology(), disk.features());
                let sector = topology.logical_block.max(SECTOR_SIZE as u32);
                Self::Disk(ata::Disk::new(Geometry {
                    sectors: disk.size() / u64::from(sector),
                    sector,
                    physical: topology.physical_block.max(sector),
                    serial,
                    readonly: features.readonly,
                    trim: features.discard,
                }))
            }
            DriveKind::Cdrom => Self::Cdrom(Cdrom::new(disk.map(medium_size), serial)),
        })
    }

    /// Its kind.
    pub fn kind(&self) -> DriveKind {
        match self {
            Self::Disk(_) => DriveKind::Disk,
            Self::Cdrom(_) => DriveKind::Cdrom,
        }
    }

    /// It was reset: by its link (`hard`), or by the control register.
    pub fn reset(&mut self, hard: bool) {
        match self {
            Self::Disk(disk) => disk.reset(hard),
            Self::Cdrom(drive) => drive.reset(hard),
        }
    }

    /// True if `command` goes through the drive's own queue.
    pub fn is_queued(&self, command: &Registers) -> bool {
        self.kind() == DriveKind::Disk && ata::Disk::is_queued(command)
    }

    /// True if `command` comes with a packet.
    pub fn wants_packet(&self, command: &Registers) -> bool {
        self.kind() == DriveKind::Cdrom && Cdrom::wants_packet(command)
    }

    /// Carries out `command`, or says what has to be done for it.
    pub fn start(&mut self, command: &Registers, packet: Option<&[u8; 16]>) -> Work {
        match self {
            Self::Disk(disk) => disk.start(command),
            Self::Cdrom(drive) => drive.start(command, packet),
        }
    }

    /// How `command` ends that went well.
    pub fn ended(&self, command: &Registers) -> Taskfile {
        if self.wants_packet(command) {
            Cdrom::ended(command)
        } else {
            Taskfile::ready(command)
        }
    }

    /// How `command` ended after the disk behind the drive failed.
    pub fn failed(&mut self, command: &Registers, write: bool, error: RequestError) -> Taskfile {
        match self {
            Self::Disk(disk) => disk.failed(command, write, error),
            Self::Cdrom(drive) => drive.failed(command, error),
        }
    }

    /// Notes how the queued command with `tag` failed.
    pub fn note_queued_error(&mut self, tag: u8, end: Taskfile) {
        if let Self::Disk(disk) = self {
            disk.note_queued_error(tag, end);
        }
    }

    /// The byte ranges of a TRIM's list; `None` if one is not on the disk.
    pub fn trim_ranges(&self, list: &[u8]) -> Option<Vec<(u64, u64)>> {
        match self {
            Self::Disk(disk) => disk.trim_ranges(list),
            Self::Cdrom(_) => None,
        }
    }
}

/// Bytes of a medium: none of an image whose blocks are larger on the host than a CD's.
pub fn medium_size(disk: &dyn Disk) -> u64 {
    if u64::from(disk.topology().logical_block) > BLOCK {
        0
    } else {
        disk.size()
    }
}
