//! The capabilities of a disk. The control handle's are `&self` and may be called from any thread; a queue belongs to
//! one worker.

use vmm_sys_util::eventfd::EventFd;

use crate::{Completion, Error, Op};

/// How large the disk is.
pub trait Capacity {
    /// Bytes, a multiple of 512 and of [`Topology::logical_block`] where direct I/O asks for that. A file of another size
    /// is rounded up; the bytes past its end read as zeroes.
    fn size(&self) -> u64;
}

/// What a disk can do beside reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// Writes, discards and write-zeroes are refused.
    pub readonly: bool,
    /// [`Op::Discard`] gives space back to the host.
    pub discard: bool,
    /// [`Op::WriteZeroes`] works. (It always does on a writable disk; it may be slow where the host cannot help.)
    pub write_zeroes: bool,
}

/// Sizes that a guest may use to lay its requests out well. Bytes; zero where nothing is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    /// The smallest unit that the guest should address. With direct I/O smaller requests fail.
    pub logical_block: u32,
    /// The unit that the host writes without reading first.
    pub physical_block: u32,
    /// The best size for small requests.
    pub minimum_io: u32,
    /// The best size for large requests.
    pub optimal_io: u32,
    /// Discards are best aligned to this.
    pub discard_granularity: u32,
}

/// What kind of disk this is.
pub trait Describe {
    /// What it can do.
    fn features(&self) -> Features;
    /// How requests are best laid out.
    fn topology(&self) -> Topology;
}

/// Durability from the control side: before a save, at power-off.
pub trait Flush {
    /// Blocks until all completed writes are durable.
    fn flush(&self) -> Result<(), Error>;
}

/// Growing and shrinking.
pub trait Resize {
    /// Sets the size to `size` bytes. A device that uses the disk tells its guest afterwards.
    ///
    /// A block device cannot be resized from here; it is grown by the host, and [`Resize::refresh`] sees that.
    fn resize(&self, size: u64) -> Result<(), Error>;
    /// Asks the host for the size again and returns it.
    fn refresh(&self) -> Result<u64, Error>;
}

/// Opening queues.
pub trait OpenQueue {
    /// A new queue that keeps about `depth` requests going at the host at a time (more wait in it).
    fn open_queue(&self, depth: u32) -> Result<Box<dyn DiskQueue>, Error>;
}

/// The control handle of a disk: all of its capabilities.
pub trait Disk: Capacity + Describe + Flush + Resize + OpenQueue + Send + Sync {}

impl<T: Capacity + Describe + Flush + Resize + OpenQueue + Send + Sync> Disk for T {}

/// One stream of requests.
///
/// Requests run at the same time and complete in any order, with one rule: a flush covers every write whose completion
/// was there before the flush was pushed. A worker pushes what it finds in its vring, calls [`DiskQueue::submit`] once,
/// sleeps on [`DiskQueue::event`], and takes what is done with [`DiskQueue::complete`]. No call blocks on the disk,
/// except [`DiskQueue::drain`].
///
/// Dropping a queue waits for what is in flight, so that nobody writes into a guest's RAM afterwards.
pub trait DiskQueue: Send {
    /// Accepts one request. Whatever is wrong with it (range, read-only disk) comes back as its completion.
    ///
    /// `buffers` of the request are copied, the memory they point at is not. The caller bounds the number of requests
    /// in flight by the size of its vring; a token may be used again once it has completed.
    ///
    /// # Safety
    /// The memory behind the request's buffers stays mapped, and writable for a read, until the completion with
    /// `token` was taken or the queue was drained or dropped.
    unsafe fn push(&mut self, token: u64, op: Op<'_>);

    /// Starts what was pushed since the last call, as one batch.
    fn submit(&mut self);

    /// Takes all completions that are there, appended to `into`, and clears the event.
    ///
    /// Reads put bytes into guest RAM behind `vm-memory`'s back: mark them written (`ostler_memory::mark_written`).
    fn complete(&mut self, into: &mut Vec<Completion>);

    /// Readable while there may be completions. Only [`DiskQueue::complete`] reads from it.
    ///
    /// It may also become readable after its completion was taken, even with nothing in flight: when it is, call
    /// [`DiskQueue::complete`], which clears it.
    fn event(&self) -> &EventFd;

    /// Requests that were pushed and whose completion was not taken.
    fn in_flight(&self) -> usize;

    /// Submits what waits and blocks until all requests are done; their completions are appended to `into`.
    fn drain(&mut self, into: &mut Vec<Completion>);
}
