//! Entry for fuzzers: what a back end writes into the rings of a card and into its frames.

use std::sync::atomic::Ordering;

use ostler_netio::{Came, HEADER_LEN, Header, MAX_FRAME, Offloads};

use super::rings::Rings;

/// Bytes of one step: which ring, used index, slot, head, length, flags, and the header that it writes into all frames.
const STEP: usize = 15 + HEADER_LEN;

/// Steps of a back end; a frame is sent after each.
pub fn rings(input: &[u8]) {
    play(input);
}

/// The same; says how many frames came, and how many were sent.
pub(super) fn play(input: &[u8]) -> (usize, usize) {
    // The host may refuse io_uring.
    let Ok(mut rings) = Rings::new(Offloads::ALL) else {
        return (0, 0);
    };
    let (mut came, mut sent, mut frame) = (0, 0, Vec::new());
    for step in input.chunks_exact(STEP) {
        let half = |at: usize| u16::from_le_bytes([step[at], step[at + 1]]);
        let word = |at: usize| u32::from(half(at)) | u32::from(half(at + 2)) << 16;
        rings.scribble(&step[15..]);
        let (arena, used) = rings.used_of(usize::from(step[0] & 1));
        let slot = used + 4 + 8 * u64::from(half(3) % crate::front::RING_SIZE);
        arena.u32(slot).store(word(5), Ordering::Relaxed);
        arena.u32(slot + 4).store(word(9), Ordering::Relaxed);
        arena.u16(used).store(half(13), Ordering::Relaxed);
        arena.u16(used + 2).store(half(1), Ordering::Release);
        loop {
            match rings.take(&mut frame) {
                Ok(Came::Nothing) => break,
                Ok(Came::Junk) => {}
                Ok(Came::Frame(_)) => {
                    assert!((14..=MAX_FRAME).contains(&frame.len()));
                    came += 1;
                }
                // Nobody looks at it again.
                Err(_) => return (came, sent),
            }
        }
        match rings.put(&Header::default(), &[&[1; 60]]) {
            Ok(put) => sent += usize::from(put),
            Err(_) => return (came, sent),
        }
    }
    (came, sent)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    /// A frame of 60 bytes, one with a checksum left to others, one that is none; and one that was sent comes back.
    pub(super) fn good() -> Vec<u8> {
        let mut input = Vec::new();
        for (ring, index, head, len, flags) in [
            (0u8, 1u16, 0u32, 72u32, 0u8),
            (0, 2, 1, 1012, 1),
            (0, 3, 2, 20, 0),
            (1, 1, 0, 0, 0),
        ] {
            input.push(ring);
            input.extend(index.to_le_bytes());
            input.extend((index - 1).to_le_bytes());
            input.extend(head.to_le_bytes());
            input.extend(len.to_le_bytes());
            input.extend([0, 0, flags, 0, 0, 0, 0, 0, 34, 0, 6, 0, 1, 0]);
        }
        input
    }

    #[test]
    fn what_fuzzers_found_is_survived() {
        ostler_corpus::replay("vhost-user-card", super::rings);
    }

    /// Otherwise fuzzing would start far from where frames are.
    #[test]
    fn the_first_input_has_frames_both_ways() {
        if crate::tests::has_uring("the_first_input_has_frames_both_ways") {
            assert_eq!(super::play(&good()), (2, 4));
        }
    }

    proptest! {
        /// What a good back end writes, with some bytes changed.
        #[test]
        fn damaged_rings_are_survived(
            changes in proptest::collection::vec((0usize..108, any::<u8>()), 1..16),
        ) {
            let mut input = good();
            for (at, byte) in changes {
                input[at] = byte;
            }
            super::rings(&input);
        }
    }
}
