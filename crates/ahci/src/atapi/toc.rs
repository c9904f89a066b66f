//! What is on the medium: one data track (MMC-6, 6.25 and 6.21).

use super::Sense;

/// Control and address: a data track, its position as the sub-channel says it.
const DATA_TRACK: u8 = 0x14;
const LEAD_OUT: u8 = 0xaa;
/// Frames of a second.
const FRAMES: u64 = 75;
/// Frames before the first block.
const PREGAP: u64 = 150;

/// The answer to READ TOC/PMA/ATIP for a medium of `blocks`.
pub fn read(packet: &[u8; 16], blocks: u64) -> Result<Vec<u8>, Sense> {
    let msf = packet[1] & 2 != 0;
    // The format, where drives before MMC had it and where it is now.
    let format = match packet[2] & 0xf {
        0 => packet[9] >> 6,
        format => format,
    };
    match format {
        0 => tracks(packet[6], blocks, msf),
        // One complete session.
        1 => Ok([&[0, 10, 1, 1, 0, DATA_TRACK, 1, 0][..], &place(0, msf)].concat()),
        2 => Ok(full(blocks)),
        _ => Err(Sense::BAD_FIELD),
    }
}

/// Format 0: the tracks from number `first` on, and the lead-out.
fn tracks(first: u8, blocks: u64, msf: bool) -> Result<Vec<u8>, Sense> {
    let mut data = vec![0, 0, 1, 1];
    if first > 1 && first != LEAD_OUT {
        return Err(Sense::BAD_FIELD);
    }
    let mut add = |number: u8, block: u64| {
        data.extend([0, DATA_TRACK, number, 0]);
        data.extend(place(block, msf));
    };
    if first <= 1 {
        add(1, 0);
    }
    add(LEAD_OUT, blocks);
    data[1] = data.len() as u8 - 2;
    Ok(data)
}

/// Format 2: every entry of the lead-in's sub-channel.
fn full(blocks: u64) -> Vec<u8> {
    let mut data = vec![0, 0, 1, 1];
    let msf = |block: u64| {
        let [_, minute, second, frame] = place(block, true);
        [minute, second, frame]
    };
    // First and last track, start of the lead-out, start of the track.
    for (point, [minute, second, frame]) in [
        (0xa0, [1, 0, 0]),
        (0xa1, [1, 0, 0]),
        (0xa2, msf(blocks)),
        (0x01, msf(0)),
    ] {
        data.extend([1, DATA_TRACK, 0, point, 0, 0, 0, 0, minute, second, frame]);
    }
    data[1] = data.len() as u8 - 2;
    data
}

/// A block's address, as its number or as minute, second and frame.
fn place(block: u64, msf: bool) -> [u8; 4] {
    if !msf {
        return u32::try_from(block).unwrap_or(u32::MAX).to_be_bytes();
    }
    let frames = block + PREGAP;
    // A medium may be larger than 99 minutes of a CD: the last that can be said.
    let minute = (frames / (60 * FRAMES)).min(99);
    [
        0,
        minute as u8,
        (frames / FRAMES % 60) as u8,
        (frames % FRAMES) as u8,
    ]
}

/// The answer to READ DISC INFORMATION: a finished medium of one session and one track.
pub fn disc_information() -> Vec<u8> {
    let mut data = vec![0, 32, 0x0e, 1, 1, 1, 1, 0x20];
    data.resize(34, 0);
    // No lead-in and no lead-out can be appended.
    data[16..24].fill(0xff);
    data
}
