//! For fuzzers of devices: a small disk in memory that does what it is asked at once, later, or not.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ostler_memory::IoBuf;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::{
    Capacity, Completion, Describe, DiskQueue, Error, Features, Flush, Op, OpenQueue, RequestError, Resize,
    SECTOR_SIZE, Topology,
};

/// How requests end from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mood {
    /// At once.
    #[default]
    Willing,
    /// Not before the mood changes, or the queue is drained.
    Slow,
    /// By an error.
    Broken,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    mood: Mood,
    /// Of every queue that was opened.
    events: Vec<EventFd>,
}

/// The disk.
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
    readonly: bool,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryDisk {
    /// One of `size` bytes.
    pub fn new(size: usize, readonly: bool) -> Arc<Self> {
        let bytes = (0..size).map(|at| (at / 512) as u8).collect();
        let state = State {
            bytes,
            ..State::default()
        };
        Arc::new(Self {
            state: Arc::new(Mutex::new(state)),
            readonly,
        })
    }

    /// It is in this mood from now on.
    pub fn set_mood(&self, mood: Mood) {
        let mut state = lock(&self.state);
        state.mood = mood;
        for event in &state.events {
            event.write(1).expect("an eventfd takes what it is told");
        }
    }
}

impl Capacity for MemoryDisk {
    fn size(&self) -> u64 {
        lock(&self.state).bytes.len() as u64
    }
}

impl Describe for MemoryDisk {
    fn features(&self) -> Features {
        Features {
            readonly: self.readonly,
            discard: !self.readonly,
            write_zeroes: !self.readonly,
        }
    }
    fn topology(&self) -> Topology {
        Topology {
            logical_block: 512,
            physical_block: 512,
            minimum_io: 512,
            optimal_io: 0,
            discard_granularity: 512,
        }
    }
}

impl Flush for MemoryDisk {
    fn flush(&self) -> Result<(), Error> {
        Ok(())
    }
}

impl Resize for MemoryDisk {
    fn resize(&self, size: u64) -> Result<(), Error> {
        if !size.is_multiple_of(SECTOR_SIZE) || size > 1 << 20 {
            return Err(Error::Size(size));
        }
        lock(&self.state).bytes.resize(size as usize, 0);
        Ok(())
    }
    fn refresh(&self) -> Result<u64, Error> {
        Ok(self.size())
    }
}

impl OpenQueue for MemoryDisk {
    fn open_queue(&self, _: u32) -> Result<Box<dyn DiskQueue>, Error> {
        let event = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        let seen = event.try_clone().expect("an eventfd");
        lock(&self.state).events.push(seen);
        Ok(Box::new(MemoryQueue {
            state: self.state.clone(),
            readonly: self.readonly,
            event,
            waiting: Vec::new(),
        }))
    }
}

/// A request that was not answered.
enum Request {
    Read(u64, Vec<IoBuf>),
    Write(u64, Vec<IoBuf>),
    Zero(u64, u64),
    Nothing,
}

struct MemoryQueue {
    state: Arc<Mutex<State>>,
    readonly: bool,
    event: EventFd,
    waiting: Vec<(u64, Request)>,
}

impl MemoryQueue {
    fn answer(&mut self, mood: Mood, into: &mut Vec<Completion>) {
        let mut state = lock(&self.state);
        for (token, request) in self.waiting.drain(..) {
            let result = match mood {
                Mood::Broken => Err(RequestError::NoSpace),
                _ => carry_out(&mut state.bytes, request, self.readonly),
            };
            into.push(Completion { token, result });
        }
    }
}

/// The bytes from `offset` on.
fn range(bytes: &mut [u8], offset: u64, len: u64) -> Result<&mut [u8], RequestError> {
    if !offset.is_multiple_of(SECTOR_SIZE) || !len.is_multiple_of(SECTOR_SIZE) {
        return Err(RequestError::OutOfRange);
    }
    let end = offset.checked_add(len).ok_or(RequestError::OutOfRange)?;
    let (offset, end) = (usize::try_from(offset), usize::try_from(end));
    match (offset, end) {
        (Ok(offset), Ok(end)) => bytes.get_mut(offset..end).ok_or(RequestError::OutOfRange),
        _ => Err(RequestError::OutOfRange),
    }
}

fn carry_out(bytes: &mut [u8], request: Request, readonly: bool) -> Result<(), RequestError> {
    let total = |buffers: &[IoBuf]| IoBuf::total(buffers).map_or(u64::MAX, |total| total as u64);
    match request {
        Request::Read(offset, buffers) => {
            let mut source = &*range(bytes, offset, total(&buffers))?;
            for buffer in &buffers {
                // SAFETY: whoever pushed the request promised that the buffers stay until it is answered.
                let done = unsafe { buffer.copy_from(source) };
                source = &source[done..];
            }
        }
        Request::Write(..) | Request::Zero(..) if readonly => return Err(RequestError::ReadOnly),
        Request::Write(offset, buffers) => {
            let mut target = range(bytes, offset, total(&buffers))?;
            for buffer in &buffers {
                // SAFETY: as above.
                let done = unsafe { buffer.copy_to(target) };
                target = &mut target[done..];
            }
        }
        Request::Zero(offset, len) => range(bytes, offset, len)?.fill(0),
        Request::Nothing => {}
    }
    Ok(())
}

impl DiskQueue for MemoryQueue {
    unsafe fn push(&mut self, token: u64, op: Op<'_>) {
        let request = match op {
            Op::Read { offset, buffers } => Request::Read(offset, buffers.to_vec()),
            Op::Write { offset, buffers } => Request::Write(offset, buffers.to_vec()),
            Op::Flush => Request::Nothing,
            Op::Discard { offset, len } | Op::WriteZeroes { offset, len, .. } => Request::Zero(offset, len),
        };
        self.waiting.push((token, request));
    }
    fn submit(&mut self) {
        if !self.waiting.is_empty() {
            self.event.write(1).expect("an eventfd takes what it is told");
        }
    }
    fn complete(&mut self, into: &mut Vec<Completion>) {
        let mood = lock(&self.state).mood;
        if mood != Mood::Slow {
            self.answer(mood, into);
        }
        let _ = self.event.read();
    }
    fn event(&self) -> &EventFd {
        &self.event
    }
    fn in_flight(&self) -> usize {
        self.waiting.len()
    }
    fn drain(&mut self, into: &mut Vec<Completion>) {
        let mood = lock(&self.state).mood;
        self.answer(mood, into);
        let _ = self.event.read();
    }
}
