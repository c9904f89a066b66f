//! A disk for tests of the device: it writes down what it is asked, and answers when it is told to.

use std::sync::{Arc, Mutex};

use ostler_disk::{
    Capacity, Completion, Describe, DiskQueue, Features, Flush, Op, OpenQueue, RequestError, Resize, Topology,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::tests::SECTORS;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Read,
    Write,
    Flush,
    Discard,
    WriteZeroes,
}

/// What a disk was asked, in order, and what of that it has not answered.
#[derive(Default)]
struct Log {
    asked: Vec<Asked>,
    waiting: Vec<u64>,
    done: Vec<Completion>,
}

/// A disk without bytes that answers when the test says so.
pub(super) struct Recording {
    log: Arc<Mutex<Log>>,
    event: EventFd,
    block: u32,
}

impl Recording {
    pub fn new(block: u32) -> Arc<Self> {
        Arc::new(Self {
            log: Arc::default(),
            event: EventFd::new(EFD_NONBLOCK).unwrap(),
            block,
        })
    }

    /// Answers everything that waits.
    pub fn answer(&self, result: Result<(), RequestError>) {
        let mut log = self.log.lock().unwrap();
        let waiting = std::mem::take(&mut log.waiting);
        log.done
            .extend(waiting.into_iter().map(|token| Completion { token, result }));
        self.event.write(1).unwrap();
    }

    /// Waits until the disk was asked so many things, and returns them.
    pub fn asked(&self, count: usize) -> Vec<Asked> {
        for _ in 0..20_000 {
            let asked = self.log.lock().unwrap().asked.clone();
            if asked.len() >= count {
                return asked;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("the disk was not asked {count} things within 20 seconds");
    }
}

impl Capacity for Recording {
    fn size(&self) -> u64 {
        SECTORS * 512
    }
}

impl Describe for Recording {
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

impl Flush for Recording {
    fn flush(&self) -> Result<(), ostler_disk::Error> {
        Ok(())
    }
}

impl Resize for Recording {
    fn resize(&self, _: u64) -> Result<(), ostler_disk::Error> {
        Err(ostler_disk::Error::ReadOnly)
    }
    fn refresh(&self) -> Result<u64, ostler_disk::Error> {
        Ok(self.size())
    }
}

impl OpenQueue for Recording {
    fn open_queue(&self, _: u32) -> Result<Box<dyn DiskQueue>, ostler_disk::Error> {
        Ok(Box::new(RecordingQueue {
            log: self.log.clone(),
            event: self.event.try_clone().unwrap(),
            in_flight: 0,
        }))
    }
}

struct RecordingQueue {
    log: Arc<Mutex<Log>>,
    event: EventFd,
    in_flight: usize,
}

impl DiskQueue for RecordingQueue {
    unsafe fn push(&mut self, token: u64, op: Op<'_>) {
        self.in_flight += 1;
        let mut log = self.log.lock().unwrap();
        log.asked.push(match op {
            Op::Read { .. } => Asked::Read,
            Op::Write { .. } => Asked::Write,
            Op::Flush => Asked::Flush,
            Op::Discard { .. } => Asked::Discard,
            Op::WriteZeroes { .. } => Asked::WriteZeroes,
        });
        log.waiting.push(token);
    }
    fn submit(&mut self) {}
    fn complete(&mut self, into: &mut Vec<Completion>) {
        let _ = self.event.read();
        let mut log = self.log.lock().unwrap();
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
            let mut log = self.log.lock().unwrap();
            let waiting = std::mem::take(&mut log.waiting);
            log.done.extend(waiting.into_iter().map(|token| Completion {
                token,
                result: Ok(()),
            }));
        }
        self.complete(into);
    }
}
