//! Advisory locks on disks, in QEMU's layout, so that two guests never write one disk.
//!
//! Each permission has two bytes of the file, far from anything else that locks files. Whoever *uses* a permission
//! holds a shared lock on byte 100 + n; whoever does *not let others* use it holds one on byte 200 + n. After taking
//! its own locks, an opener looks for anyone's on the opposite bytes. Both take first and look second, so of two that
//! come at the same time at most one gets through.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// Uses: byte 100 + permission.
const USES_BASE: i64 = 100;
/// Forbids to others: byte 200 + permission.
const FORBIDS_BASE: i64 = 200;

// QEMU's permissions, by number.
const CONSISTENT_READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;

const READER_USES: &[i64] = &[CONSISTENT_READ];
const WRITER_USES: &[i64] = &[CONSISTENT_READ, WRITE, RESIZE];
/// A reader, too, forbids writing: its guest would see the file system change under it.
const FORBIDS: &[i64] = &[WRITE, RESIZE];

/// Takes the locks of a writer or a reader on `file`. False if another open file holds locks that exclude it.
///
/// What was taken before a failure stays until the file is closed.
pub(super) fn acquire(file: &File, writable: bool) -> io::Result<bool> {
    let uses = if writable { WRITER_USES } else { READER_USES };
    for byte in offsets(USES_BASE, uses).chain(offsets(FORBIDS_BASE, FORBIDS)) {
        if !take_shared(file, byte)? {
            return Ok(false);
        }
    }
    for byte in offsets(FORBIDS_BASE, uses).chain(offsets(USES_BASE, FORBIDS)) {
        if held_by_other(file, byte)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Gives the locks up, if `file` is the last handle of its open file in this process.
///
/// Closing is not enough: the kernel takes a ring down later than the call that closes it, and the ring holds the file.
pub(crate) fn release_last(file: &Arc<File>) {
    if Arc::strong_count(file) > 1 {
        return;
    }
    let mut everything = byte_lock(libc::F_UNLCK, USES_BASE);
    everything.l_len = 2 * (FORBIDS_BASE - USES_BASE);
    // SAFETY: F_OFD_SETLK reads a flock64. A refusal leaves the locks to the close that follows.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const everything) };
}

fn offsets(base: i64, permissions: &[i64]) -> impl Iterator<Item = i64> {
    permissions.iter().map(move |permission| base + permission)
}

fn byte_lock(kind: libc::c_int, byte: i64) -> libc::flock64 {
    libc::flock64 {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

/// Takes a shared lock on one byte; false if someone holds an exclusive one.
fn take_shared(file: &File, byte: i64) -> io::Result<bool> {
    let lock = byte_lock(libc::F_RDLCK, byte);
    // SAFETY: F_OFD_SETLK reads a flock64.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

/// True if another open file description holds any lock on the byte. Our own locks never answer.
fn held_by_other(file: &File, byte: i64) -> io::Result<bool> {
    let mut lock = byte_lock(libc::F_WRLCK, byte);
    // SAFETY: F_OFD_GETLK reads and writes a flock64.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
}
