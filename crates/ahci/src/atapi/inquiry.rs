//! INQUIRY (SPC-4, 6.4).

use super::Sense;

/// Vendor, at most 8 characters.
pub const VENDOR: &str = "OSTLER";
/// Product, at most 16 characters.
pub const PRODUCT: &str = "CD-ROM";

/// A CD-ROM drive.
const PERIPHERAL: u8 = 0x05;

/// The answer to INQUIRY: the standard data, or a page of vital product data.
pub fn inquiry(packet: &[u8; 16], serial: &str) -> Result<Vec<u8>, Sense> {
    let vital = packet[1] & 1 != 0;
    match (vital, packet[2]) {
        (false, 0) => Ok(standard()),
        (true, 0x00) => Ok(vec![PERIPHERAL, 0, 0, 2, 0x00, 0x80]),
        (true, 0x80) => {
            let serial = &serial.as_bytes()[..serial.len().min(20)];
            let mut page = vec![PERIPHERAL, 0x80, 0, serial.len() as u8];
            page.extend(serial);
            Ok(page)
        }
        _ => Err(Sense::BAD_FIELD),
    }
}

fn standard() -> Vec<u8> {
    // Removable; of no version, as ATAPI has it; response format 2 by ATAPI; 31 bytes follow.
    let mut data = vec![PERIPHERAL, 0x80, 0x00, 0x32, 31, 0, 0, 0];
    data.extend(format!("{VENDOR:<8}{PRODUCT:<16}{:<4}", "1.0").bytes());
    data
}
