//! Commands, and the work that they are.

use super::*;

fn disk() -> Disk {
    Disk::new(Geometry {
        sectors: 1 << 30,
        sector: 512,
        physical: 4096,
        serial: "s".into(),
        readonly: false,
        trim: true,
    })
}

fn command(command: u8, features: u16, lba: u64, device: u8, count: u16) -> Registers {
    Registers {
        is_command: true,
        command,
        features,
        lba,
        device,
        count,
        control: 0,
    }
}

#[test]
fn transfers_are_the_bytes_that_their_registers_mean() {
    // Command, features, address, device, count; first byte and bytes, or the error.
    type Row = ((u8, u16, u64, u8, u16), Result<(u64, u64), u8>);
    let table: &[Row] = &[
        // 28 bits: four of them in the device register; a count of 0 is 256.
        ((0xc8, 0, 0x12_3456, 0x40, 1), Ok((0x12_3456 * 512, 512))),
        ((0xc8, 0, 0x12_3456, 0x41, 0), Ok((0x112_3456 * 512, 256 * 512))),
        ((0xc8, 0, 0xff00_0000_0000, 0x40, 0xff02), Ok((0, 1024))),
        // Cylinders, heads and sectors.
        ((0xc8, 0, 0x00_0001, 0x00, 1), Ok((0, 512))),
        (
            (0xc8, 0, 0x00_013f, 0x0f, 1),
            Ok((((16 + 15) * 63 + 62) * 512, 512)),
        ),
        ((0xc8, 0, 0x00_0000, 0x00, 1), Err(ERROR_IDNF)),
        ((0xc8, 0, 0x00_0040, 0x00, 1), Err(ERROR_IDNF)),
        // 48 bits; a count of 0 is 65,536.
        ((0x25, 0, 0x2000_0000, 0x40, 8), Ok((0x2000_0000 * 512, 4096))),
        ((0x25, 0, 0, 0x40, 0), Ok((0, 32 << 20))),
        ((0x25, 0, 0, 0x00, 1), Err(ERROR_ABRT)),
        (
            (0x25, 0, (1 << 30) - 1, 0x40, 1),
            Ok((((1 << 30) - 1) * 512, 512)),
        ),
        ((0x25, 0, (1 << 30) - 1, 0x40, 2), Err(ERROR_IDNF)),
        ((0x25, 0, (1 << 48) - 1, 0x40, 0), Err(ERROR_IDNF)),
        // Queued: the count is in the features.
        ((0x60, 8, 16, 0x40, 5 << 3), Ok((8192, 4096))),
        ((0x60, 0, 0, 0x40, 0), Ok((0, 32 << 20))),
        ((0x60, 1, 0, 0x00, 0), Err(ERROR_ABRT)),
    ];
    for &((code, features, lba, device, count), expected) in table {
        let command = command(code, features, lba, device, count);
        let got = match disk().start(&command) {
            Work::Read { offset, len, .. } => Ok((offset, len)),
            Work::Done(end) => Err(end.error),
            other => panic!("{command:x?}: {other:?}"),
        };
        assert_eq!(got, expected, "{command:x?}");
    }
}

#[test]
fn larger_sectors_count_in_their_size() {
    let mut disk = disk();
    disk.geometry.sector = 4096;
    let work = disk.start(&command(0x25, 0, 3, 0x40, 2));
    let expected = Work::Read {
        offset: 3 * 4096,
        len: 8192,
        link: Link::Dma,
    };
    assert_eq!(work, expected);
    let Work::Send { data, .. } = disk.start(&command(0xec, 0, 0, 0, 0)) else {
        panic!("no data");
    };
    assert_eq!((data[212], data[213]), (0x00, 0x50), "word 106");
    assert_eq!(u16::from_le_bytes([data[234], data[235]]), 2048, "word 117");
}

#[test]
fn settings_show_in_identify_and_go_with_a_hard_reset() {
    let mut disk = disk();
    let word = |disk: &mut Disk, at: usize| {
        let Work::Send { data, .. } = disk.start(&command(0xec, 0, 0, 0, 0)) else {
            panic!("no data");
        };
        u16::from_le_bytes([data[2 * at], data[2 * at + 1]])
    };
    assert_eq!(word(&mut disk, 85), 0x69);
    for (features, count) in [(0x82, 0), (0x55, 0), (0x03, 0x42)] {
        disk.start(&command(0xef, features, 0, 0, count));
    }
    disk.start(&command(0xc6, 0, 0, 0, 8));
    disk.start(&command(0xb0, 0xd9, 0xc2_4f00, 0, 0));
    for hard in [false, true] {
        assert_eq!(word(&mut disk, 85), 0x08);
        assert_eq!((word(&mut disk, 88), word(&mut disk, 59)), (0x043f, 0x0108));
        disk.reset(hard);
    }
    assert_eq!(word(&mut disk, 85), 0x69);
    assert_eq!((word(&mut disk, 88), word(&mut disk, 59)), (0x203f, 0x0110));
}

#[test]
fn what_a_disk_cannot_do_is_aborted() {
    let mut disk = disk();
    for (code, features, lba, count) in [
        (0x00, 0, 0, 0),
        (0x06, 0, 0, 1),
        (0x06, 1, 0, 0),
        (0x06, 1, 0, 9),
        (0x08, 0, 0, 0),
        (0x2f, 0, 0x11, 1),
        (0x2f, 0, 0x110, 1),
        (0x2f, 0, 0x10, 2),
        (0xa0, 0, 0, 0),
        (0xa1, 0, 0, 0),
        (0xb0, 0xd0, 0, 0),
        (0xb0, 0xd5, 0xc2_4f00, 1),
        (0xc6, 0, 0, 3),
        (0xc6, 0, 0, 32),
        (0x91, 0, 0, 0),
        (0xef, 0x03, 0, 0x7f),
        (0xef, 0x10, 0, 2),
        (0xf1, 0, 0, 0),
    ] {
        let command = command(code, features, lba, 0x40, count);
        let expected = Work::Done(Taskfile::failed(&command, ERROR_ABRT));
        assert_eq!(disk.start(&command), expected, "{command:x?}");
    }
}

#[test]
fn smart_says_that_the_disk_is_well() {
    let mut disk = disk();
    let status = command(0xb0, 0xda, 0xc2_4f00, 0, 0);
    assert_eq!(disk.start(&status), Work::Done(Taskfile::ready(&status)));
    let Work::Send { data, .. } = disk.start(&command(0xb0, 0xd0, 0xc2_4f00, 0, 1)) else {
        panic!("no data");
    };
    assert_eq!(data.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    disk.start(&command(0xb0, 0xd9, 0xc2_4f00, 0, 0));
    assert_eq!(
        disk.start(&status),
        Work::Done(Taskfile::failed(&status, ERROR_ABRT))
    );
}

#[test]
fn power_modes_are_told() {
    let mut disk = disk();
    let mode = |disk: &mut Disk| match disk.start(&command(0xe5, 0, 0, 0, 7)) {
        Work::Done(end) => end.count,
        other => panic!("{other:?}"),
    };
    assert_eq!(mode(&mut disk), 0xff);
    assert_eq!(disk.start(&command(0xe0, 0, 0, 0, 0)), Work::Flush);
    assert_eq!(mode(&mut disk), 0);
    disk.start(&command(0x25, 0, 0, 0x40, 1));
    assert_eq!(mode(&mut disk), 0xff);
}
