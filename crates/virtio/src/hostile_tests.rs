//! Drivers that place their rings and buffers where these overwrite each other, and that change what the device is looking at.
//!
//! Such a driver harms nobody but itself: the device may ask for a reset or answer nonsense, but it stops when it is told to, and
//! serves the next driver.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ostler_disk::{Disk, RawDisk};
use ostler_memory::GuestRam;
use vmm_sys_util::eventfd::EventFd;

use crate::block::{BlockDevice, BlockOptions};
use crate::device::{Activation, VirtioDevice};
use crate::rng::RngDevice;
use crate::testing::{Driver, NEXT, Recorder, WRITE, ram};

const SIZE: u16 = 16;
const HEADER: u64 = 0x8_0000;
const DATA: u64 = 0x10_0000;
const STATUS: u64 = 0x9_0000;
/// Where the next driver has its rings.
const NEXT_BASE: u64 = 0x30_0000;

/// A device whose reads give the driver bytes: random ones, or those of a disk.
struct Victim {
    device: Box<dyn VirtioDevice>,
    /// Buffers that go before and behind the one that is to be filled.
    before: Vec<(u64, u32, bool)>,
    behind: Vec<(u64, u32, bool)>,
}

impl Victim {
    fn rng() -> Self {
        Self {
            device: Box::new(RngDevice::new()),
            before: Vec::new(),
            behind: Vec::new(),
        }
    }

    /// A disk full of `bytes`, again and again.
    fn disk(bytes: &[u8]) -> Self {
        let file = tempfile::tempfile().unwrap();
        let contents: Vec<u8> = bytes.iter().copied().cycle().take(64 << 10).collect();
        std::os::unix::fs::FileExt::write_all_at(&file, &contents, 0).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RawDisk::new(file).unwrap());
        let options = BlockOptions {
            serial: String::new(),
            queues: 1,
        };
        Self {
            device: Box::new(BlockDevice::new(disk, &options)),
            before: vec![(HEADER, 16, false)],
            behind: vec![(STATUS, 1, true)],
        }
    }

    /// One of each, the disks with bytes that make small, large and mixed indices.
    fn all() -> Vec<Self> {
        let mixed: Vec<u8> = (0..64u8).flat_map(|i| [i, 0, 0, 0, 0x10, 0, i / 2, 0]).collect();
        vec![
            Self::rng(),
            Self::disk(&[0]),
            Self::disk(&[0xff]),
            Self::disk(&[1, 0]),
            Self::disk(&mixed),
        ]
    }

    fn start(&mut self, driver: &Driver, notify: &Arc<Recorder>) -> Arc<EventFd> {
        let active = driver.active(0, true);
        let kick = active.kick.clone();
        let activation = Activation {
            features: 0,
            queues: vec![active],
            ram: driver.ram.clone(),
            notify: notify.clone(),
        };
        self.device.activate(activation).unwrap();
        kick
    }

    /// The buffers of a request for `len` bytes at `gpa`.
    fn request(&self, gpa: u64, len: u32) -> Vec<(u64, u32, bool)> {
        [&self.before[..], &[(gpa, len, true)], &self.behind].concat()
    }

    fn served(&self) -> u64 {
        self.device.metrics().snapshot().requests
    }

    /// Waits until the device has answered something more than `before`, or given up.
    fn wait(&self, before: u64, notify: &Recorder) {
        for _ in 0..20_000 {
            if self.served() > before || !notify.errors.lock().unwrap().is_empty() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("the device neither answered nor asked for a reset within 20 seconds");
    }

    /// Stops the device and has it serve a driver that does nothing wrong.
    fn serves_the_next_driver(&mut self, ram: &Arc<GuestRam>) {
        self.device.stop();
        ram_zero(ram, NEXT_BASE);
        let mut driver = Driver::new(ram.clone(), NEXT_BASE, SIZE);
        driver.write(HEADER, &[0; 16]);
        let notify = Arc::new(Recorder::default());
        let kick = self.start(&driver, &notify);
        let head = driver.add(&self.request(DATA, 512));
        kick.write(1).unwrap();
        let (used, len) = driver.wait_used();
        assert_eq!((used, len >= 512), (head, true));
        assert!(notify.errors.lock().unwrap().is_empty());
        self.device.stop();
    }
}

fn ram_zero(ram: &Arc<GuestRam>, base: u64) {
    vm_memory::Bytes::write_slice(&**ram, &[0; 0xb000], vm_memory::GuestAddress(base)).unwrap();
}

#[test]
fn a_buffer_over_the_rings_hurts_only_its_driver() {
    for mut victim in Victim::all() {
        let ram = ram();
        // Over the table, the available ring, the used ring, and all of them at once.
        for (offset, len) in [(0, 512), (0x8000, 512), (0xa000, 512), (0, 0xc000)] {
            ram_zero(&ram, 0x10000);
            let mut driver = Driver::new(ram.clone(), 0x10000, SIZE);
            driver.write(HEADER, &[0; 16]);
            let notify = Arc::new(Recorder::default());
            let kick = victim.start(&driver, &notify);
            for _ in 0..4 {
                driver.add(&victim.request(0x10000 + offset, len));
            }
            let before = victim.served();
            kick.write(1).unwrap();
            victim.wait(before, &notify);
            // Go on for a while on whatever the rings hold now.
            for _ in 0..20 {
                kick.write(1).unwrap();
                std::thread::yield_now();
            }
            victim.serves_the_next_driver(&ram);
        }
    }
}

#[test]
fn rings_over_each_other_hurt_only_their_driver() {
    const BASE: u64 = 0x10000;
    for mut victim in Victim::all() {
        let ram = ram();
        // Where the available ring lies in the used ring; that over the table; all three in one place.
        for (available, used) in [
            (0x8000, 0x8000),
            (0x8002, 0x8000),
            (0x8006, 0x8000),
            (0x8000, 0x8004),
            (0x8000, 0x8020),
            (0x8000, 0),
            (0, 0x8000),
            (0, 0),
        ] {
            ram_zero(&ram, BASE);
            let mut driver = Driver::new(ram.clone(), BASE, SIZE);
            driver.settings.available = BASE + available;
            driver.settings.used = BASE + used;
            driver.write(HEADER, &[0; 16]);
            let notify = Arc::new(Recorder::default());
            let kick = victim.start(&driver, &notify);
            for _ in 0..20 {
                driver.add(&victim.request(DATA, 512));
                kick.write(1).unwrap();
                std::thread::yield_now();
            }
            victim.serves_the_next_driver(&ram);
        }
    }
}

#[test]
fn descriptors_that_change_all_the_time_hurt_only_their_driver() {
    for mut victim in [Victim::rng(), Victim::disk(&[0x5a])] {
        let ram = ram();
        let base = 0x10000;
        let over = AtomicBool::new(false);
        let (ram_of_changer, over_seen) = (ram.clone(), &over);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let driver = Driver::new(ram_of_changer, base, SIZE);
                let mut state = 1u64;
                while !over_seen.load(Ordering::Relaxed) {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let pick = (state >> 33) as u16;
                    let gpa = [DATA, HEADER, STATUS, u64::MAX - 7, 0x7f_fff0, base][usize::from(pick % 6)];
                    let len = [0, 1, 16, 512, 4096, u32::MAX][usize::from(pick / 6 % 6)];
                    let flags = [0, WRITE, NEXT, NEXT | WRITE, 4, 7][usize::from(pick / 36 % 6)];
                    driver.descriptor(base, pick / 216 % SIZE, gpa, len, flags, pick / 7 % (SIZE + 1));
                }
            });
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                for _ in 0..100 {
                    vm_memory::Bytes::write_slice(
                        &*ram,
                        &[0; 0x3000],
                        vm_memory::GuestAddress(base + 0x8000),
                    )
                    .unwrap();
                    let mut driver = Driver::new(ram.clone(), base, SIZE);
                    let notify = Arc::new(Recorder::default());
                    let kick = victim.start(&driver, &notify);
                    for head in 0..4 * SIZE {
                        driver.offer(head % SIZE);
                        kick.write(1).unwrap();
                        // The device may be slower than the driver is mad: that ends in a reset as well.
                        if !notify.errors.lock().unwrap().is_empty() {
                            break;
                        }
                        std::thread::yield_now();
                    }
                    victim.device.stop();
                }
            }));
            over.store(true, Ordering::Relaxed);
            if let Err(panic) = ended {
                std::panic::resume_unwind(panic);
            }
        });
        victim.serves_the_next_driver(&ram);
    }
}
