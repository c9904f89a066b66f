//! When a write counts as done: what the device asks of its disk, and what the guest may see meanwhile.

use std::sync::Arc;

use ostler_disk::recording::{Asked, RecordingDisk};
use ostler_disk::{Disk, RequestError};
use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH};

use super::config;
use super::tests::{DATA, Guest, SECTORS, STATUS};
use crate::device::VirtioDevice;

const FLUSHES: u64 = 1 << VIRTIO_BLK_F_FLUSH;

fn guest_on(disk: &Arc<RecordingDisk>, features: u64) -> Guest {
    let file = tempfile::tempfile().unwrap();
    Guest::on(disk.clone() as Arc<dyn Disk>, file, 1, features)
}

/// Nothing was used, and the status byte is what the driver put there.
fn unanswered(guest: &mut Guest) -> bool {
    guest.drivers[0].used().is_none() && guest.drivers[0].read(STATUS, 1) == [0xee]
}

fn status(guest: &mut Guest) -> u8 {
    assert_eq!(guest.drivers[0].wait_used().1, 1);
    guest.drivers[0].read(STATUS, 1)[0]
}

const WRITE: u32 = 1;
const FLUSH: u32 = 4;
const WRITE_ZEROES: u32 = 13;
const SECTOR: [(u64, u32, bool); 1] = [(DATA, 512, false)];

#[test]
fn a_driver_without_flush_hears_of_a_write_only_after_its_flush() {
    let disk = RecordingDisk::new(SECTORS * 512, 512);
    let mut guest = guest_on(&disk, 0);
    for round in 1..=3 {
        guest.offer(0, WRITE, round, &SECTOR);
        assert_eq!(disk.wait_for(2 * round as usize - 1).last(), Some(&Asked::Write));
        assert!(unanswered(&mut guest), "the write is under way");
        disk.answer(Ok(()));
        let asked = disk.wait_for(2 * round as usize);
        assert_eq!(asked[asked.len() - 2..], [Asked::Write, Asked::Flush]);
        assert!(unanswered(&mut guest), "the write is not durable yet");
        disk.answer(Ok(()));
        assert_eq!(status(&mut guest), 0);
    }
}

#[test]
fn zeroes_are_written_through_as_data_is() {
    let disk = RecordingDisk::new(SECTORS * 512, 512);
    let mut guest = guest_on(&disk, 0);
    let range = [1u64.to_le_bytes(), 2u64.to_le_bytes()].concat();
    guest.drivers[0].write(DATA, &[range.clone(), range].concat());
    guest.offer(0, WRITE_ZEROES, 0, &[(DATA, 32, false)]);
    assert_eq!(disk.wait_for(2), [Asked::WriteZeroes; 2]);
    disk.answer(Ok(()));
    assert_eq!(
        disk.wait_for(3),
        [Asked::WriteZeroes, Asked::WriteZeroes, Asked::Flush],
        "one flush for all ranges"
    );
    assert!(unanswered(&mut guest));
    disk.answer(Ok(()));
    assert_eq!(status(&mut guest), 0);
}

#[test]
fn a_write_or_flush_that_fails_is_no_success() {
    let disk = RecordingDisk::new(SECTORS * 512, 512);
    let mut guest = guest_on(&disk, 0);
    guest.offer(0, WRITE, 0, &SECTOR);
    disk.wait_for(1);
    disk.answer(Err(RequestError::NoSpace));
    assert_eq!(status(&mut guest), 1);
    assert_eq!(
        disk.wait_for(1),
        [Asked::Write],
        "there is nothing to make durable"
    );
    guest.offer(0, WRITE, 0, &SECTOR);
    disk.wait_for(2);
    disk.answer(Ok(()));
    disk.wait_for(3);
    disk.answer(Err(RequestError::Host(5)));
    assert_eq!(status(&mut guest), 1, "the flush failed");
}

#[test]
fn a_driver_with_flush_decides_itself() {
    let disk = RecordingDisk::new(SECTORS * 512, 512);
    let mut guest = guest_on(&disk, FLUSHES);
    guest.offer(0, WRITE, 0, &SECTOR);
    disk.wait_for(1);
    disk.answer(Ok(()));
    assert_eq!(status(&mut guest), 0);
    guest.offer(0, FLUSH, 0, &[]);
    assert_eq!(disk.wait_for(2), [Asked::Write, Asked::Flush]);
    assert!(unanswered(&mut guest), "the flush is under way");
    disk.answer(Err(RequestError::Host(5)));
    assert_eq!(status(&mut guest), 1);
    assert!(guest.notify.errors.lock().unwrap().is_empty());
}

#[test]
fn a_stop_waits_for_the_flush_behind_a_write() {
    let disk = RecordingDisk::new(SECTORS * 512, 512);
    let mut guest = guest_on(&disk, 0);
    guest.offer(0, WRITE, 0, &SECTOR);
    disk.wait_for(1);
    let queues = guest.device.stop();
    assert_eq!(queues[0].vring.next_available(), 1);
    assert_eq!(disk.wait_for(2), [Asked::Write, Asked::Flush]);
    assert_eq!(status(&mut guest), 0);
}

#[test]
fn a_disk_with_blocks_of_4_kib_says_so() {
    for block in [512u32, 4096] {
        let disk = RecordingDisk::new(SECTORS * 512, block);
        let guest = guest_on(&disk, FLUSHES);
        assert_ne!(config::features(&*disk, 1) & 1 << VIRTIO_BLK_F_BLK_SIZE, 0);
        let word = |offset: u64| {
            let mut bytes = [0; 4];
            guest.device.read_config(offset, &mut bytes);
            u32::from_le_bytes(bytes)
        };
        assert_eq!(word(20), block, "blk_size");
        assert_eq!(
            word(24) & 0xff,
            if block == 512 { 3 } else { 0 },
            "physical_block_exp"
        );
        assert_eq!(
            word(0),
            SECTORS as u32,
            "the capacity stays in units of 512 bytes"
        );
        assert_eq!(word(44), 8, "discard_sector_alignment");
    }
}
