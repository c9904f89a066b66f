//! Taps in a network namespace of the test's own thread.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::Command;

use super::*;
use crate::{IoBuf, MAX_FRAME, Received, Sent};

const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

/// Moves this thread into a new network namespace. False, with the reason said, where that is not allowed.
fn namespace(test: &str) -> bool {
    // SAFETY: affects this thread only.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
        eprintln!(
            "SKIPPED {test}: no network namespace can be made here ({})",
            io::Error::last_os_error()
        );
        return false;
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        eprintln!("SKIPPED {test}: /dev/net/tun is missing");
        return false;
    }
    true
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .expect("iproute2 is installed");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A tap at 10.7.0.1/24 whose guest is 10.7.0.2, known to the host without ARP, and no IPv6 chatter.
fn tap(name: &str, more: &str, pairs: usize) -> Tap {
    ip(&format!("tuntap add {name} mode tap{more}"));
    std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1").unwrap_or_default();
    ip(&format!("addr add 10.7.0.1/24 dev {name}"));
    ip(&format!("link set {name} up"));
    let mac = GUEST_MAC.map(|byte| format!("{byte:02x}")).join(":");
    ip(&format!("neigh add 10.7.0.2 lladdr {mac} dev {name}"));
    let tap = Tap::new(open_tap(name, pairs, true).unwrap()).unwrap();
    wait_for_carrier(name);
    tap
}

/// Until the kernel has seen that someone is attached, it drops what is sent to the tap.
fn wait_for_carrier(name: &str) {
    for _ in 0..1000 {
        let output = Command::new("ip")
            .args(["-o", "link", "show", name])
            .output()
            .unwrap();
        if String::from_utf8_lossy(&output.stdout).contains("state UP") {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{name} has no carrier");
}

/// Waits until the descriptor is readable; fails after ten seconds.
fn wait_readable(queue: &dyn NetQueue) {
    let fd = queue.readable().unwrap().as_raw_fd();
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd on this frame.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 10_000) };
    assert_eq!(ready, 1, "no frame came");
}

struct Guest {
    queue: Box<dyn NetQueue>,
    room: Vec<u8>,
}

impl Guest {
    fn new(tap: &Tap, index: usize) -> Self {
        Self {
            queue: tap.open_queue(index).unwrap(),
            room: vec![0; HEADER_LEN + MAX_FRAME],
        }
    }

    /// The next frame, header first; waits up to ten seconds.
    fn next(&mut self) -> Vec<u8> {
        loop {
            let (first, second) = self.room.split_at_mut(7);
            // SAFETY: the room is alive.
            match unsafe { self.queue.read_frame(&[IoBuf::of(first), IoBuf::of(second)]) }.unwrap() {
                Received::Frame(len) => return self.room[..len].to_vec(),
                Received::Dropped => panic!("a frame was dropped"),
                Received::Empty => wait_readable(&*self.queue),
            }
        }
    }

    /// The next UDP datagram's header, payload and checksum, whatever else comes before it.
    fn next_udp(&mut self) -> (Vec<u8>, Vec<u8>) {
        loop {
            let bytes = self.next();
            let (header, frame) = bytes.split_at(HEADER_LEN);
            if frame[12..14] == [8, 0] && frame[14 + 9] == 17 {
                return (header.to_vec(), frame.to_vec());
            }
        }
    }

    fn send(&mut self, header: [u8; HEADER_LEN], frame: &[u8]) -> Sent {
        // SAFETY: both are alive.
        unsafe {
            self.queue
                .write_frame(&[IoBuf::of_const(&header), IoBuf::of_const(frame)])
        }
        .unwrap()
    }
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
    let sum = words.sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// Sum over a UDP datagram and its pseudo header: 0 if its checksum is right.
fn udp_checksum(frame: &[u8]) -> u16 {
    let udp = &frame[34..];
    let mut bytes = frame[26..34].to_vec();
    bytes.extend([0, 17]);
    bytes.extend((udp.len() as u16).to_be_bytes());
    bytes.extend(udp);
    checksum(&bytes)
}

fn udp_frame(host_mac: [u8; 6], payload: &[u8]) -> Vec<u8> {
    let mut frame = [&host_mac[..], &GUEST_MAC, &[8, 0]].concat();
    let total = (28 + payload.len()) as u16;
    let mut header = vec![0x45, 0];
    header.extend(total.to_be_bytes());
    header.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 7, 0, 2, 10, 7, 0, 1]);
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    frame.extend(header);
    frame.extend([0x13, 0x88, 0x13, 0x89]);
    frame.extend((8 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

fn host_mac(name: &str) -> [u8; 6] {
    let output = Command::new("ip")
        .args(["-o", "link", "show", name])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mac = text
        .split("link/ether ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    let bytes: Vec<u8> = mac
        .split(':')
        .map(|part| u8::from_str_radix(part, 16).unwrap())
        .collect();
    bytes.try_into().unwrap()
}

#[test]
fn datagrams_go_both_ways() {
    if !namespace("datagrams_go_both_ways") {
        return;
    }
    let tap = tap("tap-a", "", 4);
    assert_eq!(
        (tap.queue_pairs(), tap.name(), tap.mtu()),
        (1, "tap-a", Some(1500))
    );
    let mut guest = Guest::new(&tap, 0);
    let host = UdpSocket::bind("10.7.0.1:5001").unwrap();
    host.send_to(b"to the guest", "10.7.0.2:5000").unwrap();
    let (header, frame) = guest.next_udp();
    assert_eq!(
        header,
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        "nothing was left to the guest"
    );
    assert_eq!(frame[..6], GUEST_MAC);
    assert_eq!(&frame[42..], b"to the guest");
    assert_eq!(udp_checksum(&frame), 0);

    let frame = udp_frame(host_mac("tap-a"), b"to the host");
    assert_eq!(guest.send([0; HEADER_LEN], &frame), Sent::Sent);
    let mut received = [0; 64];
    host.set_read_timeout(Some(std::time::Duration::from_secs(10)))
        .unwrap();
    let (len, from) = host.recv_from(&mut received).unwrap();
    assert_eq!(
        (&received[..len], from.to_string().as_str()),
        (&b"to the host"[..], "10.7.0.2:5000")
    );
}

#[test]
fn offloads_are_used_once_the_guest_takes_them() {
    if !namespace("offloads_are_used_once_the_guest_takes_them") {
        return;
    }
    let tap = tap("tap-o", "", 1);
    let offers = tap.delivers();
    assert!(offers.checksum && offers.tso4 && offers.tso6, "{offers:?}");
    let mut guest = Guest::new(&tap, 0);
    let host = UdpSocket::bind("10.7.0.1:5001").unwrap();

    tap.set_delivered(Offloads {
        checksum: true,
        ..Offloads::NONE
    })
    .unwrap();
    host.send_to(&[7; 100], "10.7.0.2:5000").unwrap();
    let (header, frame) = guest.next_udp();
    assert_eq!(
        header[..10],
        [1, 0, 0, 0, 0, 0, 34, 0, 6, 0],
        "the checksum is left to the guest"
    );
    assert_ne!(udp_checksum(&frame), 0);

    if offers.uso {
        let segment = 400i32;
        let set = |size: i32| {
            let (level, name) = (libc::SOL_UDP, libc::UDP_SEGMENT);
            // SAFETY: the option is an int.
            let result =
                unsafe { libc::setsockopt(host.as_raw_fd(), level, name, (&raw const size).cast(), 4) };
            assert_eq!(result, 0, "{}", io::Error::last_os_error());
        };
        set(segment);
        host.send_to(&[8; 1200], "10.7.0.2:5000").unwrap();
        assert_eq!(
            guest.next_udp().1.len(),
            42 + 400,
            "cut up for a guest that takes no segments"
        );
        guest.next_udp();
        guest.next_udp();
        tap.set_delivered(offers).unwrap();
        host.send_to(&[8; 1200], "10.7.0.2:5000").unwrap();
        let (header, frame) = guest.next_udp();
        assert_eq!((header[1], frame.len()), (5, 42 + 1200), "one large frame");
        assert_eq!(u16::from_le_bytes([header[4], header[5]]), 400);
    } else {
        eprintln!("SKIPPED offloads_are_used (UDP segments): this host's taps have none");
    }

    // A reset takes everything back.
    tap.set_delivered(Offloads::NONE).unwrap();
    let plain = UdpSocket::bind("10.7.0.1:5002").unwrap();
    plain.send_to(&[9; 100], "10.7.0.2:5000").unwrap();
    let (header, frame) = guest.next_udp();
    assert_eq!((header[0], udp_checksum(&frame)), (0, 0));
}

#[test]
fn the_host_completes_what_the_guest_leaves_open() {
    if !namespace("the_host_completes_what_the_guest_leaves_open") {
        return;
    }
    let tap = tap("tap-c", "", 1);
    let mut guest = Guest::new(&tap, 0);
    let host = UdpSocket::bind("10.7.0.1:5001").unwrap();
    host.set_read_timeout(Some(std::time::Duration::from_secs(10)))
        .unwrap();
    let mut frame = udp_frame(host_mac("tap-c"), &[5; 3000]);
    // A partial checksum: the pseudo header's sum, not inverted.
    let mut pseudo = frame[26..34].to_vec();
    pseudo.extend([0, 17]);
    pseudo.extend(3008u16.to_be_bytes());
    let partial = !checksum(&pseudo);
    frame[40..42].copy_from_slice(&partial.to_be_bytes());
    assert_eq!(
        guest.send([1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0], &frame),
        Sent::Sent
    );
    let mut received = vec![0; 4000];
    assert_eq!(host.recv(&mut received).unwrap(), 3000);
    assert_eq!(received[..3000], [5; 3000]);
}

#[test]
fn two_taps_on_a_bridge_pass_frames() {
    if !namespace("two_taps_on_a_bridge_pass_frames") {
        return;
    }
    ip("link add br0 type bridge");
    for name in ["tap-l", "tap-r"] {
        ip(&format!("tuntap add {name} mode tap"));
        ip(&format!("link set {name} master br0 up"));
    }
    ip("link set br0 up");
    let open = |name| Tap::new(open_tap(name, 1, false).unwrap()).unwrap();
    let (left, right) = (open("tap-l"), open("tap-r"));
    wait_for_carrier("tap-l");
    wait_for_carrier("tap-r");
    let (mut left, mut right) = (Guest::new(&left, 0), Guest::new(&right, 0));
    for len in [60usize, 61, 590, 1514] {
        let mut frame = vec![len as u8; len];
        frame[..6].fill(0xff);
        frame[6..12].copy_from_slice(&GUEST_MAC);
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        assert_eq!(left.send([0; HEADER_LEN], &frame), Sent::Sent);
        let arrived = loop {
            let bytes = right.next();
            if bytes[HEADER_LEN + 12..HEADER_LEN + 14] == [0x88, 0xb5] {
                break bytes;
            }
        };
        assert_eq!(arrived[HEADER_LEN..], frame);
    }
}

#[test]
fn frames_of_every_length_and_shape_are_sent_or_dropped() {
    if !namespace("frames_of_every_length_and_shape_are_sent_or_dropped") {
        return;
    }
    let tap = tap("tap-f", "", 1);
    let mut guest = Guest::new(&tap, 0);
    let lens = (0..100)
        .chain(1500..1530)
        .chain(65_530..65_560)
        .chain([69_999, 70_000]);
    for len in lens {
        let frame = vec![0xff; len];
        let sent = guest.send([0; HEADER_LEN], &frame);
        assert!(sent == Sent::Dropped || (14..=MAX_FRAME).contains(&len), "{len}");
        if (60..1515).contains(&len) {
            assert_eq!(sent, Sent::Sent, "{len}");
        }
    }
    let frame = vec![0xff; 200];
    for byte in 0..10 {
        for value in [1u8, 2, 3, 4, 5, 0x7f, 0x81, 0xff] {
            let mut header = [0; HEADER_LEN];
            header[byte] = value;
            guest.send(header, &frame);
            header[0] = 1;
            guest.send(header, &frame);
        }
    }
    let counters = guest.queue.counters();
    assert!(counters.send_drops > 0 && counters.sent > 0);
}

#[test]
fn a_frame_in_thousands_of_pieces_or_too_large_for_the_buffers() {
    if !namespace("a_frame_in_thousands_of_pieces_or_too_large_for_the_buffers") {
        return;
    }
    let tap = tap("tap-p", "", 1);
    let mut guest = Guest::new(&tap, 0);
    let host = UdpSocket::bind("10.7.0.1:5001").unwrap();
    host.set_read_timeout(Some(std::time::Duration::from_secs(10)))
        .unwrap();
    let mut bytes = [&[0; HEADER_LEN][..], &udp_frame(host_mac("tap-p"), &[3; 1400])].concat();
    let pieces: Vec<IoBuf> = bytes.chunks_mut(1).map(IoBuf::of).collect();
    // SAFETY: `bytes` is alive.
    assert_eq!(unsafe { guest.queue.write_frame(&pieces) }.unwrap(), Sent::Sent);
    let mut received = vec![0; 2000];
    assert_eq!(host.recv(&mut received).unwrap(), 1400);

    host.send_to(&[4; 1400], "10.7.0.2:5000").unwrap();
    wait_readable(&*guest.queue);
    let mut room = vec![0u8; 3000];
    let pieces: Vec<IoBuf> = room.chunks_mut(1).map(IoBuf::of).collect();
    // SAFETY: `room` is alive.
    let found = unsafe { guest.queue.read_frame(&pieces) }.unwrap();
    assert_eq!(found, Received::Frame(HEADER_LEN + 42 + 1400));
    assert_eq!((room[10], &room[HEADER_LEN + 42..][..1400]), (1, &[4; 1400][..]));

    for size in [0usize, 5, HEADER_LEN, 600, HEADER_LEN + 42 + 99] {
        host.send_to(&[4; 100], "10.7.0.2:5000").unwrap();
        wait_readable(&*guest.queue);
        // SAFETY: `room` is alive.
        let found = unsafe { guest.queue.read_frame(&[IoBuf::of(&mut room[..size])]) }.unwrap();
        let fits = size >= HEADER_LEN + 142;
        assert_eq!(
            found,
            if fits {
                Received::Frame(HEADER_LEN + 142)
            } else {
                Received::Dropped
            },
            "{size}"
        );
    }
    // SAFETY: `room` is alive.
    let after = unsafe { guest.queue.read_frame(&[IoBuf::of(&mut room)]) }.unwrap();
    assert_eq!(after, Received::Empty);
}

#[test]
fn queue_pairs_are_opened_rest_and_wake() {
    if !namespace("queue_pairs_are_opened_rest_and_wake") {
        return;
    }
    let tap = tap("tap-m", " multi_queue", 3);
    assert_eq!(tap.queue_pairs(), 3);
    let mut first = Guest::new(&tap, 0);
    let second = Guest::new(&tap, 1);
    assert!(matches!(tap.open_queue(1), Err(Error::NoQueue { .. })));
    drop(second);
    tap.open_queue(1).unwrap();
    for pairs in [0, 4] {
        assert!(tap.set_active_pairs(pairs).is_err());
    }
    tap.set_active_pairs(1).unwrap();
    let host = UdpSocket::bind("10.7.0.1:5001").unwrap();
    for port in 6000..6032 {
        host.send_to(&port.to_string().into_bytes(), ("10.7.0.2", port))
            .unwrap();
    }
    for port in 6000..6032 {
        assert_eq!(
            first.next_udp().1[42..],
            port.to_string().into_bytes(),
            "one active pair gets everything"
        );
    }
    tap.set_active_pairs(3).unwrap();
    tap.set_active_pairs(2).unwrap();
}

#[test]
fn a_tap_in_use_and_one_that_vanishes() {
    if !namespace("a_tap_in_use_and_one_that_vanishes") {
        return;
    }
    let tap = tap("tap-v", "", 1);
    let busy = open_tap("tap-v", 1, false).unwrap_err();
    assert!(matches!(busy, Error::TapBusy { .. }), "{busy}");
    let mut guest = Guest::new(&tap, 0);
    ip("link set tap-v down");
    assert_eq!(
        guest.send([0; HEADER_LEN], &[0xff; 60]),
        Sent::Dropped,
        "a tap that is down drops"
    );
    ip("link del tap-v");
    // SAFETY: the room is alive.
    let read = unsafe { guest.queue.read_frame(&[IoBuf::of(&mut guest.room)]) };
    assert!(matches!(read, Err(Error::Closed)), "{read:?}");
}

#[test]
fn what_is_no_tap_cannot_be_taken_over() {
    let null = || File::open("/dev/null").unwrap();
    assert!(
        Tap::new(OpenTap {
            queues: vec![null()],
            vhost: vec![],
            mtu: None,
            whole: false,
        })
        .is_err()
    );
    assert!(
        Tap::new(OpenTap {
            queues: vec![],
            vhost: vec![],
            mtu: None,
            whole: false,
        })
        .is_err()
    );
}
