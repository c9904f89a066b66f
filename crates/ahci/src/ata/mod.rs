//! An ATA disk: commands in, work out (ATA8-ACS). It touches neither memory nor the disk behind it.

mod identify;
mod log;
mod smart;
#[cfg(test)]
mod tests;
mod trim;

use ostler_disk::RequestError;

use crate::command::{Link, Work};
use crate::fis::{
    DEVICE_LBA, ERROR_ABRT, ERROR_IDNF, ERROR_UNC, Registers, STATUS_DF, STATUS_DRDY, STATUS_ERR, Taskfile,
};

/// Most blocks of 512 bytes in the list of a TRIM.
pub const MAX_TRIM_BLOCKS: u16 = 8;
/// Most sectors between two interrupts of READ MULTIPLE.
const MAX_MULTIPLE: u8 = 16;
/// Longest transfer of a command without 48-bit addresses, in sectors.
const SHORT_MAX: u64 = 256;
/// Longest transfer of a command with them.
const LONG_MAX: u64 = 65_536;

/// What never changes about a disk while its machine runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    /// Sectors.
    pub sectors: u64,
    /// Bytes of a sector: 512 or a larger power of two.
    pub sector: u32,
    /// Bytes that the host writes without reading first, a power of two.
    pub physical: u32,
    /// Serial number, at most 20 characters.
    pub serial: String,
    /// Writes are refused.
    pub readonly: bool,
    /// TRIM gives space back.
    pub trim: bool,
}

/// A power mode (ATA8-ACS, 4.18).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Power {
    #[default]
    Ready,
    Standby,
}

/// The queued command that failed, as the log of such errors shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct QueuedError {
    tag: u8,
    end: Taskfile,
}

/// What a driver has set.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Settings {
    write_cache: bool,
    look_ahead: bool,
    smart: bool,
    /// Sectors of READ MULTIPLE, or zero.
    multiple: u8,
    /// Transfer mode of SET FEATURES.
    mode: u8,
    heads: u16,
    sectors_per_track: u16,
    power: Power,
    queued_error: Option<QueuedError>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            write_cache: true,
            look_ahead: true,
            smart: true,
            multiple: MAX_MULTIPLE,
            // Ultra DMA 5.
            mode: 0x45,
            heads: 16,
            sectors_per_track: 63,
            power: Power::Ready,
            queued_error: None,
        }
    }
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    geometry: Geometry,
    settings: Settings,
}

/// Which sectors a command means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Addressing {
    /// 28 bits, or cylinder, head and sector.
    Short,
    /// 48 bits.
    Long,
    /// 48 bits, and the count is in the features.
    Queued,
}

impl Disk {
    /// A disk after power-on.
    pub fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            settings: Settings::default(),
        }
    }

    /// The disk was reset. A software reset keeps what SET FEATURES has set (ATA8-ACS, 4.21).
    pub fn reset(&mut self, hard: bool) {
        if hard {
            self.settings = Settings::default();
        } else {
            (self.settings.power, self.settings.queued_error) = (Power::Ready, None);
        }
    }

    /// True if `command` goes through the queue of the drive.
    pub fn is_queued(command: &Registers) -> bool {
        matches!(command.command, 0x60 | 0x61)
    }

    /// Carries out `command`, or says what has to be done for it.
    pub fn start(&mut self, command: &Registers) -> Work {
        use Addressing::{Long, Queued, Short};
        let queued = Link::Queued((command.count >> 3) as u8 & 0x1f);
        match command.command {
            0x06 => self.data_set_management(command),
            0x20 | 0x21 | 0xc4 => self.read(command, Short, Link::Pio),
            0x24 | 0x29 => self.read(command, Long, Link::Pio),
            0xc8 | 0xc9 => self.read(command, Short, Link::Dma),
            0x25 => self.read(command, Long, Link::Dma),
            0x60 => self.read(command, Queued, queued),
            0x30 | 0x31 | 0xc5 => self.write(command, Short, Link::Pio, false),
            0x34 | 0x39 => self.write(command, Long, Link::Pio, false),
            0xce => self.write(command, Long, Link::Pio, true),
            0xca | 0xcb => self.write(command, Short, Link::Dma, false),
            0x35 => self.write(command, Long, Link::Dma, false),
            0x3d => self.write(command, Long, Link::Dma, true),
            0x61 => self.write(command, Queued, queued, command.device & 0x80 != 0),
            0x40 | 0x41 => self.verify(command, Short),
            0x42 => self.verify(command, Long),
            0xe7 | 0xea => Work::Flush,
            0x2f => self.read_log(command, Link::Pio),
            0x47 => self.read_log(command, Link::Dma),
            0xec => send(identify::identify(&self.geometry, &self.settings), Link::Pio),
            0xef => self.set_features(command),
            0xc6 => self.set_multiple(command),
            0x91 => self.set_geometry(command),
            0xb0 => self.smart(command),
            // What was written is durable before the disk sleeps.
            0xe0 | 0xe2 | 0xe6 | 0x94 | 0x96 | 0x99 => {
                self.settings.power = Power::Standby;
                Work::Flush
            }
            0xe1 | 0xe3 | 0x95 | 0x97 => {
                self.settings.power = Power::Ready;
                done(command)
            }
            0xe5 | 0x98 => {
                let count = if self.settings.power == Power::Standby {
                    0
                } else {
                    0xff
                };
                Work::Done(Taskfile {
                    count,
                    ..Taskfile::ready(command)
                })
            }
            0x90 => Work::Done(Taskfile {
                device: command.device,
                ..crate::port::DriveKind::Disk.signature()
            }),
            // Recalibrate and seek: there is nothing to move.
            0x10..=0x1f | 0x70..=0x7f => done(command),
            _ => refuse(command),
        }
    }

    /// How `command` ended after the disk failed.
    pub fn failed(&mut self, command: &Registers, write: bool, error: RequestError) -> Taskfile {
        match error {
            RequestError::OutOfRange => Taskfile::failed(command, ERROR_IDNF),
            RequestError::ReadOnly | RequestError::Unsupported => Taskfile::failed(command, ERROR_ABRT),
            // No sector is bad: there was no room for it, or the host would not write.
            RequestError::NoSpace | RequestError::Host(_) if write => Taskfile {
                status: STATUS_DRDY | STATUS_DF | STATUS_ERR,
                ..Taskfile::failed(command, ERROR_ABRT)
            },
            RequestError::NoSpace | RequestError::Host(_) => Taskfile::failed(command, ERROR_UNC),
        }
    }

    /// Notes that the queued command with `tag` ended by `end`, for the log that the driver reads then.
    pub fn note_queued_error(&mut self, tag: u8, end: Taskfile) {
        self.settings.queued_error = Some(QueuedError { tag, end });
    }

    /// The sectors that `command` means, as bytes.
    fn range(&self, command: &Registers, addressing: Addressing) -> Result<(u64, u64), u8> {
        let count_of = |count: u16, most: u64| {
            let count = u64::from(count) % most;
            if count == 0 { most } else { count }
        };
        let (lba, count) = match addressing {
            Addressing::Short => {
                let count = count_of(command.count & 0xff, SHORT_MAX);
                if command.device & DEVICE_LBA != 0 {
                    let high = u64::from(command.device & 0xf) << 24;
                    (command.lba & 0xff_ffff | high, count)
                } else {
                    (self.block_of_cylinders(command).ok_or(ERROR_IDNF)?, count)
                }
            }
            Addressing::Long | Addressing::Queued if command.device & DEVICE_LBA == 0 => {
                return Err(ERROR_ABRT);
            }
            Addressing::Long => (command.lba, count_of(command.count, LONG_MAX)),
            Addressing::Queued => (command.lba, count_of(command.features, LONG_MAX)),
        };
        // Neither sum nor product overflows: addresses have 48 bits, and disks less than 2^63 bytes.
        if lba + count > self.geometry.sectors {
            return Err(ERROR_IDNF);
        }
        let sector = u64::from(self.geometry.sector);
        Ok((lba * sector, count * sector))
    }

    /// Block of a cylinder, head and sector. Sectors count from 1.
    fn block_of_cylinders(&self, command: &Registers) -> Option<u64> {
        let sector = (command.lba & 0xff).checked_sub(1)?;
        let cylinder = command.lba >> 8 & 0xffff;
        let head = u64::from(command.device & 0xf);
        let (heads, sectors) = (
            u64::from(self.settings.heads),
            u64::from(self.settings.sectors_per_track),
        );
        (head < heads && sector < sectors).then(|| (cylinder * heads + head) * sectors + sector)
    }

    fn read(&mut self, command: &Registers, addressing: Addressing, link: Link) -> Work {
        self.settings.power = Power::Ready;
        match self.range(command, addressing) {
            Ok((offset, len)) => Work::Read { offset, len, link },
            Err(error) => Work::Done(Taskfile::failed(command, error)),
        }
    }

    fn write(&mut self, command: &Registers, addressing: Addressing, link: Link, durable: bool) -> Work {
        self.settings.power = Power::Ready;
        if self.geometry.readonly {
            return refuse(command);
        }
        match self.range(command, addressing) {
            Ok((offset, len)) => Work::Write {
                offset,
                len,
                link,
                durable: durable || !self.settings.write_cache,
            },
            Err(error) => Work::Done(Taskfile::failed(command, error)),
        }
    }

    fn verify(&mut self, command: &Registers, addressing: Addressing) -> Work {
        match self.range(command, addressing) {
            Ok(_) => done(command),
            Err(error) => Work::Done(Taskfile::failed(command, error)),
        }
    }

    /// DATA SET MANAGEMENT: of its functions there is TRIM (ATA8-ACS, 7.10).
    fn data_set_management(&mut self, command: &Registers) -> Work {
        let allowed = self.geometry.trim && !self.geometry.readonly;
        let good = command.features == 1 && (1..=MAX_TRIM_BLOCKS).contains(&command.count);
        if allowed && good {
            Work::Trim {
                len: u64::from(command.count) * 512,
            }
        } else {
            refuse(command)
        }
    }

    /// The byte ranges of a TRIM's list; `None` if one is not on the disk.
    pub fn trim_ranges(&self, list: &[u8]) -> Option<Vec<(u64, u64)>> {
        trim::ranges(list, self.geometry.sectors, self.geometry.sector)
    }

    fn set_features(&mut self, command: &Registers) -> Work {
        let settings = &mut self.settings;
        match command.features & 0xff {
            0x02 => settings.write_cache = true,
            0x82 => settings.write_cache = false,
            0xaa => settings.look_ahead = true,
            0x55 => settings.look_ahead = false,
            // PIO modes, multiword DMA 0 to 2, ultra DMA 0 to 5.
            0x03 => match command.count as u8 {
                mode @ (0x00 | 0x01 | 0x08..=0x0c | 0x20..=0x22 | 0x40..=0x45) => settings.mode = mode,
                _ => return refuse(command),
            },
            // Whether settings outlive a software reset: they do.
            0x66 | 0xcc => {}
            _ => return refuse(command),
        }
        // A cache that is switched off is emptied.
        if command.features & 0xff == 0x82 {
            return Work::Flush;
        }
        done(command)
    }

    fn set_multiple(&mut self, command: &Registers) -> Work {
        let count = command.count as u8;
        if count > MAX_MULTIPLE || count != 0 && !count.is_power_of_two() {
            return refuse(command);
        }
        self.settings.multiple = count;
        done(command)
    }

    /// INITIALIZE DEVICE PARAMETERS: how cylinders, heads and sectors are counted.
    fn set_geometry(&mut self, command: &Registers) -> Work {
        let sectors = command.count & 0xff;
        if sectors == 0 {
            return refuse(command);
        }
        self.settings.sectors_per_track = sectors;
        self.settings.heads = u16::from(command.device & 0xf) + 1;
        done(command)
    }

    fn read_log(&mut self, command: &Registers, link: Link) -> Work {
        match log::read(command, self.settings.queued_error) {
            Some(data) => send(data, link),
            None => refuse(command),
        }
    }

    fn smart(&mut self, command: &Registers) -> Work {
        smart::command(command, &mut self.settings.smart)
    }
}

fn send(data: Vec<u8>, link: Link) -> Work {
    Work::Send { data, link }
}

fn done(command: &Registers) -> Work {
    Work::Done(Taskfile::ready(command))
}

fn refuse(command: &Registers) -> Work {
    Work::Done(Taskfile::failed(command, ERROR_ABRT))
}
