use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::*;

fn pair() -> (FrameRings, FrameRings) {
    let (switch, memory) = FrameRings::create().unwrap();
    let guest = FrameRings::join(memory.as_fd()).unwrap();
    (switch, guest)
}

#[test]
fn what_is_full_is_refused_and_what_is_taken_makes_room() {
    let (mut switch, mut guest) = pair();
    let frame = [7; 1514];
    let fits = (RING_BYTES / record_bytes(1514)) as usize;
    for _ in 0..3 {
        assert!((0..fits).all(|_| switch.push(&[&frame]).unwrap()));
        assert!(!switch.push(&[&frame]).unwrap(), "no room");
        let mut taken = Vec::new();
        while guest.pop(&mut taken).unwrap().is_some() {}
        assert_eq!(taken, frame.repeat(fits));
    }
    assert!(!switch.push(&[&[0; 13]]).unwrap(), "too short for a frame");
    assert!(
        !switch.push(&[&vec![0; MAX_FRAME + 1]]).unwrap(),
        "too long for one"
    );
    assert!(switch.push(&[&vec![0; MAX_FRAME]]).unwrap());
}

#[test]
fn a_sleeper_is_woken_once() {
    let (mut switch, guest) = pair();
    switch.push(&[&[1; 60]]).unwrap();
    assert!(!switch.must_wake(), "nobody sleeps");
    assert!(guest.sleep(), "there is a frame");
    let (mut switch, guest) = pair();
    assert!(!guest.sleep());
    switch.push(&[&[1; 60]]).unwrap();
    assert!(switch.must_wake());
    assert!(!switch.must_wake());
}

/// Frames of which something is left to be done pass with their headers, to who says that it takes them.
#[test]
fn headers_pass_to_who_understands_them() {
    let (mut switch, mut guest) = pair();
    assert_eq!(switch.peer_takes(), Offloads::NONE);
    let some = Offloads {
        checksum: true,
        tso6: true,
        ..Offloads::NONE
    };
    guest.announce(some);
    assert_eq!(switch.peer_takes(), some);
    let mut header = Header::default();
    header.0[0] = 1;
    header.0[6] = 34;
    for round in 0..2000u16 {
        let frame = vec![round as u8; 60 + usize::from(round)];
        assert!(
            switch
                .push_headed(&header, &[&frame[..20], &frame[20..]])
                .unwrap()
        );
        assert!(switch.push(&[&frame]).unwrap());
        let mut taken = Vec::new();
        assert_eq!(guest.pop_headed(&mut taken), Ok(Some((header, frame.len()))));
        assert_eq!(
            guest.pop_headed(&mut taken),
            Ok(Some((Header::default(), frame.len())))
        );
        assert_eq!(taken, frame.repeat(2));
    }
    // Who announced nothing takes a header as a breach.
    guest.push_headed(&header, &[&[1; 60]]).unwrap();
    assert_eq!(switch.pop(&mut Vec::new()), Err(RingBroken));
}

#[test]
fn memory_that_could_shrink_is_refused() {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    let memory = memfd_create("x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&memory, TOTAL as u64).unwrap();
    assert!(FrameRings::join(memory.as_fd()).is_err());
    let (_, memory) = FrameRings::create().unwrap();
    assert!(ftruncate(&memory, 0).is_err());
}

proptest! {
    /// Frames of any length come out as they went in, whatever the positions and however they are cut into parts.
    #[test]
    fn frames_pass_whole(
        start in any::<u32>().prop_map(|at| at & !7),
        lens in prop::collection::vec(prop_oneof![14usize..200, 1500..1530usize, 60_000..MAX_FRAME], 1..60),
    ) {
        let (mut switch, mut guest) = pair();
        // As if so many bytes had passed before.
        (switch.produced, switch.peer_consumed) = (start, start);
        (guest.consumed, guest.peer_produced) = (start, start);
        guest.word(0, PRODUCED).store(start, Ordering::Relaxed);
        guest.word(0, CONSUMED).store(start, Ordering::Relaxed);
        let mut waiting = std::collections::VecDeque::new();
        for (number, len) in lens.into_iter().enumerate() {
            let frame: Vec<u8> = (0..len).map(|i| (i * 7 + number) as u8).collect();
            let (head, tail) = frame.split_at(12);
            while !switch.push(&[head, &[], tail]).unwrap() {
                let mut taken = Vec::new();
                let expected: Vec<u8> = waiting.pop_front().expect("a full ring has frames");
                prop_assert_eq!(guest.pop(&mut taken).unwrap(), Some(expected.len()));
                prop_assert!(taken == expected);
            }
            waiting.push_back(frame);
        }
        for expected in waiting {
            let mut taken = Vec::new();
            guest.pop(&mut taken).unwrap();
            prop_assert!(taken == expected);
        }
        prop_assert_eq!(guest.pop(&mut Vec::new()), Ok(None));
    }

    /// A peer that writes anything anywhere gets its rings refused or odd frames through, and no more than the ring holds.
    #[test]
    fn a_hostile_peer_does_no_harm(
        words in prop::collection::vec((prop::sample::select(vec![0, 64, 128, 1024, 1088, 1152]), prop_oneof![any::<u32>(), (0u32..1 << 19).prop_map(|n| n * 8)]), 0..12),
        bytes in prop::collection::vec((0usize..2 * RING_BYTES as usize - 64, prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 1..64)), 0..30),
        honest in 0usize..20,
    ) {
        let (mut switch, mut guest) = pair();
        for _ in 0..honest {
            let _ = guest.push(&[&[9; 100]]);
            let _ = switch.push(&[&[8; 100]]);
        }
        for (at, value) in words {
            guest.memory.word(at).store(value, Ordering::Relaxed);
        }
        for (at, bytes) in bytes {
            guest.memory.store(DATA_AT + at, &bytes);
        }
        let mut taken = Vec::new();
        let mut bad = false;
        for _ in 0..RING_BYTES / 24 + 2 {
            match switch.pop(&mut taken) {
                Ok(Some(len)) => prop_assert!((ETHERNET_LEN..=MAX_FRAME).contains(&len)),
                Ok(None) => break,
                Err(RingBroken) => { bad = true; break }
            }
        }
        prop_assert!(bad || !switch.has_frames());
        prop_assert!(taken.len() <= RING_BYTES as usize);
        let _ = (switch.push(&[&[1; 60]]), switch.sleep(), switch.must_wake());
    }
}
