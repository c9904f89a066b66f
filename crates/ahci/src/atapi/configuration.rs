//! GET CONFIGURATION (MMC-6, 6.6 and 5.3): what the drive can do with what is in it.

const PROFILE_NONE: u16 = 0x0000;
const PROFILE_CD: u16 = 0x0008;
const PROFILE_DVD: u16 = 0x0010;
/// Blocks of a CD of 80 minutes; a larger medium is a DVD.
const CD_BLOCKS: u64 = 80 * 60 * 75;

const PERSISTENT: u8 = 2;
const CURRENT: u8 = 1;

/// The answer for a medium of `blocks`, none if that is zero.
pub fn features(packet: &[u8; 16], blocks: u64) -> Vec<u8> {
    let profile = match blocks {
        0 => PROFILE_NONE,
        1..=CD_BLOCKS => PROFILE_CD,
        _ => PROFILE_DVD,
    };
    let start = u16::from_be_bytes([packet[2], packet[3]]);
    // All features, those that are current, or one.
    let kind = packet[1] & 3;
    let mut data = vec![0; 8];
    for (number, flags, body) in all(profile) {
        let wanted = match kind {
            0 => number >= start,
            1 => number >= start && flags & CURRENT != 0,
            _ => number == start,
        };
        if wanted {
            data.extend(number.to_be_bytes());
            data.extend([flags, body.len() as u8]);
            data.extend(body);
        }
    }
    let length = data.len() as u32 - 4;
    data[..4].copy_from_slice(&length.to_be_bytes());
    data[6..8].copy_from_slice(&profile.to_be_bytes());
    data
}

/// Number, version and flags, and body of each feature.
fn all(profile: u16) -> Vec<(u16, u8, Vec<u8>)> {
    let current = |yes: bool| u8::from(yes) * CURRENT;
    let version = |number: u8| number << 2;
    let has_medium = profile != PROFILE_NONE;
    let mut profiles = Vec::new();
    for known in [PROFILE_DVD, PROFILE_CD] {
        profiles.extend(known.to_be_bytes());
        profiles.extend([current(known == profile), 0]);
    }
    vec![
        // Profile list.
        (0x0000, PERSISTENT | CURRENT, profiles),
        // Core: serial ATA.
        (
            0x0001,
            version(2) | PERSISTENT | CURRENT,
            vec![0, 0, 0, 7, 1, 0, 0, 0],
        ),
        // Removable medium: a tray that ejects and locks.
        (0x0003, version(2) | PERSISTENT | CURRENT, vec![0x39, 0, 0, 0]),
        // Random readable, in blocks of 2,048 bytes.
        (0x0010, current(has_medium), vec![0, 0, 8, 0, 0, 1, 0, 0]),
        // CD read.
        (
            0x001e,
            version(2) | current(profile == PROFILE_CD),
            vec![0, 0, 0, 0],
        ),
        // DVD read.
        (0x001f, current(profile == PROFILE_DVD), vec![]),
    ]
}
