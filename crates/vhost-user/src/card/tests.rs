use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ostler_memory::IoBuf;
use ostler_netio::{HEADER_LEN, Header, MAX_FRAME, NetBackend, NetQueue, Offloads, Received, Sent};
use ostler_virtio::vsock::plug;

use super::*;
use crate::VhostUserNet;
use crate::front::fake::{Fake, Manners};
use crate::tests::has_uring;

const LIMIT: Duration = Duration::from_secs(240);

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < end, "waited for long, but not so: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A card with its plug, which the test minds.
struct Card {
    plug: OwnedFd,
    net: CardNet,
}

impl Card {
    fn new() -> Self {
        let (plug, guests) = plug::pair().unwrap();
        let net = CardNet::new(guests).unwrap();
        Self { plug, net }
    }

    /// The back end's end of the connection that the card wishes for.
    fn connection(&self) -> UnixStream {
        let (id, _) = plug::wait_for_wish(&self.plug).unwrap();
        let (theirs, ours) = UnixStream::pair().unwrap();
        plug::answer(&self.plug, id, Ok(ours.as_fd())).unwrap();
        theirs
    }

    /// A port of our switch, as the back end.
    fn port(&self) -> Port {
        Port {
            net: VhostUserNet::new(self.connection()).unwrap(),
            got: Vec::new(),
        }
    }

    /// Has the port do its part until the card's worker has its rings.
    fn until_runs(&self, port: &mut Port) {
        port.until_up(true);
        wait_until("the rings run", || {
            port.turn();
            self.net.shared.lock().rings.is_some()
        });
    }
}

/// What the switch does with a port.
struct Port {
    net: VhostUserNet,
    got: Vec<(Header, Vec<u8>)>,
}

impl Port {
    fn turn(&mut self) {
        self.net.serve().unwrap();
        let mut frame = Vec::new();
        while let Some(header) = self.net.take(&mut frame) {
            self.got.push((header, std::mem::take(&mut frame)));
        }
        self.net.flush().unwrap();
    }

    fn until_up(&mut self, up: bool) {
        wait_until("the port is up, or down", || {
            self.turn();
            self.net.is_up() == up
        });
    }

    fn send(&mut self, header: Header, frame: &[u8]) {
        assert!(self.net.send(&header, &[frame]));
        self.net.flush().unwrap();
    }

    fn next(&mut self) -> (Header, Vec<u8>) {
        wait_until("a frame", || {
            self.turn();
            !self.got.is_empty()
        });
        self.got.remove(0)
    }
}

fn send(queue: &mut dyn NetQueue, header: [u8; HEADER_LEN], frame: &[u8]) -> Sent {
    let message = [&header, frame].concat();
    // SAFETY: `message` is alive.
    unsafe { queue.write_frame(&[IoBuf::of_const(&message)]) }.unwrap()
}

fn receive(queue: &mut dyn NetQueue) -> Received {
    let mut room = vec![0; HEADER_LEN + MAX_FRAME];
    // SAFETY: `room` is alive.
    unsafe { queue.read_frame(&[IoBuf::of(&mut room)]) }.unwrap()
}

/// The next frame with its header, waited for as a card's worker waits.
fn next(queue: &mut dyn NetQueue) -> (Vec<u8>, Vec<u8>) {
    let end = Instant::now() + LIMIT;
    let mut room = vec![0; HEADER_LEN + MAX_FRAME];
    loop {
        // SAFETY: `room` is alive.
        match unsafe { queue.read_frame(&[IoBuf::of(&mut room)]) }.unwrap() {
            Received::Frame(count) => return (room[..HEADER_LEN].to_vec(), room[HEADER_LEN..count].to_vec()),
            Received::Dropped => panic!("dropped"),
            Received::Empty => {
                use rustix::event::{PollFd, PollFlags, Timespec, poll};
                let left = end.saturating_duration_since(Instant::now()).as_secs() as i64;
                let left = Timespec {
                    tv_sec: left,
                    tv_nsec: 0,
                };
                let readable = queue.readable().unwrap();
                let woken = poll(
                    &mut [PollFd::from_borrowed_fd(readable, PollFlags::IN)],
                    Some(&left),
                );
                assert_eq!(woken, Ok(1), "nothing told of a frame");
            }
        }
    }
}

const PLAIN: [u8; HEADER_LEN] = [0; HEADER_LEN];

/// A frame of TCP over IPv4 with this much payload, without its checksum.
fn tcp(payload: usize) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(((40 + payload) as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([
        0x10, 0, 0x20, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0,
    ]);
    frame.extend((0..payload).map(|at| at as u8));
    frame
}

#[test]
fn frames_pass_both_ways_and_a_back_end_that_goes_is_replaced() {
    if !has_uring("card::tests::frames_pass_both_ways_and_a_back_end_that_goes_is_replaced") {
        return;
    }
    let card = Card::new();
    let mut queue = card.net.open_queue(0).unwrap();
    assert!(card.net.open_queue(0).is_err() && card.net.open_queue(1).is_err());
    assert!(!card.net.link_up());
    assert_eq!(send(&mut *queue, PLAIN, &[1; 60]), Sent::Dropped);
    assert_eq!(receive(&mut *queue), Received::Empty);
    let mut port = card.port();
    card.until_runs(&mut port);
    wait_until("the link is up", || card.net.link_up());
    // More than there are slots, so that each is used again.
    for round in 0..600u16 {
        let frame = [&round.to_be_bytes()[..], &[7; 58]].concat();
        assert_eq!(send(&mut *queue, PLAIN, &frame), Sent::Sent, "{round}");
        assert_eq!(port.next().1, frame);
        port.send(Header::default(), &frame);
        assert_eq!(next(&mut *queue).1, frame, "{round}");
    }
    let longest: Vec<u8> = (0..MAX_FRAME).map(|at| at as u8).collect();
    assert_eq!(send(&mut *queue, PLAIN, &longest), Sent::Sent);
    assert_eq!(port.next().1, longest);
    port.send(Header::default(), &longest);
    assert_eq!(next(&mut *queue).1, longest);
    assert_eq!(send(&mut *queue, PLAIN, &[1; 13]), Sent::Dropped);
    // A back end that takes nothing: the rest is dropped, and nobody waits.
    let sent = (0..600)
        .filter(|_| send(&mut *queue, PLAIN, &[1; 60]) == Sent::Sent)
        .count();
    assert_eq!(sent, usize::from(rings::SLOTS));
    assert_eq!(queue.counters().send_drops, 1 + 1 + 600 - sent as u64);

    drop(port);
    wait_until("the link is down", || !card.net.link_up());
    assert_eq!(receive(&mut *queue), Received::Empty);
    assert_eq!(send(&mut *queue, PLAIN, &[1; 60]), Sent::Dropped);
    let mut port = card.port();
    card.until_runs(&mut port);
    wait_until("frames pass again", || {
        send(&mut *queue, PLAIN, &[9; 60]) == Sent::Sent
    });
    assert_eq!(port.next().1, [9; 60]);

    // The guest's driver stops its card, and starts it again.
    drop(queue);
    port.until_up(false);
    assert!(card.net.link_up());
    let mut queue = card.net.open_queue(0).unwrap();
    card.until_runs(&mut port);
    port.send(Header::default(), &[3; 60]);
    assert_eq!(next(&mut *queue).1, [3; 60]);
    // Who minds the plug goes; the back end does not notice.
    drop(card.plug);
    port.send(Header::default(), &[4; 60]);
    assert_eq!(next(&mut *queue).1, [4; 60]);
}

#[test]
fn work_is_left_to_who_takes_it() {
    if !has_uring("card::tests::work_is_left_to_who_takes_it") {
        return;
    }
    let card = Card::new();
    card.net.set_delivered(Offloads::ALL).unwrap();
    let mut queue = card.net.open_queue(0).unwrap();
    let mut port = card.port();
    card.until_runs(&mut port);
    assert_eq!(port.net.takes(), Offloads::ALL);
    // TSO, headers of 54 bytes, segments of 1000 bytes, the checksum from 34 at 16.
    let large = [1, 1, 54, 0, 0xe8, 3, 34, 0, 16, 0, 0, 0];
    let frame = tcp(3000);
    wait_until("frames pass", || send(&mut *queue, large, &frame) == Sent::Sent);
    let (header, got) = port.next();
    assert_eq!((header.bytes(), got), (&large, frame.clone()));
    port.send(Header::read(&large).unwrap(), &frame);
    let (header, got) = next(&mut *queue);
    assert_eq!((&header[..10], got), (&large[..10], frame));
    // The guest takes it no more: the back end hears of it, and starts anew.
    card.net.set_delivered(Offloads::NONE).unwrap();
    wait_until("the back end hears of it", || {
        port.turn();
        port.net.takes() == Offloads::NONE
    });
    card.until_runs(&mut port);
    port.send(Header::default(), &[5; 60]);
    assert_eq!(next(&mut *queue).1, [5; 60]);

    // A back end that takes nothing over gets the segments.
    drop(port);
    let manners = Manners {
        answers: 0,
        ..Manners::default()
    };
    let back_end = Fake::serve(card.connection(), manners);
    for _ in 0..rings::SLOTS {
        back_end.wait_for_request();
    }
    wait_until("segments pass", || {
        send(&mut *queue, large, &tcp(3000)) == Sent::Sent
    });
    for _ in 0..3 {
        back_end.wait_for_request();
    }
}

/// Whatever a back end does, the card gets another one, and the guest sees no frame of it that is none.
#[test]
fn a_lying_back_end_loses_the_card_and_does_no_harm() {
    if !has_uring("card::tests::a_lying_back_end_loses_the_card_and_does_no_harm") {
        return;
    }
    let card = Card::new();
    let mut queue = card.net.open_queue(0).unwrap();
    let usual = Manners::default;
    let bad = [
        (
            "no virtio 1",
            Manners {
                features: 1 << 30,
                ..usual()
            },
        ),
        ("no queue", Manners { rings: 0, ..usual() }),
        (
            "a refusal",
            Manners {
                acknowledgement: 1,
                ..usual()
            },
        ),
        (
            "another answer",
            Manners {
                reply_request: Some(7),
                ..usual()
            },
        ),
        (
            "an answer without its flag",
            Manners {
                reply_flags: 1,
                ..usual()
            },
        ),
        (
            "a long answer",
            Manners {
                reply_len: Some(9),
                ..usual()
            },
        ),
        (
            "half an answer",
            Manners {
                reply_len: Some(usize::MAX),
                ..usual()
            },
        ),
        (
            "a slot that is none",
            Manners {
                head: Some(u32::MAX),
                ..usual()
            },
        ),
        (
            "a slot that it does not have",
            Manners {
                head: Some(u32::from(rings::SLOTS)),
                ..usual()
            },
        ),
        (
            "too many slots",
            Manners {
                ahead: 5000,
                ..usual()
            },
        ),
        (
            "a frame longer than its slot",
            Manners {
                len: Some(1 << 20),
                ..usual()
            },
        ),
        (
            "a word out of turn",
            Manners {
                unasked: true,
                ..usual()
            },
        ),
    ];
    for (what, manners) in bad {
        // It is served until the card has hung up.
        let connection = card.connection();
        let watched = connection.try_clone().unwrap();
        let back_end = Fake::serve(connection, manners);
        let mut hung_up = false;
        wait_until(what, || {
            assert!(!matches!(receive(&mut *queue), Received::Frame(_)), "{what}");
            send(&mut *queue, PLAIN, &[1; 60]);
            use rustix::event::{PollFd, PollFlags, Timespec, poll};
            let now = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let mut polled = [PollFd::new(&watched, PollFlags::RDHUP)];
            let _ = poll(&mut polled, Some(&now));
            hung_up |= polled[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP);
            hung_up
        });
        drop(back_end);
    }
    // Frames without bytes are counted, and that is all.
    let back_end = Fake::serve(card.connection(), usual());
    wait_until("a frame without bytes", || {
        receive(&mut *queue) == Received::Dropped
    });
    drop(back_end);

    let mut port = card.port();
    card.until_runs(&mut port);
    wait_until("frames pass", || send(&mut *queue, PLAIN, &[9; 60]) == Sent::Sent);
    assert_eq!(port.next().1, [9; 60]);
    port.send(Header::default(), &[8; 60]);
    assert_eq!(next(&mut *queue).1, [8; 60]);
}

#[test]
fn what_is_no_plug_is_refused_and_a_wish_is_repeated() {
    let (stream, _other) = UnixStream::pair().unwrap();
    assert!(CardNet::new(stream.into()).is_err());
    let card = Card::new();
    let mut last = None;
    for _ in 0..3 {
        let (id, _) = plug::wait_for_wish(&card.plug).unwrap();
        assert_ne!(last.replace(id), Some(id));
        plug::answer(&card.plug, id, Err(libc::ENOENT)).unwrap();
    }
    // It ends, whatever it waits for.
    drop(card);
}
