//! What an open descriptor says about the disk behind it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};

use rustix::fs::OFlags;

use crate::Topology;
use crate::engine::AlignedBuf;

// <linux/fs.h>; the `ioctl` numbers carry a type that the kernel ignores for the first two.
const BLKSSZGET: libc::Ioctl = 0x1268;
const BLKPBSZGET: libc::Ioctl = 0x127b;
const BLKIOMIN: libc::Ioctl = 0x1278;
const BLKIOOPT: libc::Ioctl = 0x1279;
const BLKGETSIZE64: libc::Ioctl = 0x8008_1272;

/// What was found.
pub(super) struct Found {
    /// Bytes, as the host has them.
    pub(super) size: u64,
    pub(super) readonly: bool,
    pub(super) block_device: bool,
    /// The unit of direct I/O; 1 without it.
    pub(super) align: usize,
    /// Holes can be punched, as far as that can be known.
    pub(super) can_punch: bool,
    pub(super) topology: Topology,
}

/// Examines `file`. Changes nothing on it.
pub(super) fn probe(file: &File) -> io::Result<Found> {
    let metadata = file.metadata()?;
    let kind = metadata.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is neither a file nor a block device",
        ));
    }
    let flags = rustix::fs::fcntl_getfl(file)?;
    let readonly = flags & OFlags::RWMODE == OFlags::RDONLY;
    let block_device = kind.is_block_device();
    let align = if flags.contains(OFlags::DIRECT) {
        direct_alignment(file)?
    } else {
        1
    };
    let logical_block = (align as u32).max(512);
    let topology = if block_device {
        device_topology(file, logical_block)
    } else {
        let block = u32::try_from(metadata.blksize()).unwrap_or(0).clamp(512, 1 << 20);
        Topology {
            logical_block,
            physical_block: block.min(4096),
            minimum_io: block,
            optimal_io: 0,
            discard_granularity: block,
        }
    };
    let can_punch = !readonly && (block_device || punches(file));
    Ok(Found {
        size: size(file)?,
        readonly,
        block_device,
        align,
        can_punch,
        topology,
    })
}

/// Bytes of the file or device.
pub(super) fn size(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    if !metadata.file_type().is_block_device() {
        return Ok(metadata.len());
    }
    let mut size = 0u64;
    // SAFETY: BLKGETSIZE64 writes a u64.
    if unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &raw mut size) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(size)
}

/// The smallest unit in which the host does direct I/O on this file, found by trying.
fn direct_alignment(file: &File) -> io::Result<usize> {
    for align in [512, 4096] {
        // A buffer at an odd multiple of the unit, so that a stricter host cannot pass by luck.
        let mut buffer = AlignedBuf::new(2 * align, 2 * align);
        match file.read_at(&mut buffer.bytes_mut()[align..], 0) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(align),
        }
    }
    Err(io::Error::other(
        "direct I/O needs an alignment of more than 4096 bytes here; open it without",
    ))
}

/// True if the file system has holes: tried far behind the end of the file, where nothing can be lost.
fn punches(file: &File) -> bool {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let Some(end) = file
        .metadata()
        .ok()
        .and_then(|m| m.len().checked_next_multiple_of(4096))
    else {
        return false;
    };
    let Ok(offset) = i64::try_from(end) else {
        return false;
    };
    // SAFETY: a plain call on an open descriptor; the range lies behind the end, and the size is kept.
    let result = unsafe { libc::fallocate64(file.as_raw_fd(), mode, offset, 4096) };
    result == 0
}

fn device_topology(file: &File, at_least: u32) -> Topology {
    let ask = |request| {
        let mut value = 0u32;
        // SAFETY: these requests write an int.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), request, &raw mut value) };
        if result < 0 { 0 } else { value }
    };
    let logical_block = ask(BLKSSZGET).clamp(at_least, 4096);
    Topology {
        logical_block,
        physical_block: ask(BLKPBSZGET).clamp(logical_block, 1 << 20),
        minimum_io: ask(BLKIOMIN),
        optimal_io: ask(BLKIOOPT),
        discard_granularity: ask(BLKPBSZGET).max(logical_block),
    }
}
