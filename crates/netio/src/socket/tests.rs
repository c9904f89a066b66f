use std::io::{Read, Write};
use std::os::fd::AsRawFd;

use super::*;
use crate::{HEADER_LEN, IoBuf, MAX_FRAME, QueueCounters, Received, Sent};

struct Cable {
    queue: Box<dyn NetQueue>,
    net: SocketNet,
    peer: UnixStream,
    room: Vec<u8>,
}

impl Cable {
    fn new() -> Self {
        let (ours, peer) = UnixStream::pair().unwrap();
        let net = SocketNet::new(ours.into()).unwrap();
        let queue = net.open_queue(0).unwrap();
        Self {
            queue,
            net,
            peer,
            room: vec![0xee; HEADER_LEN + MAX_FRAME],
        }
    }

    fn read(&mut self) -> Result<Received, Error> {
        let (first, second) = self.room.split_at_mut(5);
        // SAFETY: the room is alive.
        unsafe { self.queue.read_frame(&[IoBuf::of(first), IoBuf::of(second)]) }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<Sent, Error> {
        // SAFETY: the bytes are alive.
        unsafe { self.queue.write_frame(&[IoBuf::of_const(bytes)]) }
    }
}

fn on_wire(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes()[..], frame].concat()
}

fn with_header(frame: &[u8]) -> Vec<u8> {
    [&[0; HEADER_LEN][..], frame].concat()
}

#[test]
fn a_frame_goes_each_way() {
    let mut cable = Cable::new();
    let frame: Vec<u8> = (0..100).collect();
    cable.peer.write_all(&on_wire(&frame)).unwrap();
    assert_eq!(cable.read().unwrap(), Received::Frame(HEADER_LEN + 100));
    assert_eq!(cable.room[..HEADER_LEN], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(cable.room[HEADER_LEN..][..100], frame);
    assert_eq!(cable.read().unwrap(), Received::Empty);

    assert_eq!(cable.write(&with_header(&frame)).unwrap(), Sent::Sent);
    let mut received = vec![0; 104];
    cable.peer.read_exact(&mut received).unwrap();
    assert_eq!(received, on_wire(&frame));
    let counters = QueueCounters {
        received: 1,
        sent: 1,
        receive_drops: 0,
        send_drops: 0,
    };
    assert_eq!(cable.queue.counters(), counters);
}

#[test]
fn frames_come_whole_however_the_stream_is_cut() {
    let mut cable = Cable::new();
    let stream = [on_wire(&[1; 60]), on_wire(&[2; 1500]), on_wire(&[3; 60])].concat();
    let mut lens = Vec::new();
    for piece in stream.chunks(7) {
        cable.peer.write_all(piece).unwrap();
        loop {
            match cable.read().unwrap() {
                Received::Frame(len) => lens.push(len - HEADER_LEN),
                Received::Empty => break,
                Received::Dropped => panic!("a good frame was dropped"),
            }
        }
    }
    assert_eq!(lens, [60, 1500, 60]);
}

#[test]
fn every_length_from_0_to_70000_is_carried_or_dropped() {
    let mut cable = Cable::new();
    let lens: Vec<usize> = (0..100)
        .chain(1510..1520)
        .chain(65_530..65_570)
        .chain([69_999, 70_000])
        .collect();
    for len in lens {
        let good = (14..=MAX_FRAME).contains(&len);
        let frame = vec![len as u8; len];
        let before = cable.queue.counters();
        assert_eq!(
            cable.write(&with_header(&frame)).unwrap() == Sent::Sent,
            good,
            "{len}"
        );
        if good {
            let mut received = vec![0; 4 + len];
            cable.peer.read_exact(&mut received).unwrap();
            assert_eq!(received, on_wire(&frame));
        } else {
            assert_eq!(cable.queue.counters().send_drops, before.send_drops + 1);
        }
        let peer = cable.peer.try_clone().unwrap();
        let bytes = on_wire(&frame);
        let writer = std::thread::spawn(move || (&peer).write_all(&bytes).unwrap());
        let expected = if good {
            Received::Frame(HEADER_LEN + len)
        } else {
            Received::Dropped
        };
        let found = loop {
            match cable.read().unwrap() {
                Received::Empty => std::thread::yield_now(),
                other => break other,
            }
        };
        assert_eq!(found, expected, "{len}");
        // What is skipped must be skipped before the next frame starts.
        while !writer.is_finished() {
            assert_eq!(cable.read().unwrap(), Received::Empty);
        }
        writer.join().unwrap();
    }
    assert_eq!(cable.write(&[]).unwrap(), Sent::Dropped);
    assert_eq!(cable.write(&[0; HEADER_LEN]).unwrap(), Sent::Dropped);
}

#[test]
fn a_peer_that_goes_away_in_the_middle_of_a_frame_closes_the_link() {
    let mut cable = Cable::new();
    cable.peer.write_all(&on_wire(&[5; 60])).unwrap();
    cable.peer.write_all(&on_wire(&[6; 60])[..30]).unwrap();
    cable.peer.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(cable.read().unwrap(), Received::Frame(HEADER_LEN + 60));
    assert!(cable.net.link_up());
    assert!(matches!(cable.read(), Err(Error::Closed)));
    assert!(!cable.net.link_up());
    assert!(matches!(cable.write(&with_header(&[7; 60])), Err(Error::Closed)));
}

#[test]
fn a_slow_reader_costs_a_bounded_buffer_and_no_wait() {
    let mut cable = Cable::new();
    let frame = with_header(&[9; 1514]);
    let mut sent = 0u64;
    while cable.write(&frame).unwrap() == Sent::Sent {
        sent += 1;
        assert!(sent < 10_000, "no bound was found");
    }
    for _ in 0..100 {
        assert_eq!(cable.write(&frame).unwrap(), Sent::Dropped);
    }
    let counters = cable.queue.counters();
    assert_eq!((counters.sent, counters.send_drops), (sent, 101));
    assert!(cable.queue.writable().is_some());

    // Once the peer reads, each frame that was said to be sent arrives, whole.
    let mut peer = cable.peer.try_clone().unwrap();
    let reader = std::thread::spawn(move || {
        let mut bytes = vec![0; 1518];
        for _ in 0..sent {
            peer.read_exact(&mut bytes).unwrap();
            assert_eq!(bytes, on_wire(&[9; 1514]));
        }
    });
    while let Some(fd) = cable.queue.writable() {
        let mut poll = libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLOUT,
            revents: 0,
        };
        // SAFETY: one pollfd on this frame.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 10_000) };
        assert_eq!(ready, 1, "the peer reads");
        cable.queue.flush().unwrap();
    }
    reader.join().unwrap();
    assert_eq!(cable.write(&frame).unwrap(), Sent::Sent);
}

#[test]
fn offloads_are_refused() {
    let mut cable = Cable::new();
    let mut frame = with_header(&[1; 60]);
    frame[0] = 1;
    assert_eq!(cable.write(&frame).unwrap(), Sent::Dropped);
    let checksum = Offloads {
        checksum: true,
        ..Offloads::NONE
    };
    assert!(matches!(
        cable.net.set_delivered(checksum),
        Err(Error::Offloads(_))
    ));
    cable.net.set_delivered(Offloads::NONE).unwrap();
}

#[test]
fn a_frame_larger_than_the_guests_buffers_is_dropped_alone() {
    let mut cable = Cable::new();
    cable
        .peer
        .write_all(&[on_wire(&[1; 1000]), on_wire(&[2; 60])].concat())
        .unwrap();
    let mut small = [0u8; HEADER_LEN + 100];
    // SAFETY: `small` is alive.
    let mut read = || unsafe { cable.queue.read_frame(&[IoBuf::of(&mut small)]) }.unwrap();
    assert_eq!(read(), Received::Dropped);
    assert_eq!(read(), Received::Frame(HEADER_LEN + 60));
    assert_eq!(cable.queue.counters().receive_drops, 1);
}

#[test]
fn a_queue_is_open_once_at_a_time() {
    let cable = Cable::new();
    assert!(matches!(cable.net.open_queue(0), Err(Error::NoQueue { .. })));
    assert!(cable.net.open_queue(1).is_err());
    drop(cable.queue);
    cable.net.open_queue(0).unwrap();
}

#[test]
fn only_stream_sockets_are_taken() {
    let (datagram, _peer) = std::os::unix::net::UnixDatagram::pair().unwrap();
    assert!(SocketNet::new(datagram.into()).is_err());
    assert!(SocketNet::new(std::fs::File::open("/dev/null").unwrap().into()).is_err());
    let missing = connect_socket(Path::new("/nonexistent/socket")).unwrap_err();
    assert!(missing.to_string().contains("/nonexistent/socket"), "{missing}");
}

#[test]
fn headers_pass_whole_to_a_peer_that_takes_them() {
    let (ours, mut peer) = UnixStream::pair().unwrap();
    let net = SocketNet::with_headers(ours.into()).unwrap();
    let takes = Offloads {
        checksum: true,
        tso4: true,
        tso6: true,
        ..Offloads::NONE
    };
    assert_eq!((net.accepts(), net.delivers()), (takes, takes));
    let everything = Offloads { uso: true, ..takes };
    assert!(matches!(net.set_delivered(everything), Err(Error::Offloads(_))));
    let mut queue = net.open_queue(0).unwrap();
    // A segment of 3000 bytes: checksum at 50, in segments of 1460.
    let mut frame = vec![7; HEADER_LEN + 3000];
    frame[..HEADER_LEN].copy_from_slice(&[1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0xff, 0xff]);
    let mut exchange = |said: u8| {
        // SAFETY: the frame is alive.
        let sent = unsafe { queue.write_frame(&[IoBuf::of_const(&frame)]) }.unwrap();
        assert_eq!(sent, Sent::Sent);
        let mut bytes = vec![0; 4 + frame.len()];
        peer.read_exact(&mut bytes).unwrap();
        let mut expected = on_wire(&frame);
        expected[4 + 10..4 + 12].copy_from_slice(&[said, 0]);
        assert!(
            bytes == expected,
            "the header as it was, and what the guest takes"
        );
        peer.write_all(&bytes).unwrap();
        let mut room = vec![0; HEADER_LEN + MAX_FRAME];
        // SAFETY: the room is alive.
        let received = unsafe { queue.read_frame(&[IoBuf::of(&mut room)]) }.unwrap();
        (received, room)
    };
    // A guest that takes nothing is not asked to complete anything.
    assert_eq!(exchange(0).0, Received::Dropped);
    net.set_delivered(takes).unwrap();
    let (received, room) = exchange(7);
    assert_eq!(received, Received::Frame(HEADER_LEN + 3000));
    assert_eq!(room[..HEADER_LEN], [1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 1, 0]);
    // Shorter than header and Ethernet header.
    peer.write_all(&on_wire(&[0; HEADER_LEN + 13])).unwrap();
    let mut room = [0; 100];
    // SAFETY: the room is alive.
    let received = unsafe { queue.read_frame(&[IoBuf::of(&mut room)]) };
    assert_eq!(received.unwrap(), Received::Dropped);
}
