//! Blocks of a pcapng file (draft-ietf-opsawg-pcapng), in the byte order of the host: a section, interfaces, packets, statistics.

use std::time::Duration;

/// Longest block that is written beside the frame in it, in bytes.
pub const OVERHEAD: usize = 64;
/// Longest name of an interface that is written, in bytes.
const LONGEST_NAME: usize = 64;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// The length of the section is not said.
const UNKNOWN: u64 = u64::MAX;
const ETHERNET: u16 = 1;

const END_OF_OPTIONS: u16 = 0;
const USER_APPLICATION: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const TIME_RESOLUTION: u16 = 9;
/// Times are in units of 10⁻⁹ s.
const NANOSECONDS: u8 = 9;
const PACKET_FLAGS: u16 = 2;
const PACKET_DROPS: u16 = 4;
const END_TIME: u16 = 3;
const RECEIVED: u16 = 4;
const DROPPED: u16 = 5;

/// Which way a frame went through a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The port received it.
    In,
    /// The port sent it.
    Out,
}

/// A packet beside its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// The number of the interface, in the order in which they were written.
    pub interface: u32,
    /// Since 1970.
    pub time: Duration,
    /// Which way it went.
    pub direction: Direction,
    /// How many are missing since the last one.
    pub dropped: u64,
}

/// Appends a section's header.
pub fn section(out: &mut Vec<u8>) {
    block(out, SECTION, |out| {
        out.extend(BYTE_ORDER.to_ne_bytes());
        out.extend(1u16.to_ne_bytes());
        out.extend(0u16.to_ne_bytes());
        out.extend(UNKNOWN.to_ne_bytes());
        option(out, USER_APPLICATION, b"ostler");
        option(out, END_OF_OPTIONS, &[]);
    });
}

/// Appends an interface called `name`, of whose frames the first `snaplen` bytes are kept.
pub fn interface(out: &mut Vec<u8>, name: &str, snaplen: u32) {
    let name = &name.as_bytes()[..name.len().min(LONGEST_NAME)];
    block(out, INTERFACE, |out| {
        out.extend(ETHERNET.to_ne_bytes());
        out.extend(0u16.to_ne_bytes());
        out.extend(snaplen.to_ne_bytes());
        option(out, INTERFACE_NAME, name);
        option(out, TIME_RESOLUTION, &[NANOSECONDS]);
        option(out, END_OF_OPTIONS, &[]);
    });
}

/// Appends a packet, given in parts, of which the first `snaplen` bytes are kept.
pub fn packet(out: &mut Vec<u8>, packet: &Packet, parts: &[&[u8]], snaplen: usize) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    block(out, PACKET, |out| {
        out.extend(packet.interface.to_ne_bytes());
        out.extend(time(packet.time));
        out.extend((len.min(snaplen) as u32).to_ne_bytes());
        out.extend((len as u32).to_ne_bytes());
        let mut left = snaplen;
        for part in parts {
            let here = &part[..part.len().min(left)];
            out.extend_from_slice(here);
            left -= here.len();
        }
        pad(out);
        let flags: u32 = match packet.direction {
            Direction::In => 1,
            Direction::Out => 2,
        };
        option(out, PACKET_FLAGS, &flags.to_ne_bytes());
        if packet.dropped > 0 {
            option(out, PACKET_DROPS, &packet.dropped.to_ne_bytes());
        }
        option(out, END_OF_OPTIONS, &[]);
    });
}

/// Appends what an interface counted: frames that were to be written, and those of them that were not.
pub fn statistics(out: &mut Vec<u8>, interface: u32, now: Duration, received: u64, dropped: u64) {
    block(out, STATISTICS, |out| {
        out.extend(interface.to_ne_bytes());
        out.extend(time(now));
        option(out, END_TIME, &time(now));
        option(out, RECEIVED, &received.to_ne_bytes());
        option(out, DROPPED, &dropped.to_ne_bytes());
        option(out, END_OF_OPTIONS, &[]);
    });
}

/// A time in two words, the upper one first.
fn time(time: Duration) -> [u8; 8] {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let ([a, b, c, d], [e, f, g, h]) = (((nanos >> 32) as u32).to_ne_bytes(), (nanos as u32).to_ne_bytes());
    [a, b, c, d, e, f, g, h]
}

/// A block: its length stands in front and behind. All blocks are of whole words, so padding can be counted from the start of `out`.
fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend(kind.to_ne_bytes());
    out.extend([0; 4]);
    body(out);
    let len = ((out.len() - start + 4) as u32).to_ne_bytes();
    out[start + 4..start + 8].copy_from_slice(&len);
    out.extend(len);
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend(code.to_ne_bytes());
    out.extend((value.len() as u16).to_ne_bytes());
    out.extend_from_slice(value);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn word(bytes: &[u8], at: usize) -> usize {
        u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
    }

    proptest! {
        /// Whatever is written, a reader gets from block to block, and finds the bytes of each frame up to the snap length.
        #[test]
        fn a_reader_finds_every_block_and_every_frame(
            frames in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..200), 0usize..200, any::<u64>()), 0..20),
            snaplen in 1usize..250,
            name in "[ -~]{0,100}",
        ) {
            let mut out = Vec::new();
            section(&mut out);
            interface(&mut out, &name, snaplen as u32);
            for (frame, cut, dropped) in &frames {
                let of = Packet { interface: 0, time: Duration::from_secs(5), direction: Direction::In, dropped: *dropped };
                let before = out.len();
                let (first, second) = frame.split_at(frame.len().min(*cut));
                packet(&mut out, &of, &[first, second], snaplen);
                prop_assert!(out.len() - before <= frame.len() + OVERHEAD);
            }
            statistics(&mut out, 0, Duration::from_secs(6), 1, 2);
            let (mut at, mut seen) = (0, Vec::new());
            let mut kinds = Vec::new();
            while at < out.len() {
                let (kind, len) = (word(&out, at), word(&out, at + 4));
                prop_assert_eq!(word(&out, at + len - 4), len);
                prop_assert_eq!(len % 4, 0);
                kinds.push(kind as u32);
                if kind as u32 == PACKET {
                    let kept = word(&out, at + 20);
                    seen.push((out[at + 28..at + 28 + kept].to_vec(), word(&out, at + 24)));
                }
                at += len;
            }
            prop_assert_eq!(at, out.len());
            let expected: Vec<_> = frames.iter().map(|(frame, ..)| (frame[..frame.len().min(snaplen)].to_vec(), frame.len())).collect();
            prop_assert_eq!(seen, expected);
            prop_assert_eq!((kinds[0], kinds[1], kinds[kinds.len() - 1]), (SECTION, INTERFACE, STATISTICS));
        }
    }
}
