use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use ostler_disk::recording::{Asked, RecordingDisk};
use ostler_disk::{Disk, RawDisk};
use proptest::prelude::*;
use vmm_sys_util::eventfd::EventFd;

use super::request::{MAX_RANGE_SECTORS, Request, parse};
use super::{BlockDevice, BlockOptions, BlockRequest};
use crate::chain::Chain;
use crate::device::{Activation, VirtioDevice};
use crate::error::GuestError;
use crate::testing::{Driver, Recorder, ram};

pub(super) const SECTORS: u64 = 64;
const HEADER: u64 = 0x8_0000;
pub(super) const DATA: u64 = 0x10_0000;
pub(super) const STATUS: u64 = 0x9_0000;

pub(super) struct Guest {
    pub device: BlockDevice,
    pub drivers: Vec<Driver>,
    kicks: Vec<Arc<EventFd>>,
    pub notify: Arc<Recorder>,
    file: File,
}

impl Guest {
    fn new(queues: u16, features: u64) -> Self {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SECTORS * 512).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RawDisk::new(file.try_clone().unwrap()).unwrap());
        Self::on(disk, file, queues, features)
    }

    /// A guest on any disk; `file` is what [`Guest::on_disk`] looks into.
    pub fn on(disk: Arc<dyn Disk>, file: File, queues: u16, features: u64) -> Self {
        let mut device = BlockDevice::new(
            disk,
            &BlockOptions {
                serial: "stable-1".into(),
                queues,
            },
        );
        let ram = ram();
        let drivers: Vec<_> = (0..queues)
            .map(|i| Driver::new(ram.clone(), 0x10000 * (1 + u64::from(i)), 16))
            .collect();
        let active: Vec<_> = (0..queues)
            .zip(&drivers)
            .map(|(i, driver)| driver.active(i, true))
            .collect();
        let kicks = active.iter().map(|queue| queue.kick.clone()).collect();
        let notify = Arc::new(Recorder::default());
        device
            .activate(Activation {
                features,
                queues: active,
                ram,
                notify: notify.clone(),
            })
            .unwrap();
        Self {
            device,
            drivers,
            kicks,
            notify,
            file,
        }
    }

    /// Offers a request to `queue` without waiting.
    pub fn offer(&mut self, queue: usize, kind: u32, sector: u64, data: &[(u64, u32, bool)]) {
        let driver = &mut self.drivers[queue];
        let header = HEADER + 0x1000 * queue as u64;
        driver.write(header, &kind.to_le_bytes());
        driver.write(header + 8, &sector.to_le_bytes());
        let mut buffers = vec![(header, 16, false)];
        buffers.extend(data);
        buffers.push((STATUS + queue as u64, 1, true));
        driver.write(STATUS + queue as u64, &[0xee]);
        driver.add(&buffers);
        self.kicks[queue].write(1).unwrap();
    }

    /// Makes a request; returns status and bytes written.
    fn ask(&mut self, kind: u32, sector: u64, data: &[(u64, u32, bool)]) -> (u8, u32) {
        self.offer(0, kind, sector, data);
        let (_, len) = self.drivers[0].wait_used();
        (self.drivers[0].read(STATUS, 1)[0], len)
    }

    fn on_disk(&mut self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file.seek(SeekFrom::Start(offset)).unwrap();
        self.file.read_exact(&mut bytes).unwrap();
        bytes
    }
}

#[test]
fn what_is_written_is_read_back_and_lands_on_the_disk() {
    let mut guest = Guest::new(1, 1 << 9);
    let pattern: Vec<u8> = (0..1536u32).map(|i| (i * 7) as u8).collect();
    guest.drivers[0].write(DATA, &pattern);
    assert_eq!(
        guest.ask(1, 3, &[(DATA, 1000, false), (DATA + 1000, 536, false)]),
        (0, 1)
    );
    assert_eq!(guest.on_disk(3 * 512, 1536), pattern);
    assert_eq!(
        guest.ask(
            0,
            3,
            &[(DATA + 0x1_0000, 512, true), (DATA + 0x2_0000, 1024, true)]
        ),
        (0, 1537)
    );
    assert_eq!(guest.drivers[0].read(DATA + 0x1_0000, 512), pattern[..512]);
    assert_eq!(guest.drivers[0].read(DATA + 0x2_0000, 1024), pattern[512..]);
    assert_eq!(guest.ask(4, 0, &[]), (0, 1), "flush");
    let metrics = guest.device.metrics().snapshot();
    assert_eq!(
        (metrics.requests, metrics.bytes_from_guest, metrics.bytes_to_guest),
        (3, 1536, 1536)
    );
    let control = guest.device.control();
    let account = control.account();
    for (kind, done, bytes) in [
        (BlockRequest::Read, 1, 1536),
        (BlockRequest::Write, 1, 1536),
        (BlockRequest::Flush, 1, 0),
        (BlockRequest::Discard, 0, 0),
    ] {
        let counters = account.kind(kind);
        assert_eq!((counters.done, counters.bytes), (done, bytes), "{kind:?}");
        assert_eq!((counters.failed, counters.refused), (0, 0), "{kind:?}");
        assert_eq!(counters.nanoseconds > 0, done > 0, "{kind:?}");
    }
    assert_eq!(account.highest_write(), 3 * 512 + 1536);
    let queues = guest.device.stop();
    assert_eq!((queues.len(), queues[0].vring.next_available()), (1, 3));
}

#[test]
fn the_serial_number_and_the_configuration_are_shown() {
    let mut guest = Guest::new(2, 1 << 9);
    assert_eq!(guest.ask(8, 0, &[(DATA, 20, true)]), (0, 21));
    assert_eq!(
        guest.drivers[0].read(DATA, 20),
        *b"stable-1\0\0\0\0\0\0\0\0\0\0\0\0"
    );
    let mut capacity = [0; 8];
    guest.device.read_config(0, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), SECTORS);
    let mut queues = [0xff; 2];
    guest.device.read_config(34, &mut queues);
    assert_eq!(u16::from_le_bytes(queues), 2);
    guest.device.read_config(u64::MAX, &mut queues);
    assert_eq!(queues, [0, 0]);
}

#[test]
fn write_zeroes_takes_several_ranges() {
    let mut guest = Guest::new(1, 1 << 9);
    guest.drivers[0].write(DATA, &[0xff; 4096]);
    assert_eq!(guest.ask(1, 0, &[(DATA, 4096, false)]), (0, 1));
    let mut ranges = Vec::new();
    for (sector, sectors) in [(1u64, 1u32), (4, 2)] {
        ranges.extend(sector.to_le_bytes());
        ranges.extend(sectors.to_le_bytes());
        ranges.extend(0u32.to_le_bytes());
    }
    guest.drivers[0].write(DATA, &ranges);
    assert_eq!(guest.ask(13, 0, &[(DATA, 32, false)]), (0, 1));
    let disk = guest.on_disk(0, 4096);
    let zero: Vec<bool> = disk
        .chunks(512)
        .map(|sector| sector.iter().all(|byte| *byte == 0))
        .collect();
    assert_eq!(zero, [false, true, false, false, true, true, false, false]);
}

#[test]
fn bad_requests_get_a_status_and_harm_nothing() {
    let mut guest = Guest::new(1, 1 << 9);
    let one = [(DATA, 512, true)];
    for sector in [SECTORS, u64::MAX, u64::MAX / 512, u64::MAX / 512 + 1, 1 << 55] {
        assert_eq!(guest.ask(0, sector, &one), (1, 1), "sector {sector:#x}");
    }
    assert_eq!(
        guest.ask(0, SECTORS - 1, &[(DATA, 1024, true)]),
        (1, 1),
        "past the end"
    );
    assert_eq!(guest.ask(0, 0, &[(DATA, 511, true)]), (1, 1), "no whole sector");
    assert_eq!(guest.ask(1, 0, &[(DATA, 513, false)]), (1, 1));
    assert_eq!(guest.ask(0, 0, &[]), (1, 1), "no data");
    assert_eq!(guest.ask(99, 0, &one), (2, 1), "unknown");
    assert_eq!(
        guest.ask(13, 0, &[(DATA, 15, false)]),
        (1, 1),
        "a part of a range"
    );
    assert_eq!(
        guest.ask(13, 0, &[(DATA, 16 * 17, false)]),
        (1, 1),
        "too many ranges"
    );
    assert_eq!(guest.ask(0, 0, &one), (0, 513), "and it still works");
    let control = guest.device.control();
    let counters = |kind| {
        let counters = control.account().kind(kind);
        (counters.done, counters.refused)
    };
    assert_eq!(counters(BlockRequest::Read), (1, 8));
    assert_eq!(counters(BlockRequest::Write), (0, 3), "write-zeroes are writes");
    assert!(guest.notify.errors.lock().unwrap().is_empty());
}

#[test]
fn requests_without_an_answer_need_a_reset_and_a_restart_works() {
    for buffers in [
        vec![(HEADER, 15, false), (STATUS, 1, true)],
        vec![(HEADER, 16, false)],
        vec![(STATUS, 1, true)],
    ] {
        let mut guest = Guest::new(1, 1 << 9);
        guest.drivers[0].add(&buffers);
        guest.kicks[0].write(1).unwrap();
        assert!(matches!(guest.notify.wait_error(), GuestError::Request(_)));
        guest.device.stop();
        let mut driver = Driver::new(ram(), 0x10000, 16);
        let active = driver.active(0, true);
        let kick = active.kick.clone();
        let ram = driver.ram.clone();
        let notify = guest.notify.clone();
        guest
            .device
            .activate(Activation {
                features: 1 << 9,
                queues: vec![active],
                ram,
                notify,
            })
            .unwrap();
        driver.write(HEADER, &4u32.to_le_bytes());
        driver.add(&[(HEADER, 16, false), (STATUS, 1, true)]);
        kick.write(1).unwrap();
        assert_eq!(driver.wait_used().1, 1);
    }
}

#[test]
fn queues_work_side_by_side_and_a_stop_in_flight_loses_nothing() {
    let mut guest = Guest::new(4, 1 << 9);
    for round in 0..50 {
        for queue in 0..4 {
            let at = DATA + 0x1_0000 * queue as u64;
            guest.offer(
                queue,
                (round % 2) as u32,
                (queue * 8) as u64,
                &[(at, 4096, round % 2 == 0)],
            );
        }
        for queue in 0..4 {
            guest.drivers[queue].wait_used();
            assert_eq!(guest.drivers[queue].read(STATUS + queue as u64, 1), [0]);
        }
    }
    for queue in 0..4 {
        guest.offer(queue, 0, 0, &[(DATA, 4096, true)]);
    }
    let queues = guest.device.stop();
    assert!(guest.notify.errors.lock().unwrap().is_empty());
    for (queue, driver) in queues.iter().zip(&guest.drivers) {
        let taken = queue.vring.next_available();
        assert_eq!(taken, driver.used_index(), "what was taken was answered");
    }
}

/// What a request is made of was settled when it was taken.
#[test]
fn a_descriptor_rewritten_in_flight_changes_nothing() {
    const ELSEWHERE: u64 = 0x40_0000;
    let disk = RecordingDisk::new(SECTORS * 512, 512);
    let file = tempfile::tempfile().unwrap();
    let mut guest = Guest::on(disk.clone() as Arc<dyn Disk>, file, 1, 1 << 9);
    guest.offer(0, 0, 0, &[(DATA, 512, true)]);
    assert_eq!(disk.wait_for(1), [Asked::Read]);
    let table = guest.drivers[0].settings.descriptors;
    for (index, gpa, len) in [
        (0, u64::MAX - 8, u32::MAX),
        (1, ELSEWHERE, 4096),
        (2, ELSEWHERE, 1),
    ] {
        guest.drivers[0].descriptor(table, index, gpa, len, 3, index);
    }
    disk.answer(Ok(()));
    assert_eq!(guest.drivers[0].wait_used(), (0, 513));
    assert_eq!(guest.drivers[0].read(STATUS, 1), [0]);
    assert_eq!(guest.drivers[0].read(ELSEWHERE, 4096), vec![0; 4096]);
    assert!(guest.notify.errors.lock().unwrap().is_empty());
}

fn chain_of(driver: &mut Driver, buffers: &[(u64, u32, bool)]) -> Chain {
    let (mut vring, mut chain) = (driver.vring(false), Chain::new(driver.ram.clone()));
    driver.add(buffers);
    assert!(vring.pop(&mut chain).unwrap());
    chain
}

proptest! {
    #[test]
    fn a_parsed_request_lies_inside_the_disk(
        kind in prop_oneof![0u32..16, any::<u32>()],
        sector in prop_oneof![0u64..80, any::<u64>()],
        len in 0u32..70_000,
        body in proptest::collection::vec(any::<u8>(), 64),
        readonly in any::<bool>(),
    ) {
        let mut driver = Driver::new(ram(), 0x10000, 16);
        driver.write(HEADER, &kind.to_le_bytes());
        driver.write(HEADER + 8, &sector.to_le_bytes());
        driver.write(DATA, &body);
        let able = ostler_disk::Features { readonly, discard: true, write_zeroes: true };
        let write = kind != 0;
        let buffers = [(HEADER, 16, false), (DATA, len, !write), (STATUS, 1, true)];
        let chain = chain_of(&mut driver, &buffers);
        let size = SECTORS * 512;
        match parse(&chain, size, able).unwrap() {
            Request::Read { offset } => prop_assert!(offset + u64::from(len) <= size),
            Request::Write { offset } => {
                prop_assert!(!readonly);
                prop_assert!(offset + u64::from(len) <= size);
            }
            Request::Discard(ranges) | Request::WriteZeroes(ranges) => {
                prop_assert!(!readonly);
                for range in ranges.iter() {
                    prop_assert!(range.offset + range.len <= size);
                    prop_assert!(range.len <= u64::from(MAX_RANGE_SECTORS) * 512);
                }
            }
            Request::Flush | Request::GetId | Request::Refuse(_) => {}
        }
    }
}
