//! The threads that execute calls, shared by all clients.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};

/// Calls that are executed at a time.
const THREADS: usize = 20;

type Job = Box<dyn FnOnce() + Send>;

/// A queue of calls. Each client has a few in it at most, so it is no longer than clients are many.
#[derive(Default)]
pub struct Workers {
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Threads without a call. The one that had a call last has the next one: what it needs is in its CPU's cache still.
    idle: Vec<Thread>,
}

impl Workers {
    /// Starts the threads, which live as long as the process.
    pub fn start() -> io::Result<Arc<Self>> {
        let workers = Arc::new(Self::default());
        for number in 0..THREADS {
            let workers = workers.clone();
            thread::Builder::new()
                .name(format!("call{number}"))
                .spawn(move || workers.work())?;
        }
        Ok(workers)
    }

    /// Executes `job` as soon as a thread is free.
    pub fn submit(&self, job: Job) {
        let mut queue = self.queue();
        queue.jobs.push_back(job);
        let woken = queue.idle.pop();
        drop(queue);
        if let Some(thread) = woken {
            thread.unpark();
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let own = thread::current();
        loop {
            let mut queue = self.queue();
            // Somebody took the call that it was woken for, or nobody woke it.
            queue.idle.retain(|thread| thread.id() != own.id());
            let job = queue.jobs.pop_front();
            if job.is_none() {
                queue.idle.push(own.clone());
            }
            drop(queue);
            match job {
                Some(job) => execute(job),
                None => thread::park(),
            }
        }
    }
}

/// Executes a call. A mistake of ours in one is not the end of the others.
pub fn execute(job: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(job)).is_err() {
        crate::log::note!("a call ended in a panic");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn every_call_is_executed_and_others_go_on_while_some_wait() {
        let workers = Workers::start().unwrap();
        let (done, results) = mpsc::channel();
        // All threads but one wait for something.
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        for _ in 1..THREADS {
            let gate = gate.clone();
            workers.submit(Box::new(move || {
                let _ = gate.lock().map(|gate| gate.recv());
            }));
        }
        for number in 0..1000 {
            let done = done.clone();
            workers.submit(Box::new(move || done.send(number).unwrap()));
            // One by one, and many at a time.
            if number < 100 {
                assert_eq!(results.recv(), Ok(number));
            }
        }
        let mut rest: Vec<i32> = results.iter().take(900).collect();
        rest.sort_unstable();
        assert!(rest.into_iter().eq(100..1000));
        drop(release);
        workers.submit(Box::new(|| panic!("a mistake")));
        workers.submit(Box::new(move || done.send(-1).unwrap()));
        assert_eq!(results.recv(), Ok(-1));
    }
}
