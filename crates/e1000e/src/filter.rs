//! Which frames a card takes (82574 datasheet, 7.1.1): by address, and by VLAN.

use crate::checksum::word;
use crate::registers::{ADDRESSES, MTA, RA, RCTL, RegisterFile, VET, VFTA};

const UNICAST_PROMISCUOUS: u32 = 1 << 3;
const MULTICAST_PROMISCUOUS: u32 = 1 << 4;
const BROADCAST: u32 = 1 << 15;
const VLAN_FILTER: u32 = 1 << 18;
/// RAH: the address is valid.
pub const ADDRESS_VALID: u32 = 1 << 31;

/// Whom a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// One card.
    Unicast,
    /// Some.
    Multicast,
    /// All.
    Broadcast,
}

impl Audience {
    /// Of a frame of at least 6 bytes.
    pub fn of(frame: &[u8]) -> Self {
        match frame.get(..6) {
            Some([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => Self::Broadcast,
            Some([first, ..]) if first & 1 != 0 => Self::Multicast,
            _ => Self::Unicast,
        }
    }
}

/// How a frame came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// Whom it is for.
    pub audience: Audience,
    /// By the multicast table, which may be wrong.
    pub inexact: bool,
}

/// Lets a frame of at least 14 bytes through, or not.
pub fn pass(registers: &RegisterFile, frame: &[u8]) -> Option<Passed> {
    let control = registers.get(RCTL);
    if control & VLAN_FILTER != 0 && !is_member(registers, frame) {
        return None;
    }
    let audience = Audience::of(frame);
    let passed = |inexact| Some(Passed { audience, inexact });
    let promiscuous = match audience {
        Audience::Unicast => control & UNICAST_PROMISCUOUS != 0,
        Audience::Multicast => control & MULTICAST_PROMISCUOUS != 0,
        Audience::Broadcast => control & BROADCAST != 0,
    };
    let exact = (0..ADDRESSES).any(|at| is_address(registers, at, frame));
    if promiscuous || exact {
        return passed(false);
    }
    (audience != Audience::Unicast && is_in_table(registers, control, frame))
        .then(|| passed(true))
        .flatten()
}

/// True if the frame has no tag, or that of a VLAN that is let through.
fn is_member(registers: &RegisterFile, frame: &[u8]) -> bool {
    if u32::from(word(frame, 12)) != registers.get(VET) {
        return true;
    }
    let vlan = u32::from(word(frame, 14)) & 0xfff;
    registers.get(VFTA + 4 * (vlan >> 5)) & 1 << (vlan & 31) != 0
}

fn is_address(registers: &RegisterFile, at: u32, frame: &[u8]) -> bool {
    let high = registers.get(RA + 8 * at + 4);
    let address = u64::from(registers.get(RA + 8 * at)) | u64::from(high & 0xffff) << 32;
    high & ADDRESS_VALID != 0 && frame.get(..6) == address.to_le_bytes().get(..6)
}

/// Looks up the hash of a multicast address (10.2.5.21).
fn is_in_table(registers: &RegisterFile, control: u32, frame: &[u8]) -> bool {
    let shift = [4, 3, 2, 0][(control >> 12 & 3) as usize];
    let last = match frame.get(4..6) {
        Some(pair) => u32::from(u16::from_le_bytes([pair[0], pair[1]])),
        None => return false,
    };
    let hash = last >> shift & 0xfff;
    registers.get(MTA + 4 * (hash >> 5)) & 1 << (hash & 31) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(to: [u8; 6], tag: Option<u16>) -> Vec<u8> {
        let mut frame = to.to_vec();
        frame.extend([2, 0, 0, 0, 0, 1]);
        if let Some(tag) = tag {
            frame.extend([0x81, 0]);
            frame.extend(tag.to_be_bytes());
        }
        frame.extend([8, 0, 0, 0]);
        frame
    }

    const OWN: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

    fn card(control: u32) -> RegisterFile {
        let mut file = RegisterFile::new();
        file.set(RA, u32::from_le_bytes([0x52, 0x54, 0, 1]));
        file.set(RA + 4, 0x0302 | ADDRESS_VALID);
        file.set(RCTL, control);
        file
    }

    #[test]
    fn frames_pass_by_address() {
        let passes = |control, to| pass(&card(control), &frame(to, None)).is_some();
        assert!(passes(0, OWN));
        assert!(!passes(0, [0x52, 0x54, 0, 1, 2, 4]));
        assert!(passes(UNICAST_PROMISCUOUS, [0x52, 0x54, 0, 1, 2, 4]));
        assert!(!passes(UNICAST_PROMISCUOUS, [0x33, 0x33, 0, 0, 0, 1]));
        assert!(passes(MULTICAST_PROMISCUOUS, [0x33, 0x33, 0, 0, 0, 1]));
        assert!(!passes(0, [0xff; 6]) && passes(BROADCAST, [0xff; 6]));
    }

    #[test]
    fn the_multicast_table_is_a_hash() {
        let mut file = card(0);
        let to = [0x01, 0, 0x5e, 0, 0x34, 0x12];
        assert_eq!(pass(&file, &frame(to, None)), None);
        let hash = 0x1234u32 >> 4;
        file.set(MTA + 4 * (hash >> 5), 1 << (hash & 31));
        let seen = pass(&file, &frame(to, None)).unwrap();
        assert_eq!(
            seen,
            Passed {
                audience: Audience::Multicast,
                inexact: true
            }
        );
        file.set(RCTL, 3 << 12);
        assert_eq!(pass(&file, &frame(to, None)), None, "another part of the address");
    }

    #[test]
    fn frames_of_other_vlans_stay_out() {
        let mut file = card(VLAN_FILTER);
        assert!(pass(&file, &frame(OWN, None)).is_some());
        assert!(pass(&file, &frame(OWN, Some(0x2005))).is_none());
        file.set(VFTA, 1 << 5);
        assert!(pass(&file, &frame(OWN, Some(0x2005))).is_some());
        assert!(pass(&file, &frame(OWN, Some(37))).is_none());
    }
}
