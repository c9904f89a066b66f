//! Front ends and guests that keep to the rules.

use std::thread;
use std::time::{Duration, Instant};

use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

use super::*;

/// Offers of the guest's for its own work: CSUM, TSO4, TSO6, ECN of both sides.
const OFFLOADS: u64 = 0b11_1011_1000_0011;

#[test]
fn frames_go_both_ways() {
    if !has_uring("frames_go_both_ways") {
        return;
    }
    let (mut front, mut receives, mut sends) = Front::card(0);
    // Each start is told once, for what a back end before may have left.
    assert_eq!((receives.calls(), sends.calls()), (1, 1));
    for number in 0..40 {
        sends.send(&frame(number, 60 + usize::from(number)));
        assert!(front.net.has_work());
        assert_eq!(front.taken(), Some(frame(number, 60 + usize::from(number))));
        assert_eq!(front.taken(), None);
        assert_eq!(sends.next_used(), Some(Vec::new()));
        receives.give_buffer(1526);
        assert!(front.give(&frame(number, 1514)));
        let got = receives.next_used().unwrap();
        assert_eq!(got[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(got[12..], frame(number, 1514));
    }
    assert_eq!((receives.calls(), sends.calls()), (40, 40));
    assert_eq!(front.net.lost(), crate::Lost::default());
}

/// Large frames with their header go over as many buffers as they need, and come from as many descriptors.
#[test]
fn large_frames_are_spread() {
    if !has_uring("large_frames_are_spread") {
        return;
    }
    let (mut front, mut receives, mut sends) = Front::card(OFFLOADS);
    let takes = front.net.takes();
    assert!(takes.checksum && takes.tso4 && takes.tso6 && takes.ecn && !takes.uso);
    for _ in 0..10 {
        receives.give_buffer(1000);
    }
    let header = Header::read(&[1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0]).unwrap();
    let large = frame(9, 5000);
    assert!(
        front
            .net
            .send(&header, &[&large[..12], &large[12..16], &large[16..]])
    );
    assert_eq!(receives.next_used(), None, "before all of it is there");
    front.net.flush().unwrap();
    let pieces: Vec<_> = std::iter::from_fn(|| receives.next_used()).collect();
    assert_eq!(
        pieces.iter().map(Vec::len).collect::<Vec<_>>(),
        [1000, 1000, 1000, 1000, 1000, 12]
    );
    let whole = pieces.concat();
    assert_eq!(whole[..10], header.bytes()[..10]);
    assert_eq!(whole[10..12], [6, 0]);
    assert_eq!(whole[12..], large);

    // Three descriptors: a part of the header, the rest of it with some of the frame, the rest of that.
    sends.write(Driver::buffer(0), &[header.bytes(), &large[..4000]].concat());
    let at = sends.base + Driver::buffer(0);
    sends.descriptor(0, at, 5, NEXT, 1);
    sends.descriptor(1, at + 5, 0, NEXT, 2);
    sends.descriptor(2, at + 5, 1000, NEXT, 3);
    sends.descriptor(3, at + 1005, 3007, 0, 0);
    sends.offer(0);
    let mut bytes = Vec::new();
    let got = front.net.take(&mut bytes).unwrap();
    assert_eq!(got.bytes()[..10], header.bytes()[..10]);
    assert_eq!(bytes, large[..4000]);
}

/// A driver of before virtio 1 has ten bytes of header, and every frame in one buffer.
#[test]
fn old_drivers_have_shorter_headers() {
    if !has_uring("old_drivers_have_shorter_headers") {
        return;
    }
    let mut front = Front::ready(0);
    front.tell(FrontendReq::SET_FEATURES, &word(0), &[]);
    // Without the protocol's features a ring is enabled as it starts.
    let [mut receives, mut sends] = [0, 1].map(|number| {
        let driver = Driver::new(front.ram.clone(), number);
        front.describe(number, &driver);
        front.tell(
            FrontendReq::SET_VRING_KICK,
            &word(number.into()),
            &[driver.kick.as_fd()],
        );
        driver
    });
    assert!(front.net.is_up());
    sends.send_headed(&[0; 10], &frame(1, 60));
    assert_eq!(front.taken(), Some(frame(1, 60)));
    receives.give_buffer(100);
    receives.give_buffer(2000);
    assert!(
        !front.give(&frame(2, 200)),
        "too long for the buffer that is next"
    );
    assert!(front.give(&frame(3, 80)));
    assert_eq!(receives.next_used().unwrap()[10..], frame(3, 80));
    assert!(front.give(&frame(4, 200)));
    assert_eq!(receives.next_used().unwrap()[10..], frame(4, 200));
}

/// What finds no buffers waits for them, in order and up to a bound; the guest is asked to kick for more.
#[test]
fn frames_wait_for_buffers() {
    if !has_uring("frames_wait_for_buffers") {
        return;
    }
    // With event indices and with flags.
    for features in [1 << 29, 0] {
        let (mut front, mut receives, _sends) = Front::card(features);
        let asks = |receives: &Driver| {
            let flags = receives.read(0x6000, 2);
            let event = receives.read(0x6004 + 8 * u64::from(SIZE), 2);
            match features {
                0 => flags == [0, 0],
                _ => event == receives.available.to_le_bytes(),
            }
        };
        front.net.stay_awake();
        for number in 0..3 {
            assert!(front.give(&frame(number, 3000)));
        }
        assert!(!front.net.sleep(), "without buffers there is nothing to do");
        assert!(asks(&receives));
        front.net.stay_awake();
        receives.give_buffer(2000);
        assert!(front.net.sleep());
        front.net.serve().unwrap();
        assert!(
            !front.net.has_work() && !front.net.sleep(),
            "one buffer is not enough"
        );
        assert!(asks(&receives), "a kick is wanted for the next one");
        assert_eq!(receives.next_used(), None);
        for _ in 0..5 {
            receives.give_buffer(2000);
        }
        assert!(front.net.has_work());
        front.net.serve().unwrap();
        for number in 0..3 {
            let got = [receives.next_used().unwrap(), receives.next_used().unwrap()].concat();
            assert_eq!(got[12..], frame(number, 3000));
        }
        assert_eq!(receives.next_used(), None);
        let mut taken = 0;
        while front.give(&frame(1, 65_000)) {
            taken += 1;
        }
        assert_eq!(taken, 16, "a megabyte waits");
        // They go with the guest's driver.
        front.ask(FrontendReq::GET_VRING_BASE, &pair(0, 0));
        front.net.serve().unwrap();
        assert!(!front.net.is_up());
        assert_eq!(front.net.lost().sent, 16);
        assert!(!front.give(&frame(1, 60)));
    }
}

/// The descriptor becomes readable for messages, kicks and the end.
#[test]
fn whoever_waits_is_woken() {
    if !has_uring("whoever_waits_is_woken") {
        return;
    }
    let (mut front, _receives, mut sends) = Front::card(0);
    let is_readable = |front: &Front| {
        let readable = front.net.readable();
        let mut polled = [rustix::event::PollFd::new(
            &readable,
            rustix::event::PollFlags::IN,
        )];
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut polled, Some(&now)).unwrap() == 1
    };
    front.net.serve().unwrap();
    assert!(!front.net.sleep() && !is_readable(&front));
    for number in 0..3 {
        sends.send(&frame(number, 60));
        assert!(is_readable(&front));
        assert_eq!(front.taken(), Some(frame(number, 60)));
        assert!(!is_readable(&front));
    }
    front.send(&[5], &[]);
    assert!(is_readable(&front));
    front.net.serve().unwrap();
    assert!(!is_readable(&front), "a part of a message is kept");
    drop(front.socket.shutdown(std::net::Shutdown::Both));
    assert!(is_readable(&front));
    assert!(matches!(front.net.serve(), Err(Error::CutShort)));
}

/// A guest's rings stop with its driver, and go on where they were: after a stop, in other memory, and for another back end.
#[test]
fn rings_stop_and_go_on() {
    if !has_uring("rings_stop_and_go_on") {
        return;
    }
    let (mut front, mut receives, mut sends) = Front::card(0);
    sends.send(&frame(1, 60));
    assert_eq!(front.taken(), Some(frame(1, 60)));
    sends.send(&frame(2, 60));
    assert_eq!(front.ask(FrontendReq::GET_VRING_BASE, &pair(1, 0)), pair(1, 1));
    assert!(!front.net.is_up());
    assert!(front.net.why_down().unwrap().contains("has not started"));
    assert_eq!(front.taken(), None);
    front.tell(FrontendReq::SET_VRING_BASE, &pair(1, 1), &[]);
    front.tell(FrontendReq::SET_VRING_KICK, &word(1), &[sends.kick.as_fd()]);
    assert!(front.net.is_up());
    assert_eq!(front.taken(), Some(frame(2, 60)));

    // Another region: all of it is mapped anew, and the rings go on.
    let more = rustix::fs::memfd_create("more", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&more, 0x1_0000).unwrap();
    let table = [
        &pair(2, 0)[..],
        &region(1 << 32, 0x1_0000, USER + (1 << 40), 0),
        &region(0, MEMORY, USER, 0),
    ];
    let memory = front.memory();
    front.tell(
        FrontendReq::SET_MEM_TABLE,
        &table.concat(),
        &[more.as_fd(), memory.as_fd()],
    );
    sends.send(&frame(3, 60));
    assert_eq!(front.taken(), Some(frame(3, 60)));
    receives.give_buffer(200);
    assert!(front.give(&frame(4, 60)));
    assert_eq!(receives.next_used().unwrap()[12..], frame(4, 60));

    // A region alone comes and goes.
    let one = [&word(0)[..], &region(2 << 32, 0x1_0000, USER + (2 << 40), 0)].concat();
    assert_eq!(front.ask(FrontendReq::GET_MAX_MEM_SLOTS, &[]), word(32));
    // QEMU says both once for each pair.
    for _ in 0..2 {
        front.tell(FrontendReq::ADD_MEM_REG, &one, &[more.as_fd()]);
    }
    let at = sends.available % SIZE;
    rustix::io::pwrite(&more, &[&[0; 12][..], &frame(5, 60)].concat(), 0).unwrap();
    sends.descriptor(at, 2 << 32, 72, 0, 0);
    sends.offer(at);
    assert_eq!(front.taken(), Some(frame(5, 60)));
    for _ in 0..2 {
        front.tell(FrontendReq::REM_MEM_REG, &one, &[]);
    }

    // Disabled, its frames are thrown away.
    front.tell(FrontendReq::SET_VRING_ENABLE, &pair(1, 0), &[]);
    assert!(!front.net.is_up());
    sends.send(&frame(6, 60));
    assert_eq!(front.taken(), None);
    front.tell(FrontendReq::SET_VRING_ENABLE, &pair(1, 1), &[]);
    assert!(front.net.is_up());
    sends.send(&frame(7, 60));
    assert_eq!(front.taken(), Some(frame(7, 60)));

    // Another back end, as after a restart: it goes on behind what was used.
    let memory = front.ram.clone();
    let mut next = Front::ready(0);
    next.ram = memory;
    let file = next.memory();
    let table = [&pair(1, 0)[..], &region(0, MEMORY, USER, 0)].concat();
    next.tell(FrontendReq::SET_MEM_TABLE, &table, &[file.as_fd()]);
    drop(front);
    for (number, driver) in [(0, &receives), (1, &sends)] {
        next.describe(number, driver);
        next.tell(
            FrontendReq::SET_VRING_KICK,
            &word(number.into()),
            &[driver.kick.as_fd()],
        );
        next.tell(FrontendReq::SET_VRING_ENABLE, &pair(number, 1), &[]);
    }
    sends.send(&frame(8, 60));
    assert_eq!(next.taken(), Some(frame(8, 60)));
    next.tell(FrontendReq::RESET_DEVICE, &[], &[]);
    assert!(!next.net.is_up());
}

/// Frames of a flow come by the pair that the guest last used for it.
#[test]
fn answers_come_by_the_pair_of_their_questions() {
    if !has_uring("answers_come_by_the_pair_of_their_questions") {
        return;
    }
    let mut front = Front::ready(1 << 22);
    let mut drivers: Vec<_> = (0..4).map(|number| front.start(number)).collect();
    drivers[0].give_buffer(200);
    drivers[2].give_buffer(200);
    let flow = |port: u8| {
        let udp = [
            0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 1, port, 2, 9,
        ];
        [&[2; 12][..], &[8, 0], &udp, &[0; 10]].concat()
    };
    drivers[3].send(&flow(1));
    drivers[1].send(&flow(2));
    assert!(front.taken().is_some() && front.taken().is_some());
    assert!(front.give(&flow(1)));
    assert_eq!(drivers[2].next_used().unwrap()[12..], flow(1));
    assert!(front.give(&flow(2)));
    assert_eq!(drivers[0].next_used().unwrap()[12..], flow(2));
    let one = crate::PairCounters { received: 1, sent: 1 };
    assert_eq!(front.net.pair_counters(), [one; 2]);
    // What waits for buffers of one pair holds up no other, and keeps nobody busy.
    assert!(front.give(&flow(1)));
    front.net.serve().unwrap();
    drivers[0].give_buffer(200);
    assert!(!front.net.has_work() && !front.net.sleep());
    assert!(front.give(&flow(2)));
    assert_eq!(drivers[0].next_used().unwrap()[12..], flow(2));
    drivers[2].give_buffer(200);
    assert!(front.net.has_work());
    front.net.serve().unwrap();
    assert_eq!(drivers[2].next_used().unwrap()[12..], flow(1));
    // A pair that rests gets nothing.
    front.tell(FrontendReq::SET_VRING_ENABLE, &pair(2, 0), &[]);
    drivers[0].give_buffer(200);
    assert!(front.give(&flow(1)));
    assert_eq!(drivers[0].next_used().unwrap()[12..], flow(1));
}

/// A front end that others wrote, that of the crate `vhost`.
#[test]
fn the_front_end_of_the_crate_vhost() {
    if !has_uring("the_front_end_of_the_crate_vhost") {
        return;
    }
    let (theirs, ours) = UnixStream::pair().unwrap();
    let options = RamOptions {
        shared: true,
        huge: false,
        ..RamOptions::default()
    };
    let ram = ostler_memory::allocate(MEMORY, options).unwrap();
    let theirs_ram = ram.clone();
    let front = thread::spawn(move || {
        let mut front = Frontend::from_stream(theirs, 16);
        front.set_owner().unwrap();
        let features = front.get_features().unwrap();
        assert_eq!(features & USUAL, USUAL);
        front.set_features(USUAL).unwrap();
        let protocol = front.get_protocol_features().unwrap();
        let wanted = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
        assert!(protocol.contains(wanted));
        front.set_protocol_features(wanted).unwrap();
        front.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        assert_eq!(front.get_queue_num().unwrap(), 8);
        let region = theirs_ram.iter().next().unwrap();
        let info = VhostUserMemoryRegionInfo::from_guest_region(region).unwrap();
        front.set_mem_table(&[info]).unwrap();
        let drivers = [0, 1].map(|number| {
            let driver = Driver::new(theirs_ram.clone(), number);
            let at = info.userspace_addr + driver.base;
            let place = VringConfigData {
                queue_max_size: SIZE,
                queue_size: SIZE,
                flags: 0,
                desc_table_addr: at,
                used_ring_addr: at + 0x6000,
                avail_ring_addr: at + 0x4000,
                log_addr: None,
            };
            let ring = number as usize;
            front.set_vring_num(ring, SIZE).unwrap();
            front.set_vring_base(ring, 0).unwrap();
            front.set_vring_addr(ring, &place).unwrap();
            let event = EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK).unwrap();
            front.set_vring_call(ring, &event).unwrap();
            front.set_vring_kick(ring, &event.try_clone().unwrap()).unwrap();
            front.set_vring_enable(ring, true).unwrap();
            driver
        });
        // A wrong value gets an answer that is not 0.
        assert!(front.set_vring_num(5, 3).is_err());
        drivers
    });
    let mut net = VhostUserNet::new(ours).unwrap();
    let deadline = Instant::now() + Duration::from_secs(240);
    let error = loop {
        if let Err(error) = net.serve() {
            break error;
        }
        assert!(Instant::now() < deadline, "the front end never ended");
        thread::sleep(Duration::from_millis(1));
    };
    let [_, mut sends] = front.join().unwrap();
    assert!(matches!(error, Error::RingValue { ring: 5, value: 3 }), "{error}");
    assert!(net.is_up());
    sends.send(&frame(1, 60));
    let mut bytes = Vec::new();
    net.take(&mut bytes).unwrap();
    assert_eq!(bytes, frame(1, 60));
}
