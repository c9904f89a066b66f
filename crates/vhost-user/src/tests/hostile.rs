//! Front ends and guests that do not.

use std::time::Duration;

use super::*;

fn closes_within(bytes: &[u8], count: usize) -> Error {
    let mut front = Front::new();
    front.send(&bytes[..count], &[]);
    let unfinished = front.net.serve();
    assert!(unfinished.is_ok(), "{count}: {unfinished:?}");
    front.socket.shutdown(std::net::Shutdown::Both).unwrap();
    front.net.serve().unwrap_err()
}

/// A message may come byte by byte; who closes in the middle of one is told apart from who closes after it.
#[test]
fn messages_in_pieces_are_put_together_and_cut_ones_are_noticed() {
    let message = [
        &[1u32, 1, 0].map(u32::to_ne_bytes).concat()[..],
        &[2, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0],
        &[0; 8],
    ];
    let message = message.concat();
    for count in 0..=message.len() {
        let error = closes_within(&message, count);
        match count {
            0 | 12 | 32 => assert!(matches!(error, Error::Closed), "{count}: {error}"),
            _ => assert!(matches!(error, Error::CutShort), "{count}: {error}"),
        }
    }
    let mut front = Front::new();
    for byte in message {
        front.send(&[byte], &[]);
        front.net.serve().unwrap();
    }
    assert_eq!(front.answer(FrontendReq::GET_FEATURES).len(), 8);
}

#[test]
fn messages_that_cannot_be_are_refused() {
    let header = |request: u32, flags: u32, len: u32| [request, flags, len].map(u32::to_ne_bytes).concat();
    for (bytes, reason) in [
        (header(1, 0, 0), "another protocol"),
        (header(1, 1 | 4, 0), "another protocol"),
        (header(1, 1, u32::MAX), "more than any has"),
        (header(1, 1, 4096), "more than any has"),
        (header(0, 1, 0), "was not offered"),
        (header(6, 1, 0), "was not offered"),
        (header(21, 1, 0), "was not offered"),
        (header(u32::MAX, 1, 0), "was not offered"),
        ([header(2, 1, 4), vec![0; 4]].concat(), "another length"),
        ([header(5, 1, 8), pair(9, 0)].concat(), "more than eight"),
        ([header(5, 1, 8), pair(1, 0)].concat(), "another length"),
        ([header(2, 1, 8), word(1 << 24)].concat(), "were not offered"),
        ([header(16, 1, 8), word(1 << 5)].concat(), "were not offered"),
        ([header(8, 1, 8), pair(16, 8)].concat(), "named ring 16"),
        ([header(8, 1, 8), pair(u32::MAX, 8)].concat(), "named ring"),
        ([header(8, 1, 8), pair(0, 0)].concat(), "cannot have"),
        ([header(8, 1, 8), pair(0, 3)].concat(), "cannot have"),
        ([header(8, 1, 8), pair(0, 8192)].concat(), "cannot have"),
        ([header(8, 1, 8), pair(0, 65536 + 8)].concat(), "cannot have"),
        ([header(10, 1, 8), pair(0, 65536)].concat(), "cannot have"),
        ([header(18, 1, 8), pair(0, 2)].concat(), "cannot have"),
        ([header(18, 1, 8), pair(99, 1)].concat(), "named ring 99"),
        ([header(12, 1, 8), word(1 << 8)].concat(), "to be polled"),
        ([header(12, 1, 8), word(0)].concat(), "0 descriptors"),
        (
            [header(5, 1, 40), pair(1, 0), vec![0; 32]].concat(),
            "0 descriptors",
        ),
    ] {
        let mut front = Front::new();
        front.send(&bytes, &[]);
        let error = front.net.serve().unwrap_err().to_string();
        assert!(error.contains(reason), "{bytes:?}: {error}");
    }
}

/// Descriptors beyond those of the message, with one message, over many pieces of one, and of kinds that belong elsewhere.
#[test]
fn descriptors_that_do_not_belong_are_refused_and_closed() {
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let many = vec![event.as_fd(); 64];
    let mut front = Front::new();
    let with_many = front.try_tell(FrontendReq::GET_FEATURES, &[], &many);
    assert!(
        matches!(with_many, Err(Error::TooManyDescriptors)),
        "{with_many:?}"
    );
    let mut front = Front::new();
    let mut pieces = [1u32, 1, 0].map(u32::to_ne_bytes).concat().into_iter();
    let refused = loop {
        front.send(&[pieces.next().unwrap()], &[event.as_fd()]);
        if let Err(error) = front.net.serve() {
            break error;
        }
    };
    assert!(matches!(refused, Error::TooManyDescriptors), "{refused}");
    let mut front = Front::new();
    let with_one = front.try_tell(FrontendReq::SET_OWNER, &[], &[event.as_fd()]);
    assert!(
        matches!(with_one, Err(Error::Descriptors { given: 1, wanted: 0 })),
        "{with_one:?}"
    );
    drop(front);

    let (pipe, _other) = std::io::pipe().unwrap();
    for request in [FrontendReq::SET_VRING_KICK, FrontendReq::SET_VRING_CALL] {
        let mut front = Front::ready(0);
        let told = front.try_tell(request, &word(0), &[pipe.as_fd()]);
        assert!(
            matches!(told, Err(Error::NoEvent(_) | Error::NoUring(_))),
            "{told:?}"
        );
    }
    // Nothing is left open, whatever was refused. Other tests run beside this one, so it is seen in many rounds.
    let before = open();
    for _ in 0..500 {
        let mut front = Front::new();
        let _ = front.try_tell(FrontendReq::SET_OWNER, &[], &[event.as_fd(); 8]);
    }
    assert!(open() < before + 500);
}

/// Rings that are nowhere, not yet described, or changed while they run.
#[test]
fn rings_that_cannot_be_are_refused() {
    if !has_uring("rings_that_cannot_be_are_refused") {
        return;
    }
    let kick = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let mut front = Front::new();
    let started = front.try_tell(FrontendReq::SET_VRING_KICK, &word(0), &[kick.as_fd()]);
    assert!(matches!(started, Err(Error::RingUnknown(0))), "{started:?}");
    let mut front = Front::ready(0);
    let started = front.try_tell(FrontendReq::SET_VRING_KICK, &word(0), &[kick.as_fd()]);
    assert!(matches!(started, Err(Error::RingUnknown(0))), "{started:?}");
    for user in [
        0,
        USER - 0x4000,
        USER + MEMORY,
        USER + MEMORY - 0x4000,
        u64::MAX - 0x7000,
    ] {
        let mut front = Front::ready(0);
        front.tell(FrontendReq::SET_VRING_NUM, &pair(0, 16), &[]);
        front.tell(FrontendReq::SET_VRING_ADDR, &address(0, user), &[]);
        let started = front.try_tell(FrontendReq::SET_VRING_KICK, &word(0), &[kick.as_fd()]);
        assert!(
            matches!(started, Err(Error::RingAddress(_))),
            "{user:#x}: {started:?}"
        );
    }
    // The guest's fault: misaligned, over the end of memory, without a size.
    for (size, user) in [(16, USER + 1), (16, USER + MEMORY - 0x6080), (0, USER)] {
        let mut front = Front::ready(0);
        if size > 0 {
            front.tell(FrontendReq::SET_VRING_NUM, &pair(1, size), &[]);
        }
        front.tell(FrontendReq::SET_VRING_ADDR, &address(1, user), &[]);
        front.tell(FrontendReq::SET_VRING_KICK, &word(1), &[kick.as_fd()]);
        front.tell(FrontendReq::SET_VRING_ENABLE, &pair(1, 1), &[]);
        front.start(0);
        assert!(!front.net.is_up(), "{size} {user:#x}");
        assert_eq!(front.taken(), None);
    }
    let changes = [
        (FrontendReq::SET_VRING_NUM, pair(1, 32)),
        (FrontendReq::SET_VRING_BASE, pair(1, 7)),
        (FrontendReq::SET_VRING_ADDR, address(1, USER + 0x20_0000)),
        (FrontendReq::SET_FEATURES, word(USUAL | 1 << 29)),
    ];
    for (request, payload) in changes {
        let (mut front, _receives, _sends) = Front::card(0);
        if request == FrontendReq::SET_VRING_ADDR {
            // The same once more is no change.
            front.tell(request, &address(1, USER + 0x20_0000), &[]);
            front.tell(FrontendReq::SET_FEATURES, &word(USUAL), &[]);
        }
        let payload = match request {
            FrontendReq::SET_VRING_ADDR => address(1, USER + 0x30_0000),
            _ => payload,
        };
        let told = front.try_tell(request, &payload, &[]);
        assert!(matches!(told, Err(Error::RingRuns(_))), "{request:?}: {told:?}");
    }
    // Memory that goes from under a ring.
    let (mut front, _receives, _sends) = Front::card(0);
    let one = [&word(0)[..], &region(0, MEMORY, USER, 0)].concat();
    let told = front.try_tell(FrontendReq::REM_MEM_REG, &one, &[]);
    assert!(matches!(told, Err(Error::RingRuns(_))), "{told:?}");
    let (mut front, _receives, _sends) = Front::card(0);
    let (memory, elsewhere) = (
        front.memory(),
        [&pair(1, 0)[..], &region(0, MEMORY, 0x1000, 0)].concat(),
    );
    let told = front.try_tell(FrontendReq::SET_MEM_TABLE, &elsewhere, &[memory.as_fd()]);
    assert!(matches!(told, Err(Error::RingAddress(_))), "{told:?}");
}

/// Each breaks one ring, of which the front end is told, and which works again once it is set up anew.
#[test]
fn a_guest_that_breaks_a_ring_loses_it_until_it_is_set_up_anew() {
    if !has_uring("a_guest_that_breaks_a_ring_loses_it_until_it_is_set_up_anew") {
        return;
    }
    type Breaks = fn(&mut Driver);
    let sending: [(&str, Breaks); 7] = [
        ("a loop", |driver| {
            driver.descriptor(0, driver.base, 64, NEXT, 1);
            driver.descriptor(1, driver.base, 64, NEXT, 0);
            driver.offer(0);
        }),
        ("a next index beyond the table", |driver| {
            driver.descriptor(0, driver.base, 64, NEXT, SIZE);
            driver.offer(0);
        }),
        ("a head beyond the table", |driver| driver.offer(0xffff)),
        ("a buffer outside of memory", |driver| {
            driver.descriptor(0, MEMORY - 8, 64, 0, 0);
            driver.offer(0);
        }),
        ("a buffer whose end wraps", |driver| {
            driver.descriptor(0, u64::MAX - 8, 64, 0, 0);
            driver.offer(0);
        }),
        ("an available index that runs away", |driver| {
            driver.set_available(driver.available.wrapping_add(SIZE + 1));
        }),
        ("an indirect table inside of another", |driver| {
            driver.write(
                0xf000,
                &[
                    &(driver.base + 0xf000).to_le_bytes()[..],
                    &[16, 0, 0, 0, 4, 0, 0, 0],
                ]
                .concat(),
            );
            driver.descriptor(0, driver.base + 0xf000, 16, 4, 0);
            driver.offer(0);
        }),
    ];
    for (what, breaks) in sending {
        let (mut front, _receives, mut sends) = Front::card(1 << 28);
        let error = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        front.tell(FrontendReq::SET_VRING_ERR, &word(1), &[error.as_fd()]);
        breaks(&mut sends);
        assert!(
            front.net.has_work() || front.net.sleep() || !front.net.is_up(),
            "{what}"
        );
        assert_eq!(front.taken(), None, "{what}");
        assert!(!front.net.is_up(), "{what}");
        assert!(!front.net.has_work() && !front.net.sleep(), "{what}");
        let why = front.net.why_down().unwrap();
        assert!(why.contains("broke a ring"), "{what}: {why}");
        rustix::io::read(&error, &mut [0; 8]).unwrap();
        front.ask(FrontendReq::GET_VRING_BASE, &pair(1, 0));
        sends
            .ram
            .write_slice(&[0; 0x8000], GuestAddress(sends.base))
            .unwrap();
        let mut sends = front.start(1);
        assert!(front.net.is_up(), "{what}");
        sends.send(&frame(1, 60));
        assert_eq!(front.taken(), Some(frame(1, 60)), "{what}");
    }
    let receiving: [(&str, Breaks); 3] = [
        ("a buffer to be read", |driver| {
            driver.descriptor(0, driver.base + 0x8000, 2000, 0, 0);
            driver.offer(0);
        }),
        ("a buffer smaller than the header", |driver| {
            driver.give_buffer(11)
        }),
        ("a loop", |driver| {
            driver.descriptor(0, driver.base + 0x8000, 64, NEXT | WRITE, 0);
            driver.offer(0);
        }),
    ];
    for (what, breaks) in receiving {
        let (mut front, mut receives, mut sends) = Front::card(0);
        breaks(&mut receives);
        front.give(&frame(1, 60));
        assert!(!front.net.is_up(), "{what}");
        sends.send(&frame(2, 60));
        front.net.serve().unwrap();
        assert_eq!(receives.next_used(), None, "{what}");
    }
}

/// What is no frame is counted and skipped, some of it at a time.
#[test]
fn what_is_no_frame_is_counted_and_skipped() {
    if !has_uring("what_is_no_frame_is_counted_and_skipped") {
        return;
    }
    let (mut front, _receives, mut sends) = Front::card(0);
    sends.send_headed(&[0; 4], &[]);
    sends.send(&[0; 13]);
    sends.descriptor(2, sends.base, 16, NEXT, 8);
    // Far more than a frame has, from the same memory again and again.
    for index in 8..SIZE {
        sends.descriptor(
            index,
            0,
            MEMORY as u32,
            if index + 1 < SIZE { NEXT } else { 0 },
            index + 1,
        );
    }
    sends.offer(2);
    sends.send(&frame(1, 60));
    assert_eq!(front.taken(), Some(frame(1, 60)));
    assert_eq!(front.net.lost().received, 3);
    assert!(front.net.is_up());
}

/// Memory that the front end takes away while it is used ends the connection, and nobody else.
#[test]
fn memory_that_is_taken_away_ends_the_connection_alone() {
    if !has_uring("memory_that_is_taken_away_ends_the_connection_alone") {
        return;
    }
    for at_once in [true, false] {
        let (mut front, mut receives, mut sends) = Front::card(0);
        receives.give_buffer(1000);
        sends.send(&frame(1, 60));
        let memory = front.memory();
        let mut bytes = Vec::new();
        if at_once {
            // Our own view goes too, so nothing may look at it from here on.
            rustix::fs::ftruncate(&memory, 0).unwrap();
        } else {
            front.net.take(&mut bytes).unwrap();
            rustix::fs::ftruncate(&memory, 0x1000).unwrap();
        }
        front.net.take(&mut bytes);
        front.net.send(&Header::default(), &[&frame(2, 60)]);
        front.net.sleep();
        front.net.stay_awake();
        let flushed = front.net.flush();
        assert!(matches!(flushed, Err(Error::MemoryGone)), "{flushed:?}");
        assert!(matches!(front.net.serve(), Err(Error::MemoryGone)));
    }
}

/// The front end fills the eventfds and makes them block: we neither read the one nor wait for room in the other.
#[test]
fn full_eventfds_block_nobody() {
    if !has_uring("full_eventfds_block_nobody") {
        return;
    }
    let (mut front, mut receives, mut sends) = Front::card(0);
    for event in [&receives.kick, &receives.call, &sends.kick, &sends.call] {
        let _ = rustix::io::read(event, &mut [0; 8]);
        rustix::io::write(event, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        rustix::fs::fcntl_setfl(event, rustix::fs::OFlags::empty()).unwrap();
    }
    let (done, wait) = std::sync::mpsc::channel();
    // The driver's own kicks would block it, so it makes none.
    sends.kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    receives.kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    std::thread::spawn(move || {
        for number in 0..10 {
            sends.send(&frame(number, 60));
            receives.give_buffer(200);
            assert_eq!(front.taken(), Some(frame(number, 60)));
            assert!(front.give(&frame(number, 60)));
            assert!(receives.next_used().is_some());
        }
        done.send(()).unwrap();
    });
    wait.recv_timeout(Duration::from_secs(240)).unwrap();
}

/// A front end that asks and does not listen loses its connection before its answers pile up.
#[test]
fn answers_that_nobody_takes_do_not_pile_up() {
    let mut front = Front::new();
    let ask = [1u32, 1, 0].map(u32::to_ne_bytes).concat();
    let error = loop {
        front.send(&ask, &[]);
        if let Err(error) = front.net.serve() {
            break error;
        }
    };
    assert!(matches!(error, Error::DeafFrontEnd), "{error}");
}
