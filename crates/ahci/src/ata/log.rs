//! READ LOG EXT (ATA8-ACS, 7.27): the directory, and the log of failed queued commands.

use super::QueuedError;
use crate::fis::Registers;
use crate::words::set_checksum;

const PAGE: usize = 512;
const DIRECTORY: u8 = 0x00;
const QUEUED_ERROR: u8 = 0x10;

/// The pages that `command` asks for; `None` if there are no such.
pub(super) fn read(command: &Registers, error: Option<QueuedError>) -> Option<Vec<u8>> {
    // The page's number is in the second and the fifth byte of the address. Each log here has one page.
    if command.count != 1 || command.lba & 0xff_0000_ff00 != 0 {
        return None;
    }
    match command.lba as u8 {
        DIRECTORY => Some(directory()),
        QUEUED_ERROR => Some(queued_error(error)),
        _ => None,
    }
}

/// Version 1, and the number of pages of each log (A.3).
fn directory() -> Vec<u8> {
    let mut page = vec![0; PAGE];
    page[0] = 1;
    page[2 * usize::from(QUEUED_ERROR)] = 1;
    page
}

/// Which queued command failed, and how (A.13).
fn queued_error(error: Option<QueuedError>) -> Vec<u8> {
    let mut page = vec![0; PAGE];
    match error {
        Some(QueuedError { tag, end }) => {
            // The registers are where a register FIS has them.
            page[..14].copy_from_slice(&end.to_host(false)[..14]);
            (page[0], page[1]) = (tag, 0);
        }
        // No queued command failed.
        None => page[0] = 0x80,
    }
    set_checksum(&mut page);
    page
}
