//! A driver whose every step is a few bytes of the fuzzer's input.
//!
//! The first byte is [`Start`]; then each step is a byte, whose low half is the kind and whose high half is a queue, and what the
//! kind takes. Bytes at random make steps that make sense in most cases, so that mutations get deep.

use std::sync::Arc;

use ostler_bus::testing::Input;
use ostler_memory::{GuestRam, RamOptions};
use ostler_worker::scripted;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::device::{Activation, VirtioDevice};
use crate::testing::{Driver, INDIRECT, NEXT, Recorder, WRITE};

/// Bytes of RAM.
const RAM: u64 = 2 << 20;
/// Rings of queue n are at so much times n + 1.
const RINGS: u64 = 0x1_0000;
/// Entries of each queue.
const SIZE: u16 = 16;
/// Where buffers are.
const DATA: u64 = 0x10_0000;
/// Most queues that a program has.
const MOST_QUEUES: u16 = 8;
/// Steps of a program; with what follows a device must come to an end in time.
const MOST_STEPS: usize = 256;

/// Bits of the first byte.
struct Start;
impl Start {
    /// Event indices were negotiated.
    const EVENT_INDEX: u8 = 1;
    /// All features of the device were, else those that eight bytes say.
    const ALL_FEATURES: u8 = 2;
}

struct Guest<'a> {
    input: &'a mut Input<'a>,
    ram: Arc<GuestRam>,
    drivers: Vec<Driver>,
    kicks: Vec<Arc<EventFd>>,
    notify: Arc<Recorder>,
}

/// Runs the program in `input` against `device`; `outside` is what happens at the device's other end when the program says so.
pub(super) fn play<'a>(
    input: &'a mut Input<'a>,
    device: &mut dyn VirtioDevice,
    mut outside: impl FnMut(&mut Input<'a>),
) {
    scripted::run(|script| {
        let queues = device.queue_max_sizes().len().min(MOST_QUEUES.into()) as u16;
        let mut guest = Guest {
            input,
            ram: ostler_memory::allocate(RAM, RamOptions::default()).expect("2 MiB of RAM are there"),
            drivers: Vec::new(),
            kicks: Vec::new(),
            notify: Arc::default(),
        };
        guest.start(device, queues);
        for _ in 0..MOST_STEPS {
            if guest.input.is_over() {
                break;
            }
            let step = guest.input.u8();
            let queue = usize::from(step >> 4) % usize::from(queues);
            match step & 0xf {
                0..=3 => guest.chain(queue, None),
                4 => guest.indirect(queue),
                5 => guest.descriptor(queue),
                6 => {
                    let head = guest.input.u8();
                    guest.drivers[queue].offer(head.into());
                }
                7 => {
                    let index = guest.input.u16();
                    guest.drivers[queue].set_available_index(index);
                }
                8 => guest.write(),
                9 => {
                    let offset = guest.input.u8().into();
                    let len = usize::from(guest.input.u8() % 16);
                    device.read_config(offset, &mut [0; 16][..len]);
                    device.write_config(offset, guest.input.take(len));
                }
                10 => {
                    assert_eq!(device.stop().len(), usize::from(queues), "all queues come back");
                    guest.start(device, queues);
                }
                11 => script.let_time_pass(),
                12 | 13 => outside(guest.input),
                _ => {
                    // It fails only if nobody read 2^64 kicks.
                    let _ = guest.kicks[queue].write(1);
                    script.settle();
                }
            }
        }
        script.settle();
        assert_eq!(device.stop().len(), usize::from(queues), "all queues come back");
        // Whatever it was, the next driver finds a device that works.
        guest.start(device, queues);
        guest.kicks.iter().for_each(|kick| {
            let _ = kick.write(1);
        });
        script.settle();
        assert!(guest.errors().is_empty(), "empty queues are no error");
        device.stop();
    });
}

impl Guest<'_> {
    fn errors(&self) -> Vec<crate::GuestError> {
        self.notify.errors.lock().expect("no panic").clone()
    }

    /// A driver starts with empty rings.
    fn start(&mut self, device: &mut dyn VirtioDevice, queues: u16) {
        let start = self.input.u8();
        let mut features = device.features();
        if start & Start::ALL_FEATURES == 0 {
            features &= self.input.u64();
        }
        for queue in 0..queues {
            for part in [0, 0x8000, 0xa000] {
                self.put(RINGS * u64::from(queue + 1) + part, &[0; 512]);
            }
        }
        self.drivers = (0..queues)
            .map(|queue| Driver::new(self.ram.clone(), RINGS * u64::from(queue + 1), SIZE))
            .collect();
        let event_index = start & Start::EVENT_INDEX != 0;
        let active: Vec<_> = (0..)
            .zip(&self.drivers)
            .map(|(index, driver)| driver.active(index, event_index))
            .collect();
        self.kicks = active.iter().map(|queue| queue.kick.clone()).collect();
        self.notify = Arc::default();
        let activation = Activation {
            features,
            queues: active,
            ram: self.ram.clone(),
            notify: self.notify.clone(),
        };
        device.activate(activation).expect("the host has events");
    }

    /// Writes what is RAM.
    fn put(&self, gpa: u64, bytes: &[u8]) {
        // What lies beside it is not there for a driver either.
        let _ = self.ram.write_slice(bytes, GuestAddress(gpa));
    }

    fn address(&mut self) -> u64 {
        let place = self.input.u8();
        let page = DATA + u64::from(place & 0x3f) * 0x1000;
        match place >> 6 {
            0 => page,
            1 => page + u64::from(self.input.u8()) * 16,
            2 => RINGS * u64::from(place & 7) + u64::from(place >> 3 & 7) * 0x2000,
            _ if place & 1 == 0 => RAM - u64::from(self.input.u8()),
            _ => self.input.u64(),
        }
    }

    fn length(&mut self) -> u32 {
        match self.input.u8() {
            short @ 0..=0xdf => short.into(),
            0xe0..=0xf7 => self.input.u16().into(),
            0xf8..=0xfb => 512,
            0xfc | 0xfd => 4096,
            0xfe => 1 << 16,
            0xff => self.input.u32(),
        }
    }

    /// An address, a length, writable or not; with what the device finds there.
    fn buffer(&mut self) -> (u64, u32, bool) {
        let how = self.input.u8();
        let (address, len) = (self.address(), self.length());
        if how & 2 != 0 {
            let count = self.input.u8().into();
            let bytes = self.input.take(count);
            self.put(address, bytes);
        }
        (address, len, how & 1 != 0)
    }

    /// A chain of up to eight buffers; into `table` instead of the queue's, if there is one.
    fn chain(&mut self, queue: usize, table: Option<u64>) {
        let count = 1 + u64::from(self.input.u8() & 7);
        let buffers: Vec<_> = (0..count).map(|_| self.buffer()).collect();
        let Some(table) = table else {
            self.drivers[queue].add(&buffers);
            return;
        };
        for (index, (address, len, writable)) in (0u16..).zip(&buffers) {
            let last = usize::from(index) + 1 == buffers.len();
            let flags = if *writable { WRITE } else { 0 } | if last { 0 } else { NEXT };
            self.raw(table + 16 * u64::from(index), *address, *len, flags, index + 1);
        }
        let head = u16::from(self.input.u8()) % SIZE;
        let at = self.drivers[queue].settings.descriptors + 16 * u64::from(head);
        self.raw(at, table, 16 * buffers.len() as u32, INDIRECT, 0);
        self.drivers[queue].offer(head);
    }

    fn indirect(&mut self, queue: usize) {
        let table = self.address();
        if table < RAM {
            self.chain(queue, Some(table));
        }
    }

    fn descriptor(&mut self, queue: usize) {
        let index = self.input.u8() % (SIZE as u8);
        let (address, len) = (self.address(), self.length());
        let (flags, next) = (self.input.u8(), self.input.u8());
        let at = self.drivers[queue].settings.descriptors + 16 * u64::from(index);
        self.raw(at, address, len, flags.into(), next.into());
    }

    fn raw(&self, at: u64, address: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        self.put(at, &bytes);
    }

    fn write(&mut self) {
        let (address, offset, count) = (self.address(), self.input.u8(), self.input.u8());
        let bytes = self.input.take(count.into());
        self.put(address.wrapping_add(offset.into()), bytes);
    }
}
