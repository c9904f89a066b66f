//! The host's file behind a disk, as the thread engine calls it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::task::Step;

/// Something that carries out steps; blocking, from any thread.
pub(crate) trait Host: Send + Sync + 'static {
    /// Makes the call. Returns a count or a negative `errno`, as the kernel does.
    fn run(&self, step: Step<'_>) -> i32;
}

impl Host for File {
    fn run(&self, step: Step<'_>) -> i32 {
        let fd = self.as_raw_fd();
        let result = match step {
            // SAFETY: the buffers are mapped while the request is under way, and IoBuf has the layout of iovec.
            Step::Read { offset, buffers } => unsafe {
                libc::preadv64(fd, buffers.as_ptr().cast(), buffers.len() as i32, offset as i64)
            },
            // SAFETY: as above.
            Step::Write { offset, buffers } => unsafe {
                libc::pwritev64(fd, buffers.as_ptr().cast(), buffers.len() as i32, offset as i64)
            },
            // SAFETY: a plain call on a descriptor that is open.
            Step::Sync => unsafe { libc::fdatasync(fd) as isize },
            // SAFETY: as above.
            Step::Allocate { mode, offset, len } => unsafe {
                libc::fallocate64(fd, mode, offset as i64, len as i64) as isize
            },
        };
        if result < 0 {
            -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
        } else {
            i32::try_from(result).unwrap_or(i32::MAX)
        }
    }
}
