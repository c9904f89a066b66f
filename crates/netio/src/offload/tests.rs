//! Checksums and segments against a plain reading of the standards.

use proptest::prelude::*;

use super::*;
use crate::{HEADER_LEN, MAX_FRAME};

#[derive(Debug, Clone)]
struct Shape {
    v6: bool,
    tcp: bool,
    tags: usize,
    /// Words of IPv4 options, or extension headers.
    extra: usize,
    payload: Vec<u8>,
    flags: u8,
}

/// The sum of RFC 1071, word by word.
fn plain_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for word in bytes.chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn pseudo(v6: bool, addresses: &[u8], protocol: u8, len: usize) -> Vec<u8> {
    let len = len as u32;
    if v6 {
        [addresses, &len.to_be_bytes(), &[0, 0, 0, protocol]].concat()
    } else {
        [addresses, &[0, protocol], &(len as u16).to_be_bytes()].concat()
    }
}

/// A frame as a guest's kernel makes it: the place of the checksum holds the sum of the pseudo header.
fn whole(shape: &Shape) -> (Vec<u8>, Layout) {
    let Shape { v6, tcp, payload, .. } = shape;
    let (protocol, transport_len) = if *tcp { (TCP, 32) } else { (UDP, 8) };
    let mut frame = vec![2; 12];
    for _ in 0..shape.tags {
        frame.extend([0x81, 0, 0, 5]);
    }
    frame.extend(if *v6 { [0x86, 0xdd] } else { [8, 0] });
    let ip = frame.len();
    let behind = transport_len + payload.len();
    let addresses;
    if *v6 {
        let extra = shape.extra * 8;
        frame.extend([0x60, 0, 0, 0]);
        frame.extend(((extra + behind) as u16).to_be_bytes());
        let kinds: Vec<u8> = std::iter::repeat_n(60, shape.extra).chain([protocol]).collect();
        frame.extend([kinds[0], 64]);
        frame.extend([0xfd; 16]);
        frame.extend([0xfe; 16]);
        addresses = frame[ip + 8..ip + 40].to_vec();
        for kind in &kinds[1..] {
            frame.extend([*kind, 0, 1, 4, 0, 0, 0, 0]);
        }
    } else {
        let len = 20 + shape.extra * 4;
        frame.extend([0x40 | (len / 4) as u8, 0]);
        frame.extend(((len + behind) as u16).to_be_bytes());
        frame.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
        frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend(vec![1; shape.extra * 4]);
        addresses = frame[ip + 12..ip + 20].to_vec();
        let check = (!plain_sum(&frame[ip..])).to_be_bytes();
        frame[ip + 10..ip + 12].copy_from_slice(&check);
    }
    let transport = frame.len();
    let partial = plain_sum(&pseudo(*v6, &addresses, protocol, behind)).to_be_bytes();
    if *tcp {
        frame.extend([
            0x13,
            0x88,
            0,
            80,
            0xff,
            0xff,
            0xf0,
            0,
            0,
            0,
            0,
            1,
            0x80,
            shape.flags,
            1,
            0,
        ]);
        frame.extend([partial[0], partial[1], 0, 0]);
        frame.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    } else {
        frame.extend([0x13, 0x88, 0, 80]);
        frame.extend((behind as u16).to_be_bytes());
        frame.extend(partial);
    }
    frame.extend(payload);
    let layout = Layout {
        ip,
        is_v6: *v6,
        protocol,
        transport,
        headers: transport + transport_len,
    };
    (frame, layout)
}

fn header_for(layout: &Layout, segment: Option<usize>) -> Header {
    let mut header = Header::default();
    header.0[0] = NEEDS_CSUM;
    header.0[6..8].copy_from_slice(&(layout.transport as u16).to_le_bytes());
    header.0[8..10].copy_from_slice(&(layout.checksum_offset() as u16).to_le_bytes());
    if let Some(segment) = segment {
        header.0[1] = match (layout.protocol, layout.is_v6) {
            (TCP, false) => GSO_TCPV4,
            (TCP, true) => GSO_TCPV6,
            _ => GSO_UDP_L4,
        };
        header.0[4..6].copy_from_slice(&(segment as u16).to_le_bytes());
    }
    header
}

/// Checks lengths and checksums of a frame that needs nothing more.
fn assert_right(frame: &[u8], layout: &Layout) {
    let Layout {
        ip,
        transport,
        is_v6,
        protocol,
        ..
    } = *layout;
    let len = frame.len() - transport;
    let addresses = if is_v6 {
        assert_eq!(usize::from(get(frame, ip + 4)), frame.len() - ip - 40);
        &frame[ip + 8..ip + 40]
    } else {
        assert_eq!(usize::from(get(frame, ip + 2)), frame.len() - ip);
        assert_eq!(plain_sum(&frame[ip..transport]), 0xffff, "the header's checksum");
        &frame[ip + 12..ip + 20]
    };
    if protocol == UDP {
        assert_eq!(usize::from(get(frame, transport + 4)), len);
        assert_ne!(get(frame, transport + 6), 0, "0 says that there is no checksum");
    }
    let all = [&pseudo(is_v6, addresses, protocol, len)[..], &frame[transport..]].concat();
    assert_eq!(plain_sum(&all), 0xffff, "the checksum of TCP or UDP");
}

fn shapes() -> impl Strategy<Value = Shape> {
    (
        any::<bool>(),
        any::<bool>(),
        0usize..3,
        0usize..4,
        prop::collection::vec(any::<u8>(), 1..9000),
        any::<u8>(),
    )
        .prop_map(|(v6, tcp, tags, extra, payload, flags)| Shape {
            v6,
            tcp,
            tags,
            extra,
            payload,
            flags,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The segments are right by themselves, and together they are what was sent.
    #[test]
    fn segments_are_right_and_add_up(shape in shapes(), segment in 128usize..3000) {
        let (mut frame, layout) = whole(&shape);
        let before = frame.clone();
        let admitted = admit(header_for(&layout, Some(segment)), &mut frame).unwrap();
        prop_assert_eq!(&frame, &before);
        prop_assert_eq!(admitted.wire_len, layout.headers + segment.min(shape.payload.len()));
        let mut payload = Vec::new();
        let (mut count, mut flags) = (0usize, Vec::new());
        let all = finish(&admitted.header, &mut frame, &mut Vec::new(), &mut |parts| {
            let one = parts.concat();
            assert_right(&one, &layout);
            assert!(one.len() <= admitted.wire_len);
            if shape.tcp {
                let sequence = u32::from(get(&one, layout.transport + 4)) << 16 | u32::from(get(&one, layout.transport + 6));
                assert_eq!(sequence, 0xffff_f000u32.wrapping_add(payload.len() as u32));
                flags.push(one[layout.transport + 13]);
            }
            if !shape.v6 {
                assert_eq!(get(&one, layout.ip + 4), 0x1234 + count as u16);
            }
            payload.extend_from_slice(&one[layout.headers..]);
            count += 1;
            true
        });
        prop_assert!(all);
        prop_assert_eq!(&payload, &shape.payload);
        prop_assert_eq!(count, shape.payload.len().div_ceil(segment));
        if shape.tcp {
            prop_assert_eq!(flags.iter().fold(0, |all, flag| all | flag), shape.flags);
            for (place, flag) in flags.iter().enumerate() {
                prop_assert!(place + 1 == count || flag & LAST_ONLY == 0, "FIN and PSH are the last one's");
                prop_assert!(place == 0 || flag & FIRST_ONLY == 0, "CWR is the first one's");
            }
        }
    }

    /// A checksum alone.
    #[test]
    fn checksums_are_right(shape in shapes()) {
        let (mut frame, layout) = whole(&shape);
        let admitted = admit(header_for(&layout, None), &mut frame).unwrap();
        prop_assert_eq!(admitted.wire_len, frame.len());
        prop_assert!(admitted.header.needs().checksum);
        let all = finish(&admitted.header, &mut frame, &mut Vec::new(), &mut |parts| {
            assert_right(&parts.concat(), &layout);
            true
        });
        prop_assert!(all);
    }

    /// Any header on any frame: admitted or refused; and what was admitted can be finished without changing addresses or ports.
    #[test]
    fn any_header_is_admitted_or_refused(
        bytes: [u8; HEADER_LEN],
        kind in prop::sample::select(vec![GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, 3]),
        start in 0usize..80,
        offset in 0usize..30,
        shape in shapes(),
        junk in prop::collection::vec(any::<u8>(), 0..100),
        keep in 0usize..200,
    ) {
        let mut header = Header(bytes);
        header.0[1] = kind;
        header.0[6..8].copy_from_slice(&(start as u16).to_le_bytes());
        header.0[8..10].copy_from_slice(&(offset as u16).to_le_bytes());
        let (good, _) = whole(&shape);
        for mut frame in [junk, good[..keep.min(good.len())].to_vec(), good] {
            let Some(admitted) = admit(header, &mut frame) else { continue };
            prop_assert!(admitted.wire_len <= frame.len().max(1));
            let seen = frame.clone();
            let mut frames = 0;
            finish(&admitted.header, &mut frame, &mut Vec::new(), &mut |parts| {
                let one = parts.concat();
                frames += 1;
                // What was looked at when it came in is what goes out.
                if let Some(layout) = Layout::of(&seen) {
                    let addresses = layout.ip + if layout.is_v6 { 8 } else { 12 };
                    let kept = addresses..layout.transport + 4;
                    assert_eq!(&one[kept.clone()], &seen[kept]);
                }
                let macs = seen.len().min(12);
                assert_eq!(one[..macs], seen[..macs]);
                true
            });
            prop_assert!(frames <= MAX_FRAME / SMALLEST_SEGMENT);
        }
    }
}

/// A "checksum" in the middle of the addresses is computed before anybody looks at them, so it deceives nobody.
#[test]
fn a_checksum_elsewhere_is_done_at_once() {
    let shape = Shape {
        v6: false,
        tcp: true,
        tags: 0,
        extra: 0,
        payload: vec![7; 100],
        flags: 0x10,
    };
    let (frame, layout) = whole(&shape);
    for (start, offset) in [
        (0, 6),
        (layout.ip, 12),
        (layout.transport, 0),
        (layout.transport, 4),
        (3, 19),
    ] {
        let mut header = header_for(&layout, None);
        header.0[6..8].copy_from_slice(&(start as u16).to_le_bytes());
        header.0[8..10].copy_from_slice(&(offset as u16).to_le_bytes());
        let mut frame = frame.clone();
        let admitted = admit(header, &mut frame).unwrap();
        assert!(admitted.header.is_plain(), "{start} {offset}");
        let mut outside = header;
        outside.0[8..10].copy_from_slice(&(frame.len() as u16).to_le_bytes());
        assert_eq!(admit(outside, &mut frame), None);
    }
}

/// What asks for more than makes sense is refused: tiny segments, the wrong protocol, fragments, no payload, no checksum.
#[test]
fn absurd_segments_are_refused() {
    let shape = Shape {
        v6: false,
        tcp: true,
        tags: 0,
        extra: 0,
        payload: vec![7; 5000],
        flags: 0x10,
    };
    let (frame, layout) = whole(&shape);
    let good = header_for(&layout, Some(1448));
    assert!(admit(good, &mut frame.clone()).is_some());
    assert_eq!(admit(header_for(&layout, Some(1)), &mut frame.clone()), None);
    for (at, value) in [(0, 0), (1, GSO_TCPV6), (1, GSO_UDP_L4), (1, 3), (6, 1)] {
        let mut header = good;
        header.0[at] = value;
        assert_eq!(admit(header, &mut frame.clone()), None, "byte {at} is {value}");
    }
    let mut fragment = frame.clone();
    fragment[layout.ip + 6] = 0x20;
    assert_eq!(admit(good, &mut fragment), None);
    assert_eq!(admit(good, &mut frame[..layout.headers].to_vec()), None);
}

/// Headers move along when a tag is put in or taken out.
#[test]
fn a_tag_moves_what_the_header_points_at() {
    let shape = |tags| Shape {
        v6: true,
        tcp: true,
        tags,
        extra: 1,
        payload: vec![7; 5000],
        flags: 0x10,
    };
    let ((mut bare, layout), (mut tagged, with_tag)) = (whole(&shape(0)), whole(&shape(1)));
    let bare = admit(header_for(&layout, Some(1448)), &mut bare).unwrap();
    let tagged = admit(header_for(&with_tag, Some(1448)), &mut tagged).unwrap();
    assert_eq!(bare.header.moved(4), tagged.header);
    assert_eq!(tagged.header.moved(-4), bare.header);
    assert_eq!(Header::default().moved(4), Header::default());
}
