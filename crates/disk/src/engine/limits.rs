//! What every request on one disk is held against, shared by its control handle and all of its queues.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::{RequestError, SECTOR_SIZE};

/// The disk's size and abilities.
#[derive(Debug)]
pub(crate) struct Limits {
    size: AtomicU64,
    /// Writes are refused.
    pub(crate) readonly: bool,
    /// The unit of direct I/O, for addresses, offsets and lengths; 1 if the host's page cache is used.
    pub(crate) align: usize,
    /// The host punches holes. Turned off when it says that it does not.
    pub(crate) can_punch: AtomicBool,
    /// The host zeroes ranges. Turned off likewise.
    pub(crate) can_zero: AtomicBool,
}

impl Limits {
    /// Limits of a disk of `size` bytes; what the host can do is found out on the way.
    pub(crate) fn new(size: u64, readonly: bool, align: usize) -> Self {
        let (can_punch, can_zero) = (AtomicBool::new(true), AtomicBool::new(true));
        Self {
            size: AtomicU64::new(size),
            readonly,
            align,
            can_punch,
            can_zero,
        }
    }

    /// Bytes of the disk.
    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    pub(crate) fn set_size(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }

    /// The unit of a request's offset and length.
    pub(crate) fn block(&self) -> u64 {
        SECTOR_SIZE.max(self.align as u64)
    }

    /// Checks a request's range.
    pub(crate) fn check(&self, offset: u64, len: u64) -> Result<(), RequestError> {
        let end = offset.checked_add(len).ok_or(RequestError::OutOfRange)?;
        let aligned = (offset | len).is_multiple_of(self.block());
        if aligned && end <= self.size() {
            Ok(())
        } else {
            Err(RequestError::OutOfRange)
        }
    }

    /// Checks that the disk may be changed.
    pub(crate) fn check_writable(&self) -> Result<(), RequestError> {
        if self.readonly {
            Err(RequestError::ReadOnly)
        } else {
            Ok(())
        }
    }
}
