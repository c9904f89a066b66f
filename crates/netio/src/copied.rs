//! Frames that are copied once, between a guest's buffers and memory that somebody else shares.

use ostler_memory::IoBuf;

use crate::frame::{self, Header};
use crate::offload::{admit, finish};
use crate::{HEADER_LEN, Offloads};

/// Takes a frame out of `buffers`, header first: the frame replaces what is in `frame`, and what is left to be done to it is returned.
/// `None` if it has a wrong length, or its header makes no sense.
///
/// # Safety
/// The buffers are mapped.
pub unsafe fn take_frame(buffers: &[IoBuf], frame: &mut Vec<u8>) -> Option<Header> {
    let len = frame::sendable_len(buffers)?;
    let mut rest = Vec::with_capacity(buffers.len());
    // SAFETY: promised by the caller, and there are as many bytes.
    let header = unsafe { frame::split_header(buffers, &mut rest) }.checked(Offloads::ALL, len)?;
    frame.clear();
    // SAFETY: promised by the caller.
    unsafe { frame::gather(&rest, frame) };
    Some(header)
}

/// Puts a frame into `buffers`, header first, and says how many bytes that are. `None` if there is no room for it.
///
/// # Safety
/// The buffers are mapped and writable.
pub unsafe fn give_frame(buffers: &[IoBuf], mut header: Header, frame: &[u8]) -> Option<usize> {
    let count = HEADER_LEN + frame.len();
    if IoBuf::total(buffers).is_some_and(|room| room < count) {
        return None;
    }
    header.0[frame::NUM_BUFFERS_AT..].copy_from_slice(&frame::ONE_BUFFER);
    // SAFETY: promised by the caller.
    unsafe { frame::scatter(buffers, 0, header.bytes()) };
    // SAFETY: promised by the caller.
    unsafe { frame::scatter(buffers, HEADER_LEN, frame) };
    Some(count)
}

/// What a guest that takes `takes` sees as the header of a frame that came with `header`. A frame that was on its way when the guest
/// stopped to take such frames gets its checksum here; one that would have to be cut is dropped, as one whose header makes no sense.
pub fn fit_frame(header: Header, frame: &mut [u8], takes: Offloads, scratch: &mut Vec<u8>) -> Option<Header> {
    if header.is_plain() {
        return Some(Header::default());
    }
    if let Some(header) = header.checked(takes, frame.len()) {
        return Some(header);
    }
    let header = admit(header, frame)?.header;
    let only_checksum = header.needs().within(Offloads {
        checksum: true,
        ..Offloads::NONE
    });
    let done = only_checksum && finish(&header, frame, scratch, &mut |_| true);
    done.then(Header::default)
}
