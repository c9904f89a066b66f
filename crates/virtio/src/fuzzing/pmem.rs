use std::fs::File;

use ostler_bus::testing::Input;
use rustix::fs::MemfdFlags;

use super::program::play;
use crate::pmem::PmemDevice;

/// A driver of persistent memory.
pub fn pmem(input: &[u8]) {
    const SIZE: u64 = 2 << 20;
    let file = rustix::fs::memfd_create("pmem", MemfdFlags::CLOEXEC).expect("the host has memory");
    let file = File::from(file);
    file.set_len(SIZE).expect("it is sparse");
    let mut device = PmemDevice::new(file, 4 << 30, SIZE);
    play(&mut Input::new(input), &mut device, |_| {});
}
