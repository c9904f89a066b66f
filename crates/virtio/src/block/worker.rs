//! Moves requests from the queues to the disk and answers back.
//!
//! One worker drives all queues of a device over one disk queue: requests of any queue are in flight together, and
//! what completes together is shown to the guest together. Nothing is allocated for a request once as many were in
//! flight before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ostler_disk::{Completion, Disk, DiskQueue, Op, RequestError};
use ostler_memory::{GuestRam, IoBuf};
use virtio_bindings::virtio_blk::{VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP};
use vmm_sys_util::eventfd::EventFd;

use super::account::{BlockAccount, BlockRequest};
use super::device::SERIAL_LEN;
use super::request::{HEADER_LEN, Request, kind, parse};
use crate::chain::Chain;
use crate::device::{Activation, ActiveQueue, Notify};
use crate::error::{Error, GuestError};
use crate::event_loop::EventLoop;
use crate::metrics::DeviceMetrics;
use crate::queue_server::publish;
use crate::worker::clear;

const STOP: u64 = 0;
const DISK: u64 = 1;
const FIRST_QUEUE: u64 = 2;

/// Requests that the disk works on at a time; more wait in its queue.
const DEPTH: u32 = 128;
/// Requests taken from a queue before the others, and completions, have their turn.
const BATCH: usize = 64;
/// The same in time: a disk may carry writes out while they are handed to it, and what it has done is for the guest to go on with.
const TURN: Duration = Duration::from_micros(40);

const S_OK: u8 = VIRTIO_BLK_S_OK as u8;
const S_IOERR: u8 = VIRTIO_BLK_S_IOERR as u8;
const S_UNSUPP: u8 = VIRTIO_BLK_S_UNSUPP as u8;

/// A request in flight.
struct Slot {
    chain: Chain,
    /// Place of its queue in `queues`.
    queue: usize,
    /// Operations of the disk that are still to complete.
    pending: u32,
    status: u8,
    /// Bytes that a read puts into the guest's buffers.
    read_len: usize,
    /// A write that is only done once it is durable, as the driver knows no flush.
    sync: bool,
    /// What it counts as.
    counted: Option<Counted>,
}

/// A request in the device's account.
#[derive(Debug, Clone, Copy)]
struct Counted {
    kind: BlockRequest,
    bytes: u64,
    since: Instant,
    /// Where a write ends on the disk.
    write_end: u64,
}

/// What a worker counts in.
pub(crate) struct Counters {
    pub metrics: Arc<DeviceMetrics>,
    pub account: Arc<BlockAccount>,
}

pub(crate) struct BlockWorker {
    queues: Vec<ActiveQueue>,
    disk: Arc<dyn Disk>,
    disk_queue: Box<dyn DiskQueue>,
    serial: [u8; SERIAL_LEN],
    /// The driver flushes by itself (VIRTIO_BLK_F_FLUSH).
    flushes: bool,
    ram: Arc<GuestRam>,
    notify: Arc<dyn Notify>,
    metrics: Arc<DeviceMetrics>,
    account: Arc<BlockAccount>,
    events: EventLoop,
    slots: Vec<Slot>,
    /// Places in `slots` that are not in flight.
    free: Vec<usize>,
    completions: Vec<Completion>,
    buffers: Vec<IoBuf>,
    /// The driver broke the rules: no request is taken until the reset.
    broken: bool,
}

impl BlockWorker {
    pub fn new(
        activation: Activation,
        disk: Arc<dyn Disk>,
        serial: [u8; SERIAL_LEN],
        flushes: bool,
        counters: Counters,
    ) -> Result<Self, Error> {
        let disk_queue = disk.open_queue(DEPTH)?;
        let events = EventLoop::new()?;
        events.add(disk_queue.event(), DISK)?;
        for (token, queue) in (FIRST_QUEUE..).zip(&activation.queues) {
            events.add(&*queue.kick, token)?;
        }
        Ok(Self {
            queues: activation.queues,
            disk,
            disk_queue,
            serial,
            flushes,
            ram: activation.ram,
            notify: activation.notify,
            metrics: counters.metrics,
            account: counters.account,
            events,
            slots: Vec::new(),
            free: Vec::new(),
            completions: Vec::new(),
            buffers: Vec::new(),
            broken: false,
        })
    }

    /// Works until `stop` is signalled; then waits for what is in flight.
    pub fn run(mut self, stop: &EventFd) -> Vec<ActiveQueue> {
        if let Err(error) = self.events.add(stop, STOP) {
            tracing::error!("a block worker cannot run: {error}");
            return self.finish();
        }
        let mut tokens = Vec::new();
        loop {
            let more = self.work().unwrap_or_else(|error| {
                self.fail(error);
                false
            });
            if let Err(error) = self.events.wait(more.then_some(Duration::ZERO), &mut tokens) {
                tracing::error!("a block worker ends: {error}");
                return self.finish();
            }
            for token in &tokens {
                match *token {
                    STOP => return self.finish(),
                    // Clears the event, which may come late: after the last completion was taken.
                    DISK => self.disk_queue.complete(&mut self.completions),
                    queue => {
                        if let Some(active) = self.queues.get((queue - FIRST_QUEUE) as usize) {
                            clear(&active.kick);
                            DeviceMetrics::add(&self.metrics.kicks, 1);
                        }
                    }
                }
            }
        }
    }

    fn fail(&mut self, error: GuestError) {
        if !std::mem::replace(&mut self.broken, true) {
            self.notify.needs_reset(error);
        }
    }

    /// Answers what the disk finished and takes what the guest offers. True if there is more.
    fn work(&mut self) -> Result<bool, GuestError> {
        self.complete()?;
        if self.broken {
            return Ok(false);
        }
        if self.take_requests()? || self.poll() {
            return Ok(true);
        }
        let mut more = false;
        for queue in &mut self.queues {
            more |= queue.vring.enable_kicks()?;
        }
        Ok(more)
    }

    /// Looks for a short while whether something turns up, before kicks are asked for again.
    fn poll(&mut self) -> bool {
        let (events, queues) = (&mut self.events, &mut self.queues);
        let (disk_queue, completions) = (&mut self.disk_queue, &mut self.completions);
        events.poll(|| {
            if disk_queue.in_flight() > 0 {
                disk_queue.complete(completions);
            }
            // An error shows up again, and is dealt with, when the queue is worked on.
            !completions.is_empty()
                || queues
                    .iter_mut()
                    .any(|queue| queue.vring.has_available().unwrap_or(true))
        })
    }

    fn take_requests(&mut self) -> Result<bool, GuestError> {
        let mut more = false;
        let mut result = Ok(());
        for queue in 0..self.queues.len() {
            match self.take_from(queue) {
                Ok(full) => more |= full,
                Err(error) => result = Err(error),
            }
        }
        self.disk_queue.submit();
        for queue in &mut self.queues {
            publish(queue, &*self.notify)?;
        }
        result.map(|()| more)
    }

    /// Takes a batch of requests. True if there may be more.
    fn take_from(&mut self, queue: usize) -> Result<bool, GuestError> {
        self.queues[queue].vring.disable_kicks()?;
        let mut turn_ends = None;
        for _ in 0..BATCH {
            let place = self.free_place();
            let slot = &mut self.slots[place];
            if !self.queues[queue].vring.pop(&mut slot.chain)? {
                self.free.push(place);
                return Ok(false);
            }
            slot.queue = queue;
            self.start(place)?;
            let Some(counted) = &self.slots[place].counted else {
                continue;
            };
            if matches!(counted.kind, BlockRequest::Write) {
                let ends = *turn_ends.get_or_insert(counted.since + TURN);
                if Instant::now() > ends {
                    return Ok(true);
                }
            }
        }
        Ok(true)
    }

    /// A slot that is not in flight; there are never more than the queues have entries, and a bad head cannot make
    /// more, as each is popped once.
    fn free_place(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            let chain = Chain::new(self.ram.clone());
            self.slots.push(Slot {
                chain,
                queue: 0,
                pending: 0,
                status: S_OK,
                read_len: 0,
                sync: false,
                counted: None,
            });
            self.slots.len() - 1
        })
    }

    /// Starts the request in slot `place`, or answers it at once.
    fn start(&mut self, place: usize) -> Result<(), GuestError> {
        let slot = &mut self.slots[place];
        (slot.status, slot.pending, slot.read_len, slot.sync) = (S_OK, 0, 0, false);
        slot.counted = None;
        match parse(&slot.chain, self.disk.size(), self.disk.features())? {
            Request::Read { offset } => {
                slot.read_len = slot.chain.writable_bytes() - 1;
                slot.counted = Counted::new(BlockRequest::Read, slot.read_len as u64, 0);
                cut(slot.chain.writable(), 0, slot.read_len, &mut self.buffers);
                self.push(place, Op::Read { offset, buffers: &[] }, true);
            }
            Request::Write { offset } => {
                let len = slot.chain.readable_bytes() - HEADER_LEN;
                slot.sync = !self.flushes;
                slot.counted = Counted::new(BlockRequest::Write, len as u64, offset + len as u64);
                DeviceMetrics::add(&self.metrics.bytes_from_guest, len as u64);
                cut(slot.chain.readable(), HEADER_LEN, len, &mut self.buffers);
                self.push(place, Op::Write { offset, buffers: &[] }, true);
            }
            Request::Flush => {
                slot.counted = Counted::new(BlockRequest::Flush, 0, 0);
                self.push(place, Op::Flush, false);
            }
            Request::Discard(ranges) => {
                slot.counted = Counted::new(BlockRequest::Discard, ranges.bytes(), 0);
                for range in ranges.iter() {
                    self.push(
                        place,
                        Op::Discard {
                            offset: range.offset,
                            len: range.len,
                        },
                        false,
                    );
                }
            }
            Request::WriteZeroes(ranges) => {
                slot.sync = !self.flushes;
                slot.counted = Counted::new(BlockRequest::Write, ranges.bytes(), ranges.end());
                for range in ranges.iter() {
                    let op = Op::WriteZeroes {
                        offset: range.offset,
                        len: range.len,
                        unmap: range.unmap,
                    };
                    self.push(place, op, false);
                }
            }
            Request::GetId => {
                slot.read_len = SERIAL_LEN.min(slot.chain.writable_bytes() - 1);
                slot.chain.write_at(0, &self.serial[..slot.read_len]);
                return self.answer(place);
            }
            Request::Refuse(status) => {
                if let Some(kind) = kind(&slot.chain) {
                    self.account.refused(kind);
                }
                slot.status = status;
                return self.answer(place);
            }
        }
        Ok(())
    }

    /// Hands one operation to the disk; with `data`, `self.buffers` are its buffers.
    fn push(&mut self, place: usize, op: Op<'_>, data: bool) {
        let slot = &mut self.slots[place];
        let token = place as u64 | u64::from(slot.pending) << 32;
        slot.pending += 1;
        let op = match op {
            Op::Read { offset, .. } if data => Op::Read {
                offset,
                buffers: &self.buffers,
            },
            Op::Write { offset, .. } if data => Op::Write {
                offset,
                buffers: &self.buffers,
            },
            other => other,
        };
        // SAFETY: the buffers lie in mappings of guest RAM that `self.ram` keeps alive. `finish` drains the disk queue
        // before `self` goes, and dropping the disk queue waits for what is in flight: fields are dropped in order of
        // declaration, and `disk_queue` comes before `ram` and `slots`.
        unsafe { self.disk_queue.push(token, op) };
    }

    /// Answers what the disk finished.
    fn complete(&mut self) -> Result<(), GuestError> {
        if self.disk_queue.in_flight() > 0 {
            self.disk_queue.complete(&mut self.completions);
        }
        self.settle()
    }

    fn settle(&mut self) -> Result<(), GuestError> {
        let mut completions = std::mem::take(&mut self.completions);
        let mut result = Ok(());
        for completion in completions.drain(..) {
            let place = (completion.token & 0xffff_ffff) as usize;
            let Some(slot) = self.slots.get_mut(place) else {
                continue;
            };
            slot.pending -= 1;
            if let Err(error) = completion.result {
                slot.status = status_of(error);
                DeviceMetrics::add(&self.metrics.errors, 1);
                tracing::debug!("a block request failed: {error}");
            }
            if slot.pending > 0 {
                continue;
            }
            if std::mem::take(&mut slot.sync) && slot.status == S_OK {
                self.push(place, Op::Flush, false);
                continue;
            }
            result = result.and(self.answer(place));
        }
        self.completions = completions;
        self.disk_queue.submit();
        for queue in &mut self.queues {
            result = result.and(publish(queue, &*self.notify));
        }
        result
    }

    /// Writes the status and returns the chain; the slot is free again.
    fn answer(&mut self, place: usize) -> Result<(), GuestError> {
        self.free.push(place);
        let slot = &self.slots[place];
        let chain = &slot.chain;
        let mut written = 1;
        if slot.status == S_OK {
            written += slot.read_len;
            chain.mark_written(slot.read_len);
            DeviceMetrics::add(&self.metrics.bytes_to_guest, slot.read_len as u64);
        }
        chain.write_at(chain.writable_bytes() - 1, &[slot.status]);
        DeviceMetrics::add(&self.metrics.requests, 1);
        if let Some(counted) = slot.counted {
            counted.settle(slot.status, &self.account);
        }
        if self.broken {
            return Ok(());
        }
        self.queues[slot.queue]
            .vring
            .push_used(chain.head(), written as u32)
    }

    fn finish(mut self) -> Vec<ActiveQueue> {
        loop {
            // What was taken from the disk already comes first: the stop may have been signalled together with it.
            if let Err(error) = self.settle() {
                self.fail(error);
            }
            // A sync write starts a flush when it completes, so once may not be enough.
            if self.disk_queue.in_flight() == 0 {
                return self.queues;
            }
            self.disk_queue.drain(&mut self.completions);
        }
    }
}

impl Counted {
    /// A request that starts now.
    fn new(kind: BlockRequest, bytes: u64, write_end: u64) -> Option<Self> {
        Some(Self {
            kind,
            bytes,
            since: Instant::now(),
            write_end,
        })
    }

    /// It is over.
    fn settle(self, status: u8, account: &BlockAccount) {
        if status == S_OK {
            account.done(self.kind, self.bytes, self.since.elapsed());
            account.wrote_up_to(self.write_end);
        } else {
            account.failed(self.kind);
        }
    }
}

/// Puts `len` bytes of `buffers` from byte `offset` on into `into`.
fn cut(buffers: &[IoBuf], offset: usize, len: usize, into: &mut Vec<IoBuf>) {
    into.clear();
    let (mut skip, mut left) = (offset, len);
    for buffer in buffers {
        let part = buffer.advanced(skip).truncated(left);
        skip = skip.saturating_sub(buffer.len());
        left -= part.len();
        if !part.is_empty() {
            into.push(part);
        }
    }
}

fn status_of(error: RequestError) -> u8 {
    match error {
        RequestError::Unsupported => S_UNSUPP,
        _ => S_IOERR,
    }
}

#[cfg(test)]
mod tests {
    use ostler_disk::recording::RecordingDisk;

    use super::*;
    use crate::testing::{Driver, Recorder, ram};

    const HEADER: u64 = 0x8_0000;
    const DATA: u64 = 0x10_0000;
    const STATUS: u64 = 0x9_0000;

    /// A request whose end and the stop are seen in one look.
    #[test]
    fn what_the_disk_finished_just_before_the_stop_is_answered() {
        let disk = RecordingDisk::new(64 << 10, 512);
        let ram = ram();
        let mut driver = Driver::new(ram.clone(), 0x10000, 16);
        let activation = Activation {
            features: 1 << 9,
            queues: vec![driver.active(0, true)],
            ram,
            notify: Arc::new(Recorder::default()),
        };
        let counters = Counters {
            metrics: Arc::default(),
            account: Arc::default(),
        };
        let mut worker = BlockWorker::new(activation, disk.clone(), [0; SERIAL_LEN], true, counters).unwrap();
        driver.add(&[(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)]);
        worker.work().unwrap();
        disk.answer(Ok(()));
        // As in the loop: the disk's event, then the stop's.
        worker.disk_queue.complete(&mut worker.completions);
        assert_eq!((worker.disk_queue.in_flight(), driver.used_index()), (0, 0));
        let queues = worker.finish();
        assert_eq!(queues[0].vring.next_available(), driver.used_index());
    }
}
