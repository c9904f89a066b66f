//! Single behaviours of a raw disk, on both engines, and what QEMU's tools say of the same file.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::common::{finish, folder, raw, run};
use ostler_disk::open::{DiskOptions, open};
use ostler_disk::{Disk, Engine, Error, Features, IoBuf, Op, RawDisk, RequestError};

const ENGINES: [Engine; 2] = [Engine::Uring, Engine::Threads];

fn on_both(test: &str, len: u64, mut body: impl FnMut(&Path, Box<dyn Disk>)) {
    for engine in ENGINES {
        let folder = folder();
        let path = folder.path().join("disk");
        std::fs::write(&path, vec![0x5a; len as usize]).unwrap();
        if let Some(disk) = raw(test, &path, engine, false) {
            body(&path, disk);
        }
    }
}

fn read(disk: &dyn Disk, offset: u64, len: usize) -> Result<Vec<u8>, RequestError> {
    let mut bytes = vec![0xee; len];
    let buffers = [IoBuf::of(&mut bytes)];
    run(
        &mut *disk.open_queue(1).unwrap(),
        Op::Read {
            offset,
            buffers: &buffers,
        },
    )
    .map(|()| bytes)
}

fn write(disk: &dyn Disk, offset: u64, bytes: &[u8]) -> Result<(), RequestError> {
    let buffers = [IoBuf::of_const(bytes)];
    run(
        &mut *disk.open_queue(1).unwrap(),
        Op::Write {
            offset,
            buffers: &buffers,
        },
    )
}

#[test]
fn requests_outside_the_disk_or_between_sectors_fail_alone() {
    on_both("requests_outside_the_disk", 4096, |_, disk| {
        for (offset, len) in [
            (4096, 512),
            (3584, 1024),
            (1, 512),
            (0, 511),
            (u64::MAX - 511, 512),
            (1 << 63, 512),
        ] {
            assert_eq!(
                read(&*disk, offset, len),
                Err(RequestError::OutOfRange),
                "{offset}+{len}"
            );
            assert_eq!(
                write(&*disk, offset, &vec![0; len]),
                Err(RequestError::OutOfRange),
                "{offset}+{len}"
            );
            let mut queue = disk.open_queue(1).unwrap();
            for op in [
                Op::Discard {
                    offset,
                    len: len as u64,
                },
                Op::WriteZeroes {
                    offset,
                    len: len as u64,
                    unmap: true,
                },
                Op::WriteZeroes {
                    offset,
                    len: u64::MAX,
                    unmap: false,
                },
            ] {
                assert_eq!(run(&mut *queue, op), Err(RequestError::OutOfRange), "{op:?}");
            }
        }
        assert_eq!(read(&*disk, 0, 4096).unwrap(), vec![0x5a; 4096]);
        assert_eq!(
            read(&*disk, 4096, 0).unwrap(),
            vec![],
            "nothing at the end is fine"
        );
    });
}

#[test]
fn a_readonly_disk_refuses_changes() {
    for engine in ENGINES {
        let folder = folder();
        let path = folder.path().join("disk");
        std::fs::write(&path, [1; 1024]).unwrap();
        let file = open(
            &path,
            DiskOptions {
                readonly: true,
                ..Default::default()
            },
        )
        .unwrap();
        let disk = RawDisk::with_engine(file, engine).unwrap();
        let disk: &dyn Disk = &disk;
        let Ok(mut queue) = disk.open_queue(1) else {
            eprintln!("SKIPPED a_readonly_disk_refuses_changes ({engine:?}): the engine is refused here");
            continue;
        };
        assert_eq!(
            disk.features(),
            Features {
                readonly: true,
                discard: false,
                write_zeroes: false
            }
        );
        for op in [
            Op::Write {
                offset: 0,
                buffers: &[],
            },
            Op::Discard { offset: 0, len: 512 },
            Op::WriteZeroes {
                offset: 0,
                len: 512,
                unmap: false,
            },
        ] {
            assert_eq!(run(&mut *queue, op), Err(RequestError::ReadOnly), "{op:?}");
        }
        assert!(matches!(disk.resize(4096), Err(Error::ReadOnly)));
        assert_eq!(read(disk, 0, 1024).unwrap(), [1; 1024]);
    }
}

#[test]
fn the_end_of_an_odd_file_reads_as_zeroes_and_can_be_written() {
    on_both("the_end_of_an_odd_file", 700, |path, disk| {
        assert_eq!(disk.size(), 1024);
        let mut expected = vec![0x5a; 700];
        expected.resize(1024, 0);
        assert_eq!(read(&*disk, 0, 1024).unwrap(), expected);
        assert_eq!(read(&*disk, 512, 512).unwrap(), expected[512..]);
        write(&*disk, 512, &[7; 512]).unwrap();
        assert_eq!(std::fs::read(path).unwrap()[512..], [7; 512]);
    });
}

#[test]
fn discard_and_unmapping_give_space_back() {
    on_both("discard_and_unmapping", 1 << 20, |path, disk| {
        disk.flush().unwrap();
        let blocks = || std::fs::metadata(path).unwrap().blocks();
        if !disk.features().discard {
            return eprintln!("SKIPPED discard_and_unmapping_give_space_back: the file system has no holes");
        }
        let full = blocks();
        let mut queue = disk.open_queue(4).unwrap();
        run(
            &mut *queue,
            Op::Discard {
                offset: 0,
                len: 256 << 10,
            },
        )
        .unwrap();
        let after_discard = blocks();
        assert!(
            after_discard + 500 <= full,
            "{full} -> {after_discard} blocks of 512 bytes"
        );
        run(
            &mut *queue,
            Op::WriteZeroes {
                offset: 256 << 10,
                len: 256 << 10,
                unmap: true,
            },
        )
        .unwrap();
        let after_unmap = blocks();
        assert!(
            after_unmap + 500 <= after_discard,
            "{after_discard} -> {after_unmap}"
        );
        run(
            &mut *queue,
            Op::WriteZeroes {
                offset: 512 << 10,
                len: 256 << 10,
                unmap: false,
            },
        )
        .unwrap();
        assert!(blocks() >= after_unmap, "without unmap the space stays");
        assert_eq!(read(&*disk, 256 << 10, 512 << 10).unwrap(), vec![0; 512 << 10]);
        assert_eq!(read(&*disk, 768 << 10, 256 << 10).unwrap(), vec![0x5a; 256 << 10]);
        assert_eq!(std::fs::metadata(path).unwrap().len(), 1 << 20);
    });
}

/// A file system of 1 MiB that only this thread sees; it ends with the thread.
fn small_file_system(at: &Path) -> Result<(), String> {
    // SAFETY: affects this thread only.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } < 0 {
        return Err(format!("no mount namespace: {}", std::io::Error::last_os_error()));
    }
    for words in ["--make-rprivate /", "-t tmpfs -o size=1m tmpfs"] {
        let mut command = Command::new("mount");
        command
            .args(words.split(' '))
            .args(words.ends_with("tmpfs").then_some(at));
        let output = command.output().map_err(|e| format!("mount: {e}"))?;
        if !output.status.success() {
            return Err(format!(
                "mount {words}: {}",
                String::from_utf8_lossy(&output.stderr)
            ));
        }
    }
    Ok(())
}

#[test]
fn a_full_host_fails_one_write_and_the_disk_lives_on() {
    let test = "a_full_host_fails_one_write_and_the_disk_lives_on";
    let folder = folder();
    if let Err(reason) = small_file_system(folder.path()) {
        return eprintln!("SKIPPED {test}: {reason}");
    }
    for engine in ENGINES {
        let path = folder.path().join("disk");
        std::fs::File::create(&path).unwrap().set_len(4 << 20).unwrap();
        let Some(disk) = raw(test, &path, engine, false) else {
            continue;
        };
        assert_eq!(write(&*disk, 0, &vec![1; 2 << 20]), Err(RequestError::NoSpace));
        // The large write may leave room for a few pages, if the file system wanted many at a time.
        let small = |at: u64| write(&*disk, (2 << 20) + at * 4096, &[1; 512]);
        let refused = (0..256).map(small).find(Result::is_err);
        assert_eq!(refused, Some(Err(RequestError::NoSpace)));
        let mut queue = disk.open_queue(1).unwrap();
        run(
            &mut *queue,
            Op::WriteZeroes {
                offset: 0,
                len: 2 << 20,
                unmap: true,
            },
        )
        .unwrap();
        write(&*disk, 3 << 20, &[7; 512]).unwrap();
        assert_eq!(read(&*disk, 3 << 20, 512).unwrap(), [7; 512]);
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_disk_grows_and_shrinks() {
    on_both("a_disk_grows_and_shrinks", 4096, |path, disk| {
        disk.resize(8192).unwrap();
        assert_eq!(
            (disk.size(), std::fs::metadata(path).unwrap().len()),
            (8192, 8192)
        );
        assert_eq!(read(&*disk, 4096, 4096).unwrap(), vec![0; 4096]);
        disk.resize(512).unwrap();
        assert_eq!(read(&*disk, 512, 512), Err(RequestError::OutOfRange));
        for size in [1, 513, u64::MAX - 511] {
            assert!(matches!(disk.resize(size), Err(Error::Size(_))), "{size}");
        }
        std::fs::OpenOptions::new()
            .write(true)
            .open(path)
            .unwrap()
            .set_len(2048)
            .unwrap();
        assert_eq!(disk.size(), 512, "a change from outside is seen on request only");
        assert_eq!(disk.refresh().unwrap(), 2048);
        assert_eq!(read(&*disk, 0, 2048).unwrap()[..512], [0x5a; 512]);
    });
}

#[test]
fn many_more_requests_than_the_depth_all_end() {
    on_both("many_more_requests", 1 << 20, |_, disk| {
        let mut queue = disk.open_queue(2).unwrap();
        let mut memory = vec![0u8; 2048 * 512];
        for (token, sector) in memory.chunks_mut(512).enumerate() {
            let buffers = [IoBuf::of(sector)];
            // SAFETY: `memory` outlives the requests, which are waited for below.
            unsafe {
                queue.push(
                    token as u64,
                    Op::Read {
                        offset: token as u64 * 512,
                        buffers: &buffers,
                    },
                )
            };
        }
        assert_eq!(queue.in_flight(), 2048);
        let mut tokens: Vec<u64> = finish(&mut *queue).into_iter().map(|c| c.token).collect();
        tokens.sort_unstable();
        assert_eq!(tokens, (0..2048).collect::<Vec<u64>>());
        assert!(memory.iter().all(|byte| *byte == 0x5a));
    });
}

#[test]
fn dropping_a_queue_waits_for_the_host() {
    on_both("dropping_a_queue", 8 << 20, |_, disk| {
        let mut queue = disk.open_queue(4).unwrap();
        let mut memory = vec![0u8; 8 << 20];
        for (n, part) in memory.chunks_mut(1 << 20).enumerate() {
            let buffers = [IoBuf::of(part)];
            // SAFETY: `memory` is touched again only after the queue is gone.
            unsafe {
                queue.push(
                    n as u64,
                    Op::Read {
                        offset: (n as u64) << 20,
                        buffers: &buffers,
                    },
                )
            };
        }
        queue.submit();
        drop(queue);
        let copy = memory.clone();
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(memory == copy, "nobody writes after the queue is gone");
    });
}

#[test]
fn draining_hands_out_every_completion() {
    on_both("draining", 1 << 20, |_, disk| {
        let mut queue = disk.open_queue(4).unwrap();
        let data = vec![9u8; 4096];
        for token in 0..64 {
            let buffers = [IoBuf::of_const(&data)];
            // SAFETY: `data` outlives the requests, which are drained below.
            unsafe {
                queue.push(
                    token,
                    Op::Write {
                        offset: token * 4096,
                        buffers: &buffers,
                    },
                )
            };
        }
        // SAFETY: a flush has no buffers.
        unsafe { queue.push(64, Op::Flush) };
        let mut ended = Vec::new();
        queue.drain(&mut ended);
        assert_eq!((ended.len(), queue.in_flight()), (65, 0));
        assert!(ended.iter().all(|completion| completion.result.is_ok()));
    });
}

#[test]
fn qemus_tools_read_what_we_wrote_and_we_read_what_they_wrote() {
    if Command::new("qemu-io").arg("--version").output().is_err() {
        return eprintln!("SKIPPED qemus_tools_read_what_we_wrote: qemu-io is not installed");
    }
    on_both("qemus_tools", 1 << 20, |path, disk| {
        write(&*disk, 8192, &[0xab; 12288]).unwrap();
        let mut queue = disk.open_queue(1).unwrap();
        run(
            &mut *queue,
            Op::WriteZeroes {
                offset: 65536,
                len: 65536,
                unmap: true,
            },
        )
        .unwrap();
        run(&mut *queue, Op::Flush).unwrap();
        drop(queue);
        drop(disk);
        let qemu_io = |commands: &[&str]| {
            let mut command = Command::new("qemu-io");
            command.args(["-f", "raw"]);
            for part in commands {
                command.args(["-c", part]);
            }
            let output = command.arg(path).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(
                output.status.success() && !text.contains("failed"),
                "{text}{}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        qemu_io(&[
            "read -P 0x5a 0 8192",
            "read -P 0xab 8192 12288",
            "read -P 0x5a 20480 45056",
            "read -P 0 65536 65536",
            "write -P 0x77 512 1024",
            "write -z 131072 4096",
        ]);
        let file = open(path, DiskOptions::default()).unwrap();
        let disk = RawDisk::new(file).unwrap();
        assert_eq!(read(&disk, 512, 1024).unwrap(), vec![0x77; 1024]);
        assert_eq!(read(&disk, 131_072, 4096).unwrap(), vec![0; 4096]);
        assert_eq!(read(&disk, 0, 512).unwrap(), vec![0x5a; 512]);
    });
}
