use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ostler_memory::GuestRam;
use ostler_netio::{
    Error, HEADER_LEN, IoBuf, KernelWorker, MAX_FRAME, NetBackend, NetQueue, Offloads, QueueCounters,
    Received, Sent, VRINGS, VringPlace,
};
use proptest::prelude::*;
use rustix::event::{EventfdFlags, eventfd};
use vmm_sys_util::eventfd::EventFd;

use super::control::parse;
use super::{NetDevice, NetOptions};
use crate::chain::Chain;
use crate::device::{Activation, VirtioDevice};
use crate::error::GuestError;
use crate::testing::{Driver, Recorder, ram};

const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const ALL: Offloads = Offloads {
    checksum: true,
    tso4: true,
    tso6: true,
    ecn: true,
    uso: true,
};

const MRG_RXBUF: u64 = 1 << 15;
const CTRL_VQ: u64 = 1 << 17;
const ANNOUNCE: u64 = 1 << 21;
const MQ: u64 = 1 << 22;
const EVENT_IDX: u64 = 1 << 29;
/// GUEST_CSUM and GUEST_TSO4.
const GUEST_OFFLOADS: u64 = 1 << 1 | 1 << 7;

/// What the "wire" of a queue pair holds.
struct Wire {
    to_guest: Mutex<VecDeque<Vec<u8>>>,
    from_guest: Mutex<Vec<Vec<u8>>>,
    /// Readable while frames for the guest wait.
    ready: std::os::fd::OwnedFd,
    gone: AtomicBool,
}

impl Wire {
    fn new() -> Arc<Self> {
        let ready = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        Arc::new(Self {
            to_guest: Mutex::default(),
            from_guest: Mutex::default(),
            ready,
            gone: AtomicBool::new(false),
        })
    }

    fn put(&self, frame: Vec<u8>) {
        self.to_guest.lock().unwrap().push_back(frame);
        rustix::io::write(&self.ready, &1u64.to_ne_bytes()).unwrap();
    }
}

/// A worker in the kernel that only remembers what it was given.
struct Kernel {
    refuses: bool,
    /// Where it says that it has read each available ring to.
    next: [u16; VRINGS],
    /// Start of each available ring, and the call of each vring, while it has them.
    rings: Mutex<Option<[(u64, EventFd); VRINGS]>>,
    starts: AtomicUsize,
}

impl Kernel {
    fn new(refuses: bool) -> Self {
        Self {
            refuses,
            next: [7, 9],
            rings: Mutex::new(None),
            starts: AtomicUsize::new(0),
        }
    }
}

impl KernelWorker for Kernel {
    fn features(&self, _: &Arc<GuestRam>) -> Result<u64, Error> {
        Ok(MRG_RXBUF)
    }
    fn start(&self, _: &Arc<GuestRam>, _: u64, vrings: [VringPlace<'_>; VRINGS]) -> Result<(), Error> {
        self.starts.fetch_add(1, Ordering::SeqCst);
        if self.refuses {
            return Err(Error::Closed);
        }
        let given = vrings.map(|vring| (vring.available, vring.call.try_clone().unwrap()));
        *self.rings.lock().unwrap() = Some(given);
        Ok(())
    }
    fn stop(&self, _: &Arc<GuestRam>) -> Result<[u16; VRINGS], Error> {
        assert!(self.rings.lock().unwrap().take().is_some(), "it has no rings");
        Ok(self.next)
    }
}

struct Backend {
    wires: Vec<Arc<Wire>>,
    /// One a pair, or none.
    kernels: Vec<Kernel>,
    delivered: Mutex<Offloads>,
    active: AtomicUsize,
}

impl NetBackend for Backend {
    fn queue_pairs(&self) -> usize {
        self.wires.len()
    }
    fn accepts(&self) -> Offloads {
        ALL
    }
    fn delivers(&self) -> Offloads {
        ALL
    }
    fn set_delivered(&self, offloads: Offloads) -> Result<(), Error> {
        *self.delivered.lock().unwrap() = offloads;
        Ok(())
    }
    fn link_up(&self) -> bool {
        true
    }
    fn mtu(&self) -> Option<u16> {
        Some(9000)
    }
    fn open_queue(&self, index: usize) -> Result<Box<dyn NetQueue>, Error> {
        Ok(Box::new(Queue(self.wires[index].clone())))
    }
    fn set_active_pairs(&self, pairs: usize) -> Result<(), Error> {
        self.active.store(pairs, Ordering::SeqCst);
        Ok(())
    }
    fn vhost(&self, index: usize) -> Option<&dyn KernelWorker> {
        self.kernels.get(index).map(|kernel| kernel as &dyn KernelWorker)
    }
}

struct Queue(Arc<Wire>);

impl NetQueue for Queue {
    unsafe fn read_frame(&mut self, buffers: &[IoBuf]) -> Result<Received, Error> {
        if self.0.gone.load(Ordering::SeqCst) {
            return Err(Error::Closed);
        }
        let Some(frame) = self.0.to_guest.lock().unwrap().pop_front() else {
            let _ = rustix::io::read(&self.0.ready, &mut [0; 8]);
            let empty = self.0.to_guest.lock().unwrap().is_empty();
            return Ok(if empty { Received::Empty } else { Received::Dropped });
        };
        if IoBuf::total(buffers).unwrap() < frame.len() {
            return Ok(Received::Dropped);
        }
        let mut done = 0;
        for buffer in buffers {
            // SAFETY: the caller promises mapped buffers.
            done += unsafe { buffer.copy_from(&frame[done..]) };
        }
        Ok(Received::Frame(frame.len()))
    }
    unsafe fn write_frame(&mut self, buffers: &[IoBuf]) -> Result<Sent, Error> {
        if self.0.gone.load(Ordering::SeqCst) {
            return Err(Error::Closed);
        }
        let mut frame = Vec::new();
        for buffer in buffers {
            let mut bytes = vec![0; buffer.len()];
            // SAFETY: the caller promises mapped buffers.
            unsafe { buffer.copy_to(&mut bytes) };
            frame.extend(bytes);
        }
        if frame.len() < HEADER_LEN + 14 || frame.len() > HEADER_LEN + MAX_FRAME {
            return Ok(Sent::Dropped);
        }
        self.0.from_guest.lock().unwrap().push(frame);
        Ok(Sent::Sent)
    }
    fn readable(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.ready.as_fd())
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

struct Guest {
    device: NetDevice,
    backend: Arc<Backend>,
    drivers: Vec<Driver>,
    kicks: Vec<Arc<EventFd>>,
    notify: Arc<Recorder>,
    control: usize,
}

impl Guest {
    fn new(pairs: u16, features: u64) -> Self {
        Self::with_kernels(pairs, features, Vec::new())
    }

    fn with_kernels(pairs: u16, features: u64, kernels: Vec<Kernel>) -> Self {
        let wires = (0..pairs).map(|_| Wire::new()).collect();
        let backend = Arc::new(Backend {
            wires,
            kernels,
            delivered: Mutex::new(Offloads::NONE),
            active: AtomicUsize::new(0),
        });
        let mut device = NetDevice::new(backend.clone(), NetOptions { mac: MAC, pairs });
        let queues = device.queue_max_sizes().len() as u16;
        let ram = ram();
        let drivers: Vec<_> = (0..queues)
            .map(|i| Driver::new(ram.clone(), 0x10000 * (1 + u64::from(i)), 128))
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
        let control = if features & MQ != 0 {
            2 * usize::from(pairs)
        } else {
            2
        };
        Self {
            device,
            backend,
            drivers,
            kicks,
            notify,
            control,
        }
    }

    fn add(&mut self, queue: usize, buffers: &[(u64, u32, bool)]) -> u16 {
        let head = self.drivers[queue].add(buffers);
        self.kicks[queue].write(1).unwrap();
        head
    }

    fn command(&mut self, class: u8, command: u8, data: &[u8]) -> u8 {
        let driver = &mut self.drivers[self.control];
        driver.write(0x30_0000, &[class, command]);
        driver.write(0x30_0010, data);
        driver.write(0x30_1000, &[0xee]);
        driver.add(&[
            (0x30_0000, 2, false),
            (0x30_0010, data.len() as u32, false),
            (0x30_1000, 1, true),
        ]);
        self.kicks[self.control].write(1).unwrap();
        let driver = &mut self.drivers[self.control];
        assert_eq!(driver.wait_used().1, 1);
        driver.read(0x30_1000, 1)[0]
    }
}

fn frame(len: usize, seed: u8) -> Vec<u8> {
    let mut frame = vec![0; HEADER_LEN];
    frame.extend((0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)));
    frame
}

#[test]
fn frames_leave_with_their_header() {
    let mut guest = Guest::new(1, MRG_RXBUF);
    let mut sent = frame(1000, 3);
    sent[..6].copy_from_slice(&[1, 1, 54, 0, 100, 5]);
    guest.drivers[1].write(0x20_0000, &sent);
    guest.add(1, &[(0x20_0000, 12, false), (0x20_000c, 1000, false)]);
    guest.drivers[1].wait_used();
    assert_eq!(*guest.backend.wires[0].from_guest.lock().unwrap(), [sent]);
    guest.add(1, &[(0x20_0000, 13, false)]);
    guest.drivers[1].wait_used();
    guest.add(1, &[(0x20_0000, 12, true)]);
    guest.drivers[1].wait_used();
    assert_eq!(
        guest.backend.wires[0].from_guest.lock().unwrap().len(),
        1,
        "runts are dropped"
    );
    let metrics = guest.device.metrics().snapshot();
    assert_eq!(
        (metrics.requests, metrics.bytes_from_guest, metrics.errors),
        (1, 1000, 2)
    );
}

#[test]
fn a_large_frame_is_spread_over_merged_buffers() {
    let mut guest = Guest::new(1, MRG_RXBUF | GUEST_OFFLOADS);
    assert!(guest.backend.delivered.lock().unwrap().tso4);
    for i in 0..60u64 {
        guest.drivers[0].add(&[(0x20_0000 + i * 0x1000, 1536, true)]);
    }
    guest.kicks[0].write(1).unwrap();
    let large = frame(5000, 9);
    guest.backend.wires[0].put(large.clone());
    guest.backend.wires[0].put(frame(60, 1));
    let mut got = Vec::new();
    let mut lens = Vec::new();
    for i in 0..5u64 {
        let (_, len) = guest.drivers[0].wait_used();
        lens.push(len);
        got.extend(guest.drivers[0].read(0x20_0000 + i * 0x1000, len as usize));
    }
    assert_eq!(lens, [1536, 1536, 1536, 404, 72]);
    assert_eq!(got[HEADER_LEN..5012], large[HEADER_LEN..]);
    assert_eq!(got[10..12], [4, 0], "num_buffers");
    assert_eq!(got[5012 + 10..5012 + 12], [1, 0]);
    let queues = guest.device.stop();
    assert_eq!(queues[0].vring.next_available(), 5, "staged buffers went back");
}

#[test]
fn without_merging_each_frame_takes_one_chain() {
    let mut guest = Guest::new(1, 0);
    guest.backend.wires[0].put(frame(1400, 1));
    guest.backend.wires[0].put(frame(70, 2));
    let first = guest.add(0, &[(0x20_0000, 12, true), (0x20_1000, 1514, true)]);
    assert_eq!(guest.drivers[0].wait_used(), (first, 1412));
    assert_eq!(
        guest.drivers[0].read(0x20_1000, 1400),
        frame(1400, 1)[HEADER_LEN..]
    );
    let second = guest.add(0, &[(0x20_2000, 2000, true)]);
    assert_eq!(guest.drivers[0].wait_used(), (second, 82));
}

#[test]
fn the_control_queue_obeys_and_refuses() {
    let mut guest = Guest::new(2, MRG_RXBUF | CTRL_VQ | MQ | ANNOUNCE | GUEST_OFFLOADS | 1 << 2);
    assert_eq!(guest.command(0, 0, &[1]), 0, "promiscuous");
    assert_eq!(guest.command(0, 0, &[]), 1);
    assert_eq!(guest.command(1, 1, &[2, 9, 9, 9, 9, 9]), 0, "address");
    assert_eq!(guest.command(1, 1, &[3, 9, 9, 9, 9, 9]), 1, "a group address");
    assert_eq!(guest.command(1, 1, &[2, 9, 9, 9, 9]), 1);
    let mut mac = [0; 6];
    guest.device.read_config(0, &mut mac);
    assert_eq!(mac, [2, 9, 9, 9, 9, 9]);
    assert_eq!(guest.command(1, 0, &[0; 8]), 0, "empty tables");
    assert_eq!(
        guest.command(1, 0, &[1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0]),
        0
    );
    assert_eq!(
        guest.command(1, 0, &[2, 0, 0, 0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0]),
        1,
        "a count that lies"
    );
    assert_eq!(guest.command(1, 0, &[0xff; 8]), 1);
    assert_eq!(guest.command(2, 0, &[5, 0]), 0, "VLAN");
    assert_eq!(guest.command(4, 0, &[2, 0]), 0, "pairs");
    assert_eq!(guest.backend.active.load(Ordering::SeqCst), 2);
    for pairs in [0u16, 3, 0x8000] {
        assert_eq!(guest.command(4, 0, &pairs.to_le_bytes()), 1);
    }
    assert_eq!(guest.command(5, 0, &(1u64 << 1).to_le_bytes()), 0, "offloads");
    assert_eq!(
        *guest.backend.delivered.lock().unwrap(),
        Offloads {
            checksum: true,
            ..Offloads::NONE
        }
    );
    assert_eq!(
        guest.command(5, 0, &(1u64 << 10).to_le_bytes()),
        1,
        "not negotiated"
    );
    assert_eq!(guest.command(200, 3, &[0; 64]), 1);

    assert!(guest.device.control().announce());
    let mut status = [0; 2];
    guest.device.read_config(6, &mut status);
    assert_eq!(status, [3, 0]);
    assert_eq!(guest.notify.config_changes.load(Ordering::SeqCst), 1);
    assert_eq!(guest.command(3, 0, &[]), 0);
    guest.device.read_config(6, &mut status);
    assert_eq!(status, [1, 0]);
    guest.device.stop();
    guest.device.read_config(0, &mut mac);
    assert_eq!(mac, MAC, "a reset brings the own address back");
}

#[test]
fn pairs_work_side_by_side() {
    let mut guest = Guest::new(2, MRG_RXBUF | CTRL_VQ | MQ);
    guest.add(2, &[(0x22_0000, 4096, true)]);
    guest.backend.wires[1].put(frame(500, 7));
    assert_eq!(guest.command(4, 0, &[1, 0]), 0);
    assert_eq!(guest.drivers[2].used(), None, "pair 1 rests");
    assert_eq!(guest.command(4, 0, &[2, 0]), 0);
    assert_eq!(
        guest.drivers[2].wait_used().1,
        512,
        "and goes on when it is switched on"
    );
    for pair in 0..2usize {
        guest.add(2 * pair, &[(0x20_0000 + 0x1_0000 * pair as u64, 4096, true)]);
        guest.backend.wires[pair].put(frame(100 + pair, 7));
        assert_eq!(guest.drivers[2 * pair].wait_used().1, 112 + pair as u32);
    }
    assert_eq!(guest.device.stop().len(), 5);
}

#[test]
fn a_backend_that_goes_away_leaves_the_guest_running() {
    let mut guest = Guest::new(1, MRG_RXBUF);
    guest.backend.wires[0].gone.store(true, Ordering::SeqCst);
    guest.drivers[1].write(0x20_0000, &frame(100, 1));
    for _ in 0..3 {
        guest.add(1, &[(0x20_0000, 112, false)]);
        guest.drivers[1].wait_used();
    }
    assert_eq!(
        guest.notify.config_changes.load(Ordering::SeqCst),
        1,
        "the link changed once"
    );
    let mut status = [0; 2];
    guest.device.read_config(6, &mut status);
    assert_eq!(status, [0, 0]);
    assert!(guest.notify.errors.lock().unwrap().is_empty());
    guest.device.stop();
}

/// Waits for what another thread does. Fails the test after a long time.
fn wait_until(good: impl Fn() -> bool) {
    for _ in 0..20_000 {
        if good() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("nothing happened within 20 seconds");
}

#[test]
fn frames_get_nowhere_without_the_cable() {
    let mut guest = Guest::new(1, MRG_RXBUF);
    let link = guest.device.control();
    let status = |guest: &Guest| {
        let mut status = [0; 2];
        guest.device.read_config(6, &mut status);
        u16::from_le_bytes(status)
    };
    link.set_link(false);
    link.set_link(false);
    assert_eq!(guest.notify.config_changes.load(Ordering::SeqCst), 1, "told once");
    assert_eq!(status(&guest), 0);
    guest.drivers[1].write(0x20_0000, &frame(100, 1));
    guest.add(1, &[(0x20_0000, 112, false)]);
    guest.drivers[1].wait_used();
    assert!(guest.backend.wires[0].from_guest.lock().unwrap().is_empty());
    guest.add(0, &[(0x21_0000, 4096, true)]);
    guest.backend.wires[0].put(frame(500, 7));
    wait_until(|| guest.backend.wires[0].to_guest.lock().unwrap().is_empty());
    link.set_link(true);
    assert_eq!(status(&guest), 1);
    guest.backend.wires[0].put(frame(300, 7));
    assert_eq!(
        guest.drivers[0].wait_used().1,
        312,
        "the frame from before is gone"
    );
    guest.add(1, &[(0x20_0000, 112, false)]);
    guest.drivers[1].wait_used();
    assert_eq!(
        *guest.backend.wires[0].from_guest.lock().unwrap(),
        [frame(100, 1)]
    );
}

#[test]
fn rings_go_to_the_kernel_and_come_back() {
    let mut guest = Guest::with_kernels(1, MRG_RXBUF | CTRL_VQ, vec![Kernel::new(false)]);
    let kernel = &guest.backend.kernels[0];
    let calls = kernel.rings.lock().unwrap();
    let places = calls
        .as_ref()
        .unwrap()
        .each_ref()
        .map(|(available, _)| *available);
    assert_eq!(
        places,
        [0, 1].map(|queue| guest.drivers[queue].settings.available)
    );
    calls.as_ref().unwrap()[1].1.write(1).unwrap();
    drop(calls);
    wait_until(|| guest.notify.interrupts.load(Ordering::SeqCst) != 0);
    assert_eq!(
        guest.notify.interrupts.load(Ordering::SeqCst),
        1,
        "a call is an interrupt"
    );
    assert_eq!(guest.command(0, 0, &[1]), 0, "commands are answered here");
    let has_rings = |guest: &Guest| guest.backend.kernels[0].rings.lock().unwrap().is_some();
    for up in [false, true] {
        // A frame from before the link came back reaches no one.
        guest.backend.wires[0].put(frame(100, 1));
        guest.device.control().set_link(up);
        wait_until(|| has_rings(&guest) == up);
    }
    assert!(guest.backend.wires[0].to_guest.lock().unwrap().is_empty());
    let queues = guest.device.stop();
    let next = [0, 1].map(|queue| queues[queue].vring.next_available());
    assert_eq!(next, [7, 9]);
    assert_eq!(queues.len(), 3);
}

#[test]
fn rings_of_each_pair_go_to_its_own_worker_in_the_kernel() {
    const PAIRS: u16 = 3;
    let kernels = (0..PAIRS).map(|pair| Kernel {
        // One of them is served here.
        refuses: pair == 1,
        next: [10 + pair, 20 + pair],
        ..Kernel::new(false)
    });
    let mut guest = Guest::with_kernels(PAIRS, MRG_RXBUF | CTRL_VQ | MQ, kernels.collect());
    let places = |guest: &Guest, pair: usize| {
        let rings = guest.backend.kernels[pair].rings.lock().unwrap();
        rings
            .as_ref()
            .map(|rings| rings.each_ref().map(|(available, _)| *available))
    };
    let own = |guest: &Guest, pair: usize| {
        let own = [2 * pair, 2 * pair + 1].map(|queue| guest.drivers[queue].settings.available);
        (pair != 1).then_some(own)
    };
    for pair in 0..usize::from(PAIRS) {
        assert_eq!(places(&guest, pair), own(&guest, pair), "pair {pair}");
    }
    // Each pair's own call is an interrupt.
    for pair in [0, 2] {
        let before = guest.notify.interrupts.load(Ordering::SeqCst);
        let rings = guest.backend.kernels[pair].rings.lock().unwrap();
        rings.as_ref().unwrap()[0].1.write(1).unwrap();
        drop(rings);
        wait_until(|| guest.notify.interrupts.load(Ordering::SeqCst) == before + 1);
    }
    // The number of pairs in use is said by the control queue, which stays here.
    assert_eq!(guest.command(4, 0, &2u16.to_le_bytes()), 0);
    assert_eq!(guest.backend.active.load(Ordering::SeqCst), 2);
    guest.drivers[3].write(0x20_0000, &frame(100, 1));
    guest.add(3, &[(0x20_0000, 112, false)]);
    guest.drivers[3].wait_used();
    assert_eq!(
        *guest.backend.wires[1].from_guest.lock().unwrap(),
        [frame(100, 1)]
    );
    for up in [false, true] {
        guest.device.control().set_link(up);
        wait_until(|| [0, 2].iter().all(|&pair| places(&guest, pair).is_some() == up));
    }
    assert_eq!(places(&guest, 2), own(&guest, 2), "the same rings as before");
    let queues = guest.device.stop();
    for (pair, next) in [(0, [10, 20]), (2, [12, 22])] {
        let found = [2 * pair, 2 * pair + 1].map(|index| {
            let queue = queues.iter().find(|queue| queue.index == index).unwrap();
            queue.vring.next_available()
        });
        assert_eq!(found, next, "pair {pair}");
    }
    assert_eq!(queues.len(), usize::from(2 * PAIRS) + 1);
}

#[test]
fn rings_that_the_kernel_refuses_are_served_here() {
    let mut guest = Guest::with_kernels(1, MRG_RXBUF | CTRL_VQ, vec![Kernel::new(true)]);
    let starts = guest.backend.kernels[0].starts.load(Ordering::SeqCst);
    assert_eq!(starts, 1, "the kernel was asked");
    guest.drivers[1].write(0x20_0000, &frame(100, 1));
    guest.add(1, &[(0x20_0000, 112, false)]);
    guest.drivers[1].wait_used();
    assert_eq!(
        *guest.backend.wires[0].from_guest.lock().unwrap(),
        [frame(100, 1)]
    );
    guest.add(0, &[(0x21_0000, 4096, true)]);
    guest.backend.wires[0].put(frame(500, 7));
    assert_eq!(guest.drivers[0].wait_used().1, 512);
    assert_eq!(guest.command(0, 0, &[1]), 0);
    assert!(guest.notify.errors.lock().unwrap().is_empty());
    assert_eq!(guest.device.stop().len(), 3);
}

#[test]
fn rings_of_a_shape_that_the_kernel_does_not_know_stay_here() {
    let mut guest = Guest::with_kernels(1, MRG_RXBUF | EVENT_IDX, vec![Kernel::new(false)]);
    let kernel = &guest.backend.kernels[0];
    assert_eq!(kernel.starts.load(Ordering::SeqCst), 0);
    guest.drivers[1].write(0x20_0000, &frame(100, 1));
    guest.add(1, &[(0x20_0000, 112, false)]);
    guest.drivers[1].wait_used();
    guest.device.stop();
}

#[test]
fn hostile_buffers_need_a_reset() {
    let mut guest = Guest::new(1, MRG_RXBUF);
    guest.add(0, &[(0x20_0000, 11, true)]);
    assert!(matches!(guest.notify.wait_error(), GuestError::Request(_)));
    guest.device.stop();
    let mut guest = Guest::new(1, MRG_RXBUF | CTRL_VQ);
    guest.add(2, &[(0x20_0000, 3, false)]);
    assert!(matches!(guest.notify.wait_error(), GuestError::Request(_)));
    guest.device.stop();
    let mut guest = Guest::new(1, MRG_RXBUF);
    guest.add(1, &[(0xfee0_0000, 64, false)]);
    assert!(matches!(
        guest.notify.wait_error(),
        GuestError::BufferAddress { .. }
    ));
    guest.device.stop();
}

#[test]
fn a_frame_larger_than_all_buffers_is_dropped_and_the_next_one_arrives() {
    let mut guest = Guest::new(1, MRG_RXBUF);
    guest.add(0, &[(0x20_0000, 2048, true)]);
    guest.backend.wires[0].put(frame(3000, 1));
    guest.backend.wires[0].put(frame(300, 2));
    assert_eq!(guest.drivers[0].wait_used().1, 312);
    assert_eq!(guest.device.metrics().snapshot().errors, 1);
}

proptest! {
    #[test]
    fn any_control_command_is_parsed_or_refused(bytes in proptest::collection::vec(0u8..8, 1..80)) {
        let mut driver = Driver::new(ram(), 0x10000, 16);
        driver.write(0x30_0000, &bytes);
        let (mut vring, mut chain) = (driver.vring(false), Chain::new(driver.ram.clone()));
        driver.add(&[(0x30_0000, bytes.len() as u32, false), (0x30_1000, 1, true)]);
        prop_assert!(vring.pop(&mut chain).unwrap());
        if parse(&chain).is_some() {
            prop_assert!(bytes[0] <= 5 && bytes.len() >= 2);
        }
    }
}
