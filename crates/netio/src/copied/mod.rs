//! Frames that are copied once, between a guest's buffers and memory that somebody else shares.

mod queue;

use ostler_memory::IoBuf;

pub use queue::{Came, CopiedQueue, OtherEnd};

use crate::frame::{self, Header};
use crate::offload::{admit, finish};
use crate::{HEADER_LEN, Offloads};

/// Takes a frame out of `buffers`, header first: the frame replaces what is in `frame`, and what is left to be done to it is returned.
/// `None` if it has a wrong length, or its header makes no sense.
///
/// # Safety
/// The buffers are mapped.
unsafe fn take_frame(buffers: &[IoBuf], frame: &mut Vec<u8>) -> Option<Header> {
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
unsafe fn give_frame(buffers: &[IoBuf], mut header: Header, frame: &[u8]) -> Option<usize> {
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
fn fit_frame(header: Header, frame: &mut [u8], takes: Offloads, scratch: &mut Vec<u8>) -> Option<Header> {
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

/// Memory into which frames are put for somebody else.
pub trait FrameSink {
    /// Why it is of no more use.
    type Broken;

    /// What the other side takes over.
    fn accepts(&self) -> Offloads;

    /// Puts a frame there, given in parts, to which `header` is left to be done. False if there is no room now, or it is none.
    ///
    /// # Errors
    /// If the other side does not keep to the rules.
    fn put(&mut self, header: &Header, parts: &[&[u8]]) -> Result<bool, Self::Broken>;
}

/// Puts `frame` into `sink`. What `header` leaves to be done, and the other side does not take over, is done here; then the frame may
/// become several, whose headers are made in `scratch`. False if one of them did not go, or the header makes no sense.
///
/// # Errors
/// As [`FrameSink::put`].
pub fn put_frame<S: FrameSink>(
    sink: &mut S,
    header: Header,
    frame: &mut [u8],
    scratch: &mut Vec<u8>,
) -> Result<bool, S::Broken> {
    if header.is_plain() {
        return sink.put(&Header::default(), &[frame]);
    }
    if header.needs().within(sink.accepts()) {
        return sink.put(&header, &[frame]);
    }
    let Some(admitted) = admit(header, frame) else {
        return Ok(false);
    };
    let mut broken = None;
    let all = finish(&admitted.header, frame, scratch, &mut |parts| {
        let put = sink.put(&Header::default(), parts);
        put.unwrap_or_else(|error| {
            broken = Some(error);
            false
        })
    });
    broken.map_or(Ok(all), Err)
}
