//! One frame from a ring, or into one (virtio 1.2, 5.1.6).

use ostler_netio::{HEADER_LEN, Header, MAX_FRAME};
use ostler_virtio::{GuestError, MAX_SEGMENTS};

use crate::ring::Live;

/// Bytes of an Ethernet header: no frame is shorter.
const SHORTEST: usize = 14;
/// Where a header says over how many chains its frame is spread.
const NUM_BUFFERS_AT: usize = 10;

/// What a ring had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    Nothing,
    /// A frame was appended.
    Frame(Header),
    /// Something that is no frame; it is gone.
    Junk,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placed {
    Sent,
    /// The guest has to give more buffers first.
    NoBuffers,
    /// All that the guest can give would not hold it.
    TooLong,
}

/// Takes the next frame that the guest sends, and appends it to `bytes`. It is copied once, so that what is looked at is what is sent.
pub(crate) fn take(live: &mut Live, header_len: usize, bytes: &mut Vec<u8>) -> Result<Taken, GuestError> {
    let (vring, chain) = live.chain(0);
    if !vring.pop(chain)? {
        return Ok(Taken::Nothing);
    }
    let mut header = [0; HEADER_LEN];
    let header = &mut header[..header_len];
    let len = chain.readable_bytes().checked_sub(header_len);
    let taken = match len.filter(|len| (SHORTEST..=MAX_FRAME).contains(len)) {
        Some(len) => {
            chain.read_at(0, header);
            let start = bytes.len();
            bytes.resize(start + len, 0);
            chain.read_at(header_len, &mut bytes[start..]);
            Header::read(header).map_or(Taken::Junk, Taken::Frame)
        }
        None => Taken::Junk,
    };
    vring.push_used(chain.head(), 0)?;
    Ok(taken)
}

/// Puts a frame, given in parts, into the guest's buffers. It sees it when the ring is published.
pub(crate) fn place(
    live: &mut Live,
    header: &Header,
    parts: &[&[u8]],
    header_len: usize,
    mergeable: bool,
) -> Result<Placed, GuestError> {
    let wanted = header_len + parts.iter().map(|part| part.len()).sum::<usize>();
    let size = usize::from(live.vring.size());
    let (mut count, mut room) = (0, 0);
    while room < wanted {
        if count > 0 && (!mergeable || count == size || count == MAX_SEGMENTS) {
            live.vring.undo_pop(count as u16);
            return Ok(Placed::TooLong);
        }
        let (vring, chain) = live.chain(count);
        if !vring.pop(chain)? {
            vring.undo_pop(count as u16);
            live.too_few = live.vring.driver_index();
            return Ok(Placed::NoBuffers);
        }
        if count == 0 && chain.writable_bytes() < header_len {
            return Err(GuestError::Request("a receive buffer smaller than its header"));
        }
        count += 1;
        room += chain.writable_bytes();
    }
    live.too_few = None;
    let mut header = *header.bytes();
    header[NUM_BUFFERS_AT..].copy_from_slice(&(count as u16).to_le_bytes());
    let mut at = 0;
    let mut chain = 0;
    for part in [&header[..header_len]].into_iter().chain(parts.iter().copied()) {
        let mut rest = part;
        while !rest.is_empty() {
            let written = live.chains[chain].write_at(at, rest);
            rest = &rest[written..];
            at += written;
            if !rest.is_empty() {
                // The chains have room for all of it.
                (chain, at) = (chain + 1, 0);
            }
        }
    }
    let mut left = wanted;
    for number in 0..count {
        let chain = &live.chains[number];
        let here = chain.writable_bytes().min(left);
        left -= here;
        live.vring.push_used(chain.head(), here as u32)?;
    }
    Ok(Placed::Sent)
}
