//! MODE SENSE (SPC-4, 6.11; MMC-6, 7): pages that say that this drive only reads.

use super::Sense;

const ERROR_RECOVERY: u8 = 0x01;
const CAPABILITIES: u8 = 0x2a;
const ALL: u8 = 0x3f;

/// The answer to MODE SENSE (6).
pub fn sense_6(packet: &[u8; 16]) -> Result<Vec<u8>, Sense> {
    let pages = pages(packet)?;
    // Length of what follows, medium type, and no block descriptor.
    let mut data = vec![pages.len() as u8 + 3, 0, 0, 0];
    data.extend(pages);
    Ok(data)
}

/// The answer to MODE SENSE (10).
pub fn sense_10(packet: &[u8; 16]) -> Result<Vec<u8>, Sense> {
    let pages = pages(packet)?;
    let mut data = vec![0, pages.len() as u8 + 6, 0, 0, 0, 0, 0, 0];
    data.extend(pages);
    Ok(data)
}

fn pages(packet: &[u8; 16]) -> Result<Vec<u8>, Sense> {
    // Saved values there are none; changeable ones neither, so these read as zero.
    let control = packet[2] >> 6;
    if control == 3 {
        return Err(Sense::BAD_FIELD);
    }
    let mut pages = match packet[2] & 0x3f {
        ERROR_RECOVERY => vec![recovery()],
        CAPABILITIES => vec![capabilities()],
        ALL => vec![recovery(), capabilities()],
        _ => return Err(Sense::BAD_FIELD),
    };
    if control == 1 {
        for page in &mut pages {
            page[2..].fill(0);
        }
    }
    Ok(pages.concat())
}

fn recovery() -> Vec<u8> {
    vec![ERROR_RECOVERY, 6, 0, 5, 0, 0, 0, 0]
}

/// Reads CD-R, CD-RW and DVD-ROM; a tray that locks and ejects; 5.5 MB/s.
fn capabilities() -> Vec<u8> {
    const SPEED: [u8; 2] = 5_540_u16.to_be_bytes();
    let mut page = vec![CAPABILITIES, 20, 0x0b, 0x00, 0x40, 0x00, 0x29, 0x00];
    page.extend(SPEED);
    page.extend([0, 2, 0, 64]);
    page.extend(SPEED);
    page.resize(22, 0);
    page
}
