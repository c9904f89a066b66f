//! SMART as far as every driver asks for it (ATA8-ACS, 7.53): a disk that is well, without attributes or self-tests.

use super::{done, refuse, send};
use crate::command::{Link, Work};
use crate::fis::{Registers, Taskfile};
use crate::words::set_checksum;

/// What has to be in the middle bytes of the address, and comes back if the disk is well.
const KEY: u64 = 0xc2_4f00;
const KEY_MASK: u64 = 0xff_ff00;

/// Carries out a SMART command; `enabled` is the switch of all of them.
pub(super) fn command(command: &Registers, enabled: &mut bool) -> Work {
    if command.lba & KEY_MASK != KEY {
        return refuse(command);
    }
    match command.features & 0xff {
        0xd8 => {
            *enabled = true;
            done(command)
        }
        _ if !*enabled => refuse(command),
        0xd9 => {
            *enabled = false;
            done(command)
        }
        // READ DATA and READ THRESHOLDS: a version, and no attributes.
        0xd0 | 0xd1 => send(data(), Link::Pio),
        // Autosave: nothing is saved.
        0xd2 => done(command),
        // RETURN STATUS: no threshold was exceeded.
        0xda => Work::Done(Taskfile {
            lba: command.lba & !KEY_MASK | KEY,
            ..Taskfile::ready(command)
        }),
        _ => refuse(command),
    }
}

fn data() -> Vec<u8> {
    let mut page = vec![0; 512];
    page[0] = 0x10;
    set_checksum(&mut page);
    page
}
