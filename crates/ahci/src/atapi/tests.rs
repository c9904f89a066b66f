//! Packets, and what comes of them.

use super::*;
use crate::tray::TrayState;

/// A drive that has told of its power-on already.
fn drive(blocks: u64) -> Cdrom {
    let mut drive = Cdrom::new(Some(blocks * BLOCK), "serial".into());
    drive.attention = None;
    drive
}

fn registers() -> Registers {
    Registers {
        is_command: true,
        command: PACKET,
        features: 1,
        ..Registers::default()
    }
}

fn send(drive: &mut Cdrom, packet: &[u8]) -> Work {
    let mut whole = [0; 16];
    whole[..packet.len()].copy_from_slice(packet);
    drive.start(&registers(), Some(&whole))
}

/// The bytes of an answer.
fn data(drive: &mut Cdrom, packet: &[u8]) -> Vec<u8> {
    match send(drive, packet) {
        Work::Send {
            data,
            link: Link::Packet,
        } => data,
        other => panic!("{packet:x?}: {other:?}"),
    }
}

/// Key, code and qualifier of a packet that fails.
fn sense(drive: &mut Cdrom, packet: &[u8]) -> (u8, u8, u8) {
    match send(drive, packet) {
        Work::Done(end) if end.is_error() => {}
        other => panic!("{packet:x?}: {other:?}"),
    }
    let sense = data(drive, &[REQUEST_SENSE, 0, 0, 0, 18]);
    (sense[2], sense[12], sense[13])
}

fn is_done(work: &Work) -> bool {
    matches!(work, Work::Done(end) if !end.is_error())
}

#[test]
fn answers_are_cut_to_the_room_that_there_is() {
    let mut drive = drive(100);
    let inquiry = data(&mut drive, &[INQUIRY, 0, 0, 0, 255]);
    assert_eq!((inquiry[0], inquiry[1], inquiry.len()), (5, 0x80, 36));
    assert_eq!(&inquiry[8..], b"OSTLER  CD-ROM          1.0 ");
    assert_eq!(data(&mut drive, &[INQUIRY, 0, 0, 0, 5]), inquiry[..5]);
    assert!(is_done(&send(&mut drive, &[INQUIRY])));
    assert_eq!(data(&mut drive, &[INQUIRY, 1, 0x80, 0, 255])[4..], *b"serial");
    assert_eq!(sense(&mut drive, &[INQUIRY, 1, 0x99, 0, 255]), (5, 0x24, 0));
}

#[test]
fn the_table_of_contents_is_one_track() {
    let mut drive = drive(1000);
    let toc = data(&mut drive, &[READ_TOC, 0, 0, 0, 0, 0, 0, 0, 255, 0]);
    let expected = [
        0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x14, 0xaa, 0, 0, 0, 3, 0xe8,
    ];
    assert_eq!(toc, expected);
    // As minute, second and frame; the lead-out alone.
    let lead_out = data(&mut drive, &[READ_TOC, 2, 0, 0, 0, 0, 0xaa, 0, 255, 0]);
    assert_eq!(lead_out[4..], [0, 0x14, 0xaa, 0, 0, 0, 15, 25]);
    assert_eq!(
        data(&mut drive, &[READ_TOC, 0, 1, 0, 0, 0, 0, 0, 255, 0]).len(),
        12
    );
    assert_eq!(
        data(&mut drive, &[READ_TOC, 0, 0, 0, 0, 0, 0, 0, 255, 0x40]).len(),
        12
    );
    assert_eq!(
        data(&mut drive, &[READ_TOC, 0, 2, 0, 0, 0, 0, 0, 255, 0]).len(),
        48
    );
    assert_eq!(
        sense(&mut drive, &[READ_TOC, 0, 5, 0, 0, 0, 0, 0, 255, 0]),
        (5, 0x24, 0)
    );
    assert_eq!(
        sense(&mut drive, &[READ_TOC, 0, 0, 0, 0, 0, 7, 0, 255, 0]),
        (5, 0x24, 0)
    );
}

#[test]
fn the_profile_follows_the_size_of_the_medium() {
    let get = [GET_CONFIGURATION, 0, 0, 0, 0, 0, 0, 1, 0, 0];
    for (blocks, profile) in [(1000, 0x08), (360_000, 0x08), (360_001, 0x10)] {
        let all = data(&mut drive(blocks), &get);
        assert_eq!((all[6], all[7]), (0, profile), "{blocks}");
        assert_eq!(
            u32::from_be_bytes([all[0], all[1], all[2], all[3]]) as usize,
            all.len() - 4
        );
    }
    let mut drive = drive(10);
    // One feature; features from one on that are current.
    let one = data(&mut drive, &[GET_CONFIGURATION, 2, 0, 0x1e, 0, 0, 0, 1, 0, 0]);
    assert_eq!((one.len(), one[8], one[9]), (16, 0, 0x1e));
    let some = data(&mut drive, &[GET_CONFIGURATION, 1, 0, 0x1f, 0, 0, 0, 1, 0, 0]);
    assert_eq!(some.len(), 8);
}

#[test]
fn mode_pages_are_of_a_reader() {
    let mut drive = drive(10);
    let page = data(&mut drive, &[MODE_SENSE_10, 0, 0x2a, 0, 0, 0, 0, 0, 255, 0]);
    assert_eq!((page[1], page[8], page[9], page.len()), (28, 0x2a, 20, 30));
    assert_eq!(page[11], 0, "it writes nothing");
    let all = data(&mut drive, &[MODE_SENSE_6, 0, 0x3f, 0, 255, 0]);
    assert_eq!(
        (usize::from(all[0]), all[4], all[12]),
        (all.len() - 1, 0x01, 0x2a)
    );
    let changeable = data(&mut drive, &[MODE_SENSE_10, 0, 0x6a, 0, 0, 0, 0, 0, 255, 0]);
    assert!(changeable[10..].iter().all(|&byte| byte == 0));
    assert_eq!(
        sense(&mut drive, &[MODE_SENSE_6, 0, 0xea, 0, 255, 0]),
        (5, 0x24, 0)
    );
    assert_eq!(
        sense(&mut drive, &[MODE_SENSE_6, 0, 0x08, 0, 255, 0]),
        (5, 0x24, 0)
    );
}

#[test]
fn reads_are_bounded_by_the_medium_and_in_length() {
    let mut drive = drive(100_000);
    let read = |first: u32, count: u32| {
        let mut packet = vec![READ_12, 0];
        packet.extend(first.to_be_bytes());
        packet.extend(count.to_be_bytes());
        packet
    };
    let longest = Work::Read {
        offset: 5 * BLOCK,
        len: 32 << 20,
        link: Link::Packet,
    };
    assert_eq!(send(&mut drive, &read(5, 16_384)), longest);
    assert!(is_done(&send(&mut drive, &read(5, 0))));
    assert_eq!(sense(&mut drive, &read(5, 16_385)), (5, 0x24, 0));
    assert_eq!(sense(&mut drive, &read(99_999, 2)), (5, 0x21, 0));
    assert_eq!(sense(&mut drive, &read(u32::MAX, u32::MAX)), (5, 0x21, 0));
    assert_eq!(
        sense(&mut drive, &[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0]),
        (5, 0x20, 0),
        "WRITE (10)"
    );
}

#[test]
fn the_tray_opens_unless_it_is_locked() {
    let mut drive = drive(10);
    let event = [GET_EVENT_STATUS, 1, 0, 0, 0x10, 0, 0, 0, 8, 0];
    assert_eq!(data(&mut drive, &event), [0, 6, 4, 0x10, 2, 2, 0, 0]);
    assert_eq!(data(&mut drive, &event)[4], 0, "an event is told once");
    let eject = [START_STOP_UNIT, 0, 0, 0, 2];
    send(&mut drive, &[PREVENT_ALLOW, 0, 0, 0, 1]);
    assert_eq!(sense(&mut drive, &eject), (5, 0x53, 2));
    send(&mut drive, &[PREVENT_ALLOW, 0, 0, 0, 0]);
    assert!(is_done(&send(&mut drive, &eject)));
    assert_eq!(data(&mut drive, &event)[4..6], [3, 1]);
    for packet in [
        &[TEST_UNIT_READY][..],
        &[READ_CAPACITY],
        &[READ_10, 0, 0, 0, 0, 0, 0, 0, 1],
    ] {
        assert_eq!(sense(&mut drive, packet), (2, 0x3a, 2));
    }
    assert!(is_done(&send(&mut drive, &[START_STOP_UNIT, 0, 0, 0, 3])));
    assert_eq!(sense(&mut drive, &[TEST_UNIT_READY]), (6, 0x28, 0));
    assert!(is_done(&send(&mut drive, &[TEST_UNIT_READY])));
    // A reset unlocks, and is told.
    send(&mut drive, &[PREVENT_ALLOW, 0, 0, 0, 1]);
    drive.reset(true);
    assert_eq!(sense(&mut drive, &[TEST_UNIT_READY]), (6, 0x29, 0));
    assert!(is_done(&send(&mut drive, &eject)));
}

const EVENT: [u8; 10] = [GET_EVENT_STATUS, 1, 0, 0, 0x10, 0, 0, 0, 8, 0];
const EJECT: [u8; 5] = [START_STOP_UNIT, 0, 0, 0, 2];
const LOAD: [u8; 5] = [START_STOP_UNIT, 0, 0, 0, 3];

/// Code of the media event that there is to tell, and what is said of tray and medium.
fn event(drive: &mut Cdrom) -> (u8, u8) {
    let data = data(drive, &EVENT);
    (data[4], data[5])
}

#[test]
fn tray_and_medium_show_in_every_combination() {
    let needs_medium = [
        &[TEST_UNIT_READY][..],
        &[READ_CAPACITY],
        &[READ_10, 0, 0, 0, 0, 0, 0, 0, 1],
        &[READ_TOC, 0, 0, 0, 0, 0, 0, 0, 255, 0],
        &[READ_DISC_INFORMATION, 0, 0, 0, 0, 0, 0, 0, 34],
        &[SEEK_10],
    ];
    // Medium, tray open; the sense, tray and presence bits, the current profile.
    let table = [
        (None, false, Some((2, 0x3a, 1)), 0b00, 0x00),
        (None, true, Some((2, 0x3a, 2)), 0b01, 0x00),
        (Some(20 * BLOCK), false, None, 0b10, 0x08),
        (Some(20 * BLOCK), true, Some((2, 0x3a, 2)), 0b01, 0x00),
    ];
    for (medium, open, expected, status, profile) in table {
        let mut drive = Cdrom::new(medium, String::new());
        drive.attention = None;
        if open {
            assert!(is_done(&send(&mut drive, &EJECT)));
        }
        for packet in needs_medium {
            match expected {
                Some(expected) => assert_eq!(sense(&mut drive, packet), expected, "{packet:x?}"),
                None => assert!(!matches!(send(&mut drive, packet), Work::Done(end) if end.is_error())),
            }
        }
        assert_eq!(event(&mut drive).1, status);
        let configuration = data(&mut drive, &[GET_CONFIGURATION, 0, 0, 0, 0, 0, 0, 0, 8, 0]);
        assert_eq!(configuration[7], profile);
        let mechanism = data(&mut drive, &[MECHANISM_STATUS, 0, 0, 0, 0, 0, 0, 0, 0, 8]);
        assert_eq!(mechanism[1], u8::from(open) << 4);
    }
}

#[test]
fn media_that_come_and_go_are_told_once() {
    let mut drive = Cdrom::new(None, String::new());
    drive.attention = None;
    assert_eq!(event(&mut drive), (0, 0));
    // An empty tray moves without an event.
    assert!(drive.open_from_outside(false));
    assert_eq!(event(&mut drive), (0, 1));
    drive.lay(Some(30 * BLOCK));
    assert_eq!(sense(&mut drive, &[TEST_UNIT_READY]), (2, 0x3a, 2));
    drive.close_tray();
    assert_eq!(event(&mut drive), (2, 2));
    assert_eq!(event(&mut drive), (0, 2));
    assert_eq!(sense(&mut drive, &[TEST_UNIT_READY]), (6, 0x28, 0));
    assert_eq!(data(&mut drive, &[READ_CAPACITY])[..4], 29u32.to_be_bytes());
    // Another one, between two looks of the driver.
    assert!(drive.open_from_outside(false));
    drive.lay(Some(40 * BLOCK));
    drive.close_tray();
    assert_eq!(event(&mut drive), (2, 2));
    assert_eq!(sense(&mut drive, &[READ_CAPACITY]), (6, 0x28, 0));
    assert_eq!(data(&mut drive, &[READ_CAPACITY])[..4], 39u32.to_be_bytes());
    // Out, and the tray closes on nothing.
    assert!(drive.open_from_outside(false));
    assert_eq!(event(&mut drive), (3, 1));
    drive.lay(None);
    drive.close_tray();
    assert_eq!(event(&mut drive), (0, 0));
    assert_eq!(sense(&mut drive, &[TEST_UNIT_READY]), (2, 0x3a, 1));
    // The guest may move it, too.
    assert!(is_done(&send(&mut drive, &EJECT)) && drive.tray().open);
    assert!(is_done(&send(&mut drive, &LOAD)) && !drive.tray().open);
    assert_eq!(event(&mut drive), (0, 0));
}

#[test]
fn a_locked_tray_opens_from_outside_by_force_only() {
    let mut drive = drive(10);
    event(&mut drive);
    send(&mut drive, &[PREVENT_ALLOW, 0, 0, 0, 1]);
    assert!(drive.tray().locked);
    assert!(!drive.open_from_outside(false));
    assert_eq!(event(&mut drive), (1, 2), "the guest is asked");
    assert!(is_done(&send(&mut drive, &[TEST_UNIT_READY])));
    assert!(drive.open_from_outside(true));
    assert_eq!(event(&mut drive), (3, 1));
    assert_eq!(
        drive.tray(),
        TrayState {
            open: true,
            locked: false
        }
    );
    // An open tray is not kept open by a lock.
    send(&mut drive, &[PREVENT_ALLOW, 0, 0, 0, 1]);
    assert!(drive.open_from_outside(false));
    assert!(is_done(&send(&mut drive, &EJECT)));
}

#[test]
fn a_packet_command_without_its_packet_is_aborted() {
    let end = drive(10).start(&registers(), None);
    assert_eq!(end, Work::Done(Taskfile::failed(&registers(), ERROR_ABRT)));
}
