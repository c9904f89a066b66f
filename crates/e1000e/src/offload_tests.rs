use proptest::prelude::*;

use super::*;
use crate::inspect::{Checked, Layer4, check};
use crate::testing::{start_checksum, tcp4, tcp6};

const ALL: Offloads = Offloads {
    checksum: true,
    tso4: true,
    tso6: true,
    ecn: false,
    uso: false,
};

fn context(ipv4: bool, mss: usize) -> Context {
    let ip_header = if ipv4 { 20 } else { 40 };
    Context {
        ip_start: 14,
        ip_place: 24,
        ip_end: 33,
        l4_start: 14 + ip_header,
        l4_place: 14 + ip_header + 16,
        l4_end: 0,
        header: 14 + ip_header + 20,
        mss,
        tcp: true,
        ipv4,
    }
}

fn request(ipv4: bool, mss: usize, segment: bool) -> Request {
    Request {
        context: context(ipv4, mss),
        ip: ipv4,
        l4: true,
        segment,
        tag: None,
    }
}

type Out = Vec<([u8; HEADER_LEN], Vec<u8>)>;

fn run(request: &Request, packet: &[u8], accepted: Offloads) -> Result<Out, Senseless> {
    let mut out = Vec::new();
    let mut packet = packet.to_vec();
    request.run(&mut packet, accepted, &mut Vec::new(), |frame| {
        out.push((frame.header, frame.bytes.to_vec()))
    })?;
    Ok(out)
}

#[test]
fn checksums_are_inserted_or_left() {
    let good = tcp4(&[7; 31]);
    let mut begun = good.clone();
    begun[24..26].fill(0);
    start_checksum(&mut begun, 34, 50, true);
    let done = run(&request(true, 0, false), &begun, Offloads::NONE).unwrap();
    assert_eq!(done, [([0; HEADER_LEN], good)]);
    let left = run(&request(true, 0, false), &begun, ALL).unwrap();
    assert_eq!(left[0].0[..10], [1, 0, 0, 0, 0, 0, 34, 0, 16, 0]);
    assert_eq!(left[0].1[50..52], begun[50..52]);
    // With a tag, what the header says lies behind it.
    let tagged = Request {
        tag: Some([0x81, 0, 0, 5]),
        ..request(true, 0, false)
    };
    assert_eq!(run(&tagged, &begun, ALL).unwrap()[0].0[6], 38);
}

#[test]
fn segments_are_those_of_tcp() {
    for ipv4 in [true, false] {
        let payload: Vec<u8> = (0..3500u32).map(|at| at as u8).collect();
        let mut packet = if ipv4 { tcp4(&payload) } else { tcp6(&payload) };
        let at = context(ipv4, 1000);
        packet[at.l4_start + 13] = 0x18 | TCP_FIN | TCP_CWR;
        start_checksum(&mut packet, at.l4_start, at.l4_place, false);
        let out = run(&request(ipv4, 1000, true), &packet, Offloads::NONE).unwrap();
        assert_eq!(out.len(), 4);
        let mut seen = Vec::new();
        for (index, (header, frame)) in out.iter().enumerate() {
            assert_eq!(*header, [0; HEADER_LEN]);
            let expected = Checked {
                ip: ipv4.then_some(true),
                layer4: Some((Layer4::Tcp, true)),
            };
            assert_eq!(check(frame, 14, false), expected);
            let sequence =
                |bytes: &[u8]| u32::from_be_bytes(bytes[at.l4_start + 4..][..4].try_into().unwrap());
            assert_eq!(sequence(frame) - sequence(&packet), 1000 * index as u32);
            if ipv4 {
                assert_eq!(word(frame, 18) - word(&packet, 18), index as u16);
            }
            let flags = frame[at.l4_start + 13];
            assert_eq!(flags & (TCP_FIN | TCP_PSH) != 0, index == 3);
            assert_eq!(flags & TCP_CWR != 0, index == 0);
            seen.extend_from_slice(&frame[at.header..]);
        }
        assert_eq!(seen, payload);
    }
}

#[test]
fn a_back_end_that_can_gets_the_packet_whole() {
    for ipv4 in [true, false] {
        let mut packet = if ipv4 { tcp4(&[1; 9000]) } else { tcp6(&[1; 9000]) };
        let at = context(ipv4, 1448);
        start_checksum(&mut packet, at.l4_start, at.l4_place, false);
        let out = run(&request(ipv4, 1448, true), &packet, ALL).unwrap();
        assert_eq!(out.len(), 1);
        let (header, mut frame) = out[0].clone();
        assert_eq!(header[..2], [1, if ipv4 { 1 } else { 4 }]);
        assert_eq!(u16::from_le_bytes([header[4], header[5]]), 1448);
        // Whoever finishes the checksum as the header says finds the packet right.
        insert(&mut frame, at.l4_start, at.l4_place, usize::MAX, false);
        assert_eq!(check(&frame, 14, false).layer4, Some((Layer4::Tcp, true)));
        // One with congestion marks is cut here, because the back end does not know them.
        packet[at.l4_start + 13] |= TCP_CWR;
        assert_eq!(run(&request(ipv4, 1448, true), &packet, ALL).unwrap().len(), 7);
    }
}

#[test]
fn senseless_contexts_are_refused() {
    let packet = tcp4(&[1; 3000]);
    let good = request(true, 1000, true);
    let bad: &[fn(&mut Context)] = &[
        |at| at.mss = 0,
        |at| at.mss = 7,
        |at| at.header = 0,
        |at| at.header = 53,
        |at| at.header = 255 * 20,
        |at| at.l4_start = 20,
        |at| at.l4_place = 53,
        |at| at.l4_place = 10,
        |at| at.ip_start = 0,
        |at| at.ip_place = 200,
        |at| at.l4_start = 250,
    ];
    for (index, change) in bad.iter().enumerate() {
        let mut request = good;
        change(&mut request.context);
        assert_eq!(run(&request, &packet, ALL).err(), Some(Senseless), "{index}");
    }
}

proptest! {
    #[test]
    fn any_request_ends_and_stays_in_bounds(
        len in 0usize..5000, places in prop::array::uniform8(prop_oneof![0usize..300, 0usize..0x10000]),
        flags: [bool; 6], accepts: bool,
    ) {
        let [ip_start, ip_place, ip_end, l4_start, l4_place, l4_end, header, mss] = places;
        let context = Context {
            ip_start, ip_place, ip_end, l4_start, l4_place, l4_end, header, mss, tcp: flags[0], ipv4: flags[1],
        };
        let request = Request {
            context, ip: flags[2], l4: flags[3], segment: flags[4], tag: flags[5].then_some([0x81, 0, 1, 1]),
        };
        let accepted = if accepts { ALL } else { Offloads::NONE };
        if let Ok(out) = run(&request, &vec![0x45; len], accepted) {
            let total: usize = out.iter().map(|(_, frame)| frame.len()).sum();
            prop_assert!(total <= len + out.len() * header.min(len));
            prop_assert!(out.len() <= 1 + len / LEAST_SEGMENT);
        }
    }
}
