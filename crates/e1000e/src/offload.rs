//! What a driver leaves to the card when it sends: checksums, segmentation, VLAN tags (82574 datasheet, 7.2.10, 7.3, 7.5).
//!
//! A packet goes in with what was asked for, frames come out, each with the virtio-net header by which the back end takes over
//! what it can do. What it cannot do is done here.

use ostler_netio::{HEADER_LEN, MAX_FRAME, Offloads};

use crate::checksum::{fold, insert, set_word, word};

/// Bytes of both addresses, behind which a VLAN tag goes.
pub const TAG_AT: usize = 12;
/// Bytes of a VLAN tag.
const TAG_LEN: usize = 4;
/// Least bytes of a segment's payload: smaller ones would only cost the host time. TCP knows none below 48 with its options.
const LEAST_SEGMENT: usize = 8;

const NEEDS_CHECKSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;

const TCP_FIN: u8 = 1 << 0;
const TCP_PSH: u8 = 1 << 3;
const TCP_CWR: u8 = 1 << 7;

/// A context descriptor: where headers and checksums are (7.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Context {
    /// First byte of the IP header.
    pub ip_start: usize,
    /// Where its checksum is.
    pub ip_place: usize,
    /// Its last byte; 0 for the end of the packet.
    pub ip_end: usize,
    /// The same of TCP or UDP.
    pub l4_start: usize,
    pub l4_place: usize,
    pub l4_end: usize,
    /// Bytes of all headers.
    pub header: usize,
    /// Bytes of a segment's payload.
    pub mss: usize,
    /// TCP, else UDP.
    pub tcp: bool,
    /// IPv4, else IPv6.
    pub ipv4: bool,
}

/// What is to be done to one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Request {
    /// Where everything is.
    pub context: Context,
    /// The IP checksum.
    pub ip: bool,
    /// The checksum of TCP or UDP.
    pub l4: bool,
    /// Segmentation.
    pub segment: bool,
    /// A VLAN tag: EtherType and tag.
    pub tag: Option<[u8; TAG_LEN]>,
}

/// A frame that is to be sent. Its tag, if it has one, goes between its first [`TAG_AT`] bytes and the rest.
pub struct Frame<'a> {
    /// The virtio-net header.
    pub header: [u8; HEADER_LEN],
    /// All of it without its tag.
    pub bytes: &'a [u8],
    /// Its VLAN tag.
    pub tag: Option<[u8; TAG_LEN]>,
}

/// A packet for which segmentation makes no sense.
#[derive(Debug, PartialEq, Eq)]
pub struct Senseless;

/// An end as descriptors give it: the last byte, or 0 for all.
fn end(last: usize) -> usize {
    if last == 0 { usize::MAX } else { last + 1 }
}

impl Request {
    /// Carries it out on `packet`. `accepted` is what the back end does; `scratch` is room that is used again.
    pub fn run(
        &self,
        packet: &mut [u8],
        accepted: Offloads,
        scratch: &mut Vec<u8>,
        mut emit: impl FnMut(Frame<'_>),
    ) -> Result<(), Senseless> {
        if self.segment {
            return self.run_segmented(packet, accepted, scratch, emit);
        }
        let at = &self.context;
        if self.ip {
            insert(packet, at.ip_start, at.ip_place, end(at.ip_end), false);
        }
        let mut header = [0; HEADER_LEN];
        let to_the_end = end(at.l4_end) >= packet.len();
        let inside = at.l4_place >= at.l4_start && at.l4_place + 2 <= packet.len();
        if self.l4 && accepted.checksum && to_the_end && inside {
            self.leave_checksum(&mut header);
        } else if self.l4 {
            insert(packet, at.l4_start, at.l4_place, end(at.l4_end), !at.tcp);
        }
        emit(Frame {
            header,
            bytes: packet,
            tag: self.tag,
        });
        Ok(())
    }

    /// The back end does the checksum of TCP or UDP.
    fn leave_checksum(&self, header: &mut [u8; HEADER_LEN]) {
        let moved = if self.tag.is_some() { TAG_LEN } else { 0 };
        let at = &self.context;
        header[0] = NEEDS_CHECKSUM;
        header[6..8].copy_from_slice(&((at.l4_start + moved) as u16).to_le_bytes());
        header[8..10].copy_from_slice(&((at.l4_place - at.l4_start) as u16).to_le_bytes());
    }

    fn run_segmented(
        &self,
        packet: &mut [u8],
        accepted: Offloads,
        scratch: &mut Vec<u8>,
        mut emit: impl FnMut(Frame<'_>),
    ) -> Result<(), Senseless> {
        let at = &self.context;
        let l4_header = if at.tcp { 20 } else { 8 };
        let ip_header = if at.ipv4 { 20 } else { 40 };
        let fits = at.ip_start >= TAG_AT + 2
            && at.ip_start + ip_header <= at.l4_start
            && at.l4_start + l4_header <= at.header
            && at.header < packet.len()
            && (at.l4_start..at.header - 1).contains(&at.l4_place)
            && (!at.ipv4 || (at.ip_start..at.l4_start - 1).contains(&at.ip_place));
        if !fits || at.mss < LEAST_SEGMENT {
            return Err(Senseless);
        }
        if self.is_left_whole(packet, accepted) {
            self.leave_segmentation(packet, emit);
            return Ok(());
        }
        let (headers, payload) = packet.split_at(at.header);
        let pieces = payload.chunks(at.mss);
        let count = pieces.len();
        for (index, piece) in pieces.enumerate() {
            scratch.clear();
            scratch.extend_from_slice(headers);
            scratch.extend_from_slice(piece);
            self.adapt(scratch, index, index + 1 == count);
            emit(Frame {
                header: [0; HEADER_LEN],
                bytes: scratch,
                tag: self.tag,
            });
        }
        Ok(())
    }

    /// True if the back end takes the packet as it is.
    fn is_left_whole(&self, packet: &[u8], accepted: Offloads) -> bool {
        let at = &self.context;
        let family = if at.ipv4 { accepted.tso4 } else { accepted.tso6 };
        let congestion = packet
            .get(at.l4_start + 13)
            .is_some_and(|flags| flags & TCP_CWR != 0);
        at.tcp
            && self.l4
            && family
            && accepted.checksum
            && (!congestion || accepted.ecn)
            && packet.len() > at.header + at.mss
            && packet.len() + TAG_LEN <= MAX_FRAME
            && packet.len() - at.ip_start <= usize::from(u16::MAX)
    }

    fn leave_segmentation(&self, packet: &mut [u8], mut emit: impl FnMut(Frame<'_>)) {
        let at = &self.context;
        let len = packet.len();
        self.set_ip_length(packet);
        self.add_l4_length(packet);
        let congestion = packet[at.l4_start + 13] & TCP_CWR != 0;
        let mut header = [0; HEADER_LEN];
        self.leave_checksum(&mut header);
        header[1] = if at.ipv4 { GSO_TCPV4 } else { GSO_TCPV6 } | if congestion { GSO_ECN } else { 0 };
        let moved = if self.tag.is_some() { TAG_LEN } else { 0 };
        header[2..4].copy_from_slice(&((at.header + moved) as u16).to_le_bytes());
        header[4..6].copy_from_slice(&(at.mss.min(len) as u16).to_le_bytes());
        emit(Frame {
            header,
            bytes: packet,
            tag: self.tag,
        });
    }

    /// Makes segment `index` of what are the packet's headers and a piece of its payload (7.3.6).
    fn adapt(&self, segment: &mut [u8], index: usize, last: bool) {
        let at = &self.context;
        if at.ipv4 {
            let id = word(segment, at.ip_start + 4).wrapping_add(index as u16);
            set_word(segment, at.ip_start + 4, id);
        }
        self.set_ip_length(segment);
        if at.tcp {
            let place = at.l4_start + 4;
            let sequence = u32::from(word(segment, place)) << 16 | u32::from(word(segment, place + 2));
            let sequence = sequence.wrapping_add((index * at.mss) as u32);
            set_word(segment, place, (sequence >> 16) as u16);
            set_word(segment, place + 2, sequence as u16);
            let flags = &mut segment[at.l4_start + 13];
            if !last {
                *flags &= !(TCP_FIN | TCP_PSH);
            }
            if index > 0 {
                *flags &= !TCP_CWR;
            }
        } else {
            let len = segment.len() - at.l4_start;
            set_word(segment, at.l4_start + 4, len as u16);
        }
        if self.l4 {
            self.add_l4_length(segment);
            insert(segment, at.l4_start, at.l4_place, usize::MAX, !at.tcp);
        }
    }

    /// Sets the length that the IP header tells, and its checksum.
    fn set_ip_length(&self, packet: &mut [u8]) {
        let at = &self.context;
        let len = packet.len() - at.ip_start;
        if !at.ipv4 {
            set_word(packet, at.ip_start + 4, (len - 40) as u16);
            return;
        }
        set_word(packet, at.ip_start + 2, len as u16);
        if self.ip {
            set_word(packet, at.ip_place, 0);
            insert(packet, at.ip_start, at.ip_place, end(at.ip_end), false);
        }
    }

    /// Adds the length to the sum that the driver has begun: it knows all of the pseudo header but that (7.3.6.2).
    fn add_l4_length(&self, packet: &mut [u8]) {
        let at = &self.context;
        let begun = u64::from(word(packet, at.l4_place));
        let len = (packet.len() - at.l4_start) as u64;
        set_word(packet, at.l4_place, fold(begun + len));
    }
}

#[cfg(test)]
#[path = "offload_tests.rs"]
mod tests;
