//! What a block device did, by kind of request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A kind of request that is counted by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockRequest {
    /// VIRTIO_BLK_T_IN.
    Read,
    /// VIRTIO_BLK_T_OUT and VIRTIO_BLK_T_WRITE_ZEROES.
    Write,
    /// VIRTIO_BLK_T_FLUSH.
    Flush,
    /// VIRTIO_BLK_T_DISCARD.
    Discard,
}

/// The counters of one kind.
#[derive(Debug, Default)]
struct Kind {
    done: AtomicU64,
    bytes: AtomicU64,
    nanoseconds: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
}

/// The counters of one kind at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KindCounters {
    /// Requests that the disk carried out.
    pub done: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Time that they took from the device's sight, added up.
    pub nanoseconds: u64,
    /// Requests that the disk failed.
    pub failed: u64,
    /// Requests that make no sense: outside the disk, or not in whole sectors.
    pub refused: u64,
}

/// What a block device has done since it was made. Written by its worker, read by any thread.
#[derive(Debug, Default)]
pub struct BlockAccount {
    kinds: [Kind; 4],
    highest_write: AtomicU64,
}

impl BlockAccount {
    /// The counters of `kind`.
    pub fn kind(&self, kind: BlockRequest) -> KindCounters {
        let counters = &self.kinds[kind as usize];
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        KindCounters {
            done: read(&counters.done),
            bytes: read(&counters.bytes),
            nanoseconds: read(&counters.nanoseconds),
            failed: read(&counters.failed),
            refused: read(&counters.refused),
        }
    }

    /// The end of the write that reached furthest, in bytes.
    pub fn highest_write(&self) -> u64 {
        self.highest_write.load(Ordering::Relaxed)
    }

    pub(crate) fn done(&self, kind: BlockRequest, bytes: u64, time: Duration) {
        let counters = &self.kinds[kind as usize];
        counters.done.fetch_add(1, Ordering::Relaxed);
        counters.bytes.fetch_add(bytes, Ordering::Relaxed);
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        counters.nanoseconds.fetch_add(time, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self, kind: BlockRequest) {
        self.kinds[kind as usize].failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self, kind: BlockRequest) {
        self.kinds[kind as usize].refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn wrote_up_to(&self, end: u64) {
        self.highest_write.fetch_max(end, Ordering::Relaxed);
    }
}
