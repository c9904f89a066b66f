use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use proptest::prelude::*;
use vmm_sys_util::eventfd::EventFd;

use super::control::{FromDriver, parse};
use super::{ByteStream, ConsoleDevice, PortOptions, WindowSize};
use crate::chain::Chain;
use crate::device::{Activation, VirtioDevice};
use crate::error::GuestError;
use crate::testing::{Driver, Recorder, ram};

/// A port whose other end is a socket.
struct SocketPort(UnixStream);

impl ByteStream for SocketPort {
    fn readable(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
    fn write(&mut self, bytes: &[u8]) {
        // A reader that went away loses output.
        let _ = self.0.write(bytes);
    }
}

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const CONTROL_RECEIVE: usize = 2;
const CONTROL_TRANSMIT: usize = 3;

struct Guest {
    device: ConsoleDevice,
    outside: Vec<UnixStream>,
    drivers: Vec<Driver>,
    kicks: Vec<Arc<EventFd>>,
    notify: Arc<Recorder>,
}

impl Guest {
    fn new(ports: &[(&str, bool)], features: u64) -> Self {
        let mut outside = Vec::new();
        let ports = ports.iter().map(|(name, console)| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            theirs.set_nonblocking(true).unwrap();
            outside.push(ours);
            PortOptions {
                stream: Box::new(SocketPort(theirs)),
                name: (*name).into(),
                console: *console,
            }
        });
        let ports: Vec<_> = ports.collect();
        let device = ConsoleDevice::new(
            ports,
            WindowSize {
                columns: 80,
                rows: 25,
            },
        )
        .unwrap();
        let mut guest = Self {
            device,
            outside,
            drivers: Vec::new(),
            kicks: Vec::new(),
            notify: Arc::default(),
        };
        guest.start(features);
        guest
    }

    fn start(&mut self, features: u64) {
        let queues = self.device.queue_max_sizes().len() as u16;
        let ram = ram();
        self.drivers = (0..queues)
            .map(|i| Driver::new(ram.clone(), 0x10000 * (1 + u64::from(i)), 32))
            .collect();
        let active: Vec<_> = (0..queues)
            .zip(&self.drivers)
            .map(|(i, driver)| driver.active(i, true))
            .collect();
        self.kicks = active.iter().map(|queue| queue.kick.clone()).collect();
        let notify = self.notify.clone();
        self.device
            .activate(Activation {
                features,
                queues: active,
                ram,
                notify,
            })
            .unwrap();
    }

    fn add(&mut self, queue: usize, buffers: &[(u64, u32, bool)]) {
        self.drivers[queue].add(buffers);
        self.kicks[queue].write(1).unwrap();
    }

    fn send(&mut self, queue: usize, bytes: &[u8]) {
        let at = 0x10_0000 + 0x1_0000 * queue as u64;
        self.drivers[queue].write(at, bytes);
        self.add(queue, &[(at, bytes.len() as u32, false)]);
        self.drivers[queue].wait_used();
    }

    fn control(&mut self, port: u32, event: u16, value: u16) {
        let mut message = port.to_le_bytes().to_vec();
        message.extend(event.to_le_bytes());
        message.extend(value.to_le_bytes());
        self.send(CONTROL_TRANSMIT, &message);
    }

    /// Gives a buffer and waits until it is filled.
    fn receive(&mut self, queue: usize) -> Vec<u8> {
        let at = 0x20_0000 + 0x1_0000 * queue as u64;
        self.add(queue, &[(at, 256, true)]);
        let (_, len) = self.drivers[queue].wait_used();
        self.drivers[queue].read(at, len as usize)
    }

    /// The next control message: port, event, value, rest.
    fn hear(&mut self) -> (u32, u16, u16, Vec<u8>) {
        let bytes = self.receive(CONTROL_RECEIVE);
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        (
            u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            word(4),
            word(6),
            bytes[8..].to_vec(),
        )
    }
}

#[test]
fn a_single_port_moves_bytes_both_ways_without_control() {
    let mut guest = Guest::new(&[("", true)], 0);
    guest.send(TRANSMIT, b"login: ");
    let mut seen = [0; 7];
    guest.outside[0].read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"login: ");
    guest.outside[0].write_all(b"root\n").unwrap();
    assert_eq!(guest.receive(RECEIVE), b"root\n");
    let metrics = guest.device.metrics().snapshot();
    assert_eq!((metrics.bytes_from_guest, metrics.bytes_to_guest), (7, 5));
}

#[test]
fn input_waits_for_buffers_and_is_split_over_them() {
    let mut guest = Guest::new(&[("", true)], 0);
    let input: Vec<u8> = (0..600u32).map(|i| i as u8).collect();
    guest.outside[0].write_all(&input).unwrap();
    let mut got = Vec::new();
    while got.len() < input.len() {
        got.extend(guest.receive(RECEIVE));
    }
    assert_eq!(got, input);
}

#[test]
fn the_control_protocol_introduces_ports() {
    let mut guest = Guest::new(&[("", true), ("org.agent", false)], 1 << 1 | 1);
    let mut config = [0; 8];
    guest.device.read_config(0, &mut config);
    assert_eq!(config, [80, 0, 25, 0, 2, 0, 0, 0]);
    guest.control(0, 0, 1);
    assert_eq!(guest.hear(), (0, 1, 1, vec![]));
    assert_eq!(guest.hear(), (1, 1, 1, vec![]));
    guest.control(0, 3, 1);
    assert_eq!(guest.hear(), (0, 4, 1, vec![]), "port 0 is a console");
    assert_eq!(guest.hear(), (0, 5, 0, vec![80, 0, 25, 0]));
    assert_eq!(guest.hear(), (0, 6, 1, vec![]));
    guest.control(1, 3, 1);
    assert_eq!(guest.hear(), (1, 7, 1, b"org.agent".to_vec()));
    assert_eq!(guest.hear(), (1, 6, 1, vec![]));

    // Input of port 1 waits until a process of the guest opens it.
    guest.outside[1].write_all(b"hi").unwrap();
    guest.control(1, 6, 1);
    assert_eq!(guest.receive(4), b"hi");
    guest.send(5, b"yes");
    let mut seen = [0; 3];
    guest.outside[1].read_exact(&mut seen).unwrap();

    guest.device.control().resize(WindowSize {
        columns: 132,
        rows: 50,
    });
    assert_eq!(guest.hear(), (0, 5, 0, vec![132, 0, 50, 0]));
    assert_eq!(
        guest
            .notify
            .config_changes
            .load(std::sync::atomic::Ordering::Relaxed),
        1
    );
    guest.add(4, &[(0x30_0000, 16, true)]);
    guest.outside.remove(1);
    assert_eq!(
        guest.hear(),
        (1, 6, 0, vec![]),
        "the stream's end closes the port"
    );
}

#[test]
fn ports_survive_a_reset_of_the_device() {
    let mut guest = Guest::new(&[("", true)], 0);
    guest.send(TRANSMIT, b"a");
    assert_eq!(guest.device.stop().len(), 4);
    guest.start(0);
    guest.send(TRANSMIT, b"b");
    let mut seen = [0; 2];
    guest.outside[0].read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"ab");
}

#[test]
fn nonsense_on_the_control_queue_is_ignored_and_a_flood_is_bounded() {
    let mut guest = Guest::new(&[("", true)], 1 << 1);
    guest.send(CONTROL_TRANSMIT, &[1, 2, 3]);
    guest.control(7, 3, 1);
    guest.control(u32::MAX, 6, 1);
    guest.control(0, 999, 1);
    // More questions than answers may wait: the device stops listening instead of growing.
    let (mut under_way, mut patience) = (0, 100);
    for _ in 0..600 {
        guest.drivers[CONTROL_TRANSMIT].write(0x10_0000, &[0, 0, 0, 0, 0, 0, 1, 0]);
        guest.add(CONTROL_TRANSMIT, &[(0x10_0000, 8, false)]);
        under_way += 1;
        // No more than a few at a time: the vring is small. Who gets no answer for long is not listened to any more.
        while under_way > 4 && patience > 0 {
            while guest.drivers[CONTROL_TRANSMIT].used().is_some() {
                under_way -= 1;
            }
            if under_way > 4 {
                patience -= 1;
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
        if patience == 0 {
            break;
        }
    }
    assert_eq!(patience, 0, "the device stopped listening");
    assert!(
        guest.drivers[CONTROL_TRANSMIT].used_index() < 300,
        "the answers that wait are bounded"
    );
    assert!(guest.notify.errors.lock().unwrap().is_empty());
    guest.device.stop();
}

#[test]
fn bad_buffers_need_a_reset() {
    let mut guest = Guest::new(&[("", true)], 0);
    guest.drivers[TRANSMIT].add(&[(0, 2 << 20, false)]);
    guest.kicks[TRANSMIT].write(1).unwrap();
    assert!(matches!(guest.notify.wait_error(), GuestError::Request(_)));
    let mut guest = Guest::new(&[("", true)], 0);
    guest.outside[0].write_all(b"x").unwrap();
    guest.drivers[RECEIVE].add(&[(0x20_0000, 16, false)]);
    guest.kicks[RECEIVE].write(1).unwrap();
    assert!(matches!(guest.notify.wait_error(), GuestError::Request(_)));
    guest.device.stop();
}

/// Ports that may be meant, and others.
fn any_port() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0u32..3, 1 => any::<u32>()]
}

/// Events of the protocol, the driver's and the device's, and others.
fn any_event() -> impl Strategy<Value = u16> {
    prop_oneof![4 => 0u16..9, 1 => any::<u16>()]
}

proptest! {
    #[test]
    fn a_control_message_is_what_its_first_eight_bytes_say(
        port in any_port(),
        event in any_event(),
        value in prop_oneof![0u16..3, any::<u16>()],
        rest in proptest::collection::vec(any::<u8>(), 0..40),
        len in 0usize..64,
        cuts in proptest::collection::vec(0usize..20, 0..6),
    ) {
        let mut message = port.to_le_bytes().to_vec();
        message.extend(event.to_le_bytes());
        message.extend(value.to_le_bytes());
        message.extend(rest);
        message.truncate(len);
        let mut driver = Driver::new(ram(), 0x10000, 32);
        driver.write(0x10_0000, &message);
        // The bytes in pieces, some of them empty, and something to write behind them.
        let (mut buffers, mut at) = (Vec::new(), 0);
        for cut in cuts.into_iter().chain([message.len()]) {
            let piece = cut.min(message.len() - at);
            buffers.push((0x10_0000 + at as u64, piece as u32, false));
            at += piece;
        }
        buffers.push((0x20_0000, 8, true));
        let (mut vring, mut chain) = (driver.vring(false), Chain::new(driver.ram.clone()));
        driver.add(&buffers);
        prop_assert!(vring.pop(&mut chain).unwrap());
        let expected = match event {
            _ if message.len() < 8 => None,
            0 => Some(FromDriver::DeviceReady(value != 0)),
            3 => Some(FromDriver::PortReady(port, value != 0)),
            6 => Some(FromDriver::PortOpen(port, value != 0)),
            _ => None,
        };
        prop_assert_eq!(parse(&chain), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever a driver says, in whatever order: every message is heard, and the device still introduces its ports.
    #[test]
    fn any_conversation_is_survived(
        messages in proptest::collection::vec((any_port(), any_event(), 0u16..3), 0..60)
    ) {
        let mut guest = Guest::new(&[("", true), ("org.agent", false)], 1 << 1);
        // A message brings at most four answers: there is room for all of them.
        for (port, event, value) in messages {
            guest.control(port, event, value);
        }
        guest.device.stop();
        prop_assert!(guest.notify.errors.lock().unwrap().is_empty());
        guest.start(1 << 1);
        guest.control(0, 0, 1);
        prop_assert_eq!(guest.hear(), (0, 1, 1, vec![]));
        prop_assert_eq!(guest.hear(), (1, 1, 1, vec![]));
    }
}
