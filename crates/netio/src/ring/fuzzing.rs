//! An entry for fuzzers: a guest that does what it likes with the memory of its rings.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use super::{CONSUMED, DATA_AT, FrameRings, PRODUCED, RING_BYTES, SLEEPS, TAKES, WORDS_STEP};
use crate::MAX_FRAME;
use crate::frame::{ETHERNET_LEN, Header};

/// Bytes of one step: what is done, where, and a value.
const STEP: usize = 8;
/// Frames taken at one step at most: as many as a ring holds.
const MOST: u32 = RING_BYTES / 24 + 2;

/// Steps of the guest, with the switch's own between them.
pub fn ring(input: &[u8]) {
    let Ok((mut switch, memory)) = FrameRings::create() else {
        return;
    };
    let Ok(mut guest) = FrameRings::join(memory.as_fd()) else {
        return;
    };
    let (mut taken, mut broken) = (Vec::new(), false);
    for step in input.chunks_exact(STEP) {
        let value = u32::from_le_bytes([step[4], step[5], step[6], step[7]]);
        let at = usize::from(u16::from_le_bytes([step[1], step[2]]));
        match step[0] % 6 {
            0 => {
                let word = [PRODUCED, CONSUMED, SLEEPS, TAKES][at % 4];
                let ring = (at / 4) % 2 * WORDS_STEP;
                guest.memory.word(ring + word).store(value, Ordering::Relaxed);
            }
            // Records begin at multiples of eight.
            1 => guest.memory.store(DATA_AT + at * 8, &value.to_ne_bytes()),
            2 => drop(guest.push(&[&vec![step[3]; ETHERNET_LEN + at]])),
            3 => drop(guest.push_headed(&Header::default(), &[&vec![step[3]; ETHERNET_LEN + at % 2048]])),
            4 => {
                broken |= switch
                    .push(&[&vec![step[3]; ETHERNET_LEN + at % MAX_FRAME]])
                    .is_err()
            }
            _ => {
                taken.clear();
                for _ in 0..MOST {
                    match switch.pop_headed(&mut taken) {
                        Ok(Some((_, len))) => assert!((ETHERNET_LEN..=MAX_FRAME).contains(&len)),
                        Ok(None) => break,
                        Err(_) => {
                            broken = true;
                            break;
                        }
                    }
                }
                assert!(broken || !switch.has_frames(), "it was emptied");
                assert!(taken.len() <= RING_BYTES as usize);
                let _ = (switch.peer_takes(), switch.sleep(), switch.must_wake());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_fuzzers_found_is_survived() {
        ostler_corpus::replay("netio-ring", super::ring);
    }
}
