//! A host that refuses io_uring: the same test again in a child process behind a system call filter.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use ostler_disk::open::{DiskOptions, open};
use ostler_disk::{Engine, IoBuf, Op, OpenQueue, RawDisk};

use crate::common::{folder, run};

const TEST: &str = "fallback::without_io_uring_auto_serves_requests_and_uring_says_why_not";
/// Set in the child.
const BEHIND_FILTER: &str = "OSTLER_DISK_TEST_BEHIND_FILTER";
const DONE: &str = "the child is through";

#[test]
fn without_io_uring_auto_serves_requests_and_uring_says_why_not() {
    if std::env::var_os(BEHIND_FILTER).is_some() {
        return behind_the_filter();
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", TEST, "--nocapture"])
        .env(BEHIND_FILTER, "1");
    // SAFETY: only system calls are made between fork and exec.
    let child = unsafe { child.pre_exec(refuse_io_uring) };
    let output = match child.output() {
        Ok(output) => output,
        Err(error) => return eprintln!("SKIPPED {TEST}: this host gives no system call filter: {error}"),
    };
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains(DONE), "{text}");
}

fn behind_the_filter() {
    // SAFETY: a null argument, for a call that the filter answers.
    let refused = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, std::ptr::null::<u8>()) };
    assert_eq!(
        (refused, io::Error::last_os_error().raw_os_error()),
        (-1, Some(libc::EPERM))
    );
    let folder = folder();
    let path = folder.path().join("disk");
    std::fs::write(&path, vec![0; 64 << 10]).unwrap();
    let disk = |engine| {
        let file = open(&path, DiskOptions::default()).unwrap();
        RawDisk::with_engine(file, engine).unwrap()
    };
    let error = disk(Engine::Uring).open_queue(8).err().unwrap().to_string();
    assert_eq!(
        error,
        "the disk could not be given a request queue: Operation not permitted (os error 1)"
    );

    let disk = disk(Engine::Auto);
    let mut queue = disk.open_queue(8).unwrap();
    let written: Vec<u8> = (0..4096u32).map(|i| (i * 7) as u8).collect();
    let buffers = [IoBuf::of_const(&written)];
    let offset = 8192;
    run(
        &mut *queue,
        Op::Write {
            offset,
            buffers: &buffers,
        },
    )
    .unwrap();
    run(&mut *queue, Op::Flush).unwrap();
    let mut read = vec![0; 4096];
    let buffers = [IoBuf::of(&mut read)];
    run(
        &mut *queue,
        Op::Read {
            offset,
            buffers: &buffers,
        },
    )
    .unwrap();
    assert_eq!(read, written);
    assert_eq!(std::fs::read(&path).unwrap()[8192..12288], written);
    println!("{DONE}");
}

/// Lets every system call through but the one that makes a ring, which fails with EPERM. Stays over exec.
fn refuse_io_uring() -> io::Result<()> {
    // struct seccomp_data: the call's number, then the architecture.
    const NUMBER: u32 = 0;
    const ARCHITECTURE: u32 = 4;
    const X86_64: u32 = 0xc000_003e;
    let instruction = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let load = |k| instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, k);
    let skip_unless = |k, count| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, count, k);
    let answer = |k| instruction(libc::BPF_RET | libc::BPF_K, 0, 0, k);
    let mut filter = [
        load(ARCHITECTURE),
        skip_unless(X86_64, 3),
        load(NUMBER),
        skip_unless(libc::SYS_io_uring_setup as u32, 1),
        answer(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program lives until the call returns, and the kernel copies it.
    let set = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            ) == 0
    };
    if set {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
