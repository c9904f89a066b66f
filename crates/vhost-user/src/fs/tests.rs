use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ostler_memory::{GuestRam, PAGE_SIZE, RamOptions};
use ostler_virtio::vsock::plug;
use ostler_virtio::{Activation, ActiveQueue, GuestError, Notify, QueueSettings, VirtioDevice, Vring};
use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::EventFd;

use super::FsDevice;
use crate::front::fake::{Fake, Manners};

const LIMIT: Duration = Duration::from_secs(240);
/// Where the guest has its buffers, page by page.
const BUFFERS: u64 = 0x40_0000;

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < end, "waited for long, but not so: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A transport that only remembers.
#[derive(Default)]
struct Recorder {
    interrupts: AtomicU32,
    errors: Mutex<Vec<GuestError>>,
}

impl Notify for Recorder {
    fn queue(&self, _: u16) {
        self.interrupts.fetch_add(1, Ordering::Relaxed);
    }
    fn config_changed(&self) {}
    fn needs_reset(&self, error: GuestError) {
        self.errors.lock().unwrap().push(error);
    }
    fn connect(&self, _: u16, _: Option<&EventFd>) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

/// A driver with both queues, of 64 entries each.
struct Driver {
    ram: Arc<GuestRam>,
    kicks: [Arc<EventFd>; 2],
    available: [u16; 2],
    used: [u16; 2],
    next: [u16; 2],
    notify: Arc<Recorder>,
}

const SIZE: u16 = 64;

fn settings(queue: u64) -> QueueSettings {
    let base = 0x1_0000 * (queue + 1);
    QueueSettings {
        size: SIZE,
        descriptors: base,
        available: base + 0x4000,
        used: base + 0x8000,
    }
}

impl Driver {
    fn new() -> Self {
        let event = || Arc::new(EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK).unwrap());
        Self {
            ram: ostler_memory::allocate(16 << 20, RamOptions::default()).unwrap(),
            kicks: [event(), event()],
            available: [0; 2],
            used: [0; 2],
            next: [0; 2],
            notify: Arc::default(),
        }
    }

    fn activation(&self, queues: usize) -> Activation {
        let queue = |index: u16| ActiveQueue {
            index,
            vring: Vring::new(self.ram.clone(), settings(index.into()), 1024, false).unwrap(),
            kick: self.kicks[usize::from(index)].clone(),
        };
        Activation {
            features: 1 << 32,
            queues: (0..queues as u16).map(queue).collect(),
            ram: self.ram.clone(),
            notify: self.notify.clone(),
        }
    }

    fn write(&self, gpa: u64, bytes: &[u8]) {
        self.ram.write_slice(bytes, GuestAddress(gpa)).unwrap();
    }

    fn read(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.read_slice(&mut bytes, GuestAddress(gpa)).unwrap();
        bytes
    }

    fn put(&mut self, queue: usize, buffers: &[(u64, u32, bool)]) -> u16 {
        let place = settings(queue as u64);
        let head = self.next[queue];
        for (at, &(gpa, len, writable)) in buffers.iter().enumerate() {
            let index = (head + at as u16) % SIZE;
            let last = at + 1 == buffers.len();
            let flags = u16::from(writable) * 2 + u16::from(!last);
            let mut descriptor = Vec::new();
            descriptor.extend(gpa.to_le_bytes());
            descriptor.extend(len.to_le_bytes());
            descriptor.extend(flags.to_le_bytes());
            descriptor.extend(((index + 1) % SIZE).to_le_bytes());
            self.write(place.descriptors + 16 * u64::from(index), &descriptor);
        }
        self.next[queue] = (head + buffers.len() as u16) % SIZE;
        let slot = u64::from(self.available[queue] % SIZE);
        self.write(place.available + 4 + 2 * slot, &head.to_le_bytes());
        self.available[queue] = self.available[queue].wrapping_add(1);
        let index = GuestAddress(place.available + 2);
        self.ram
            .store(self.available[queue].to_le(), index, Ordering::Release)
            .unwrap();
        self.kicks[queue].write(1).unwrap();
        head
    }

    /// The head and length of the next answer.
    fn answer(&mut self, queue: usize) -> (u16, u32) {
        let place = settings(queue as u64);
        wait_until("there is an answer", || {
            let index: u16 = self
                .ram
                .load(GuestAddress(place.used + 2), Ordering::Acquire)
                .unwrap();
            index != self.used[queue]
        });
        let at = place.used + 4 + 8 * u64::from(self.used[queue] % SIZE);
        self.used[queue] = self.used[queue].wrapping_add(1);
        let bytes = self.read(at, 8);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        (word(0) as u16, word(4))
    }

    /// Sends a request of FUSE with this code; it has room for an answer of 64 bytes.
    fn fuse(&mut self, code: u32, unique: u64) -> u16 {
        let mut header = [0; 40];
        header[..4].copy_from_slice(&40u32.to_le_bytes());
        header[4..8].copy_from_slice(&code.to_le_bytes());
        header[8..16].copy_from_slice(&unique.to_le_bytes());
        self.write(BUFFERS, &header);
        self.put(1, &[(BUFFERS, 40, false), (BUFFERS + 0x1000, 64, true)])
    }

    /// What [`Driver::fuse`] was answered: its length, its error and its number.
    fn verdict(&mut self) -> (u32, i32, u64) {
        let (_, len) = self.answer(1);
        let bytes = self.read(BUFFERS + 0x1000, 16);
        (
            len,
            i32::from_le_bytes(bytes[4..8].try_into().unwrap()),
            u64::from_le_bytes(bytes[8..].try_into().unwrap()),
        )
    }

    fn errors(&self) -> Vec<GuestError> {
        self.notify.errors.lock().unwrap().clone()
    }
}

const INIT: u32 = 26;
const GETATTR: u32 = 3;
const UNLINK: u32 = 10;
const OPEN: u32 = 14;
const REFUSED: i32 = -libc::ENOTCONN;

/// A device, and the other end of its plug.
fn device() -> (FsDevice, OwnedFd) {
    let (ours, guests) = plug::pair().unwrap();
    (FsDevice::new("src", false, guests).unwrap(), ours)
}

/// Answers the next wish by a back end of these manners.
fn serve(plug: &OwnedFd, manners: Manners) -> Fake {
    let (id, port) = plug::wait_for_wish(plug).unwrap();
    assert_eq!(port, 0);
    let (ours, theirs) = UnixStream::pair().unwrap();
    plug::answer(plug, id, Ok(theirs.as_fd())).unwrap();
    Fake::serve(ours, manners)
}

fn has_uring(test: &str) -> bool {
    let has = io_uring::IoUring::new(1).is_ok();
    if !has {
        eprintln!("SKIPPED {test}: the host refuses io_uring");
    }
    has
}

#[test]
fn configuration_is_the_tag_and_one_queue() {
    let (device, _plug) = device();
    let mut config = [1; 60];
    device.read_config(0, &mut config);
    assert_eq!(&config[..5], b"src\0\0");
    assert_eq!(config[36..41], [1, 0, 0, 0, 0]);
    let (_, guests) = plug::pair().unwrap();
    for wrong in ["", "a\0b", &"x".repeat(37)] {
        assert!(FsDevice::new(wrong, false, guests.try_clone().unwrap()).is_err());
    }
    assert!(FsDevice::new("a", false, UnixStream::pair().unwrap().0.into()).is_err());
}

#[test]
fn requests_and_answers_are_copied_and_noted_as_written() {
    if !has_uring("requests_and_answers_are_copied_and_noted_as_written") {
        return;
    }
    let (mut device, plug) = device();
    let mut driver = Driver::new();
    device.activate(driver.activation(2)).unwrap();
    driver.fuse(INIT, 1);
    let _fake = serve(&plug, Manners::default());
    assert_eq!(driver.verdict(), (64, 0, 1));
    // The page that is answered into holds code that was decoded.
    let mapping = driver.ram.iter().next().unwrap().get_mmap();
    let page = (BUFFERS + 0x9000) as usize / PAGE_SIZE;
    let tracker = mapping.bitmap();
    tracker.watch_code(page * PAGE_SIZE + 64, 8);
    tracker.set_logging(true);
    let version = tracker.code_version(page).load(Ordering::SeqCst);
    // What comes back is what was sent, turned around.
    let sent: Vec<u8> = (0..10_000u32).map(|n| (n * 7 % 251) as u8).collect();
    driver.write(BUFFERS + 40, &sent[..3000]);
    driver.write(BUFFERS + 0x3000, &sent[3000..7096]);
    driver.write(BUFFERS + 0x6000, &sent[7096..]);
    let head = driver.put(
        1,
        &[
            (BUFFERS + 40, 3000, false),
            (BUFFERS + 0x3000, 4096, false),
            (BUFFERS + 0x6000, 2904, false),
            (BUFFERS + 0x8f00, 16, true),
            (BUFFERS + 0x9000, 4096, true),
            (BUFFERS + 0xb001, 9000, true),
        ],
    );
    assert_eq!(driver.answer(1), (head, 10_000));
    let mut back = driver.read(BUFFERS + 0x8f00, 16);
    back.extend(driver.read(BUFFERS + 0x9000, 4096));
    back.extend(driver.read(BUFFERS + 0xb001, 10_000 - 4112));
    let expected: Vec<u8> = sent.iter().rev().copied().collect();
    assert!(back == expected);
    assert_eq!(tracker.code_version(page).load(Ordering::SeqCst), version + 1);
    assert!(tracker.is_dirty(page) && tracker.dirty_at((BUFFERS + 0xb001) as usize));
    // Many at once, on both queues.
    for round in 0..20u64 {
        let heads: Vec<u16> = (0..16)
            .map(|n| {
                driver.write(BUFFERS + n * 0x100, &[round as u8; 40]);
                driver.put(
                    (n % 2) as usize,
                    &[
                        (BUFFERS + n * 0x100, 40, false),
                        (BUFFERS + 0x2000 + n * 64, 64, true),
                    ],
                )
            })
            .collect();
        let mut seen: Vec<u16> = (0..8)
            .flat_map(|_| [driver.answer(0).0, driver.answer(1).0])
            .collect();
        seen.sort_unstable();
        let mut heads = heads;
        heads.sort_unstable();
        assert_eq!(seen, heads);
    }
    let empty = driver.put(1, &[(BUFFERS, 0, true)]);
    assert_eq!(driver.answer(1), (empty, 0));
    assert_eq!(device.stop().len(), 2);
    assert_eq!(driver.errors(), []);
}

#[test]
fn what_would_change_a_read_only_share_never_comes_to_the_back_end() {
    if !has_uring("what_would_change_a_read_only_share_never_comes_to_the_back_end") {
        return;
    }
    let (plug, guests) = plug::pair().unwrap();
    let mut device = FsDevice::new("src", true, guests).unwrap();
    let mut driver = Driver::new();
    device.activate(driver.activation(2)).unwrap();
    driver.fuse(INIT, 1);
    // It answers two requests, and tells of the others.
    let fake = serve(
        &plug,
        Manners {
            answers: 2,
            ..Manners::default()
        },
    );
    assert_eq!(driver.verdict(), (64, 0, 1));
    for unique in 2..6 {
        driver.fuse(UNLINK, unique);
        assert_eq!(driver.verdict(), (16, -libc::EROFS, unique));
    }
    driver.fuse(GETATTR, 6);
    assert_eq!(driver.verdict(), (64, 0, 6));
    // In the other queue, with its header in two buffers, and without room for an answer.
    driver.fuse(OPEN, 7);
    assert_eq!(driver.verdict(), (16, -libc::EROFS, 7), "its flags are missing");
    let mut header = [0; 40];
    header[4..8].copy_from_slice(&UNLINK.to_le_bytes());
    driver.write(BUFFERS, &header);
    let head = driver.put(0, &[(BUFFERS, 6, false), (BUFFERS + 6, 34, false)]);
    assert_eq!(driver.answer(0), (head, 0));
    driver.fuse(GETATTR, 8);
    fake.wait_for_request();
    assert!(fake.has_heard_of_no_more());
    drop(fake);
    assert_eq!(driver.verdict(), (16, REFUSED, 8));
    device.stop();
    assert_eq!(driver.errors(), []);
}

#[test]
fn what_a_lost_back_end_owes_is_answered_and_a_session_begins_anew() {
    if !has_uring("what_a_lost_back_end_owes_is_answered_and_a_session_begins_anew") {
        return;
    }
    let (mut device, plug) = device();
    let mut driver = Driver::new();
    device.activate(driver.activation(2)).unwrap();
    // Before there is a session nobody is asked.
    driver.fuse(GETATTR, 5);
    assert_eq!(driver.verdict(), (16, REFUSED, 5));
    driver.fuse(INIT, 6);
    let fake = serve(
        &plug,
        Manners {
            answers: 1,
            ..Manners::default()
        },
    );
    assert_eq!(driver.verdict(), (64, 0, 6));
    driver.fuse(GETATTR, 7);
    fake.wait_for_request();
    drop(fake);
    assert_eq!(driver.verdict(), (16, REFUSED, 7), "it was on its way");
    driver.fuse(GETATTR, 8);
    assert_eq!(driver.verdict(), (16, REFUSED, 8));
    // One without room for an answer, as FORGET.
    let head = driver.put(0, &[(BUFFERS, 40, false)]);
    assert_eq!(driver.answer(0), (head, 0));
    // A wish that cannot be fulfilled, and one that can.
    driver.fuse(INIT, 9);
    let (id, _) = plug::wait_for_wish(&plug).unwrap();
    plug::answer(&plug, id, Err(libc::ENOENT)).unwrap();
    assert_eq!(driver.verdict(), (16, REFUSED, 9));
    driver.fuse(INIT, 10);
    let _fake = serve(&plug, Manners::default());
    assert_eq!(driver.verdict(), (64, 0, 10));
    // The driver starts anew, and the back end goes on.
    device.stop();
    let mut driver = Driver::new();
    device.activate(driver.activation(2)).unwrap();
    driver.fuse(INIT, 11);
    assert_eq!(driver.verdict(), (64, 0, 11));
    // Nobody connects any more.
    drop((plug, _fake));
    driver.fuse(INIT, 12);
    assert_eq!(driver.verdict(), (16, REFUSED, 12));
    device.stop();
    assert_eq!(driver.errors(), []);
}

#[test]
fn a_back_end_that_lies_is_dropped() {
    if !has_uring("a_back_end_that_lies_is_dropped") {
        return;
    }
    let honest = Manners::default;
    for (what, manners) in [
        (
            "head",
            Manners {
                head: Some(5000),
                ..honest()
            },
        ),
        (
            "other head",
            Manners {
                head: Some(0),
                ..honest()
            },
        ),
        (
            "length",
            Manners {
                len: Some(65),
                ..honest()
            },
        ),
        (
            "length",
            Manners {
                len: Some(u32::MAX),
                ..honest()
            },
        ),
        ("index", Manners { ahead: 2, ..honest() }),
        (
            "index",
            Manners {
                ahead: 0xfff0,
                ..honest()
            },
        ),
        (
            "unasked",
            Manners {
                unasked: true,
                ..honest()
            },
        ),
        (
            "features",
            Manners {
                features: 0,
                ..honest()
            },
        ),
        ("rings", Manners { rings: 1, ..honest() }),
        (
            "acknowledgements",
            Manners {
                acknowledgement: 1,
                ..honest()
            },
        ),
        (
            "another request",
            Manners {
                reply_request: Some(99),
                ..honest()
            },
        ),
        (
            "flags",
            Manners {
                reply_flags: 1,
                ..honest()
            },
        ),
        (
            "length of a reply",
            Manners {
                reply_len: Some(4),
                ..honest()
            },
        ),
        (
            "cut short",
            Manners {
                reply_len: Some(usize::MAX),
                ..honest()
            },
        ),
    ] {
        let (mut device, plug) = device();
        let mut driver = Driver::new();
        device.activate(driver.activation(2)).unwrap();
        driver.fuse(INIT, 1);
        let fake = serve(&plug, manners);
        assert_eq!(driver.verdict(), (16, REFUSED, 1), "{what}");
        driver.fuse(INIT, 2);
        let _good = serve(&plug, honest());
        assert_eq!(driver.verdict(), (64, 0, 2), "{what}");
        drop(fake);
        device.stop();
        assert_eq!(driver.errors(), [], "{what}");
    }
}

#[test]
fn a_silent_back_end_keeps_nobody_from_stopping() {
    let (mut device, plug) = device();
    let mut driver = Driver::new();
    device.activate(driver.activation(2)).unwrap();
    driver.fuse(INIT, 1);
    let (id, _) = plug::wait_for_wish(&plug).unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    plug::answer(&plug, id, Ok(theirs.as_fd())).unwrap();
    drop(theirs);
    // It is asked for its features, and says nothing.
    ours.read_exact(&mut [0; 12]).unwrap();
    device.stop();
    assert_eq!(ours.read(&mut [0]).unwrap(), 0, "its connection is closed");
    assert!(ours.write_all(&[0]).is_err());
    assert_eq!(driver.errors(), []);
}

#[test]
fn a_driver_that_breaks_the_rules_needs_a_reset() {
    let (mut device, _plug) = device();
    let mut driver = Driver::new();
    let said = device.activate(driver.activation(1)).unwrap_err();
    assert!(matches!(said, ostler_virtio::Error::Guest(_)), "{said}");
    device.activate(driver.activation(2)).unwrap();
    driver.put(1, &[(u64::MAX - 5, 40, false)]);
    wait_until("a reset is asked for", || !driver.errors().is_empty());
    device.stop();
}
