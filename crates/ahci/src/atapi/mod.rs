//! An ATAPI CD-ROM drive: commands in, work out (ATA8-ACS for the drive, MMC-6 and SPC-4 for packets). It touches neither
//! memory nor the image behind it.

mod configuration;
mod identify;
mod inquiry;
mod medium;
mod mode;
mod sense;
#[cfg(test)]
mod tests;
mod toc;

use ostler_disk::RequestError;

use medium::MediaEvent;
pub use sense::Sense;

use crate::command::{Link, Work};
use crate::fis::{ERROR_ABRT, Registers, STATUS_DRDY, STATUS_DSC, STATUS_ERR, Taskfile};
use crate::port::DriveKind;

/// Bytes of a block of a CD.
pub const BLOCK: u64 = 2048;
/// Most blocks of one read: 32 MiB, as much as a disk's commands can move.
const MAX_BLOCKS: u64 = 16_384;
/// Interrupt reason of an end (ATA8-ACS, A.2): status, to the host.
const REASON_STATUS: u16 = 3;

/// The command of a packet.
const PACKET: u8 = 0xa0;

/// A drive with its medium.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cdrom {
    /// Blocks of the medium, if there is one: in the drive, or in its open tray.
    medium: Option<u64>,
    serial: String,
    /// Transfer mode of SET FEATURES.
    mode: u8,
    /// The tray is open.
    open: bool,
    /// The tray may not open (PREVENT ALLOW MEDIUM REMOVAL).
    locked: bool,
    /// Why the last packet failed.
    sense: Sense,
    /// What the next command is told first.
    attention: Option<Sense>,
    event: MediaEvent,
}

impl Cdrom {
    /// A drive after power-on with a medium of `bytes`, if it has one; a part of a block at its end is left out.
    pub fn new(bytes: Option<u64>, serial: String) -> Self {
        Self {
            medium: bytes.map(|bytes| bytes / BLOCK),
            serial,
            mode: 0x45,
            open: false,
            locked: false,
            sense: Sense::NONE,
            attention: Some(Sense::POWER_ON),
            event: MediaEvent::of_start(bytes.is_some()),
        }
    }

    /// The drive was reset, by hardware or by software.
    pub fn reset(&mut self, hard: bool) {
        if hard {
            self.mode = 0x45;
        }
        self.locked = false;
        self.sense = Sense::NONE;
        self.attention = Some(Sense::POWER_ON);
    }

    /// True if `command` comes with a packet.
    pub fn wants_packet(command: &Registers) -> bool {
        command.command == PACKET
    }

    /// Carries out `command`, or says what has to be done for it. `packet` is that of a command that wants one.
    pub fn start(&mut self, command: &Registers, packet: Option<&[u8; 16]>) -> Work {
        let signature = DriveKind::Cdrom.signature();
        match (command.command, packet) {
            (PACKET, Some(packet)) => self.packet(command, packet),
            (0xa1, _) => Work::Send {
                data: identify::identify(self),
                link: Link::Pio,
            },
            // A disk's commands show that this is none (ATA8-ACS, 4.3).
            (0xec | 0x20 | 0x21, _) => Work::Done(Taskfile {
                status: STATUS_DRDY | STATUS_ERR,
                error: ERROR_ABRT,
                ..signature
            }),
            // DEVICE RESET.
            (0x08, _) => {
                self.reset(false);
                Work::Done(signature)
            }
            (0x90, _) => Work::Done(signature),
            (0xef, _) => self.set_features(command),
            // Power management: the drive is always ready.
            (0xe0..=0xe3 | 0xe6 | 0xe7, _) => Work::Done(Taskfile::ready(command)),
            (0xe5, _) => Work::Done(Taskfile {
                count: 0xff,
                ..Taskfile::ready(command)
            }),
            _ => Work::Done(Taskfile::failed(command, ERROR_ABRT)),
        }
    }

    fn set_features(&mut self, command: &Registers) -> Work {
        match (command.features & 0xff, command.count as u8) {
            (0x03, mode @ (0x00 | 0x01 | 0x08..=0x0c | 0x20..=0x22 | 0x40..=0x45)) => self.mode = mode,
            (0x66 | 0xcc, _) => {}
            _ => return Work::Done(Taskfile::failed(command, ERROR_ABRT)),
        }
        Work::Done(Taskfile::ready(command))
    }

    /// How a packet that went well ends.
    pub fn ended(command: &Registers) -> Taskfile {
        Taskfile {
            count: REASON_STATUS,
            ..Taskfile::ready(command)
        }
    }

    /// How `command` ended after the image failed.
    pub fn failed(&mut self, command: &Registers, error: RequestError) -> Taskfile {
        self.check_condition(
            command,
            match error {
                RequestError::OutOfRange => Sense::BAD_ADDRESS,
                _ => Sense::READ_ERROR,
            },
        )
    }

    /// The check condition, and the sense that explains it.
    fn check_condition(&mut self, command: &Registers, sense: Sense) -> Taskfile {
        self.sense = sense;
        Taskfile {
            status: STATUS_DRDY | STATUS_DSC | STATUS_ERR,
            error: sense.key << 4
                | if sense.key == Sense::ILLEGAL {
                    ERROR_ABRT
                } else {
                    0
                },
            ..Self::ended(command)
        }
    }

    fn packet(&mut self, command: &Registers, packet: &[u8; 16]) -> Work {
        match self.carry_out(packet) {
            Ok(Answer::Done) => {
                self.sense = Sense::NONE;
                Work::Done(Self::ended(command))
            }
            Ok(Answer::Bytes(data)) => {
                if packet[0] != REQUEST_SENSE {
                    self.sense = Sense::NONE;
                }
                Work::Send {
                    data,
                    link: Link::Packet,
                }
            }
            Ok(Answer::Blocks { first, count }) => {
                self.sense = Sense::NONE;
                Work::Read {
                    offset: first * BLOCK,
                    len: count * BLOCK,
                    link: Link::Packet,
                }
            }
            Err(sense) => Work::Done(self.check_condition(command, sense)),
        }
    }

    fn carry_out(&mut self, packet: &[u8; 16]) -> Result<Answer, Sense> {
        let always = [INQUIRY, REQUEST_SENSE, GET_CONFIGURATION, GET_EVENT_STATUS];
        if !always.contains(&packet[0])
            && let Some(attention) = self.attention.take()
        {
            return Err(attention);
        }
        match packet[0] {
            TEST_UNIT_READY => self.medium().map(|_| Answer::Done),
            REQUEST_SENSE => {
                let mut sense = std::mem::replace(&mut self.sense, Sense::NONE);
                if sense == Sense::NONE {
                    sense = self.attention.take().unwrap_or(sense);
                }
                bytes(sense.fixed().to_vec(), u64::from(packet[4]))
            }
            INQUIRY => bytes(inquiry::inquiry(packet, &self.serial)?, u16_at(packet, 3)),
            MODE_SENSE_6 => bytes(mode::sense_6(packet)?, u64::from(packet[4])),
            MODE_SENSE_10 => bytes(mode::sense_10(packet)?, u16_at(packet, 7)),
            START_STOP_UNIT => self.start_stop(packet),
            PREVENT_ALLOW => {
                self.locked = packet[4] & 1 != 0;
                Ok(Answer::Done)
            }
            READ_CAPACITY => {
                let last = u32::try_from(self.medium()?.saturating_sub(1)).unwrap_or(u32::MAX);
                let mut data = last.to_be_bytes().to_vec();
                data.extend((BLOCK as u32).to_be_bytes());
                bytes(data, u64::MAX)
            }
            READ_6 => {
                let count = if packet[4] == 0 { 256 } else { u64::from(packet[4]) };
                self.read(u32_at(packet, 0) & 0x1f_ffff, count)
            }
            READ_10 => self.read(u32_at(packet, 2), u16_at(packet, 7)),
            READ_12 => self.read(u32_at(packet, 2), u32_at(packet, 6)),
            SEEK_10 => match u32_at(packet, 2) < self.medium()? {
                true => Ok(Answer::Done),
                false => Err(Sense::BAD_ADDRESS),
            },
            READ_TOC => bytes(toc::read(packet, self.medium()?)?, u16_at(packet, 7)),
            READ_DISC_INFORMATION => {
                self.medium()?;
                bytes(toc::disc_information(), u16_at(packet, 7))
            }
            GET_CONFIGURATION => {
                let blocks = self.medium().unwrap_or(0);
                bytes(configuration::features(packet, blocks), u16_at(packet, 7))
            }
            GET_EVENT_STATUS => self.event_status(packet),
            MECHANISM_STATUS => bytes(self.mechanism_status(), u16_at(packet, 8)),
            SET_CD_SPEED => Ok(Answer::Done),
            _ => Err(Sense::BAD_COMMAND),
        }
    }

    fn read(&self, first: u64, count: u64) -> Result<Answer, Sense> {
        let blocks = self.medium()?;
        if first + count > blocks {
            return Err(Sense::BAD_ADDRESS);
        }
        match count {
            0 => Ok(Answer::Done),
            1..=MAX_BLOCKS => Ok(Answer::Blocks { first, count }),
            _ => Err(Sense::BAD_FIELD),
        }
    }
}

const TEST_UNIT_READY: u8 = 0x00;
const REQUEST_SENSE: u8 = 0x03;
const READ_6: u8 = 0x08;
const INQUIRY: u8 = 0x12;
const MODE_SENSE_6: u8 = 0x1a;
const START_STOP_UNIT: u8 = 0x1b;
const PREVENT_ALLOW: u8 = 0x1e;
const READ_CAPACITY: u8 = 0x25;
const READ_10: u8 = 0x28;
const SEEK_10: u8 = 0x2b;
const READ_TOC: u8 = 0x43;
const GET_CONFIGURATION: u8 = 0x46;
const GET_EVENT_STATUS: u8 = 0x4a;
const READ_DISC_INFORMATION: u8 = 0x51;
const MODE_SENSE_10: u8 = 0x5a;
const READ_12: u8 = 0xa8;
const SET_CD_SPEED: u8 = 0xbb;
const MECHANISM_STATUS: u8 = 0xbd;

/// What a packet comes to.
enum Answer {
    Done,
    Bytes(Vec<u8>),
    Blocks { first: u64, count: u64 },
}

/// The first `room` bytes of an answer; none are an end without data.
fn bytes(mut data: Vec<u8>, room: u64) -> Result<Answer, Sense> {
    data.truncate(usize::try_from(room).unwrap_or(usize::MAX));
    Ok(if data.is_empty() {
        Answer::Done
    } else {
        Answer::Bytes(data)
    })
}

fn u16_at(packet: &[u8; 16], at: usize) -> u64 {
    u64::from(u16::from_be_bytes([packet[at], packet[at + 1]]))
}

fn u32_at(packet: &[u8; 16], at: usize) -> u64 {
    u16_at(packet, at) << 16 | u16_at(packet, at + 2)
}
