//! What the drive says of itself: IDENTIFY PACKET DEVICE (ATA8-ACS, 7.17).

use super::Cdrom;
use super::inquiry::{PRODUCT, VENDOR};
use crate::words::{FIRMWARE, Words, put_dma_modes};

/// The answer to IDENTIFY PACKET DEVICE.
pub fn identify(drive: &Cdrom) -> Vec<u8> {
    let mut words = Words::default();
    // A removable CD-ROM that takes packets of 12 bytes within 50 us.
    words.put(0, 0x85c0);
    words.put_text(10, 10, &drive.serial);
    words.put_text(23, 4, FIRMWARE);
    words.put_text(27, 20, &format!("{VENDOR} {PRODUCT}"));
    words.put(49, 0x0f00); // IORDY, LBA, DMA
    words.put(53, 0x0006); // words 64 to 70 and 88 hold
    put_dma_modes(&mut words, drive.mode);
    words.put(64, 0x0003);
    for word in 65..=68 {
        words.put(word, 120); // nanoseconds of a cycle
    }
    words.put(76, 0x000e); // 1.5, 3 and 6 Gb/s
    words.put(77, 0x0006);
    words.put(80, 0x01f0);
    words.put(82, 0x0218); // DEVICE RESET, PACKET, power management
    words.put(83, 0x4000);
    words.put(84, 0x4000);
    words.put(85, 0x0218);
    words.put(87, 0x4000);
    words.put(222, 0x107f);
    words.finish()
}
