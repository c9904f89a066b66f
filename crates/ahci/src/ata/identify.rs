//! What a disk says of itself: IDENTIFY DEVICE (ATA8-ACS, 7.16).

use super::{Geometry, MAX_MULTIPLE, MAX_TRIM_BLOCKS, Settings};
use crate::words::{FIRMWARE, Words, put_dma_modes};

/// Model number.
const MODEL: &str = "OSTLER SATA DISK";

/// The answer to IDENTIFY DEVICE.
pub(super) fn identify(geometry: &Geometry, settings: &Settings) -> Vec<u8> {
    let mut words = Words::default();
    words.put(0, 0x0040);
    put_cylinders(&mut words, geometry, settings);
    words.put_text(10, 10, &geometry.serial);
    words.put_text(23, 4, FIRMWARE);
    words.put_text(27, 20, MODEL);
    words.put(47, 0x8000 | u16::from(MAX_MULTIPLE));
    words.put(49, 0x0f00); // IORDY, LBA, DMA
    words.put(50, 0x4000);
    words.put(53, 0x0007); // words 54 to 58, 64 to 70 and 88 hold
    if settings.multiple != 0 {
        words.put(59, 0x0100 | u16::from(settings.multiple));
    }
    words.put_long(60, geometry.sectors.min(0x0fff_ffff), 2);
    put_dma_modes(&mut words, settings.mode);
    words.put(64, 0x0003); // PIO modes 3 and 4
    for word in 65..=68 {
        words.put(word, 120); // nanoseconds of a cycle
    }
    words.put(75, 31); // queue depth less one
    words.put(76, 0x010e); // queueing; 1.5, 3 and 6 Gb/s
    words.put(77, 0x0006); // now at 6 Gb/s
    words.put(80, 0x01f0); // ATA/ATAPI-4 to ATA8-ACS
    // SMART, power management, write cache, look-ahead.
    let supported = 0x0069;
    let switch = |on: bool, bit: u16| if on { 0 } else { bit };
    words.put(82, supported);
    words.put(83, 0x7400); // 48 bits, FLUSH CACHE (EXT)
    words.put(84, 0x4060); // logs, WRITE DMA FUA EXT
    let off = switch(settings.smart, 0x0001)
        | switch(settings.write_cache, 0x0020)
        | switch(settings.look_ahead, 0x0040);
    words.put(85, supported & !off);
    words.put(86, 0x3400);
    words.put(87, 0x4060);
    words.put_long(100, geometry.sectors, 4);
    if geometry.trim {
        words.put(105, MAX_TRIM_BLOCKS);
        words.put(169, 1);
    }
    put_sector_sizes(&mut words, geometry);
    words.put(217, 1); // does not rotate
    words.put(222, 0x107f); // serial ATA
    words.finish()
}

/// Sizes as cylinders, heads and sectors: as the disk offers them, and as they are set.
fn put_cylinders(words: &mut Words, geometry: &Geometry, settings: &Settings) {
    let cylinders = |heads: u16, sectors: u16| {
        let cylinders = geometry.sectors / (u64::from(heads) * u64::from(sectors)).max(1);
        cylinders.min(16_383) as u16
    };
    words.put(1, cylinders(16, 63));
    words.put(3, 16);
    words.put(6, 63);
    let (heads, sectors) = (settings.heads, settings.sectors_per_track);
    let now = cylinders(heads, sectors);
    words.put(54, now);
    words.put(55, heads);
    words.put(56, sectors);
    words.put_long(57, u64::from(now) * u64::from(heads) * u64::from(sectors), 2);
}

/// Words 106, 117 and 209.
fn put_sector_sizes(words: &mut Words, geometry: &Geometry) {
    let mut sizes = 0x4000;
    let per_physical = geometry.physical / geometry.sector.max(1);
    if per_physical > 1 {
        sizes |= 0x2000 | per_physical.ilog2().min(15) as u16;
    }
    if geometry.sector > 512 {
        sizes |= 0x1000;
        words.put_long(117, u64::from(geometry.sector / 2), 2);
    }
    words.put(106, sizes);
    words.put(209, 0x4000);
}
