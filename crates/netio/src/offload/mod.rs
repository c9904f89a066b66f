//! What a virtio-net header asks for, done in software: checksums and segments (virtio 1.2, 5.1.6).
//!
//! A sender may leave a frame's checksum to whoever comes behind it, and hand over many segments as one large frame. [`admit`] looks
//! at such a frame when it comes in, before anybody trusts a word of its header; [`finish`] makes frames of it that need nothing
//! more, for a receiver that takes none of this.

mod checksum;
mod layout;
#[cfg(test)]
mod tests;

use checksum::{Sum, complete};
use layout::{Layout, TCP, UDP};

use crate::frame::{GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, Header, NEEDS_CSUM};

/// The smallest segments that a large frame is cut into. TCP's own smallest are larger; the bound keeps one frame from becoming
/// tens of thousands.
const SMALLEST_SEGMENT: usize = 128;
/// Of TCP's flags, those that only the last segment keeps: FIN and PSH.
const LAST_ONLY: u8 = 0x09;
/// The one that only the first keeps: CWR (RFC 3168).
const FIRST_ONLY: u8 = 0x80;

/// A frame whose header makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// What is left to be done.
    pub header: Header,
    /// The length in bytes of the longest frame that becomes of it.
    pub wire_len: usize,
}

/// Looks at a frame that came with `header`. `None` if what is asked for makes no sense for this frame.
///
/// A checksum is left to others only where it is that of the TCP or UDP header behind the IP header. Any other is computed here and now:
/// whoever looks at addresses and ports next sees what will be on the wire, and nobody changes it by a "checksum" on top of them.
pub fn admit(header: Header, frame: &mut [u8]) -> Option<Admitted> {
    let whole = |header| Admitted {
        header,
        wire_len: frame.len(),
    };
    if header.is_plain() {
        return Some(whole(Header::default()));
    }
    let layout = Layout::of(frame);
    let fits = |layout: &Layout| {
        header.checksum_start() == layout.transport && header.checksum_offset() == layout.checksum_offset()
    };
    let kind = header.kind();
    if kind == GSO_NONE {
        if header.0[1] != GSO_NONE {
            return None;
        }
        if let Some(layout) = layout.filter(fits) {
            return Some(whole(header.with_headers(layout.headers)));
        }
        let (start, offset) = (header.checksum_start(), header.checksum_offset());
        complete(frame, start, offset)?;
        return Some(Admitted {
            header: Header::default(),
            wire_len: frame.len(),
        });
    }
    let layout = layout.filter(fits)?;
    let right = match kind {
        GSO_TCPV4 => layout.protocol == TCP && !layout.is_v6,
        GSO_TCPV6 => layout.protocol == TCP && layout.is_v6,
        GSO_UDP_L4 => layout.protocol == UDP,
        _ => false,
    };
    let payload = frame.len().checked_sub(layout.headers)?;
    if !right || header.0[0] & NEEDS_CSUM == 0 || header.segment() < SMALLEST_SEGMENT || payload == 0 {
        return None;
    }
    Some(Admitted {
        header: header.with_headers(layout.headers),
        wire_len: layout.headers + payload.min(header.segment()),
    })
}

/// Does what the header of a frame that was [`admit`]ted asks for. `each` is given whole frames, in parts, and says whether there was
/// room; the result is whether there always was. `scratch` is kept by the caller for its room.
pub fn finish(
    header: &Header,
    frame: &mut [u8],
    scratch: &mut Vec<u8>,
    each: &mut dyn FnMut(&[&[u8]]) -> bool,
) -> bool {
    if header.is_plain() {
        return each(&[&*frame]);
    }
    if header.kind() == GSO_NONE {
        let done = complete(frame, header.checksum_start(), header.checksum_offset());
        return done.is_some() && each(&[&*frame]);
    }
    let Some(layout) = Layout::of(frame).filter(|layout| layout.headers < frame.len()) else {
        return false;
    };
    let (headers, payload) = frame.split_at(layout.headers);
    let size = header.segment().max(SMALLEST_SEGMENT);
    let last = payload.len().div_ceil(size) - 1;
    let mut room = true;
    for (number, part) in payload.chunks(size).enumerate() {
        scratch.clear();
        scratch.extend_from_slice(headers);
        let place = Place {
            number,
            is_last: number == last,
            sent: number * size,
        };
        fit_headers(&layout, scratch, part, &place);
        room &= each(&[&*scratch, part]);
    }
    room
}

/// Which segment of a frame.
struct Place {
    number: usize,
    is_last: bool,
    /// Bytes of payload before it.
    sent: usize,
}

/// Makes the headers of the whole frame those of one segment.
fn fit_headers(layout: &Layout, headers: &mut [u8], part: &[u8], place: &Place) {
    let Layout { ip, transport, .. } = *layout;
    let transport_len = headers.len() - transport + part.len();
    if layout.is_v6 {
        // The payload length counts what is behind the fixed header (RFC 8200, 3).
        let len = transport - (ip + 40) + transport_len;
        put(headers, ip + 4, len as u16);
    } else {
        put(headers, ip + 2, (transport - ip + transport_len) as u16);
        let id = get(headers, ip + 4).wrapping_add(place.number as u16);
        put(headers, ip + 4, id);
        put(headers, ip + 10, 0);
        let sum = Sum::of(&headers[ip..transport]).finished();
        put(headers, ip + 10, sum);
    }
    match layout.protocol {
        TCP => {
            let sequence =
                u32::from(get(headers, transport + 4)) << 16 | u32::from(get(headers, transport + 6));
            let sequence = sequence.wrapping_add(place.sent as u32);
            put(headers, transport + 4, (sequence >> 16) as u16);
            put(headers, transport + 6, sequence as u16);
            let flags = &mut headers[transport + 13];
            if !place.is_last {
                *flags &= !LAST_ONLY;
            }
            if place.number > 0 {
                *flags &= !FIRST_ONLY;
            }
        }
        _ => put(headers, transport + 4, transport_len as u16),
    }
    let at = transport + layout.checksum_offset();
    put(headers, at, 0);
    let sum = layout
        .pseudo_header(headers, transport_len)
        .add(&headers[transport..])
        .add(part)
        .finished();
    // 0 says that there is none (RFC 768); to TCP both mean the same.
    put(headers, at, if sum == 0 { 0xffff } else { sum });
}

fn get(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
