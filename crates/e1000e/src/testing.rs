//! A card on a bench: guest memory, a driver's few structures, a network that is a list of frames.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ostler_bus::{Device, InterruptLine, Msi, MsiSink};
use ostler_memory::{GuestRam, IoBuf, RamOptions, allocate};
use ostler_netio::{
    Error, HEADER_LEN, KernelWorker, NetBackend, NetQueue, Offloads, QueueCounters, Received, Sent,
};
use ostler_pci::PciFunction;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::checksum::{fold, insert, set_word, sum};
use crate::registers as regs;
use crate::{CardOptions, E1000e};

pub const RAM: u64 = 16 << 20;
pub const RX_RING: u64 = 0x1_0000;
pub const TX_RING: u64 = 0x2_0000;
pub const RX_DATA: u64 = 0x10_0000;
pub const TX_DATA: u64 = 0x80_0000;
pub const RING: u32 = 64;
pub const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
/// Longest that anything may take; no test is about time.
const LIMIT: Duration = Duration::from_secs(30);

/// A frame of TCP over IPv4 to [`MAC`], whose checksums are right.
pub fn tcp4(payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(0x0800);
    let total = (40 + payload.len()) as u16;
    frame.extend([0x45, 0]);
    frame.extend(total.to_be_bytes());
    frame.extend([0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    insert(&mut frame[14..], 0, 10, 20, false);
    tcp(frame, 26, payload)
}

/// The same over IPv6.
pub fn tcp6(payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(0x86dd);
    ipv6(&mut frame, 6, 20 + payload.len());
    tcp(frame, 22, payload)
}

/// A frame of UDP over IPv6.
pub fn udp6(payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(0x86dd);
    ipv6(&mut frame, 17, 8 + payload.len());
    frame.extend([0x12, 0x34, 0x56, 0x78]);
    frame.extend((8 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend_from_slice(payload);
    let pseudo = fold(sum(&frame[22..54]) + 17 + 8 + payload.len() as u64);
    set_word(&mut frame, 60, pseudo);
    insert(&mut frame, 54, 60, usize::MAX, true);
    frame
}

fn ethernet(kind: u16) -> Vec<u8> {
    let mut frame = MAC.to_vec();
    frame.extend([2, 0, 0, 0, 0, 9]);
    frame.extend(kind.to_be_bytes());
    frame
}

fn ipv6(frame: &mut Vec<u8>, next: u8, len: usize) {
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((len as u16).to_be_bytes());
    frame.extend([next, 64]);
    frame.extend([0xfd; 16]);
    frame.extend([0xfe; 16]);
}

fn tcp(mut frame: Vec<u8>, addresses: usize, payload: &[u8]) -> Vec<u8> {
    let at = frame.len();
    frame.extend([
        0x30, 0x39, 0, 80, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0,
    ]);
    frame.extend_from_slice(payload);
    let pseudo = fold(sum(&frame[addresses..at]) + 6 + (frame.len() - at) as u64);
    set_word(&mut frame, at + 16, pseudo);
    insert(&mut frame, at, at + 16, usize::MAX, false);
    frame
}

/// Puts the sum of the pseudo header at `place`, as a driver leaves it; without the length for segmentation.
pub fn start_checksum(frame: &mut [u8], l4: usize, place: usize, length: bool) {
    let addresses = if frame[12] == 8 { 26 } else { 22 };
    let len = if length { (frame.len() - l4) as u64 } else { 0 };
    let pseudo = fold(sum(&frame[addresses..l4]) + 6 + len);
    set_word(frame, place, pseudo);
}

/// Sees interrupts.
#[derive(Default)]
pub struct Wire {
    pub level: AtomicBool,
    pub messages: Mutex<Vec<Msi>>,
    pub count: AtomicUsize,
}

impl InterruptLine for Wire {
    fn set(&self, level: bool) {
        self.level.store(level, Ordering::SeqCst);
    }
}

impl MsiSink for Wire {
    fn signal(&self, msi: Msi) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.messages.lock().unwrap().push(msi);
    }
    fn connect(&self, _: &EventFd, _: Option<Msi>) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

/// A network of lists.
pub struct Net {
    pub accepts: Offloads,
    pub to_guest: Mutex<VecDeque<Vec<u8>>>,
    /// With their headers.
    pub from_guest: Mutex<Vec<Vec<u8>>>,
    event: EventFd,
    pub up: AtomicBool,
    pub gone: AtomicBool,
}

impl Net {
    pub fn new(accepts: Offloads) -> Arc<Self> {
        Arc::new(Self {
            accepts,
            to_guest: Mutex::default(),
            from_guest: Mutex::default(),
            event: EventFd::new(EFD_NONBLOCK).unwrap(),
            up: AtomicBool::new(true),
            gone: AtomicBool::new(false),
        })
    }

    /// A frame for the guest, behind this header.
    pub fn give(&self, header: [u8; HEADER_LEN], frame: &[u8]) {
        let mut whole = header.to_vec();
        whole.extend_from_slice(frame);
        self.to_guest.lock().unwrap().push_back(whole);
        self.event.write(1).unwrap();
    }

    pub fn sent(&self) -> Vec<Vec<u8>> {
        self.from_guest.lock().unwrap().clone()
    }
}

struct Backend(Arc<Net>);
struct Queue(Arc<Net>);

impl NetBackend for Backend {
    fn queue_pairs(&self) -> usize {
        1
    }
    fn accepts(&self) -> Offloads {
        self.0.accepts
    }
    fn delivers(&self) -> Offloads {
        self.0.accepts
    }
    fn set_delivered(&self, offloads: Offloads) -> Result<(), Error> {
        assert!(offloads.within(self.0.accepts) && !offloads.tso4);
        Ok(())
    }
    fn link_up(&self) -> bool {
        self.0.up.load(Ordering::SeqCst)
    }
    fn mtu(&self) -> Option<u16> {
        None
    }
    fn open_queue(&self, _: usize) -> Result<Box<dyn NetQueue>, Error> {
        Ok(Box::new(Queue(self.0.clone())))
    }
    fn set_active_pairs(&self, _: usize) -> Result<(), Error> {
        Ok(())
    }
    fn vhost(&self, _: usize) -> Option<&dyn KernelWorker> {
        None
    }
}

impl NetQueue for Queue {
    unsafe fn read_frame(&mut self, buffers: &[IoBuf]) -> Result<Received, Error> {
        if self.0.gone.load(Ordering::SeqCst) {
            return Err(Error::Closed);
        }
        let frame = self.0.to_guest.lock().unwrap().pop_front();
        let Some(frame) = frame else {
            let _ = self.0.event.read();
            // One may have come before the event was cleared.
            return match self.0.to_guest.lock().unwrap().is_empty() {
                true => Ok(Received::Empty),
                false => Ok(Received::Dropped),
            };
        };
        // SAFETY: promised by the caller.
        let stored = unsafe { buffers[0].copy_from(&frame) };
        Ok(Received::Frame(stored))
    }
    unsafe fn write_frame(&mut self, buffers: &[IoBuf]) -> Result<Sent, Error> {
        if self.0.gone.load(Ordering::SeqCst) {
            return Err(Error::Closed);
        }
        let mut frame = Vec::new();
        for buffer in buffers {
            let start = frame.len();
            frame.resize(start + buffer.len(), 0);
            // SAFETY: promised by the caller.
            unsafe { buffer.copy_to(&mut frame[start..]) };
        }
        let mut sent = self.0.from_guest.lock().unwrap();
        // Tests of hostile drivers send a lot.
        if sent.len() < 10_000 {
            sent.push(frame);
        }
        Ok(Sent::Sent)
    }
    fn readable(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the event is open as long as `self`.
        Some(unsafe { BorrowedFd::borrow_raw(self.0.event.as_raw_fd()) })
    }
    fn writable(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
    fn counters(&self) -> QueueCounters {
        QueueCounters::default()
    }
}

/// A card with its driver's memory.
pub struct Bench {
    pub ram: Arc<GuestRam>,
    pub card: Arc<E1000e>,
    pub wire: Arc<Wire>,
    pub net: Arc<Net>,
    bar: Arc<dyn Device>,
}

impl Bench {
    pub fn new(accepts: Offloads) -> Self {
        let ram = allocate(RAM, RamOptions::default()).unwrap();
        let (wire, net) = (Arc::new(Wire::default()), Net::new(accepts));
        let options = CardOptions {
            mac: MAC,
            backend: Arc::new(Backend(net.clone())),
        };
        let card = E1000e::new(options, ram.clone(), wire.clone()).unwrap();
        card.connect_intx(wire.clone());
        let bar = card.bar(0).unwrap();
        let bench = Self {
            ram,
            card,
            wire,
            net,
            bar,
        };
        // Memory, ports, bus master.
        bench.card.config_write(4, &7u16.to_le_bytes());
        bench
    }

    pub fn read(&self, at: u32) -> u32 {
        let mut data = [0; 4];
        self.bar.read(at.into(), &mut data);
        u32::from_le_bytes(data)
    }

    pub fn write(&self, at: u32, value: u32) {
        self.bar.write(at.into(), &value.to_le_bytes());
    }

    pub fn write_bytes(&self, at: u64, data: &[u8]) {
        self.bar.write(at, data);
    }

    /// Sets up both rings, and everything on. Receive buffers have 2,048 bytes.
    pub fn start(&self) {
        let rx = regs::RECEIVE;
        self.write(rx + regs::BASE_LOW, RX_RING as u32);
        self.write(rx + regs::BASE_HIGH, 0);
        self.write(rx + regs::LENGTH, RING * 16);
        self.write(rx + regs::HEAD, 0);
        self.write(rx + regs::TAIL, 0);
        for at in 0..u64::from(RING) {
            self.put(RX_RING + 16 * at, &(RX_DATA + 2048 * at).to_le_bytes());
            self.put(RX_RING + 16 * at + 8, &[0; 8]);
        }
        let tx = regs::TRANSMIT;
        self.write(tx + regs::BASE_LOW, TX_RING as u32);
        self.write(tx + regs::BASE_HIGH, 0);
        self.write(tx + regs::LENGTH, RING * 16);
        self.write(tx + regs::HEAD, 0);
        self.write(tx + regs::TAIL, 0);
        // On, padded.
        self.write(regs::TCTL, 0xa);
        // On, broadcast, check sequences stripped.
        self.write(regs::RCTL, 1 << 26 | 1 << 15 | 2);
        self.write(rx + regs::TAIL, RING - 1);
    }

    /// Sends descriptors (address, lower, upper) from the queue's tail on, and waits until they are taken.
    pub fn send(&self, descriptors: &[(u64, u32, u32)]) {
        let mut tail = self.read(regs::TRANSMIT + regs::TAIL);
        for (address, lower, upper) in descriptors {
            let mut bytes = address.to_le_bytes().to_vec();
            bytes.extend(lower.to_le_bytes());
            bytes.extend(upper.to_le_bytes());
            self.put(TX_RING + 16 * u64::from(tail), &bytes);
            tail = (tail + 1) % RING;
        }
        self.write(regs::TRANSMIT + regs::TAIL, tail);
        self.until("all is sent", || self.read(regs::TRANSMIT + regs::HEAD) == tail);
    }

    /// Waits until the receive queue's head is there.
    pub fn received(&self, head: u32) {
        self.until("frames are received", || {
            self.read(regs::RECEIVE + regs::HEAD) == head
        });
    }

    /// Waits until `done`.
    pub fn until(&self, what: &str, done: impl Fn() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < LIMIT, "waiting until {what}");
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    pub fn put(&self, at: u64, bytes: &[u8]) {
        self.ram.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    pub fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }
}
