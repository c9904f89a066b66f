use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

use super::*;
use crate::{Capacity, Describe, RawDisk};

const WRITER: DiskOptions = DiskOptions {
    format: Format::Raw,
    readonly: false,
    direct: false,
};
const READER: DiskOptions = DiskOptions {
    readonly: true,
    ..WRITER
};

fn image(len: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(len).unwrap();
    file
}

#[test]
fn one_writer_or_many_readers() {
    let disk = image(4096);
    let writer = open(disk.path(), WRITER).unwrap();
    for options in [WRITER, READER] {
        let refused = open(disk.path(), options).unwrap_err();
        assert!(matches!(refused, Error::InUse { .. }), "{refused}");
        assert!(refused.to_string().contains("in use by another guest"));
    }
    let copy = writer.try_clone().unwrap();
    drop(writer);
    assert!(
        matches!(open(disk.path(), READER), Err(Error::InUse { .. })),
        "a copy of the descriptor keeps the lock"
    );
    drop(copy);
    let _first = open(disk.path(), READER).unwrap();
    let _second = open(disk.path(), READER).unwrap();
    assert!(matches!(open(disk.path(), WRITER), Err(Error::InUse { .. })));
}

#[test]
fn a_file_that_was_handed_over_is_locked_too() {
    let disk = image(4096);
    let name = Path::new("the disk handed over");
    let handed = |write: bool| {
        OpenOptions::new()
            .read(true)
            .write(write)
            .open(disk.path())
            .unwrap()
    };
    let (writer, reader) = (handed(true), handed(false));
    lock(&writer, name).unwrap();
    lock(&writer, name).unwrap();
    let refused = lock(&reader, name).unwrap_err();
    assert!(matches!(refused, Error::InUse { .. }), "{refused}");
    assert!(refused.to_string().contains("the disk handed over"));
    drop(writer);
    let reader = handed(false);
    lock(&reader, name).unwrap();
    lock(&handed(false), name).unwrap();
    assert!(matches!(open(disk.path(), WRITER), Err(Error::InUse { .. })));
}

#[test]
fn the_locks_hold_against_qemu_too() {
    let disk = image(1 << 20);
    let qemu_io = |readonly: bool| {
        let mut command = Command::new("qemu-io");
        command.args(["-f", "raw", "-c", "read 0 512"]);
        command.args(readonly.then_some("-r")).arg(disk.path()).output()
    };
    let Ok(free) = qemu_io(false) else {
        return eprintln!("SKIPPED the_locks_hold_against_qemu_too: qemu-io is not installed");
    };
    assert!(free.status.success(), "{free:?}");

    let held = open(disk.path(), WRITER).unwrap();
    let refused = qemu_io(false).unwrap();
    assert!(!refused.status.success());
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("lock"),
        "{refused:?}"
    );
    drop(held);

    let mut qemu = Command::new("qemu-io")
        .args(["-f", "raw"])
        .arg(disk.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The prompt says that the image is open and locked.
    let mut prompt = [0u8; 8];
    std::io::Read::read_exact(qemu.stdout.as_mut().unwrap(), &mut prompt).unwrap();
    assert_eq!(&prompt, b"qemu-io>");
    let refused = open(disk.path(), WRITER);
    drop(qemu.stdin.take());
    qemu.wait().unwrap();
    assert!(matches!(refused, Err(Error::InUse { .. })), "{refused:?}");
    open(disk.path(), WRITER).unwrap();
}

#[test]
fn what_is_no_disk_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let missing = open(&folder.path().join("none"), WRITER).unwrap_err();
    assert!(matches!(missing, Error::Open { .. }), "{missing}");
    let no_file = open(folder.path(), READER).unwrap_err();
    assert!(matches!(no_file, Error::Kind { .. }), "{no_file}");
    let tty = open(Path::new("/dev/null"), WRITER).unwrap_err();
    assert!(matches!(tty, Error::Kind { .. }), "{tty}");
    for error in [missing, no_file, tty] {
        assert_eq!(error.to_string().lines().count(), 1);
    }
}

#[test]
fn formats_are_declared_by_known_names_only() {
    assert_eq!("raw".parse::<Format>().unwrap(), Format::Raw);
    assert_eq!(Format::Raw.name(), "raw");
    for name in ["", "RAW", "qcow2", "raw,"] {
        assert!(matches!(name.parse::<Format>(), Err(Error::Format(_))), "{name}");
    }
}

#[test]
fn the_descriptor_carries_mode_and_cache_choice() {
    // Not in /tmp, which may be a tmpfs without direct I/O.
    let disk = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
    disk.as_file().set_len(8192).unwrap();
    let reader = RawDisk::new(open(disk.path(), READER).unwrap()).unwrap();
    assert!(reader.features().readonly && !reader.features().discard && !reader.features().write_zeroes);
    drop(reader);
    let direct = DiskOptions {
        direct: true,
        ..WRITER
    };
    let file = match open(disk.path(), direct) {
        Ok(file) => file,
        Err(Error::NoDirect { .. }) => {
            return eprintln!("SKIPPED the_descriptor_carries_mode_and_cache_choice: no direct I/O here");
        }
        Err(other) => panic!("{other}"),
    };
    let flags = rustix::fs::fcntl_getfl(&file).unwrap();
    assert!(flags.contains(OFlags::DIRECT) && !flags.contains(OFlags::NONBLOCK));
    let disk = RawDisk::new(file).unwrap();
    assert!(!disk.features().readonly);
    assert!(disk.topology().logical_block >= 512);
}

#[test]
fn an_odd_size_is_rounded_up() {
    for (len, size) in [(0, 0), (1, 512), (511, 512), (512, 512), (1025, 1536)] {
        let disk = image(len);
        assert_eq!(
            RawDisk::new(open(disk.path(), WRITER).unwrap()).unwrap().size(),
            size
        );
        assert_eq!(
            disk.as_file().metadata().unwrap().len(),
            len,
            "opening changes nothing"
        );
    }
}

#[test]
fn a_descriptor_of_another_kind_is_refused() {
    let null = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC)
        .open("/dev/null")
        .unwrap();
    assert!(RawDisk::new(null).is_err());
}
