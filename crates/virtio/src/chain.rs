//! A descriptor chain, checked as a whole before anybody uses it (virtio 1.2, 2.7.4 and 2.7.5).

use std::sync::Arc;

use ostler_memory::{GuestRam, IoBuf, host_range, mark_written};

use crate::error::GuestError;

/// Most buffers that one chain may have: no device here takes more, and the host's gather lists end there too.
pub const MAX_SEGMENTS: usize = 1024;

/// One buffer of a chain.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    /// Guest-physical address.
    pub gpa: u64,
    /// Bytes; never zero.
    pub len: u32,
}

/// A checked descriptor chain: first what the device reads, then what it writes.
///
/// A chain is filled again and again by [`crate::Vring::pop`], so that its lists are allocated once.
pub struct Chain {
    ram: Arc<GuestRam>,
    head: u16,
    segments: Vec<Segment>,
    buffers: Vec<IoBuf>,
    /// How many of the segments the device reads; it writes the rest.
    readable: usize,
    readable_bytes: usize,
    writable_bytes: usize,
}

impl Chain {
    /// An empty chain over `ram`.
    pub fn new(ram: Arc<GuestRam>) -> Self {
        let (segments, buffers) = (Vec::with_capacity(32), Vec::with_capacity(32));
        Self {
            ram,
            head: 0,
            segments,
            buffers,
            readable: 0,
            readable_bytes: 0,
            writable_bytes: 0,
        }
    }

    /// Index of the first descriptor, by which the chain is returned.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Bytes that the device may read.
    pub fn readable_bytes(&self) -> usize {
        self.readable_bytes
    }

    /// Bytes that the device may write.
    pub fn writable_bytes(&self) -> usize {
        self.writable_bytes
    }

    /// What the device reads, as host memory.
    pub fn readable(&self) -> &[IoBuf] {
        &self.buffers[..self.readable]
    }

    /// What the device writes, as host memory. Whoever writes there calls [`Chain::mark_written`].
    pub fn writable(&self) -> &[IoBuf] {
        &self.buffers[self.readable..]
    }

    /// The guest-physical addresses of what the device writes.
    pub fn writable_segments(&self) -> &[Segment] {
        &self.segments[self.readable..]
    }

    pub(crate) fn start(&mut self, head: u16) {
        self.head = head;
        self.segments.clear();
        self.buffers.clear();
        self.readable = 0;
        self.readable_bytes = 0;
        self.writable_bytes = 0;
    }

    /// Adds one descriptor's buffer. Empty buffers are left out.
    pub(crate) fn push(&mut self, gpa: u64, len: u32, writable: bool) -> Result<(), GuestError> {
        if !writable && self.segments.len() > self.readable {
            return Err(GuestError::Order);
        }
        if len == 0 {
            return Ok(());
        }
        if self.segments.len() >= MAX_SEGMENTS {
            return Err(GuestError::ChainTooLong);
        }
        let host = host_range(&self.ram, gpa, len as usize).ok_or(GuestError::BufferAddress { gpa, len })?;
        let total = self.readable_bytes as u64 + self.writable_bytes as u64 + u64::from(len);
        if total > u64::from(u32::MAX) {
            return Err(GuestError::ChainTooLarge);
        }
        self.segments.push(Segment { gpa, len });
        self.buffers.push(IoBuf::new(host, len as usize));
        if writable {
            self.writable_bytes += len as usize;
        } else {
            self.readable += 1;
            self.readable_bytes += len as usize;
        }
        Ok(())
    }

    /// Copies what the device reads, from byte `offset` on; returns how many bytes there were.
    pub fn read_at(&self, offset: usize, target: &mut [u8]) -> usize {
        let mut skip = offset;
        let mut done = 0;
        for buffer in self.readable() {
            if done == target.len() {
                break;
            }
            let rest = buffer.advanced(skip);
            skip = skip.saturating_sub(buffer.len());
            // SAFETY: the buffer lies in a mapping of `self.ram`, which lives as long as `self`.
            done += unsafe { rest.copy_to(&mut target[done..]) };
        }
        done
    }

    /// Copies `source` into what the device writes, from byte `offset` on; returns how many bytes found room.
    pub fn write_at(&self, offset: usize, source: &[u8]) -> usize {
        let mut skip = offset;
        let mut done = 0;
        for buffer in self.writable() {
            if done == source.len() {
                break;
            }
            let rest = buffer.advanced(skip);
            skip = skip.saturating_sub(buffer.len());
            // SAFETY: the buffer lies in a mapping of `self.ram`, which lives as long as `self`.
            done += unsafe { rest.copy_from(&source[done..]) };
        }
        self.mark_range(offset, done);
        done
    }

    /// Reports that the first `len` writable bytes were written by somebody who bypassed `vm-memory`.
    pub fn mark_written(&self, len: usize) {
        self.mark_range(0, len);
    }

    fn mark_range(&self, offset: usize, len: usize) {
        let (mut skip, mut left) = (offset, len);
        for segment in self.writable_segments() {
            let size = segment.len as usize;
            if left == 0 {
                break;
            }
            if skip < size {
                let here = (size - skip).min(left);
                mark_written(&self.ram, segment.gpa + skip as u64, here);
                left -= here;
            }
            skip = skip.saturating_sub(size);
        }
    }
}
