//! Where the headers of a frame are.

use super::checksum::Sum;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// Tags in front of the packet that are walked through.
const MOST_TAGS: usize = 2;
/// Extension headers of IPv6 that are.
const MOST_HEADERS: usize = 8;

/// The headers of a TCP or UDP packet that is no fragment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Where the IP header starts.
    pub ip: usize,
    pub is_v6: bool,
    /// TCP or UDP.
    pub protocol: u8,
    /// Where its header starts.
    pub transport: usize,
    /// Where its payload does.
    pub headers: usize,
}

impl Layout {
    /// The headers of `frame`; `None` if it carries something else.
    pub fn of(frame: &[u8]) -> Option<Self> {
        let mut at = 12;
        for _ in 0..MOST_TAGS {
            if matches!(word(frame, at)?, 0x8100 | 0x88a8) {
                at += 4;
            }
        }
        let ip = at + 2;
        let (is_v6, protocol, transport) = match word(frame, at)? {
            0x0800 => v4(frame, ip)?,
            0x86dd => v6(frame, ip)?,
            _ => return None,
        };
        let len = match protocol {
            TCP => usize::from(*frame.get(transport + 12)? >> 4) * 4,
            _ => 8,
        };
        let headers = transport + len;
        let shortest = if protocol == TCP { 20 } else { 8 };
        (len >= shortest && headers <= frame.len()).then_some(Self {
            ip,
            is_v6,
            protocol,
            transport,
            headers,
        })
    }

    /// Where the checksum is, in the header of TCP or UDP.
    pub fn checksum_offset(&self) -> usize {
        if self.protocol == TCP { 16 } else { 6 }
    }

    /// The sum of the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1) of a packet with so many bytes of TCP or UDP.
    pub fn pseudo_header(&self, frame: &[u8], len: usize) -> Sum {
        let addresses = if self.is_v6 {
            self.ip + 8..self.ip + 40
        } else {
            self.ip + 12..self.ip + 20
        };
        Sum::of(&frame[addresses])
            .add(&(len as u32).to_be_bytes())
            .add(&[0, self.protocol])
    }
}

fn word(frame: &[u8], at: usize) -> Option<u16> {
    let bytes = frame.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*bytes))
}

fn is_known(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP)
}

fn v4(frame: &[u8], ip: usize) -> Option<(bool, u8, usize)> {
    let header = frame.get(ip..)?.first_chunk::<20>()?;
    let len = usize::from(header[0] & 15) * 4;
    let is_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    let fits = header[0] >> 4 == 4 && len >= 20 && ip + len <= frame.len();
    (fits && !is_fragment && is_known(header[9])).then_some((false, header[9], ip + len))
}

fn v6(frame: &[u8], ip: usize) -> Option<(bool, u8, usize)> {
    let header = frame.get(ip..)?.first_chunk::<40>()?;
    let mut next = header[6];
    let mut at = ip + 40;
    if header[0] >> 4 != 6 {
        return None;
    }
    for _ in 0..MOST_HEADERS {
        if is_known(next) {
            return Some((true, next, at));
        }
        // Hop-by-hop, routing, destination options (RFC 8200, 4).
        if !matches!(next, 0 | 43 | 60) {
            return None;
        }
        next = *frame.get(at)?;
        at += usize::from(*frame.get(at + 1)?) * 8 + 8;
    }
    None
}
