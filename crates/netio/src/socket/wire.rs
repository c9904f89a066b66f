//! The stream's two directions as pure buffers: bytes in, frames out, and back.

use std::ops::Range;

use crate::frame::ETHERNET_LEN;
use crate::{HEADER_LEN, MAX_FRAME};

/// Bytes of the length in front of a frame.
pub(crate) const PREFIX_LEN: usize = 4;
/// Room for two of the longest frames with their headers, so that a read call seldom stops in the middle of one.
const INPUT_LEN: usize = 2 * (PREFIX_LEN + HEADER_LEN + MAX_FRAME);
/// Bytes that wait for a slow peer before frames are dropped.
pub(super) const OUTPUT_LEN: usize = 256 << 10;

/// Cuts a stream into frames, each behind its length in four bytes, most significant first.
///
/// Whatever the peer writes, this keeps at most its buffer: a frame that is too long is skipped as it comes, and one
/// too short is none.
#[derive(Debug)]
pub struct FrameReader {
    buffer: Box<[u8]>,
    /// What was read and not handed out.
    filled: Range<usize>,
    /// Bytes of an impossible frame that are still to come.
    skip: u64,
    /// Bytes of the header that each frame has in front, 0 or [`HEADER_LEN`].
    header_len: usize,
}

/// What the buffered bytes hold.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A frame at this place of [`FrameReader::bytes`], with its header.
    Frame(Range<usize>),
    /// The peer announced a frame that cannot be. It is passed over.
    Bad,
    /// More bytes are needed.
    Incomplete,
}

impl FrameReader {
    /// One for a stream that starts, in which each frame has `header_len` bytes in front.
    pub fn new(header_len: usize) -> Self {
        Self {
            header_len,
            buffer: vec![0; INPUT_LEN].into(),
            filled: 0..0,
            skip: 0,
        }
    }

    /// Takes the next frame out. Its bytes stay until [`FrameReader::room`].
    pub fn next_frame(&mut self) -> Parsed {
        let skipped = self
            .filled
            .len()
            .min(usize::try_from(self.skip).unwrap_or(usize::MAX));
        self.filled.start += skipped;
        self.skip -= skipped as u64;
        let waiting = &self.buffer[self.filled.clone()];
        let Some((prefix, rest)) = waiting.split_first_chunk::<PREFIX_LEN>() else {
            return Parsed::Incomplete;
        };
        let len = u32::from_be_bytes(*prefix) as usize;
        let frame = len.checked_sub(self.header_len);
        if !frame.is_some_and(|frame| (ETHERNET_LEN..=MAX_FRAME).contains(&frame)) {
            self.filled.start += PREFIX_LEN;
            self.skip = len as u64;
            return Parsed::Bad;
        }
        if rest.len() < len {
            return Parsed::Incomplete;
        }
        let start = self.filled.start + PREFIX_LEN;
        self.filled.start = start + len;
        Parsed::Frame(start..start + len)
    }

    /// The bytes of a frame that was taken out.
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// Where the next bytes of the stream go: never empty after [`Parsed::Incomplete`].
    pub fn room(&mut self) -> &mut [u8] {
        self.buffer.copy_within(self.filled.clone(), 0);
        self.filled = 0..self.filled.len();
        &mut self.buffer[self.filled.end..]
    }

    /// Notes that `count` bytes were put into the room.
    pub fn fill(&mut self, count: usize) {
        self.filled.end = (self.filled.end + count).min(self.buffer.len());
    }
}

/// What a slow peer did not take yet.
#[derive(Debug)]
pub struct FrameWriter {
    bytes: Vec<u8>,
    start: usize,
    /// Bytes that may wait.
    most: usize,
}

impl Default for FrameWriter {
    fn default() -> Self {
        Self::with_room(OUTPUT_LEN)
    }
}

impl FrameWriter {
    /// One in which `most` bytes may wait.
    pub fn with_room(most: usize) -> Self {
        Self {
            bytes: Vec::new(),
            start: 0,
            most,
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// The bytes to send.
    pub fn waiting(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// True if `count` more bytes may wait.
    pub fn has_room(&self, count: usize) -> bool {
        self.waiting().len() + count <= self.most
    }

    /// The buffer to append to.
    pub(super) fn tail(&mut self) -> &mut Vec<u8> {
        // What went out is taken away seldom, so that bytes are not moved for each frame.
        if self.start > self.most / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        &mut self.bytes
    }

    /// Adds a frame, given in parts, behind its length. False if there is no room for it.
    pub fn push(&mut self, parts: &[&[u8]]) -> bool {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len > HEADER_LEN + MAX_FRAME || !self.has_room(PREFIX_LEN + len) {
            return false;
        }
        let tail = self.tail();
        tail.extend((len as u32).to_be_bytes());
        parts.iter().for_each(|part| tail.extend_from_slice(part));
        true
    }

    /// Notes that `count` bytes went out.
    pub fn sent(&mut self, count: usize) {
        self.start = (self.start + count).min(self.bytes.len());
        if self.is_empty() {
            self.bytes.clear();
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `stream` in portions and returns the frames and the number of bad ones.
    fn parse(stream: &[u8], portions: &[usize]) -> (Vec<Vec<u8>>, usize) {
        let mut input = FrameReader::new(0);
        let (mut frames, mut bad, mut at, mut turn) = (Vec::new(), 0, 0, 0);
        loop {
            match input.next_frame() {
                Parsed::Frame(range) => frames.push(input.bytes(range).to_vec()),
                Parsed::Bad => bad += 1,
                Parsed::Incomplete if at == stream.len() => return (frames, bad),
                Parsed::Incomplete => {
                    let room = input.room();
                    assert!(!room.is_empty());
                    let count = portions[turn % portions.len()]
                        .min(room.len())
                        .min(stream.len() - at);
                    room[..count].copy_from_slice(&stream[at..at + count]);
                    input.fill(count);
                    at += count;
                    turn += 1;
                }
            }
        }
    }

    #[test]
    fn frames_of_every_length() {
        let mut stream = Vec::new();
        let mut expected = 0;
        for len in (0..200usize)
            .chain(1490..1530)
            .chain(65_500..65_600)
            .chain(69_950..=70_000)
        {
            stream.extend((len as u32).to_be_bytes());
            stream.extend((0..len).map(|i| (i + len) as u8));
            expected += usize::from((ETHERNET_LEN..=MAX_FRAME).contains(&len));
        }
        let (frames, bad) = parse(&stream, &[50_000]);
        assert_eq!(frames.len(), expected);
        assert_eq!(bad, 200 + 40 + 100 + 51 - expected);
        assert!(
            frames
                .iter()
                .all(|f| f.iter().enumerate().all(|(i, b)| *b == (i + f.len()) as u8))
        );
    }

    proptest! {
        #[test]
        fn portions_do_not_matter(
            lens in prop::collection::vec(prop_oneof![0usize..100, 60_000usize..70_000], 0..8),
            portions in prop::collection::vec(1usize..9000, 1..6),
        ) {
            let mut stream = Vec::new();
            for len in &lens {
                stream.extend((*len as u32).to_be_bytes());
                stream.extend((0..*len).map(|i| i as u8));
            }
            prop_assert_eq!(parse(&stream, &portions), parse(&stream, &[usize::MAX]));
        }

        #[test]
        fn noise_is_no_danger(
            stream in prop::collection::vec(any::<u8>(), 0..5000),
            portions in prop::collection::vec(1usize..300, 1..6),
        ) {
            let (frames, _) = parse(&stream, &portions);
            prop_assert!(frames.iter().all(|f| f.len() >= ETHERNET_LEN && f.len() <= stream.len()));
        }
    }
}
