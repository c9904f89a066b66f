//! The threads that execute calls, shared by all clients.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Calls that are executed at a time.
const THREADS: usize = 20;

type Job = Box<dyn FnOnce() + Send>;

/// A queue of calls. Each client has a few in it at most, so it is no longer than clients are many.
#[derive(Default)]
pub struct Workers {
    queue: Mutex<VecDeque<Job>>,
    ready: Condvar,
}

impl Workers {
    /// Starts the threads, which live as long as the process.
    pub fn start() -> io::Result<Arc<Self>> {
        let workers = Arc::new(Self::default());
        for number in 0..THREADS {
            let workers = workers.clone();
            std::thread::Builder::new()
                .name(format!("call{number}"))
                .spawn(move || workers.work())?;
        }
        Ok(workers)
    }

    /// Executes `job` as soon as a thread is free.
    pub fn submit(&self, job: Job) {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(job);
        self.ready.notify_one();
    }

    fn work(&self) {
        loop {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            let job = loop {
                match queue.pop_front() {
                    Some(job) => break job,
                    None => queue = self.ready.wait(queue).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(queue);
            execute(job);
        }
    }
}

/// Executes a call. A mistake of ours in one is not the end of the others.
pub fn execute(job: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(job)).is_err() {
        crate::log::note!("a call ended in a panic");
    }
}
