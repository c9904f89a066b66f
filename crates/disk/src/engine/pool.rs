//! The engine for hosts that refuse io_uring: a few threads that make blocking calls.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::host::Host;
use super::limits::Limits;
use super::task::Task;
use crate::{Completion, DiskQueue, Op};

/// Threads of one queue: enough to overlap a flush with reads, few enough to cost nothing.
const THREADS: u32 = 4;

/// A queue whose requests run on threads of its own.
pub(crate) struct PoolQueue {
    shared: Arc<Shared>,
    limits: Arc<Limits>,
    threads: Vec<JoinHandle<()>>,
    /// Pushed, not submitted.
    pending: Vec<Task>,
    in_flight: usize,
}

struct Shared {
    work: Mutex<Work>,
    wake: Condvar,
    done: Mutex<Vec<Completion>>,
    wake_drain: Condvar,
    event: EventFd,
}

#[derive(Default)]
struct Work {
    tasks: VecDeque<Task>,
    stop: bool,
}

impl PoolQueue {
    /// A queue on `host` with at most `depth` threads.
    pub(crate) fn new<H: Host>(host: Arc<H>, limits: Arc<Limits>, depth: u32) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            work: Mutex::default(),
            wake: Condvar::new(),
            done: Mutex::default(),
            wake_drain: Condvar::new(),
            event: EventFd::new(EFD_NONBLOCK)?,
        });
        let mut queue = Self {
            shared,
            limits,
            threads: Vec::new(),
            pending: Vec::new(),
            in_flight: 0,
        };
        for _ in 0..depth.clamp(1, THREADS) {
            let (shared, host) = (queue.shared.clone(), host.clone());
            let thread = thread::Builder::new()
                .name("disk-io".into())
                .spawn(move || shared.work(&*host))?;
            queue.threads.push(thread);
        }
        Ok(queue)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn work<H: Host>(&self, host: &H) {
        while let Some(mut task) = self.next_task() {
            let result = loop {
                let result = host.run(task.step());
                if let Some(result) = task.advance(result) {
                    break result;
                }
            };
            self.finish(Completion {
                token: task.token(),
                result,
            });
        }
    }

    fn next_task(&self) -> Option<Task> {
        let mut work = lock(&self.work);
        loop {
            if let Some(task) = work.tasks.pop_front() {
                return Some(task);
            }
            if work.stop {
                return None;
            }
            work = self.wake.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finish(&self, completion: Completion) {
        lock(&self.done).push(completion);
        self.wake_drain.notify_one();
        // Fails only when the counter is full, and then the event is readable anyway.
        let _ = self.event.write(1);
    }
}

impl DiskQueue for PoolQueue {
    unsafe fn push(&mut self, token: u64, op: Op<'_>) {
        self.in_flight += 1;
        match Task::new(&self.limits, token, op) {
            Ok(task) => self.pending.push(task),
            Err(completion) => self.shared.finish(completion),
        }
    }

    fn submit(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let many = self.pending.len() > 1;
        lock(&self.shared.work).tasks.extend(self.pending.drain(..));
        if many {
            self.shared.wake.notify_all();
        } else {
            self.shared.wake.notify_one();
        }
    }

    fn complete(&mut self, into: &mut Vec<Completion>) {
        // Cleared first: what finishes from here on signals again.
        let _ = self.shared.event.read();
        let mut done = lock(&self.shared.done);
        self.in_flight -= done.len();
        into.append(&mut done);
    }

    fn event(&self) -> &EventFd {
        &self.shared.event
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn drain(&mut self, into: &mut Vec<Completion>) {
        self.submit();
        while self.in_flight > 0 {
            let mut done = lock(&self.shared.done);
            while done.is_empty() {
                done = self
                    .shared
                    .wake_drain
                    .wait(done)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            drop(done);
            self.complete(into);
        }
    }
}

impl Drop for PoolQueue {
    fn drop(&mut self) {
        // What was pushed but not submitted never ran; the threads finish the rest before they see `stop`.
        lock(&self.shared.work).stop = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
