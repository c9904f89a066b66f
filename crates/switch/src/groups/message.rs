//! What stations and routers say about groups: IGMP (RFC 1112, 2236, 3376) and MLD (RFC 2710, 3810). Nothing here is trusted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Frame;

const IGMP: u8 = 2;
const ICMPV6: u8 = 58;
/// Extension headers that are walked through (RFC 8200, 4).
const MOST_HEADERS: usize = 8;

/// Which protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IGMP.
    V4,
    /// MLD.
    V6,
}

/// What a frame says about groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    /// A querier asks who is in a group, or in any.
    Query(Query),
    /// A station says in which groups it is, or was.
    Report(Report<'a>),
    /// A message of IGMP that nobody here knows.
    Other,
}

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Query {
    /// Who asks.
    pub source: IpAddr,
    /// The group, or any.
    pub group: Option<IpAddr>,
    /// Seconds to answer in.
    pub response: u32,
    /// Robustness and seconds from question to question, if it says so (IGMPv3, MLDv2).
    pub timing: Option<(u32, u32)>,
}

/// What a station says about a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is a member.
    Join,
    /// It is one no more.
    Leave,
    /// It wants less, perhaps nothing: whoever is left has to be asked.
    Less,
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report<'a> {
    /// About one group.
    One(IpAddr, Change),
    /// About several: the records of IGMPv3 or MLDv2, all of them whole.
    Records(Family, &'a [u8]),
}

/// The message that a frame to a group carries. `None` if it carries something else, an error if it is broken.
pub(crate) fn read<'a>(frame: &Frame<'a>) -> Option<Result<Message<'a>, Broken>> {
    match frame.ether_type {
        0x0800 => v4(frame.payload),
        0x86dd => v6(frame.payload),
        _ => None,
    }
}

/// A message with a wrong checksum, or one that no sender may send: not used and not forwarded (RFC 4541, 2.1.1 (3)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn address4(bytes: &[u8], at: usize) -> Option<IpAddr> {
    Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?).into())
}

fn address6(bytes: &[u8], at: usize) -> Option<IpAddr> {
    Some(Ipv6Addr::from(*bytes.get(at..)?.first_chunk::<16>()?).into())
}

/// The sum of 16-bit words, in one's complement (RFC 1071).
pub(super) fn sum(bytes: &[u8], start: u32) -> u32 {
    let words = bytes.chunks(2).map(|word| match *word {
        [a, b] => u32::from(u16::from_be_bytes([a, b])),
        [a] => u32::from(a) << 8,
        _ => 0,
    });
    words.fold(start, |sum, word| {
        let sum = sum + word;
        (sum & 0xffff) + (sum >> 16)
    })
}

fn v4(packet: &[u8]) -> Option<Result<Message<'_>, Broken>> {
    let header = packet.first_chunk::<20>()?;
    if header[0] >> 4 != 4 || header[9] != IGMP {
        return None;
    }
    let (len, total) = (usize::from(header[0] & 15) * 4, usize::from(half(packet, 2)?));
    let is_fragment = half(packet, 6)? & 0x3fff != 0;
    let whole = len >= 20 && total >= len + 8 && !is_fragment;
    let Some((front, body)) = packet.get(..total).filter(|_| whole).map(|all| all.split_at(len)) else {
        return Some(Err(Broken));
    };
    // All of these messages are for one link (RFC 2236, 2; RFC 3376, 4).
    if header[8] != 1 || sum(front, 0) != 0xffff || sum(body, 0) != 0xffff {
        return Some(Err(Broken));
    }
    let source = address4(header, 12)?;
    igmp(source, body)
}

fn igmp(source: IpAddr, body: &[u8]) -> Option<Result<Message<'_>, Broken>> {
    let group = address4(body, 4)?;
    let message = match body[0] {
        0x11 => {
            let (response, timing) = match body.len() {
                // Version 1 has no such field, and its stations answer in ten seconds (RFC 2236, 4).
                8 if body[1] == 0 => (10, None),
                8..12 => (u32::from(body[1]).div_ceil(10), None),
                _ => (code8(body[1]).div_ceil(10), Some(timing(body[8], body[9]))),
            };
            Message::Query(Query {
                source,
                group: (!group.is_unspecified()).then_some(group),
                response: response.max(1),
                timing,
            })
        }
        0x12 | 0x16 => Message::Report(Report::One(group, Change::Join)),
        0x17 => Message::Report(Report::One(group, Change::Leave)),
        0x22 => return Some(records(Family::V4, body)),
        _ => Message::Other,
    };
    Some(Ok(message))
}

fn v6(packet: &[u8]) -> Option<Result<Message<'_>, Broken>> {
    let header = packet.first_chunk::<40>()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let len = usize::from(half(packet, 4)?);
    let (mut next, mut body) = (header[6], packet.get(40..40 + len)?);
    let mut alert = false;
    for _ in 0..MOST_HEADERS {
        let len = match next {
            ICMPV6 => break,
            0 | 43 | 60 => usize::from(*body.get(1)?) * 8 + 8,
            _ => return None,
        };
        let (this, rest) = body.split_at_checked(len)?;
        alert |= next == 0 && has_router_alert(&this[2..]);
        (next, body) = (this[0], rest);
    }
    let kind = *body.first().filter(|_| next == ICMPV6)?;
    if !matches!(kind, 130..=132 | 143) {
        return None;
    }
    let source = Ipv6Addr::from(*header[8..].first_chunk::<16>()?);
    let pseudo = sum(&(body.len() as u32).to_be_bytes(), u32::from(ICMPV6));
    let right = sum(body, sum(&header[8..40], pseudo)) == 0xffff;
    // RFC 2710, 3 and RFC 3810, 5; stations without an address say :: (RFC 3590, 4).
    let from_link = source.segments()[0] & 0xffc0 == 0xfe80 || (kind != 130 && source.is_unspecified());
    if !right || header[7] != 1 || !alert || !from_link {
        return Some(Err(Broken));
    }
    mld(source.into(), kind, body)
}

/// Looks for the option among those of a hop-by-hop header (RFC 2711).
fn has_router_alert(mut options: &[u8]) -> bool {
    while let [kind, rest @ ..] = options {
        let [len, rest @ ..] = rest else { return false };
        match kind {
            // A single byte of padding.
            0 => {
                options = &options[1..];
                continue;
            }
            5 => return *len == 2,
            _ => {}
        }
        let Some(rest) = rest.get(usize::from(*len)..) else {
            return false;
        };
        options = rest;
    }
    false
}

fn mld(source: IpAddr, kind: u8, body: &[u8]) -> Option<Result<Message<'_>, Broken>> {
    if kind == 143 {
        return Some(records(Family::V6, body));
    }
    let Some(group) = address6(body, 8) else {
        return Some(Err(Broken));
    };
    let message = match kind {
        130 => {
            let code = half(body, 4)?;
            let (milliseconds, timing) = match body.get(24..28) {
                Some(more) => (code16(code), Some(timing(more[0], more[1]))),
                None => (u32::from(code), None),
            };
            Message::Query(Query {
                source,
                group: (!group.is_unspecified()).then_some(group),
                response: milliseconds.div_ceil(1000).max(1),
                timing,
            })
        }
        131 => Message::Report(Report::One(group, Change::Join)),
        _ => Message::Report(Report::One(group, Change::Leave)),
    };
    Some(Ok(message))
}

/// Robustness and interval (RFC 3376, 4.1.6 and 4.1.7; RFC 3810, 5.1.8 and 5.1.9).
fn timing(flags: u8, interval: u8) -> (u32, u32) {
    (u32::from(flags & 7), code8(interval))
}

/// A small floating-point number (RFC 3376, 4.1.1).
fn code8(code: u8) -> u32 {
    let (mantissa, exponent) = (u32::from(code & 15), u32::from(code >> 4 & 7));
    if code < 128 {
        code.into()
    } else {
        (mantissa | 16) << (exponent + 3)
    }
}

/// A larger one (RFC 3810, 5.1.3).
fn code16(code: u16) -> u32 {
    let (mantissa, exponent) = (u32::from(code & 0xfff), u32::from(code >> 12 & 7));
    if code < 0x8000 {
        code.into()
    } else {
        (mantissa | 0x1000) << (exponent + 3)
    }
}

/// The number as [`code8`] reads it: the largest that is not above it.
pub(super) fn as_code8(value: u32) -> u8 {
    (0..=255u8).rev().find(|&code| code8(code) <= value).unwrap_or(0)
}

/// Checks that all records of a report are whole.
fn records(family: Family, body: &[u8]) -> Result<Message<'_>, Broken> {
    let count = half(body, 6).ok_or(Broken)?;
    let records = body.get(8..).ok_or(Broken)?;
    let report = Report::Records(family, records);
    let mut rest = records;
    for _ in 0..count {
        rest = record(family, rest).ok_or(Broken)?.1;
    }
    // What is behind the last record is none (RFC 3376, 4.2.11).
    Ok(Message::Report(match report {
        Report::Records(family, records) => Report::Records(family, &records[..records.len() - rest.len()]),
        one => one,
    }))
}

/// A record of a report: its group, and what it says.
type Record = (IpAddr, Option<Change>);

/// The first record, and the records behind it (RFC 3376, 4.2.4; RFC 3810, 5.2.4).
fn record(family: Family, bytes: &[u8]) -> Option<(Record, &[u8])> {
    let (size, group) = match family {
        Family::V4 => (4, address4(bytes, 4)?),
        Family::V6 => (16, address6(bytes, 4)?),
    };
    let sources = usize::from(half(bytes, 2)?);
    let len = 4 + size + sources * size + usize::from(bytes[1]) * 4;
    let rest = bytes.get(len..)?;
    let change = match (bytes[0], sources) {
        // EXCLUDE: all but some sources; INCLUDE or ALLOW: some.
        (2 | 4, _) | (1 | 3 | 5, 1..) => Some(Change::Join),
        (3, 0) => Some(Change::Leave),
        (6, 1..) => Some(Change::Less),
        _ => None,
    };
    Some(((group, change), rest))
}

impl Report<'_> {
    /// By which protocol it came.
    pub fn family(&self) -> Family {
        match *self {
            Self::One(group, _) if group.is_ipv4() => Family::V4,
            Self::One(..) => Family::V6,
            Self::Records(family, _) => family,
        }
    }

    /// Calls `tell` with each group and what is said about it.
    pub fn each(&self, mut tell: impl FnMut(IpAddr, Change)) {
        match *self {
            Self::One(group, change) => tell(group, change),
            Self::Records(family, mut records) => {
                while let Some(((group, change), rest)) = record(family, records) {
                    if let Some(change) = change {
                        tell(group, change);
                    }
                    records = rest;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 3376, 4.1.1: from 128 on the number has an exponent.
    #[test]
    fn codes_are_read_and_written() {
        assert_eq!(
            [code8(0), code8(127), code8(128), code8(0xff)],
            [0, 127, 128, 31_744]
        );
        assert_eq!([code16(0x7fff), code16(0x8000)], [32_767, 32_768]);
        for value in [0, 1, 100, 127, 128, 1000, 31_744] {
            let code = as_code8(value);
            assert!(
                code8(code) <= value && (code == 255 || code8(code + 1) > value),
                "{value}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_none(
            bytes in prop::collection::vec(any::<u8>(), 0..120),
            ether_type in prop::sample::select(vec![0x0800u16, 0x86dd, 0x8100]),
            front in prop::sample::select(vec![
                &[][..],
                &[0x46, 0, 0, 40, 0, 0, 0, 0, 1, 2],
                &[0x60, 0, 0, 0, 0, 60, 0, 1],
            ]),
        ) {
            let payload = [front, &bytes].concat();
            let frame = Frame {
                destination: crate::Mac([1, 0, 0x5e, 0, 0, 1]),
                source: crate::Mac([2, 0, 0, 0, 0, 1]),
                tag: None,
                ether_type,
                payload: &payload,
            };
            if let Some(Ok(Message::Report(report))) = read(&frame) {
                report.each(|_, _| {});
            }
            for family in [Family::V4, Family::V6] {
                let _ = records(family, &payload);
                if let Ok(Message::Report(report)) = records(family, &payload) {
                    let mut count = 0;
                    report.each(|_, _| count += 1);
                    prop_assert!(count <= payload.len() / 8);
                }
            }
            let _ = igmp(Ipv4Addr::LOCALHOST.into(), &payload);
            for kind in 130..=143 {
                let _ = mld(Ipv6Addr::LOCALHOST.into(), kind, &payload);
            }
            let _ = has_router_alert(&payload);
        }
    }
}
