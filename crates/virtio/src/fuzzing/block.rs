use std::sync::Arc;

use ostler_bus::testing::Input;
use ostler_disk::memory::{MemoryDisk, Mood};
use ostler_disk::{Disk, Resize};

use super::program::play;
use crate::block::{BlockDevice, BlockOptions};

/// Bytes of the disk.
const SIZE: usize = 64 << 10;

/// A driver of a disk, which is slow or broken at times, or gets another size. The first byte says whether it can be written, and
/// how many queues there are.
pub fn block(input: &[u8]) {
    let mut input = Input::new(input);
    let first = input.u8();
    let disk = MemoryDisk::new(SIZE, first & 1 != 0);
    let options = BlockOptions {
        serial: "serial".into(),
        queues: 1 + u16::from(first >> 1 & 1),
    };
    let mut device = BlockDevice::new(disk.clone() as Arc<dyn Disk>, &options);
    let control = device.control();
    play(&mut input, &mut device, |input| match input.u8() {
        what @ 0..=2 => disk.set_mood([Mood::Willing, Mood::Slow, Mood::Broken][usize::from(what)]),
        sectors => {
            let _ = disk.resize(512 * u64::from(sectors));
            control.capacity_changed();
        }
    });
}
