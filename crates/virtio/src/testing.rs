//! The driver's side of a queue, for tests: builds rings in guest RAM, well-formed or not.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use ostler_memory::{GuestRam, RamOptions};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::device::{ActiveQueue, Notify};
use crate::error::GuestError;
use crate::vring::{QueueSettings, Vring};
use crate::worker::new_event;

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

pub(crate) fn ram() -> Arc<GuestRam> {
    ostler_memory::allocate(8 << 20, RamOptions::default()).unwrap()
}

/// A driver with one queue, whose rings take 64 KiB at `base`.
pub(crate) struct Driver {
    pub ram: Arc<GuestRam>,
    pub settings: QueueSettings,
    available: u16,
    used: u16,
    next_descriptor: u16,
}

impl Driver {
    pub fn new(ram: Arc<GuestRam>, base: u64, size: u16) -> Self {
        let settings = QueueSettings {
            size,
            descriptors: base,
            available: base + 0x8000,
            used: base + 0xa000,
        };
        Self {
            ram,
            settings,
            available: 0,
            used: 0,
            next_descriptor: 0,
        }
    }

    pub fn vring(&self, event_idx: bool) -> Vring {
        Vring::new(self.ram.clone(), self.settings, 1024, event_idx).unwrap()
    }

    pub fn active(&self, index: u16, event_idx: bool) -> ActiveQueue {
        ActiveQueue {
            index,
            vring: self.vring(event_idx),
            kick: Arc::new(new_event().unwrap()),
        }
    }

    pub fn write(&self, gpa: u64, bytes: &[u8]) {
        self.ram.write_slice(bytes, GuestAddress(gpa)).unwrap();
    }

    pub fn read(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.read_slice(&mut bytes, GuestAddress(gpa)).unwrap();
        bytes
    }

    /// Writes one raw descriptor of any table.
    pub fn descriptor(&self, table: u64, index: u16, gpa: u64, len: u32, flags: u16, next: u16) {
        let at = table + 16 * u64::from(index);
        self.write(at, &gpa.to_le_bytes());
        self.write(at + 8, &len.to_le_bytes());
        self.write(at + 12, &flags.to_le_bytes());
        self.write(at + 14, &next.to_le_bytes());
    }

    /// Makes `head` available.
    pub fn offer(&mut self, head: u16) {
        let slot = u64::from(self.available % self.settings.size);
        self.write(self.settings.available + 4 + 2 * slot, &head.to_le_bytes());
        self.available = self.available.wrapping_add(1);
        self.set_available_index(self.available);
    }

    pub fn set_available_index(&self, index: u16) {
        self.ram
            .store(
                index.to_le(),
                GuestAddress(self.settings.available + 2),
                Ordering::Release,
            )
            .unwrap();
    }

    /// Adds a chain of buffers (address, length, writable) and makes it available; returns its head.
    pub fn add(&mut self, buffers: &[(u64, u32, bool)]) -> u16 {
        let size = self.settings.size;
        let head = self.next_descriptor;
        for (i, &(gpa, len, writable)) in buffers.iter().enumerate() {
            let last = i + 1 == buffers.len();
            let flags = if writable { WRITE } else { 0 } | if last { 0 } else { NEXT };
            let index = (head + i as u16) % size;
            self.descriptor(
                self.settings.descriptors,
                index,
                gpa,
                len,
                flags,
                (index + 1) % size,
            );
        }
        self.next_descriptor = (head + buffers.len() as u16) % size;
        self.offer(head);
        head
    }

    /// Asks for an interrupt once the used index passes `index` (event index).
    pub fn set_used_event(&self, index: u16) {
        let at = self.settings.available + 4 + 2 * u64::from(self.settings.size);
        self.write(at, &index.to_le_bytes());
    }

    pub fn used_index(&self) -> u16 {
        self.ram
            .load::<u16>(GuestAddress(self.settings.used + 2), Ordering::Acquire)
            .unwrap()
    }

    /// The next used element (head, length), if there is one.
    pub fn used(&mut self) -> Option<(u16, u32)> {
        if self.used_index() == self.used {
            return None;
        }
        let at = self.settings.used + 4 + 8 * u64::from(self.used % self.settings.size);
        self.used = self.used.wrapping_add(1);
        let bytes = self.read(at, 8);
        let head = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        Some((
            head as u16,
            u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        ))
    }

    /// Waits until an element is used. Fails the test after a long time.
    pub fn wait_used(&mut self) -> (u16, u32) {
        for _ in 0..20_000 {
            if let Some(used) = self.used() {
                return used;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("the device did not use a buffer within 20 seconds");
    }
}

/// A transport that only remembers.
#[derive(Default)]
pub(crate) struct Recorder {
    pub interrupts: AtomicU32,
    pub config_changes: AtomicU32,
    pub errors: Mutex<Vec<GuestError>>,
}

impl Notify for Recorder {
    fn queue(&self, _: u16) {
        self.interrupts.fetch_add(1, Ordering::Relaxed);
    }
    fn config_changed(&self) {
        self.config_changes.fetch_add(1, Ordering::Relaxed);
    }
    fn needs_reset(&self, error: GuestError) {
        self.errors.lock().unwrap().push(error);
    }
    fn connect(&self, _: u16, _: Option<&EventFd>) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

impl Recorder {
    /// Waits until the device asks for a reset. Fails the test after a long time.
    pub fn wait_error(&self) -> GuestError {
        for _ in 0..20_000 {
            if let Some(error) = self.errors.lock().unwrap().first() {
                return *error;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("the device did not ask for a reset within 20 seconds");
    }
}
