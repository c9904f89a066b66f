//! The controller as its driver sees it: registers, commands by slot, errors, resets.

use std::sync::atomic::Ordering;

use ostler_disk::RequestError;
use ostler_disk::recording::Asked;
use ostler_pci::PciFunction;

use crate::testing::*;
use crate::{Ahci, DriveKind, Error};

const SECTORS: usize = 2048;

fn image() -> Image {
    let bytes: Vec<u8> = (0..SECTORS * 512)
        .map(|at| (at / 512 * 7 + at % 251) as u8)
        .collect();
    Image::new(&bytes)
}

#[test]
fn registers_have_their_values_and_writable_bits() {
    let image = image();
    let bench = Bench::new(vec![(DriveKind::Disk, image.open(true))]);
    // Offset, value after power-on, bits that a write of all ones leaves set, and of all zeroes.
    let table: &[(u64, u32, u32, u32)] = &[
        (0x00, 0xc134_9f05, 0xc134_9f05, 0xc134_9f05),
        (0x08, 0, 0, 0),
        (0x0c, 0x3f, 0x3f, 0x3f),
        (0x10, 0x0001_0301, 0x0001_0301, 0x0001_0301),
        (0x14, 0, 0, 0),
        (0x24, 0, 0, 0),
        (0x100, 0, 0xffff_fc00, 0),
        (0x104, 0, u32::MAX, 0),
        (0x108, 0, 0xffff_ff00, 0),
        (0x10c, 0, u32::MAX, 0),
        (0x110, 1 << 6, 1 << 6, 1 << 6),
        (0x114, 0, 0xfdc0_00ff, 0),
        (0x120, 0x150, 0x150, 0x150),
        (0x124, 0x101, 0x101, 0x101),
        (0x128, 0x133, 0x133, 0x133),
        (0x134, 0, 0, 0),
        (0x138, 0, 0, 0),
        (0x140, 0, 0, 0),
        // A port without a drive.
        (0x1a0, 0x7f, 0x7f, 0x7f),
        (0x1a4, u32::MAX, u32::MAX, u32::MAX),
        (0x1a8, 0, 0, 0),
        (0x1b8, 0, 0, 0),
        // Past the ports.
        (0x400, 0, 0, 0),
        (0xffc, 0, 0, 0),
    ];
    for &(offset, initial, ones, zeroes) in table {
        assert_eq!(bench.read(offset), initial, "{offset:#x} at first");
        bench.write(offset, u32::MAX);
        assert_eq!(bench.read(offset), ones, "{offset:#x} after ones");
        bench.write(offset, 0);
        assert_eq!(bench.read(offset), zeroes, "{offset:#x} after zeroes");
    }
    assert_eq!(bench.read(GHC), 1 << 31);
    bench.write(GHC, 2);
    assert_eq!(bench.read(GHC), 1 << 31 | 2);
    // What PxSERR says, PxIS follows.
    bench.set_port(PX_SERR, u32::MAX);
    assert_eq!(bench.port(PX_IS), 0);
    // Bytes and halves of registers.
    bench.write_bytes(0x101, &[0xfc, 0x12]);
    assert_eq!(bench.port(PX_CLB), 0x0012_fc00);
    bench.write_bytes(0x102, &[1, 2, 3, 4]);
    assert_eq!(
        (bench.port(PX_CLB), bench.port(PX_CLB + 4)),
        (0x0201_fc00, 0x0403)
    );
}

#[test]
fn a_driver_identifies_the_disk() {
    let image = image();
    let bench = Bench::disk(image.open(true));
    assert_eq!(bench.run(Fis::new(0xec, 0, 0), 512), 0x50);
    let words = bench.get(DATA, 512);
    let word = |at: usize| u16::from_le_bytes([words[2 * at], words[2 * at + 1]]);
    assert_eq!(&words[20..28], b"esirla  ", "the serial number, two by two");
    assert_eq!(u32::from(word(60)) | u32::from(word(61)) << 16, SECTORS as u32);
    assert_eq!(word(100), SECTORS as u16);
    assert_eq!(word(75), 31);
    assert_ne!(word(76) & 1 << 8, 0, "it has a queue");
    assert_eq!(word(169), 1, "it trims");
    assert_eq!(words.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    // By PIO: a PIO set-up is the end.
    assert_eq!(bench.port(PX_IS), 1 << 1);
    let setup = bench.get(RECEIVED + 0x20, 20);
    assert_eq!((setup[0], setup[1], setup[15]), (0x5f, 0x60, 0x50));
    assert_eq!(bench.get(LIST + 4, 4), 512u32.to_le_bytes());
}

#[test]
fn data_go_to_the_disk_and_back_by_every_way() {
    // Write, read, and how the end shows.
    let ways: &[(u8, u8, u32, u32)] = &[
        (0x35, 0x25, 1, 1),
        (0xca, 0xc8, 1, 1),
        (0x34, 0x24, 1, 2),
        (0x30, 0x20, 1, 2),
        (0xc5, 0xc4, 1, 2),
        (0x39, 0x29, 1, 2),
        (0x3d, 0x25, 1, 1),
    ];
    for (round, &(write, read, written, back)) in ways.iter().enumerate() {
        let image = image();
        let bench = Bench::disk(image.open(true));
        let before = image.contents();
        let bytes: Vec<u8> = (0..4096).map(|at| (at * 3 + round) as u8).collect();
        bench.put(DATA, &bytes);
        assert_eq!(bench.run(Fis::new(write, 100, 8), 4096), 0x50, "{write:#x}");
        assert_eq!(bench.port(PX_IS), written, "{write:#x}");
        assert_eq!(bench.get(LIST + 4, 4), 4096u32.to_le_bytes());
        let end = bench.get(RECEIVED + 0x40, 20);
        assert_eq!((end[0], end[1], end[2]), (0x34, 0x40, 0x50));
        let after = image.contents();
        assert_eq!(after[51_200..55_296], bytes, "{write:#x}");
        assert_eq!(
            (&after[..51_200], &after[55_296..]),
            (&before[..51_200], &before[55_296..])
        );
        bench.put(DATA, &[0; 4096]);
        assert_eq!(bench.run(Fis::new(read, 100, 8), 4096), 0x50, "{read:#x}");
        assert_eq!(bench.port(PX_IS), back, "{read:#x}");
        assert_eq!(bench.get(DATA, 4096), bytes, "{read:#x}");
    }
}

#[test]
fn a_transfer_is_scattered_as_its_list_says() {
    let image = image();
    let bench = Bench::disk(image.open(true));
    let list = [
        (DATA, 2),
        (DATA + 0x1000, 510),
        (DATA + 0x101fe, 256),
        (DATA + 0x8000, 256),
    ];
    bench.prepare(0, &Fis::new(0x25, 3, 2).bytes(), None, &list);
    bench.set_port(PX_CI, 1);
    bench.until("it is over", || bench.port(PX_CI) == 0);
    let got: Vec<u8> = list
        .iter()
        .flat_map(|&(at, len)| bench.get(at, len as usize))
        .collect();
    assert_eq!(got, image.contents()[3 * 512..5 * 512]);
}

#[test]
fn thirty_two_commands_are_in_the_queue_together() {
    let held = held();
    let bench = Bench::disk(held.clone());
    for tag in 0..32u8 {
        let fis = Fis::queued(0x60, tag, u64::from(tag) * 8, 8);
        bench.prepare(tag, &fis.bytes(), None, &[(DATA + 0x1000 * u64::from(tag), 4096)]);
    }
    bench.set_port(PX_SACT, u32::MAX);
    bench.set_port(PX_CI, u32::MAX);
    bench.until("the drive has taken all", || bench.port(PX_CI) == 0);
    bench.until("the disk has all", || held.asked().len() == 32);
    assert_eq!(bench.port(PX_SACT), u32::MAX, "none is over");
    assert_eq!(bench.port(PX_TFD) & 0x80, 0, "the drive is ready for more");
    assert_eq!(bench.port(PX_IS), 0);
    held.answer(Ok(()));
    bench.until("all are over", || bench.port(PX_SACT) == 0);
    assert_eq!(bench.port(PX_IS), 1 << 3);
    assert_eq!(bench.get(RECEIVED + 0x58, 2), [0xa1, 0x40]);
}

#[test]
fn queued_data_are_right() {
    let image = image();
    let bench = Bench::disk(image.open(true));
    let piece = |tag: u8| vec![tag ^ 0xa5; 512];
    for tag in 0..32u8 {
        bench.put(DATA + 512 * u64::from(tag), &piece(tag));
        let fis = Fis::queued(0x61, tag, 1000 + u64::from(tag), 1);
        bench.prepare(tag, &fis.bytes(), None, &[(DATA + 512 * u64::from(tag), 512)]);
    }
    bench.set_port(PX_SACT, u32::MAX);
    bench.set_port(PX_CI, u32::MAX);
    bench.until("all are over", || {
        bench.port(PX_SACT) == 0 && bench.port(PX_CI) == 0
    });
    let contents = image.contents();
    for tag in 0..32u8 {
        let at = (1000 + usize::from(tag)) * 512;
        assert_eq!(contents[at..at + 512], piece(tag), "tag {tag}");
    }
}

#[test]
fn a_failed_queued_command_is_in_the_log() {
    let held = held();
    let bench = Bench::disk(held.clone());
    for tag in [4, 9] {
        let fis = Fis::queued(0x60, tag, 77, 1);
        bench.prepare(tag, &fis.bytes(), None, &[(DATA, 512)]);
        bench.set_port(PX_SACT, 1 << tag);
        bench.set_port(PX_CI, 1 << tag);
        bench.until("the drive has it", || bench.port(PX_CI) == 0);
    }
    bench.until("the disk has both", || held.asked().len() == 2);
    held.answer(Err(RequestError::Host(5)));
    bench.until("there is an error", || bench.port(PX_IS) & 1 << 30 != 0);
    assert_eq!(bench.port(PX_TFD), 0x4051, "status and error");
    assert_eq!(bench.port(PX_SACT), 1 << 4 | 1 << 9, "neither is done");
    // The engine stands: a driver starts it anew and reads the log.
    held.release();
    bench.recover();
    assert_eq!(bench.run(Fis::new(0x2f, 0x10, 1), 512), 0x50);
    let log = bench.get(DATA, 512);
    assert_eq!((log[0], log[2], log[3], log[4]), (4, 0x51, 0x40, 77));
    assert_eq!(log.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    assert_eq!(bench.run(Fis::new(0x2f, 0x00, 1), 512), 0x50);
    assert_eq!(bench.get(DATA, 512)[0x20], 1, "the directory names the log");
}

#[test]
fn commands_past_the_end_fail_and_stop_the_engine() {
    let image = image();
    let bench = Bench::disk(image.open(true));
    let last = SECTORS as u64 - 1;
    for (command, lba, count) in [
        (0x25, last, 2),
        (0x25, last + 1, 1),
        (0x35, last, 2),
        (0x25, 0xffff_ffff_ffff, 0),
        (0x24, 0, 0),
        (0x42, last, 2),
    ] {
        let before = image.contents();
        let end = bench.run(Fis::new(command, lba, count), 1 << 20);
        assert_eq!(end, 0x1051, "{command:#x} {lba:#x}");
        assert_ne!(bench.port(PX_IS) & 1 << 30, 0);
        assert_eq!(bench.port(PX_CI), 1, "it is not over");
        // Nothing runs before the engine was started anew.
        bench.prepare(1, &Fis::new(0xe7, 0, 0).bytes(), None, &[]);
        bench.set_port(PX_CI, 2);
        bench.recover();
        assert_eq!(bench.port(PX_CI), 0);
        assert_eq!(image.contents(), before);
    }
    assert_eq!(bench.run(Fis::new(0x25, last, 1), 512), 0x50);
}

#[test]
fn a_read_only_disk_refuses_every_write() {
    let image = image();
    let before = image.contents();
    let bench = Bench::disk(image.open(false));
    for command in [0x30, 0x31, 0x34, 0x35, 0x39, 0x3d, 0xc5, 0xca, 0xcb, 0xce] {
        assert_eq!(bench.run(Fis::new(command, 0, 1), 512), 0x0451, "{command:#x}");
        bench.recover();
    }
    let trim = Fis {
        features: 1,
        ..Fis::new(0x06, 0, 1)
    };
    assert_eq!(bench.run(trim, 512), 0x0451);
    bench.recover();
    bench.prepare(3, &Fis::queued(0x61, 3, 0, 1).bytes(), None, &[(DATA, 512)]);
    bench.set_port(PX_SACT, 8);
    bench.set_port(PX_CI, 8);
    bench.until("it failed", || bench.port(PX_IS) & 1 << 30 != 0);
    bench.recover();
    assert_eq!(bench.run(Fis::new(0x25, 0, 1), 512), 0x50);
    assert_eq!(bench.get(DATA, 512), before[..512]);
    assert_eq!(image.contents(), before);
}

#[test]
fn flushes_and_durable_writes_reach_the_disk() {
    use Asked::{Flush, Write};
    let held = held();
    held.release();
    let bench = Bench::disk(held.clone());
    let features = |value: u16| Fis {
        features: value,
        ..Fis::new(0xef, 0, 0)
    };
    let mut expected = Vec::new();
    let steps: &[(Fis, &[Asked])] = &[
        (Fis::new(0x35, 0, 1), &[Write]),
        (Fis::new(0xea, 0, 0), &[Flush]),
        (Fis::new(0xe7, 0, 0), &[Flush]),
        (Fis::new(0x3d, 0, 1), &[Write, Flush]),
        (Fis::new(0xce, 0, 1), &[Write, Flush]),
        // The write cache is switched off, and on.
        (features(0x82), &[Flush]),
        (Fis::new(0x35, 0, 1), &[Write, Flush]),
        (features(0x02), &[]),
        (Fis::new(0x35, 0, 1), &[Write]),
        (Fis::new(0xe0, 0, 0), &[Flush]),
    ];
    for (fis, asked) in steps {
        assert_eq!(bench.run(*fis, 512), 0x50, "{fis:x?}");
        expected.extend_from_slice(asked);
        assert_eq!(held.asked(), expected, "{fis:x?}");
    }
    // A queued write with FUA.
    let fis = Fis {
        device: 0xc0,
        ..Fis::queued(0x61, 0, 0, 1)
    };
    bench.prepare(0, &fis.bytes(), None, &[(DATA, 512)]);
    bench.set_port(PX_SACT, 1);
    bench.set_port(PX_CI, 1);
    bench.until("it is over", || bench.port(PX_SACT) == 0);
    expected.extend([Write, Flush]);
    assert_eq!(held.asked(), expected);
}

#[test]
fn a_failed_flush_is_an_error() {
    let held = held();
    let bench = Bench::disk(held.clone());
    bench.prepare(0, &Fis::new(0xea, 0, 0).bytes(), None, &[]);
    bench.set_port(PX_CI, 1);
    bench.until("the disk has it", || held.asked() == [Asked::Flush]);
    held.answer(Err(RequestError::NoSpace));
    bench.until("it failed", || bench.port(PX_IS) & 1 << 30 != 0);
    assert_eq!(bench.port(PX_TFD), 0x0461, "a fault of the drive");
    held.release();
    bench.assert_alive(0xec);
}

#[test]
fn a_trim_punches_holes() {
    use std::os::unix::fs::MetadataExt;
    let image = Image::new(&[0xff; 4 << 20]);
    let bench = Bench::disk(image.open(true));
    let blocks = |image: &Image| std::fs::metadata(image.file.path()).unwrap().blocks();
    let before = blocks(&image);
    let entries = [2048u64 | 1024 << 48, 3072 | 1024 << 48, 0];
    let list: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    bench.put(DATA, &vec![0; 512]);
    bench.put(DATA, &list);
    let trim = Fis {
        features: 1,
        ..Fis::new(0x06, 0, 1)
    };
    assert_eq!(bench.run(trim, 512), 0x50);
    let contents = image.contents();
    assert!(contents[1 << 20..2 << 20].iter().all(|&byte| byte == 0));
    assert_eq!(contents.iter().filter(|&&byte| byte == 0xff).count(), 3 << 20);
    assert_eq!(
        before - blocks(&image),
        (1 << 20) / 512,
        "the host has the space back"
    );
    // One range past the end: none is discarded.
    bench.put(DATA, &[1u64 << 48, 8191 | 2 << 48].map(u64::to_le_bytes).concat());
    assert_eq!(bench.run(trim, 512), 0x1051);
    assert_eq!(image.contents()[0], 0xff);
}

#[test]
fn an_engine_that_is_stopped_runs_until_the_disk_is_done() {
    let held = held();
    let bench = Bench::disk(held.clone());
    bench.prepare(0, &Fis::new(0x25, 0, 8).bytes(), None, &[(DATA, 4096)]);
    bench.set_port(PX_CI, 1);
    bench.until("the disk has it", || !held.asked().is_empty());
    bench.set_port(PX_CMD, 1 << 4);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_ne!(bench.port(PX_CMD) & CMD_RUNNING, 0, "memory may still be written");
    held.release();
    bench.until("it stands still", || bench.port(PX_CMD) & CMD_RUNNING == 0);
    assert_eq!(
        (bench.port(PX_CI), bench.port(PX_IS)),
        (0, 0),
        "nobody hears of the command"
    );
    bench.assert_alive(0xec);
}

#[test]
fn resets_during_commands_wait_for_the_disk() {
    type Reset = fn(&Bench);
    type Over = fn(&Bench) -> bool;
    let ways: &[(&str, Reset, Over)] = &[
        (
            "controller reset",
            |bench| bench.write(GHC, 1),
            |bench| bench.read(GHC) & 1 == 0,
        ),
        (
            "link reset",
            |bench| {
                bench.set_port(PX_SCTL, 0x301);
                assert_eq!(bench.port(PX_SSTS), 0);
                bench.set_port(PX_SCTL, 0x300);
            },
            |bench| bench.port(PX_TFD) & 0x80 == 0,
        ),
        (
            "link off and on",
            |bench| {
                bench.set_port(PX_SCTL, 4);
                assert_eq!(bench.port(PX_SSTS), 4);
                bench.set_port(PX_SCTL, 0);
            },
            |bench| bench.port(PX_TFD) & 0x80 == 0,
        ),
    ];
    for (name, reset, over) in ways {
        for queued in [false, true] {
            let held = held();
            let bench = Bench::disk(held.clone());
            let fis = if queued {
                Fis::queued(0x61, 0, 0, 8)
            } else {
                Fis::new(0x35, 0, 8)
            };
            bench.prepare(0, &fis.bytes(), None, &[(DATA, 4096)]);
            bench.set_port(PX_SACT, u32::from(queued));
            bench.set_port(PX_CI, 1);
            bench.until("the disk has it", || !held.asked().is_empty());
            reset(&bench);
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!over(&bench), "{name}: the disk is still at work");
            held.release();
            bench.until(name, || over(&bench));
            assert_eq!((bench.port(PX_CI), bench.port(PX_SACT)), (0, 0), "{name}");
            assert_eq!(
                (bench.port(PX_SSTS), bench.port(PX_SIG)),
                (0x133, 0x101),
                "{name}"
            );
            assert_ne!(
                bench.port(PX_SERR) & 1 << 26,
                0,
                "{name}: there may be another drive"
            );
            bench.assert_alive(0xec);
        }
    }
}

#[test]
fn a_reset_of_the_machine_leaves_nothing_behind() {
    let held = held();
    let bench = Bench::disk(held.clone());
    bench.prepare(0, &Fis::new(0x25, 0, 8).bytes(), None, &[(DATA, 4096)]);
    bench.set_port(PX_CI, 1);
    bench.until("the disk has it", || !held.asked().is_empty());
    held.release();
    bench.ahci.reset();
    assert_eq!(bench.read(GHC), 1 << 31);
    for (register, value) in [
        (PX_CLB, 0),
        (PX_FB, 0),
        (PX_IE, 0),
        (PX_CI, 0),
        (PX_CMD, 6),
        (PX_TFD, 0x150),
    ] {
        assert_eq!(bench.port(register), value, "{register:#x}");
    }
    assert!(!bench.wire.level.load(Ordering::SeqCst));
    bench.assert_alive(0xec);
}

#[test]
fn a_software_reset_shows_the_signature() {
    for (kind, signature, identify) in [
        (DriveKind::Disk, 0x101, 0xec),
        (DriveKind::Cdrom, 0xeb14_0101, 0xa1),
    ] {
        let image = image();
        let bench = Bench::new(vec![(kind, image.open(true))]);
        bench.start();
        for control in [4, 0] {
            let mut fis = [0; 20];
            (fis[0], fis[15]) = (0x27, control);
            bench.prepare(0, &fis, None, &[]);
            bench.put(RECEIVED + 0x40, &[0; 20]);
            bench.set_port(PX_CI, 1);
            bench.until("it was taken", || bench.port(PX_CI) == 0);
            assert_eq!(
                bench.port(PX_TFD) & 0x80 != 0,
                control != 0,
                "busy while it is held"
            );
        }
        assert_eq!(bench.port(PX_SIG), signature);
        bench.until("the signature was received", || {
            bench.get(RECEIVED + 0x40, 1) == [0x34]
        });
        bench.assert_alive(identify);
    }
}

#[test]
fn the_line_follows_the_status() {
    let image = image();
    let bench = Bench::disk(image.open(true));
    let level = || bench.wire.level.load(Ordering::SeqCst);
    assert!(!level());
    bench.run(Fis::new(0xe7, 0, 0), 0);
    assert!(level());
    assert_eq!(bench.read(IS), 1);
    bench.write(IS, 1);
    assert!(level(), "the port still has a cause");
    bench.set_port(PX_IS, u32::MAX);
    bench.write(IS, 1);
    assert!(!level());
    bench.set_port(PX_IE, 0);
    bench.run(Fis::new(0xe7, 0, 0), 0);
    assert_eq!((level(), bench.read(IS)), (false, 0));
    bench.set_port(PX_IE, 1);
    assert!(level(), "a cause that is there is wanted now");
    bench.write(GHC, 0);
    assert!(!level());
    assert_eq!(bench.wire.messages.load(Ordering::SeqCst), 0);
}

#[test]
fn a_message_comes_for_each_new_cause() {
    let image = image();
    let bench = Bench::disk(image.open(true));
    let at = u16::from(bench.ahci.config().u8(0x34));
    assert_eq!(bench.ahci.config().u8(at), 5);
    bench.ahci.config_write(at + 2, &[1, 0]);
    let messages = || bench.wire.messages.load(Ordering::SeqCst);
    bench.run(Fis::new(0xe7, 0, 0), 0);
    assert_eq!(messages(), 1);
    // Another cause before the first was looked at is no news.
    bench.run(Fis::new(0xec, 0, 0), 512);
    assert_eq!(messages(), 1);
    // A cause that is left when the status is cleared is.
    bench.write(IS, 1);
    assert_eq!(messages(), 2);
    bench.set_port(PX_IS, u32::MAX);
    bench.write(IS, 1);
    assert_eq!(messages(), 2);
    bench.run(Fis::new(0xe7, 0, 0), 0);
    assert_eq!(messages(), 3);
    assert!(!bench.wire.level.load(Ordering::SeqCst), "the pin is silent");
}

#[test]
fn a_cdrom_gives_its_blocks() {
    let bytes: Vec<u8> = (0..64 * 2048).map(|at| (at / 2048 + at % 253) as u8).collect();
    let image = Image::new(&bytes);
    let bench = Bench::cdrom(image.open(false));
    assert_eq!(bench.port(PX_SIG), 0xeb14_0101);
    // First it tells that it was switched on.
    assert_eq!(bench.run_packet(&[0], 0), 0x6051);
    bench.recover();
    assert_eq!(bench.run_packet(&[0x03, 0, 0, 0, 18], 18), 0x50);
    let sense = bench.get(DATA, 18);
    assert_eq!((sense[2], sense[12], sense[13]), (6, 0x29, 0));
    assert_eq!(bench.run_packet(&[0], 0), 0x50);
    assert_eq!(bench.run_packet(&[0x25], 8), 0x50);
    assert_eq!(bench.get(DATA, 8), [0, 0, 0, 63, 0, 0, 8, 0]);
    for packet in [
        &[0x28, 0, 0, 0, 0, 60, 0, 0, 4, 0][..],
        &[0xa8, 0, 0, 0, 0, 60, 0, 0, 0, 4][..],
        &[0x08, 0, 0, 60, 4, 0][..],
    ] {
        bench.put(DATA, &[0; 8192]);
        assert_eq!(bench.run_packet(packet, 8192), 0x50);
        assert_eq!(bench.get(DATA, 8192), bytes[60 * 2048..], "{packet:x?}");
        assert_eq!(bench.get(LIST + 4, 4), 8192u32.to_le_bytes());
        let end = bench.get(RECEIVED + 0x40, 20);
        assert_eq!((end[2], end[12]), (0x50, 3));
    }
    // Past the end, and more than the buffer holds.
    assert_eq!(
        bench.run_packet(&[0x28, 0, 0, 0, 0, 61, 0, 0, 4, 0], 8192),
        0x5451
    );
    bench.recover();
    bench.run_packet(&[0x28, 0, 0, 0, 0, 60, 0, 0, 4, 0], 4096);
    assert_ne!(bench.port(PX_IS) & 1 << 24, 0, "overflow");
    // A disk's IDENTIFY is refused with the signature.
    bench.recover();
    assert_eq!(bench.run(Fis::new(0xec, 0, 0), 512) & 0xff, 0x41);
    assert_eq!(bench.get(RECEIVED + 0x45, 2), [0x14, 0xeb]);
    bench.assert_alive(0xa1);
}

#[test]
fn a_broken_image_is_a_read_error() {
    let held = held();
    let bench = Bench::cdrom(held.clone());
    bench.run_packet(&[0], 0);
    bench.recover();
    let mut packet = [0; 16];
    (packet[0], packet[8]) = (0x28, 1);
    bench.prepare(0, &Fis::packet().bytes(), Some(&packet), &[(DATA, 2048)]);
    bench.set_port(PX_CI, 1);
    bench.until("the disk has it", || held.asked() == [Asked::Read]);
    held.answer(Err(RequestError::Host(5)));
    bench.until("it failed", || bench.port(PX_IS) & 1 << 30 != 0);
    held.release();
    bench.recover();
    bench.run_packet(&[0x03, 0, 0, 0, 18], 18);
    assert_eq!(bench.get(DATA + 2, 1), [3]);
}

#[test]
fn drives_are_bounded_by_the_ports() {
    let image = image();
    let drives = (0..7).map(|_| crate::DriveOptions {
        kind: DriveKind::Cdrom,
        disk: Some(image.open(false)),
        serial: String::new(),
    });
    let bench = Bench::new(Vec::new());
    let refused = Ahci::new(drives.collect(), bench.ram.clone(), bench.wire.clone());
    assert!(matches!(refused.err(), Some(Error::TooManyDrives(7))));
    let nothing = crate::DriveOptions {
        kind: DriveKind::Disk,
        disk: None,
        serial: String::new(),
    };
    let refused = Ahci::new(vec![nothing], bench.ram.clone(), bench.wire.clone());
    assert!(matches!(refused.err(), Some(Error::NoDisk)));
}
