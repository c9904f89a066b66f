//! A driver's way through each of the card's functions.

use std::sync::atomic::Ordering;

use ostler_netio::{HEADER_LEN, Offloads};
use ostler_pci::PciFunction;

use crate::checksum::crc;
use crate::interrupts::{LSC, OTHER, RXQ0, RXT0, TXDW};
use crate::registers as regs;
use crate::testing::*;

const PLAIN: [u8; HEADER_LEN] = [0; HEADER_LEN];
const CHECKSUM: Offloads = Offloads {
    checksum: true,
    ..Offloads::NONE
};
const EOP: u32 = 1 << 24;
const REPORT: u32 = 8 << 24;
const EXTENDED: u32 = 0x20 << 24;
const DATA: u32 = EXTENDED | 1 << 20;

fn started(accepts: Offloads) -> Bench {
    let bench = Bench::new(accepts);
    bench.start();
    bench
}

/// A received legacy descriptor: length, status, errors, tag.
fn legacy(bench: &Bench, at: u64) -> (u16, u8, u8, u16) {
    let bytes = bench.get(RX_RING + 16 * at, 16);
    let pair = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    (pair(8), bytes[12], bytes[13], pair(14))
}

/// A received extended descriptor: status with errors, length, tag.
fn extended(bench: &Bench, at: u64) -> (u32, u16, u16) {
    let bytes = bench.get(RX_RING + 16 * at, 16);
    let pair = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    (u32::from(pair(8)) | u32::from(pair(10)) << 16, pair(12), pair(14))
}

#[test]
fn a_frame_is_sent_from_pieces_and_reported() {
    let bench = started(Offloads::NONE);
    let frame: Vec<u8> = (0..100).collect();
    bench.put(TX_DATA, &frame);
    bench.send(&[
        (TX_DATA, 30, 0),
        (TX_DATA + 30, 0, 0),
        (TX_DATA + 30, 70 | EOP | REPORT, 0xabcd_0000),
    ]);
    assert_eq!(bench.net.sent(), [[&PLAIN[..], &frame].concat()]);
    assert_eq!(bench.get(TX_RING + 32 + 12, 4), [1, 0, 0xcd, 0xab]);
    assert_eq!(bench.get(TX_RING + 12, 4), [0; 4], "nobody asked for a report");
    // One that is too short for the wire is filled up.
    bench.send(&[(TX_DATA, 20 | EOP, 0)]);
    assert_eq!(bench.net.sent()[1].len(), HEADER_LEN + 60);
    assert_eq!(bench.read(regs::ICR) & TXDW, TXDW);
    assert_eq!((bench.read(regs::GPTC), bench.read(regs::TOTL)), (2, 168));
}

#[test]
fn the_second_queue_sends_too() {
    let bench = started(Offloads::NONE);
    let queue = regs::TRANSMIT + regs::QUEUE_STRIDE;
    bench.write(queue + regs::BASE_LOW, 0x3_0000);
    bench.write(queue + regs::LENGTH, 128);
    bench.put(0x3_0000, &TX_DATA.to_le_bytes());
    bench.put(0x3_0008, &(80 | EOP).to_le_bytes());
    bench.write(queue + regs::TAIL, 1);
    bench.until("it is sent", || bench.net.sent().len() == 1);
    bench.until("the head has moved", || bench.read(queue + regs::HEAD) == 1);
}

#[test]
fn checksums_tags_and_segments_are_done_by_the_card() {
    let bench = started(Offloads::NONE);
    bench.write(regs::CTRL, bench.read(regs::CTRL) | 1 << 30);
    let payload: Vec<u8> = (0..3000u32).map(|at| (at * 7) as u8).collect();
    let mut frame = tcp4(&payload);
    start_checksum(&mut frame, 34, 50, false);
    bench.put(TX_DATA, &frame);
    let context = 14 | 24 << 8 | 33 << 16 | 34u64 << 32 | 50 << 40;
    let len = frame.len() as u32;
    bench.send(&[
        (context, 3000 | (EXTENDED | 7 << 24), 54 << 8 | 1460 << 16),
        (TX_DATA, 54 | DATA | (4 | 0x40) << 24, 3 << 8 | 0x2064 << 16),
        (
            TX_DATA + 54,
            (len - 54) | DATA | (4 | 0x40) << 24 | EOP | REPORT,
            0,
        ),
    ]);
    let sent = bench.net.sent();
    assert_eq!(sent.iter().map(Vec::len).collect::<Vec<_>>(), [1530, 1530, 150]);
    let mut seen = Vec::new();
    for frame in &sent {
        let frame = &frame[HEADER_LEN..];
        assert_eq!(frame[12..16], [0x81, 0, 0x20, 0x64]);
        let checked = crate::inspect::check(frame, 18, false);
        assert_eq!(checked.ip, Some(true));
        assert!(checked.layer4.unwrap().1);
        seen.extend_from_slice(&frame[58..]);
    }
    assert_eq!(seen, payload);
    assert_eq!(bench.read(regs::TSCTC), 1);
    // The same context serves a packet of one segment, whose checksum alone is wanted.
    let small = tcp4(&[3; 60]);
    let mut begun = small.clone();
    start_checksum(&mut begun, 34, 50, true);
    bench.put(TX_DATA, &begun);
    bench.send(&[(TX_DATA, begun.len() as u32 | DATA | EOP, 2 << 8)]);
    assert_eq!(bench.net.sent()[3][HEADER_LEN..], small);
    // And a legacy descriptor names one itself.
    bench.send(&[(TX_DATA, begun.len() as u32 | 50 << 16 | EOP | 4 << 24, 34 << 8)]);
    assert_eq!(bench.net.sent()[4][HEADER_LEN..], small);
}

#[test]
fn frames_are_received_in_the_legacy_format() {
    let bench = started(CHECKSUM);
    let frame = tcp4(&[5; 200]);
    bench.net.give(PLAIN, &frame);
    bench.received(1);
    assert_eq!(legacy(&bench, 0), (254, 0x63, 0, 0));
    assert_eq!(bench.get(RX_DATA, 254), frame);
    // Wrong: the guest is told.
    let mut broken = frame.clone();
    broken[100] ^= 1;
    bench.net.give(PLAIN, &broken);
    bench.received(2);
    assert_eq!(legacy(&bench, 1), (254, 0x63, 0x20, 0));
    // Not computed yet: the card does that.
    let mut begun = frame.clone();
    start_checksum(&mut begun, 34, 50, true);
    bench.net.give([1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 1, 0], &begun);
    bench.received(3);
    assert_eq!(legacy(&bench, 2), (254, 0x63, 0, 0));
    assert_eq!(bench.get(RX_DATA + 2 * 2048, 254), frame);
    // Short, and no IP: filled up, without a word on checksums.
    bench.net.give(PLAIN, &[&[0xff; 12][..], &[8, 6, 1]].concat());
    bench.received(4);
    assert_eq!(legacy(&bench, 3), (60, 0x07, 0, 0));
    assert_eq!(bench.read(regs::ICR) & RXT0, RXT0);
    assert_eq!((bench.read(regs::GPRC), bench.read(regs::BPRC)), (4, 1));
}

#[test]
fn check_sequences_and_tags_are_kept_or_taken_out() {
    let bench = started(Offloads::NONE);
    bench.write(regs::CTRL, bench.read(regs::CTRL) | 1 << 30);
    bench.write(regs::RCTL, 1 << 15 | 2);
    let frame = tcp4(&[5; 200]);
    let tagged = [&frame[..12], &[0x81, 0, 0x60, 5], &frame[12..]].concat();
    bench.net.give(PLAIN, &tagged);
    bench.received(1);
    assert_eq!(legacy(&bench, 0), (258, 0x6b, 0, 0x6005));
    assert_eq!(bench.get(RX_DATA, 258), [&frame[..], &crc(&frame)].concat());
}

#[test]
fn long_frames_span_descriptors_in_the_extended_format() {
    let bench = started(Offloads::NONE);
    bench.write(regs::RFCTL, 1 << 15);
    bench.write(regs::RCTL, bench.read(regs::RCTL) | 1 << 5);
    let frame = tcp4(&[9; 5000]);
    bench.net.give(PLAIN, &frame);
    bench.received(3);
    assert_eq!(extended(&bench, 0), (1, 2048, 0));
    assert_eq!(extended(&bench, 1), (1, 2048, 0));
    assert_eq!(extended(&bench, 2), (0x63, 5054 - 4096, 0));
    assert_eq!(bench.get(RX_DATA, 5054), frame);
    // One that is longer than the guest takes is counted, and no more.
    bench.write(regs::RCTL, bench.read(regs::RCTL) & !(1 << 5));
    bench.net.give(PLAIN, &frame);
    bench.net.give(PLAIN, &tcp4(&[1]));
    bench.received(4);
    assert_eq!(bench.read(regs::ROC), 1);
}

#[test]
fn the_split_format_has_frames_in_one_piece() {
    let bench = started(Offloads::NONE);
    bench.write(regs::RFCTL, 1 << 15);
    for at in 0..8u64 {
        let buffers = [
            RX_DATA + 0x4000 * at,
            RX_DATA + 0x4000 * at + 0x1000,
            u64::MAX,
            u64::MAX,
        ];
        for (index, buffer) in (0..).zip(buffers) {
            bench.put(RX_RING + 32 * at + 8 * index, &buffer.to_le_bytes());
        }
    }
    bench.write(regs::PSRCTL, 2 | 4 << 8);
    bench.write(regs::RCTL, 1 << 26 | 1 << 15 | 1 << 10 | 2);
    let frame = tcp4(&[9; 1000]);
    bench.net.give(PLAIN, &frame);
    bench.received(2);
    let bytes = bench.get(RX_RING, 32);
    assert_eq!(bytes[8..12], [0x63, 0, 0, 0]);
    assert_eq!(bytes[12..14], 256u16.to_le_bytes());
    assert_eq!(bytes[16..20], [&[0, 0][..], &798u16.to_le_bytes()].concat()[..]);
    assert_eq!(bench.get(RX_DATA, 256), frame[..256]);
    assert_eq!(bench.get(RX_DATA + 0x1000, 798), frame[256..]);
}

#[test]
fn frames_wait_for_descriptors_and_none_is_lost() {
    let bench = started(Offloads::NONE);
    let frame = |at: u32| tcp4(&at.to_le_bytes());
    for at in 0..200 {
        bench.net.give(PLAIN, &frame(at));
    }
    bench.received(RING - 1);
    let mut tail = RING - 1;
    for at in 0..200u32 {
        let place = at % RING;
        bench.until("a frame is there", || legacy(&bench, place.into()).1 & 1 != 0);
        assert_eq!(
            bench.get(RX_DATA + 2048 * u64::from(place) + 54, 4),
            at.to_le_bytes()
        );
        bench.put(RX_RING + 16 * u64::from(place) + 8, &[0; 8]);
        tail = (tail + 1) % RING;
        bench.write(regs::RECEIVE + regs::TAIL, tail);
    }
    assert_eq!(bench.read(regs::MPC), 0);
}

#[test]
fn filters_keep_frames_out() {
    let bench = started(Offloads::NONE);
    let mut frame = tcp4(&[1]);
    frame[5] ^= 1;
    bench.net.give(PLAIN, &frame);
    bench.net.give(PLAIN, &tcp4(&[1]));
    bench.received(1);
    assert_eq!(bench.get(RX_DATA, 6), MAC);
    bench.write(regs::RCTL, bench.read(regs::RCTL) | 1 << 3);
    bench.net.give(PLAIN, &frame);
    bench.received(2);
}

#[test]
fn interrupts_come_by_pin_by_message_and_by_vectors() {
    let bench = started(Offloads::NONE);
    bench.write(regs::IMS, RXT0);
    bench.net.give(PLAIN, &tcp4(&[1]));
    bench.until("the pin is up", || bench.wire.level.load(Ordering::SeqCst));
    assert_eq!(bench.read(regs::ICR) & RXT0, RXT0);
    assert!(!bench.wire.level.load(Ordering::SeqCst));
    // MSI: the capability behind that of power management.
    let config = bench.card.config();
    let capability = |id: u8| {
        let mut at = u16::from(config.u8(0x34));
        while config.u8(at) != id {
            at = u16::from(config.u8(at + 1));
        }
        at
    };
    let (msi, msix) = (capability(5), capability(0x11));
    bench.card.config_write(msi + 4, &0xfee0_0000u64.to_le_bytes());
    bench.card.config_write(msi + 12, &0x31u16.to_le_bytes());
    bench.card.config_write(msi + 2, &1u16.to_le_bytes());
    bench.net.give(PLAIN, &tcp4(&[1]));
    bench.until("a message comes", || bench.wire.count.load(Ordering::SeqCst) == 1);
    bench.read(regs::ICR);
    bench.card.config_write(msi + 2, &0u16.to_le_bytes());
    // MSI-X: three vectors, as Linux has them.
    let table = bench.card.bar(3).unwrap();
    for vector in 0..5u64 {
        table.write(16 * vector, &0xfee0_0000u64.to_le_bytes());
        table.write(16 * vector + 8, &(0x40 + vector).to_le_bytes());
    }
    bench.card.config_write(msix + 2, &0x8000u16.to_le_bytes());
    bench.write(regs::IVAR, 8 | 9 << 8 | 10 << 16);
    bench.write(regs::EIAC, RXQ0 | 1 << 22);
    bench.write(regs::IMC, u32::MAX);
    bench.write(regs::IMS, RXQ0 | 1 << 22 | OTHER | LSC);
    let last = || bench.wire.messages.lock().unwrap().last().map(|msi| msi.data);
    bench.net.give(PLAIN, &tcp4(&[1]));
    bench.until("the first vector comes", || last() == Some(0x40));
    assert_eq!(bench.read(regs::IMS) & RXQ0, 0, "masked by itself");
    bench.send(&[(TX_DATA, 80 | EOP | REPORT, 0)]);
    bench.until("the second vector comes", || last() == Some(0x41));
    bench.card.control().set_link(false);
    bench.until("the third vector comes", || last() == Some(0x42));
    assert_eq!(bench.read(regs::ICR) & (LSC | OTHER), LSC | OTHER);
    assert_eq!(bench.read(regs::STATUS) & 2, 0);
}

#[test]
fn without_a_cable_nothing_comes_or_goes() {
    let bench = started(Offloads::NONE);
    let control = bench.card.control();
    control.set_link(false);
    bench.send(&[(TX_DATA, 80 | EOP | REPORT, 0)]);
    assert!(bench.net.sent().is_empty());
    bench.net.give(PLAIN, &tcp4(&[1]));
    bench.until("it is thrown away", || {
        bench.net.to_guest.lock().unwrap().is_empty()
    });
    control.set_link(true);
    assert!(control.is_plugged());
    bench.net.give(PLAIN, &tcp4(&[2]));
    bench.received(1);
    assert_eq!(bench.get(RX_DATA + 54, 1), [2]);
    assert_eq!(control.mac(), MAC);
}

#[test]
fn a_back_end_that_goes_takes_the_link_along() {
    let bench = started(Offloads::NONE);
    bench.net.gone.store(true, Ordering::SeqCst);
    bench.send(&[(TX_DATA, 80 | EOP, 0)]);
    bench.until("the link is down", || bench.read(regs::STATUS) & 2 == 0);
    bench.send(&[(TX_DATA, 80 | EOP, 0)]);
    assert_eq!(bench.read(regs::ICR) & LSC, LSC);
}

#[test]
fn resets_stop_everything_and_it_starts_again() {
    let bench = started(Offloads::NONE);
    bench.write(regs::RA, 1);
    bench.write(regs::CTRL, 1 << 26);
    assert_eq!(bench.read(regs::RCTL), 0);
    bench.net.give(PLAIN, &tcp4(&[1]));
    bench.start();
    bench.received(1);
    // D3hot: nothing moves; what comes back has forgotten its registers.
    let power = u16::from(bench.card.config().u8(0x34)) + 4;
    bench.card.config_write(power, &3u16.to_le_bytes());
    bench.net.give(PLAIN, &tcp4(&[1]));
    bench.card.config_write(power, &0u16.to_le_bytes());
    assert_eq!(
        (bench.read(regs::RCTL), bench.read(regs::RECEIVE + regs::HEAD)),
        (0, 0)
    );
    bench.start();
    bench.received(1);
    bench.card.reset();
    assert_eq!(bench.card.config().u16(4), 0);
    bench.card.config_write(4, &7u16.to_le_bytes());
    bench.start();
    bench.net.give(PLAIN, &tcp4(&[1]));
    bench.received(1);
}

#[test]
fn ports_are_a_window_to_the_registers() {
    let bench = Bench::new(Offloads::NONE);
    let ports = bench.card.bar(2).unwrap();
    ports.write(0, &regs::VET.to_le_bytes());
    ports.write(4, &0x88a8u32.to_le_bytes());
    assert_eq!(bench.read(regs::VET), 0x88a8);
    let mut data = [0; 4];
    ports.read(4, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0x88a8);
    ports.write(0, &u32::MAX.to_le_bytes());
    ports.read(4, &mut data);
    assert_eq!(data, [0; 4]);
}
