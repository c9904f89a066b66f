use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use ostler_memory::vm_memory::GuestMemoryBackend;
use proptest::prelude::*;
use vmm_sys_util::eventfd::EventFd;

use super::device::{F_REPORTING, F_STATISTICS};
use super::{BalloonControl, BalloonDevice, BalloonOptions, NAMES, Statistics};
use crate::device::{Activation, VirtioDevice};
use crate::error::GuestError;
use crate::testing::{Driver, Recorder, ram};

/// A balloon with a driver for each of its queues.
struct Setup {
    device: BalloonDevice,
    control: BalloonControl,
    drivers: Vec<Driver>,
    kicks: Vec<Arc<EventFd>>,
    notify: Arc<Recorder>,
}

const EVERYTHING: BalloonOptions = BalloonOptions {
    deflate_on_oom: true,
    free_page_reporting: true,
};

fn device() -> BalloonDevice {
    BalloonDevice::new(EVERYTHING).unwrap()
}

/// Activates `device` with `queues`, whose rings are above 6 MiB.
fn start(mut device: BalloonDevice, queues: &[u16]) -> Setup {
    let ram = ram();
    let drivers: Vec<Driver> = (0..)
        .zip(queues)
        .map(|(n, _)| Driver::new(ram.clone(), (6 << 20) + n * 0x1_0000, 64))
        .collect();
    let active: Vec<_> = drivers
        .iter()
        .zip(queues)
        .map(|(driver, index)| driver.active(*index, false))
        .collect();
    let kicks = active.iter().map(|queue| queue.kick.clone()).collect();
    let notify = Arc::new(Recorder::default());
    let activation = Activation {
        features: 1 << F_STATISTICS | 1 << F_REPORTING,
        queues: active,
        ram,
        notify: notify.clone(),
    };
    device.activate(activation).unwrap();
    Setup {
        control: device.control(),
        device,
        drivers,
        kicks,
        notify,
    }
}

impl Setup {
    /// Fills the guest's memory up to 4 MiB.
    fn fill(&self) {
        self.drivers[0].write(0, &vec![0xaa; 4 << 20]);
    }

    /// True if the page is full, false if it is empty.
    fn is_full(&self, page: u64) -> bool {
        let bytes = self.drivers[0].read(page << 12, 4096);
        let full = bytes[0] == 0xaa;
        let same = if full { 0xaa } else { 0 };
        assert!(bytes.iter().all(|byte| *byte == same), "page {page} is torn");
        full
    }

    /// Puts page numbers into the request buffer at 5 MiB, and makes a request of them in queue `queue`.
    fn request(&mut self, queue: usize, numbers: &[u32]) {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.drivers[queue].write(5 << 20, &bytes);
        self.answer(queue, &[(5 << 20, bytes.len() as u32, false)]);
    }

    /// Makes a request, which is answered.
    fn answer(&mut self, queue: usize, buffers: &[(u64, u32, bool)]) {
        let head = self.drivers[queue].add(buffers);
        self.kicks[queue].write(1).unwrap();
        assert_eq!(self.drivers[queue].wait_used(), (head, 0));
    }
}

#[test]
fn pages_in_the_balloon_are_the_hosts_and_count_as_written() {
    let mut setup = start(device(), &[0, 1, 2]);
    setup.fill();
    let region = setup.drivers[0].ram.iter().next().unwrap().get_mmap();
    let tracker = region.bitmap();
    tracker.set_logging(true);
    tracker.watch_code(17 << 12, 64);
    let version = tracker.code_version(17).load(Ordering::Relaxed);
    setup.request(0, &[17, 18, 300, 16]);
    for page in 0..400 {
        let given = matches!(page, 16..=18 | 300);
        assert_eq!(setup.is_full(page), !given, "page {page}");
        assert!(!given || tracker.is_dirty(page as usize), "page {page}");
    }
    assert!(!tracker.is_dirty(19) && !tracker.is_dirty(15));
    assert_ne!(
        tracker.code_version(17).load(Ordering::Relaxed),
        version,
        "decoded code is gone"
    );
    setup.drivers[0].write(17 << 12, &[1]);
    setup.request(1, &[17]);
    assert_eq!(
        setup.drivers[0].read(17 << 12, 1),
        [1],
        "a page that is taken back keeps what is in it"
    );
    assert_eq!(setup.device.stop().len(), 3);
    assert!(setup.notify.errors.lock().unwrap().is_empty());
}

#[test]
fn absurd_page_numbers_harm_nobody() {
    let mut setup = start(device(), &[0, 1, 2]);
    setup.fill();
    // Beyond 8 MiB there is nothing; one is given twice.
    setup.request(0, &[u32::MAX, 0x8000_0000, 2048, u32::MAX - 1, 5, 5]);
    assert!(!setup.is_full(5) && setup.is_full(4) && setup.is_full(6));
    assert_eq!(
        setup.device.metrics().snapshot().errors,
        3,
        "runs that are no RAM"
    );
    setup.request(1, &[u32::MAX]);
    setup.request(0, &[]);
    // A part of a number; a buffer of the wrong direction; one that is empty.
    setup.answer(0, &[(5 << 20, 3, false)]);
    setup.answer(0, &[(0, 4096, true)]);
    setup.answer(0, &[(0, 0, false)]);
    assert!(setup.is_full(0));
    assert_eq!(setup.device.stop().len(), 3);
    assert!(setup.notify.errors.lock().unwrap().is_empty());
}

#[test]
fn too_many_pages_at_once_and_broken_chains_ask_for_a_reset() {
    type Break = fn(&mut Driver);
    type Expected = fn(&GuestError) -> bool;
    let breaks: [(Break, Expected); 3] = [
        (
            |driver| {
                driver.add(&[(0, 4 << 20, false)]);
            },
            |error| matches!(error, GuestError::Request(_)),
        ),
        (
            |driver| {
                driver.add(&[(u64::MAX - 0xfff, 0x2000, false)]);
            },
            |error| matches!(error, GuestError::BufferAddress { .. }),
        ),
        (
            |driver| {
                let table = driver.settings.descriptors;
                driver.descriptor(table, 0, 0, 4, 1, 0);
                driver.offer(0);
            },
            |error| matches!(error, GuestError::ChainTooLong),
        ),
    ];
    for (spoil, is_expected) in breaks {
        for queue in [0, 3] {
            let mut setup = start(device(), &[0, 1, 2, 4]);
            setup.fill();
            spoil(&mut setup.drivers[queue]);
            // Pages reported as free have no numbers, so too many of them are no error there.
            if queue == 3
                && setup.drivers[3].read(setup.drivers[3].settings.descriptors + 8, 4) == [0, 0, 64, 0]
            {
                setup.device.stop();
                continue;
            }
            setup.kicks[queue].write(1).unwrap();
            let error = setup.notify.wait_error();
            assert!(is_expected(&error), "{error}");
            assert!((0..1024).all(|page| setup.is_full(page)));
            setup.drivers[queue].add(&[(0, 4, false)]);
            setup.kicks[queue].write(1).unwrap();
            assert_eq!(setup.device.stop().len(), 4);
            assert_eq!(setup.drivers[queue].used(), None, "nothing more is served");
        }
    }
}

#[test]
fn pages_reported_as_free_are_the_hosts_wherever_the_driver_has_its_queue() {
    for queue in [3, 4] {
        let mut setup = start(device(), &[0, 1, 2, queue]);
        setup.fill();
        // What is not a whole page stays.
        setup.answer(
            3,
            &[
                (0x1_0000, 0x2_0000, true),
                (0x8_0800, 0x1800, true),
                (0x9_0001, 0xfff, true),
            ],
        );
        for page in 0..1024 {
            let given = matches!(page, 0x10..0x30 | 0x81);
            assert_eq!(setup.is_full(page), !given, "page {page:#x}");
        }
        // What the device may only read is no report.
        setup.answer(3, &[(0x4_0000, 0x1000, false)]);
        assert!(setup.is_full(0x40));
        assert_eq!(setup.device.stop().len(), 4);
        assert!(setup.notify.errors.lock().unwrap().is_empty());
    }
}

fn entry(tag: u16, value: u64) -> Vec<u8> {
    [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat()
}

#[test]
fn statistics_are_asked_for_at_their_interval() {
    let mut setup = start(device(), &[0, 1, 2]);
    assert_eq!(setup.control.statistics(), Statistics::default());
    let tell = |setup: &mut Setup, free: u64| {
        let bytes = [entry(4, free), entry(99, 1), entry(9, 0), vec![1, 0, 3]].concat();
        setup.drivers[2].write(5 << 20, &bytes);
        let head = setup.drivers[2].add(&[(5 << 20, bytes.len() as u32, false)]);
        setup.kicks[2].write(1).unwrap();
        head
    };
    let await_free = |setup: &Setup, free: u64| {
        for _ in 0..20_000 {
            let said = setup.control.statistics();
            if said.values[4] == Some(free) {
                assert!(said.updated.is_some_and(|at| at <= SystemTime::now()));
                return said;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("the statistics did not come within 20 seconds");
    };
    let head = tell(&mut setup, 7 << 20);
    let said = await_free(&setup, 7 << 20);
    assert_eq!(said.values.iter().flatten().count(), 2, "{said:?}");
    assert_eq!(said.values[9], Some(0));
    assert_eq!(setup.drivers[2].used(), None, "the device keeps the buffer");
    setup.control.set_interval(1);
    assert_eq!(setup.drivers[2].wait_used(), (head, 0), "until it asks");
    let second = tell(&mut setup, 6 << 20);
    await_free(&setup, 6 << 20);
    assert_eq!(
        setup.drivers[2].wait_used(),
        (second, 0),
        "and once more a second later"
    );
    setup.control.set_interval(0);
    let third = tell(&mut setup, 5 << 20);
    await_free(&setup, 5 << 20);
    // A second buffer, against the rules, frees the first.
    tell(&mut setup, 4 << 20);
    await_free(&setup, 4 << 20);
    assert_eq!(setup.drivers[2].wait_used(), (third, 0));
    let queues = setup.device.stop();
    assert_eq!(
        queues[2].vring.next_available(),
        3,
        "the buffer that was kept is still the guest's"
    );
}

#[test]
fn the_sizes_go_through_the_configuration() {
    let mut setup = start(device(), &[0, 1, 2]);
    let heard = Arc::new(AtomicU32::new(0));
    let ear = heard.clone();
    setup.control.listen(move || {
        ear.fetch_add(1, Ordering::Relaxed);
    });
    let mut config = [0xff; 16];
    setup.device.read_config(0, &mut config);
    assert_eq!(config, [0; 16]);
    setup.control.set_wanted(0x1234);
    assert_eq!(setup.notify.config_changes.load(Ordering::Relaxed), 1);
    setup.device.read_config(0, &mut config);
    assert_eq!(config[..8], [0x34, 0x12, 0, 0, 0, 0, 0, 0]);
    // In odd pieces; what else there is cannot be written.
    setup.device.write_config(2, &[9, 9, 0x21]);
    setup.device.write_config(5, &[0x43]);
    setup.device.write_config(7, &[0, 9, 9]);
    setup.device.write_config(u64::MAX, &[7, 7, 7]);
    assert_eq!((setup.control.wanted(), setup.control.actual()), (0x1234, 0x4321));
    assert_eq!(
        heard.load(Ordering::Relaxed),
        1,
        "not again before somebody looked"
    );
    assert!(setup.control.take_change() && !setup.control.take_change());
    setup.device.write_config(4, &[0x21]);
    assert_eq!(heard.load(Ordering::Relaxed), 1, "nothing new");
    setup.device.write_config(4, &0u32.to_le_bytes());
    assert_eq!(heard.load(Ordering::Relaxed), 2);
    setup.device.write_config(4, &7u32.to_le_bytes());
    setup.device.stop();
    assert_eq!(
        setup.control.actual(),
        0,
        "a guest that starts over has all its pages"
    );
}

#[test]
fn what_is_not_asked_for_is_not_offered() {
    let plain = BalloonOptions {
        deflate_on_oom: false,
        free_page_reporting: false,
    };
    let device = BalloonDevice::new(plain).unwrap();
    assert_eq!((device.features(), device.queue_max_sizes().len()), (1 << 1, 3));
    let device = BalloonDevice::new(EVERYTHING).unwrap();
    assert_eq!(
        (device.features(), device.queue_max_sizes().len()),
        (1 << 1 | 1 << 2 | 1 << 5, 5)
    );
}

proptest! {
    #[test]
    fn any_statistics_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let said = Statistics::parse(&bytes, SystemTime::UNIX_EPOCH);
        prop_assert!(said.values.iter().flatten().count() <= bytes.len() / 10);
    }

    #[test]
    fn each_statistic_has_its_place(tag in 0..NAMES.len(), value in any::<u64>()) {
        let said = Statistics::parse(&entry(tag as u16, value), SystemTime::UNIX_EPOCH);
        prop_assert_eq!(said.values[tag], Some(value));
    }

    #[test]
    fn any_write_to_the_configuration_is_taken(
        writes in proptest::collection::vec((0u64..20, proptest::collection::vec(any::<u8>(), 0..9)), 0..20)
    ) {
        let mut device = device();
        for (offset, bytes) in writes {
            device.write_config(offset, &bytes);
            let mut wanted = [0xff; 4];
            device.read_config(0, &mut wanted);
            prop_assert_eq!(wanted, [0; 4]);
        }
    }
}
