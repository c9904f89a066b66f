//! Media that come and go while a driver uses the drive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ostler_disk::Disk;
use ostler_disk::recording::{Asked, RecordingDisk};

use crate::testing::*;
use crate::{Order, TrayControl, TrayError, TrayState};

const BLOCK: usize = 2048;
const BLOCKS: usize = 256;

fn medium(byte: u8) -> Image {
    Image::new(&vec![byte; BLOCKS * BLOCK])
}

fn tray(bench: &Bench) -> TrayControl {
    bench.ahci.tray(0).unwrap()
}

fn read(block: u32, count: u16) -> [u8; 10] {
    let mut packet = [0; 10];
    packet[0] = 0x28;
    packet[2..6].copy_from_slice(&block.to_be_bytes());
    packet[7..9].copy_from_slice(&count.to_be_bytes());
    packet
}

/// Key, code and qualifier of a packet's failure; `None` if it went well.
fn outcome(bench: &Bench, packet: &[u8], len: u32) -> Option<(u8, u8, u8)> {
    let end = bench.run_packet(packet, len);
    if end & 1 == 0 {
        return None;
    }
    bench.recover();
    bench.run_packet(&[0x03, 0, 0, 0, 18], 18);
    let sense = bench.get(DATA, 18);
    Some((sense[2], sense[12], sense[13]))
}

fn prevent(bench: &Bench, on: bool) {
    assert_eq!(outcome(bench, &[0x1e, 0, 0, 0, u8::from(on)], 0), None);
}

#[test]
fn an_empty_drive_gets_a_medium_and_loses_it() {
    let (first, second) = (medium(1), medium(2));
    let bench = Bench::empty();
    let tray = tray(&bench);
    assert_eq!(outcome(&bench, &[0x00], 0), Some((6, 0x29, 0)));
    assert_eq!(outcome(&bench, &read(0, 1), 2048), Some((2, 0x3a, 1)));
    for (image, byte) in [(&first, 1), (&second, 2), (&first, 1)] {
        tray.change_medium(Some(image.open(false)), false).unwrap();
        assert_eq!(tray.state(), TrayState::default());
        assert_eq!(outcome(&bench, &[0x00], 0), Some((6, 0x28, 0)));
        assert_eq!(outcome(&bench, &read(255, 1), 2048), None);
        assert_eq!(bench.get(DATA, BLOCK), [byte; BLOCK]);
    }
    tray.change_medium(None, false).unwrap();
    assert_eq!(outcome(&bench, &read(0, 1), 2048), Some((2, 0x3a, 1)));
    bench.assert_alive(0xa1);
}

#[test]
fn steps_by_themselves_have_their_order() {
    let image = medium(3);
    let bench = Bench::empty();
    let tray = tray(&bench);
    let lay = |disk: Option<Arc<dyn Disk>>| Order {
        medium: Some(disk),
        ..Order::default()
    };
    let refused = tray.carry_out(lay(Some(image.open(false))));
    assert!(matches!(refused, Err(TrayError::Closed)));
    let open = Order {
        open: Some(false),
        ..Order::default()
    };
    tray.carry_out(open.clone()).unwrap();
    tray.carry_out(open).unwrap();
    assert!(tray.state().open);
    tray.carry_out(lay(Some(image.open(false)))).unwrap();
    bench.run_packet(&[0x00], 0);
    bench.recover();
    assert_eq!(outcome(&bench, &read(0, 1), 2048), Some((2, 0x3a, 2)));
    let close = Order {
        close: true,
        ..Order::default()
    };
    tray.carry_out(close).unwrap();
    assert_eq!(outcome(&bench, &read(0, 1), 2048), Some((6, 0x28, 0)));
    assert_eq!(outcome(&bench, &read(0, 1), 2048), None);
    // A disk has no tray, and a port without a drive neither.
    assert!(bench.ahci.tray(1).is_none() && bench.ahci.tray(99).is_none());
    assert!(Bench::disk(image.open(true)).ahci.tray(0).is_none());
}

#[test]
fn a_locked_tray_is_opened_by_the_guest_or_by_force() {
    let (first, second) = (medium(1), medium(2));
    let bench = Bench::cdrom(first.open(false));
    let tray = tray(&bench);
    let moves = Arc::new(AtomicUsize::new(0));
    let count = moves.clone();
    tray.listen(move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    outcome(&bench, &[0x00], 0);
    prevent(&bench, true);
    assert!(tray.state().locked);
    let refused = tray.change_medium(Some(second.open(false)), false);
    assert!(matches!(refused, Err(TrayError::Locked)));
    let event = [0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8, 0];
    assert_eq!(outcome(&bench, &event, 8), None);
    assert_eq!(bench.get(DATA + 4, 2), [1, 2], "the guest is asked to eject");
    assert_eq!(outcome(&bench, &read(0, 1), 2048), None);
    assert_eq!(bench.get(DATA, 1), [1], "and keeps its medium");
    // It does so.
    prevent(&bench, false);
    assert_eq!(outcome(&bench, &[0x1b, 0, 0, 0, 2], 0), None);
    assert_eq!(moves.load(Ordering::SeqCst), 1);
    assert!(tray.state().open && !tray.state().locked);
    tray.change_medium(Some(second.open(false)), false).unwrap();
    outcome(&bench, &[0x00], 0);
    // Or it does not.
    prevent(&bench, true);
    tray.change_medium(None, true).unwrap();
    assert_eq!(outcome(&bench, &[0x00], 0), Some((2, 0x3a, 1)));
    assert_eq!(tray.state(), TrayState::default());
    assert_eq!(
        moves.load(Ordering::SeqCst),
        1,
        "only the guest's own moves are told"
    );
}

#[test]
fn a_swap_waits_for_what_is_in_flight() {
    let held = held();
    let image = medium(7);
    let bench = Bench::cdrom(held.clone());
    let tray = tray(&bench);
    outcome(&bench, &[0x00], 0);
    let mut packet = [0; 16];
    packet[..10].copy_from_slice(&read(0, 1));
    bench.prepare(0, &Fis::packet().bytes(), Some(&packet), &[(DATA, 2048)]);
    bench.set_port(PX_CI, 1);
    held.wait_for(1);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let swap = scope.spawn(|| {
            let swapped = tray.change_medium(Some(image.open(false)), false);
            done.store(true, Ordering::SeqCst);
            swapped
        });
        // The order is there, and nothing of it is done.
        bench.until("it is ordered", || bench_is_ordered(&tray));
        assert!(!done.load(Ordering::SeqCst));
        held.release();
        swap.join().unwrap().unwrap();
    });
    bench.until("the read is over", || bench.port(PX_CI) == 0);
    assert_eq!(held.asked(), [Asked::Read]);
    assert_eq!(outcome(&bench, &[0x00], 0), Some((6, 0x28, 0)));
    assert_eq!(outcome(&bench, &read(1, 1), 2048), None);
    assert_eq!(bench.get(DATA, BLOCK), [7; BLOCK]);
    assert_eq!(held.asked(), [Asked::Read], "the old medium is left alone");
}

fn bench_is_ordered(tray: &TrayControl) -> bool {
    tray.shared.trays[0].is_ordered()
}

#[test]
fn storage_that_never_answers_costs_a_refusal() {
    let held = RecordingDisk::holding(1 << 20, 512);
    let bench = Bench::cdrom(held.clone());
    let tray = tray(&bench);
    outcome(&bench, &[0x00], 0);
    let mut packet = [0; 16];
    packet[..10].copy_from_slice(&read(0, 1));
    bench.prepare(0, &Fis::packet().bytes(), Some(&packet), &[(DATA, 2048)]);
    bench.set_port(PX_CI, 1);
    held.wait_for(1);
    assert!(matches!(tray.change_medium(None, true), Err(TrayError::Busy)));
    held.release();
    bench.until("the read is over", || bench.port(PX_CI) == 0);
    assert_eq!(tray.state(), TrayState::default(), "the order was withdrawn");
    assert_eq!(outcome(&bench, &read(0, 1), 2048), None);
}

#[test]
fn nobody_waits_for_a_worker_that_is_gone() {
    let image = medium(1);
    let bench = Bench::cdrom(image.open(false));
    let tray = tray(&bench);
    drop(bench);
    assert!(matches!(tray.change_medium(None, true), Err(TrayError::Gone)));
}

/// Every read is of one medium, wholly, however fast they change.
#[test]
fn media_change_under_a_guest_that_reads() {
    const SWAPS: u8 = 60;
    let images: Vec<Image> = (1..=3).map(medium).collect();
    let bench = Bench::cdrom(images[0].open(false));
    let tray = tray(&bench);
    let over = AtomicBool::new(false);
    let (mut good, mut changed) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0..SWAPS {
                let image = &images[usize::from(turn) % images.len()];
                let disk = (turn % 4 != 3).then(|| image.open(false));
                tray.change_medium(disk, true).unwrap();
            }
            over.store(true, Ordering::SeqCst);
        });
        while !over.load(Ordering::SeqCst) || good == 0 {
            match outcome(&bench, &read(0, 64), 64 * BLOCK as u32) {
                None => {
                    good += 1;
                    let bytes = bench.get(DATA, 64 * BLOCK);
                    assert!((1..=3).contains(&bytes[0]), "{}", bytes[0]);
                    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "bytes of two media");
                }
                Some((6, 0x28 | 0x29, 0)) => changed += 1,
                Some((2, 0x3a, 1)) if !over.load(Ordering::SeqCst) => {}
                Some((2, 0x3a, 1)) => tray.change_medium(Some(images[0].open(false)), true).unwrap(),
                Some(other) => panic!("{other:x?}"),
            }
        }
    });
    assert!(changed > 0, "the guest hears of its media");
    bench.assert_alive(0xa1);
}
