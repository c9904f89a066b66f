//! The tray and what lies in it: what the guest does to them, what management does, and what a driver hears of it.

use super::{Answer, BLOCK, Cdrom, Sense, bytes, u16_at};
use crate::tray::TrayState;

/// Something about the medium that a driver has not heard of yet, by its code (MMC-6, 6.7, media events).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MediaEvent {
    #[default]
    None = 0,
    /// Somebody wants the medium out.
    EjectRequest = 1,
    NewMedia = 2,
    Removed = 3,
}

impl MediaEvent {
    /// What there is to tell after power-on.
    pub fn of_start(has_medium: bool) -> Self {
        match has_medium {
            true => Self::NewMedia,
            false => Self::None,
        }
    }
}

impl Cdrom {
    /// Blocks of the medium, if it can be read.
    pub(super) fn medium(&self) -> Result<u64, Sense> {
        match (self.open, self.medium) {
            (true, _) => Err(Sense::TRAY_OPEN),
            (false, None) => Err(Sense::NO_MEDIUM),
            (false, Some(blocks)) => Ok(blocks),
        }
    }

    /// How the tray stands.
    pub fn tray(&self) -> TrayState {
        TrayState {
            open: self.open,
            locked: self.locked,
        }
    }

    /// Management opens the tray. False if the guest has locked it: then it is asked to eject. `force` unlocks.
    #[must_use]
    pub fn open_from_outside(&mut self, force: bool) -> bool {
        if !self.open && self.locked {
            if !force {
                self.event = MediaEvent::EjectRequest;
                return false;
            }
            self.locked = false;
        }
        self.open_tray();
        true
    }

    /// Management puts a medium of `bytes` into the tray, or takes out what is there.
    pub fn lay(&mut self, bytes: Option<u64>) {
        self.medium = bytes.map(|bytes| bytes / BLOCK);
    }

    fn open_tray(&mut self) {
        if !self.open && self.medium.is_some() {
            self.event = MediaEvent::Removed;
        }
        self.open = true;
    }

    /// The tray closes. What lies in it may be another medium than before.
    pub fn close_tray(&mut self) {
        if self.open && self.medium.is_some() {
            self.event = MediaEvent::NewMedia;
            self.attention = Some(Sense::MEDIUM_CHANGED);
        }
        self.open = false;
    }

    /// START STOP UNIT (MMC-6, 6.42): with LoEj the tray opens or closes.
    pub(super) fn start_stop(&mut self, packet: &[u8; 16]) -> Result<Answer, Sense> {
        match packet[4] & 3 {
            2 if self.locked && !self.open => return Err(Sense::LOCKED),
            2 => self.open_tray(),
            3 => self.close_tray(),
            _ => {}
        }
        Ok(Answer::Done)
    }

    /// GET EVENT STATUS NOTIFICATION (MMC-6, 6.7), polled, of the media class.
    pub(super) fn event_status(&mut self, packet: &[u8; 16]) -> Result<Answer, Sense> {
        const MEDIA: u8 = 4;
        const TRAY_OPEN: u8 = 1 << 0;
        const PRESENT: u8 = 1 << 1;
        let (polled, classes) = (packet[1] & 1 != 0, packet[4]);
        if !polled {
            return Err(Sense::BAD_FIELD);
        }
        let supported = 1 << MEDIA;
        if classes & supported == 0 {
            // No event is available of these classes.
            return bytes(vec![0, 2, 0x80, supported], u16_at(packet, 7));
        }
        let event = std::mem::take(&mut self.event) as u8;
        let status = match (self.open, self.medium) {
            (true, _) => TRAY_OPEN,
            (false, Some(_)) => PRESENT,
            (false, None) => 0,
        };
        bytes(
            vec![0, 6, MEDIA, supported, event, status, 0, 0],
            u16_at(packet, 7),
        )
    }

    /// MECHANISM STATUS (MMC-6, 6.11): idle, with the door open or closed.
    pub(super) fn mechanism_status(&self) -> Vec<u8> {
        const DOOR_OPEN: u8 = 1 << 4;
        let door = if self.open { DOOR_OPEN } else { 0 };
        vec![0, door, 0, 0, 0, 0, 0, 0]
    }
}
