//! For tests of devices: a disk without bytes that writes down what it is asked, and answers when the test says so.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::{
    Capacity, Completion, Describe, DiskQueue, Error, Features, Flush, Op, OpenQueue, RequestError, Resize,
    Topology,
};

/// Longest that anything may take; no test is about time.
const LIMIT: Duration = Duration::from_secs(30);

/// What a disk was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the kinds of [`Op`] by their own names")]
pub enum Asked {
    Read,
    Write,
    Flush,
    Discard,
    WriteZeroes,
}

/// What was asked, in order, and what of that was not answered.
#[derive(Default)]
struct Log {
    asked: Vec<Asked>,
    waiting: Vec<u64>,
    done: Vec<Completion>,
    /// Answers by itself from now on.
    free: bool,
}

impl Log {
    fn answer(&mut self, result: Result<(), RequestError>) {
        let waiting = std::mem::take(&mut self.waiting);
        self.done
            .extend(waiting.into_iter().map(|token| Completion { token, result }));
    }
}

/// The log, and whoever waits for a change of it.
type Shared = Arc<(Mutex<Log>, Condvar)>;

/// The disk.
pub struct RecordingDisk {
    shared: Shared,
    event: EventFd,
    size: u64,
    block: u32,
    holding: bool,
}

impl RecordingDisk {
    /// One of `size` bytes in blocks of `block` bytes. Whoever drains a queue of it has everything answered.
    pub fn new(size: u64, block: u32) -> Arc<Self> {
        Self::with(size, block, false)
    }

    /// The same, but whoever drains a queue of it waits until the test answers.
    pub fn holding(size: u64, block: u32) -> Arc<Self> {
        Self::with(size, block, true)
    }

    fn with(size: u64, block: u32, holding: bool) -> Arc<Self> {
        Arc::new(Self {
            shared: Shared::default(),
            event: EventFd::new(EFD_NONBLOCK).expect("an eventfd"),
            size,
            block,
            holding,
        })
    }

    /// Answers everything that waits.
    pub fn answer(&self, result: Result<(), RequestError>) {
        self.change(|log| log.answer(result));
    }

    /// Answers everything, now and later.
    pub fn release(&self) {
        self.change(|log| {
            log.free = true;
            log.answer(Ok(()));
        });
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.0.lock().expect("no panic").asked.clone()
    }

    /// Waits until it was asked so many things, and returns them.
    pub fn wait_for(&self, count: usize) -> Vec<Asked> {
        let log = self.shared.0.lock().expect("no panic");
        let (log, waited) = self
            .shared
            .1
            .wait_timeout_while(log, LIMIT, |log| log.asked.len() < count)
            .expect("no panic");
        assert!(
            !waited.timed_out(),
            "the disk was not asked {count} things within {LIMIT:?}"
        );
        log.asked.clone()
    }

    fn change(&self, change: impl FnOnce(&mut Log)) {
        change(&mut self.shared.0.lock().expect("no panic"));
        self.shared.1.notify_all();
        self.event.write(1).expect("an eventfd takes what it is told");
    }
}

impl Capacity for RecordingDisk {
    fn size(&self) -> u64 {
        self.size
    }
}

impl Describe for RecordingDisk {
    fn features(&self) -> Features {
        Features {
            readonly: false,
            discard: true,
            write_zeroes: true,
        }
    }
    fn topology(&self) -> Topology {
        Topology {
            logical_block: self.block,
            physical_block: 4096,
            minimum_io: 4096,
            optimal_io: 0,
            discard_granularity: 4096,
        }
    }
}

impl Flush for RecordingDisk {
    fn flush(&self) -> Result<(), Error> {
        Ok(())
    }
}

impl Resize for RecordingDisk {
    fn resize(&self, _: u64) -> Result<(), Error> {
        Err(Error::ReadOnly)
    }
    fn refresh(&self) -> Result<u64, Error> {
        Ok(self.size)
    }
}

impl OpenQueue for RecordingDisk {
    fn open_queue(&self, _: u32) -> Result<Box<dyn DiskQueue>, Error> {
        Ok(Box::new(RecordingQueue {
            shared: self.shared.clone(),
            event: self.event.try_clone().expect("an eventfd can be had twice"),
            in_flight: 0,
            holding: self.holding,
        }))
    }
}

struct RecordingQueue {
    shared: Shared,
    event: EventFd,
    in_flight: usize,
    holding: bool,
}

impl DiskQueue for RecordingQueue {
    unsafe fn push(&mut self, token: u64, op: Op<'_>) {
        self.in_flight += 1;
        let mut log = self.shared.0.lock().expect("no panic");
        log.asked.push(match op {
            Op::Read { .. } => Asked::Read,
            Op::Write { .. } => Asked::Write,
            Op::Flush => Asked::Flush,
            Op::Discard { .. } => Asked::Discard,
            Op::WriteZeroes { .. } => Asked::WriteZeroes,
        });
        log.waiting.push(token);
        if log.free {
            log.answer(Ok(()));
            self.event.write(1).expect("an eventfd takes what it is told");
        }
        self.shared.1.notify_all();
    }
    fn submit(&mut self) {}
    fn complete(&mut self, into: &mut Vec<Completion>) {
        let _ = self.event.read();
        let mut log = self.shared.0.lock().expect("no panic");
        self.in_flight -= log.done.len();
        into.append(&mut log.done);
    }
    fn event(&self) -> &EventFd {
        &self.event
    }
    fn in_flight(&self) -> usize {
        self.in_flight
    }
    fn drain(&mut self, into: &mut Vec<Completion>) {
        {
            let mut log = self.shared.0.lock().expect("no panic");
            if self.holding {
                log = self
                    .shared
                    .1
                    .wait_while(log, |log| !log.waiting.is_empty())
                    .expect("no panic");
            }
            log.answer(Ok(()));
        }
        self.complete(into);
    }
}
