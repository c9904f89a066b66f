//! Entry for fuzzers: what a back end says, and what it writes into rings.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ostler_memory::RamOptions;
use ostler_virtio::{Chain, QueueSettings, Vring};
use rustix::event::{EventfdFlags, eventfd};
use vm_memory::{Bytes, GuestAddress};

use super::{Arena, Session, ShadowRing};

/// Bytes of one step of a ring: index, slot, head, length, flags.
const STEP: usize = 14;

/// What a back end says all at once, with its length before it; then steps of its ring: the used index, an element, and its flags.
pub fn back_end(input: &[u8]) {
    play(input);
}

/// The same; says whether the rings were started, and how many requests were answered.
pub(super) fn play(input: &[u8]) -> (bool, usize) {
    let Some((&[low, high], rest)) = input.split_first_chunk::<2>() else {
        return (false, 0);
    };
    let (said, steps) = rest.split_at(usize::from(u16::from_le_bytes([low, high])).min(rest.len()));
    let stop = eventfd(0, EventfdFlags::CLOEXEC).expect("there are eventfds");
    let (ours, mut theirs) = UnixStream::pair().expect("there are sockets");
    let _ = theirs.set_nonblocking(true);
    let _ = theirs.write(said);
    let _ = theirs.shutdown(std::net::Shutdown::Write);
    let mut arena = Arena::new().expect("there is memory");
    let Ok(rings) = (0..2).map(ShadowRing::new).collect::<Result<Vec<_>, _>>() else {
        // The host refuses io_uring.
        return (false, 0);
    };
    let greeted = Session::greet_with_patience(ours, 2, stop.as_fd(), Duration::from_secs(5));
    let started = greeted.and_then(|mut session| {
        let drivers: Vec<_> = rings.iter().map(ShadowRing::driver).collect();
        session.start(&arena, &drivers, 0, stop.as_fd())?;
        // It has hung up by now.
        let _ = session.stop();
        Ok(())
    });
    let mut rings = rings;
    let answered = steps_of(&mut arena, &mut rings[1], steps);
    for chain in rings.into_iter().flat_map(ShadowRing::into_unanswered) {
        assert!(chain.writable_bytes() > 0);
    }
    (started.is_ok(), answered)
}

/// Plays steps against a ring with three requests, and as many new ones as were answered.
fn steps_of(arena: &mut Arena, ring: &mut ShadowRing, steps: &[u8]) -> usize {
    let ram = ostler_memory::allocate(1 << 20, RamOptions::default()).expect("1 MiB of RAM is there");
    let request = || {
        let settings = QueueSettings {
            size: 4,
            descriptors: 0x1000,
            available: 0x2000,
            used: 0x3000,
        };
        let write = |at: u64, bytes: &[u8]| ram.write_slice(bytes, GuestAddress(at)).expect("it is in RAM");
        for (at, gpa, flags) in [
            (0x1000, 0x4000u64, 1u64),
            (0x1010, 0x8000, 3),
            (0x1020, 0x9ff0, 2),
        ] {
            write(at, &gpa.to_le_bytes());
            let next = (at - 0x1000) / 16 + 1;
            write(at + 8, &(0x800 | flags << 32 | next << 48).to_le_bytes());
        }
        write(0x2000, &[0, 0, 1, 0, 0, 0]);
        let mut vring = Vring::new(ram.clone(), settings, 4, false).expect("the queue is well placed");
        let mut chain = Chain::new(ram.clone());
        assert!(vring.pop(&mut chain).expect("the chain is good"));
        chain
    };
    for _ in 0..3 {
        assert!(ring.send(arena, request()).is_ok());
    }
    let mut answered = 0;
    for step in steps.chunks_exact(STEP) {
        let half = |at: usize| u16::from_le_bytes([step[at], step[at + 1]]);
        let word = |at: usize| u32::from(half(at)) | u32::from(half(at + 2)) << 16;
        let used = ring.driver().used_place();
        let slot = used + 4 + 8 * u64::from(half(2) % super::driver::SIZE);
        arena.u32(slot).store(word(4), Ordering::Relaxed);
        arena.u32(slot + 4).store(word(8), Ordering::Relaxed);
        arena.u16(used).store(half(12), Ordering::Relaxed);
        arena.u16(used + 2).store(half(0), Ordering::Release);
        let _ = ring.looks_used(arena);
        let _ = ring.wake(arena);
        loop {
            match ring.answered(arena) {
                Ok(Some((chain, len))) => {
                    assert!(len as usize <= chain.writable_bytes());
                    answered += 1;
                    assert!(ring.send(arena, request()).is_ok());
                }
                Ok(None) => break,
                // Nobody looks at it again.
                Err(_) => return answered,
            }
        }
    }
    answered
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    const GOOD: &[u8] = include_bytes!("../../../../tools/fuzz/corpus/vhost-user-replies/good");

    #[test]
    fn what_fuzzers_found_is_survived() {
        ostler_corpus::replay("vhost-user-replies", super::back_end);
    }

    /// Otherwise fuzzing would start far from where rings are.
    #[test]
    fn the_first_input_starts_rings_and_answers() {
        if io_uring::IoUring::new(1).is_err() {
            eprintln!("SKIPPED the_first_input_starts_rings_and_answers: the host refuses io_uring");
            return;
        }
        assert_eq!(super::play(GOOD), (true, 3));
    }

    proptest! {
        /// What a good back end says and writes, with some bytes changed.
        #[test]
        fn a_damaged_conversation_is_survived(
            changes in proptest::collection::vec((2usize..GOOD.len(), any::<u8>()), 1..16),
            cut in 0usize..GOOD.len(),
        ) {
            let mut input = GOOD.to_vec();
            for (at, byte) in changes {
                input[at] = byte;
            }
            super::back_end(&input);
            super::back_end(&input[..cut]);
        }
    }
}
