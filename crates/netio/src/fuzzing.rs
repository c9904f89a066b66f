//! Entries for fuzzers: what the other end of a cable sends.

pub use crate::ring::fuzzing::ring;
use crate::{FrameReader, Parsed};

/// A stream of frames as QEMU's `-netdev stream` sends it, in pieces as long as its first byte says.
pub fn stream(input: &[u8]) {
    let Some((&first, mut stream)) = input.split_first() else {
        return;
    };
    let mut reader = FrameReader::new(usize::from(first & 1) * crate::HEADER_LEN);
    loop {
        match reader.next_frame() {
            Parsed::Frame(range) => assert!(reader.bytes(range).len() <= input.len() + crate::HEADER_LEN),
            Parsed::Bad => {}
            Parsed::Incomplete if stream.is_empty() => return,
            Parsed::Incomplete => {
                let room = reader.room();
                let count = room.len().min(stream.len()).min(usize::from(first).max(1));
                room[..count].copy_from_slice(&stream[..count]);
                stream = &stream[count..];
                reader.fill(count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_fuzzers_found_is_survived() {
        ostler_corpus::replay("netio-stream", super::stream);
    }
}
