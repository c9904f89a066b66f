//! The machine's clock, and one thread that wakes chips at their deadlines. Without deadlines it sleeps for good.

use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::Error;
use crate::registers::lock;

/// The host's clocks as the chips see them.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self {
            origin: Instant::now(),
        }
    }

    /// Nanoseconds of CLOCK_MONOTONIC since the start.
    pub fn now(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    /// Nanoseconds since 1970 (UTC).
    pub fn wall(&self) -> u64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos() as u64)
    }
}

/// A chip that has deadlines.
pub trait TimerClient: Send + Sync {
    /// The deadline that was set has passed. Called on the timer thread, without locks held.
    fn expired(&self);
}

/// Names a client's deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerId(usize);

struct Entry {
    client: Weak<dyn TimerClient>,
    deadline: Option<u64>,
}

#[derive(Default)]
struct State {
    entries: Vec<Entry>,
    closed: bool,
}

impl State {
    fn earliest(&self) -> Option<u64> {
        self.entries.iter().filter_map(|entry| entry.deadline).min()
    }
}

struct Shared {
    clock: Clock,
    state: Mutex<State>,
    changed: Condvar,
}

/// The deadlines of one machine's chips.
#[derive(Clone)]
pub struct Timers(Arc<Shared>);

impl Timers {
    /// Adds a client without a deadline.
    pub fn register(&self, client: Weak<dyn TimerClient>) -> TimerId {
        let mut state = lock(&self.0.state);
        state.entries.push(Entry {
            client,
            deadline: None,
        });
        TimerId(state.entries.len() - 1)
    }

    /// Sets a client's deadline in nanoseconds of [`Clock::now`], or takes it away.
    pub fn set(&self, id: TimerId, deadline: Option<u64>) {
        let mut state = lock(&self.0.state);
        let earliest = state.earliest();
        let Some(entry) = state.entries.get_mut(id.0) else {
            return;
        };
        entry.deadline = deadline;
        // A later deadline is found when the thread wakes for the one that it sleeps on.
        let sooner = deadline.is_some_and(|at| earliest.is_none_or(|earliest| at < earliest));
        drop(state);
        if sooner {
            self.0.changed.notify_one();
        }
    }
}

/// The thread behind [`Timers`]; it ends when this is dropped.
pub struct TimerThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl TimerThread {
    /// Starts the thread.
    pub fn start(clock: Clock) -> Result<(Self, Timers), Error> {
        let shared = Arc::new(Shared {
            clock,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let work = shared.clone();
        let thread = std::thread::Builder::new()
            .name("timers".into())
            .spawn(move || work.run())
            .map_err(|source| Error::Host {
                what: "thread for timers",
                source,
            })?;
        Ok((
            Self {
                shared: shared.clone(),
                thread: Some(thread),
            },
            Timers(shared),
        ))
    }
}

impl Drop for TimerThread {
    fn drop(&mut self) {
        lock(&self.shared.state).closed = true;
        self.shared.changed.notify_one();
        let Some(thread) = self.thread.take() else { return };
        // A client's last reference may be dropped by the thread itself.
        if thread.thread().id() != std::thread::current().id() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut state = lock(&self.state);
        while !state.closed {
            let now = self.clock.now();
            let mut due = Vec::new();
            for entry in &mut state.entries {
                if entry.deadline.is_some_and(|at| at <= now) {
                    entry.deadline = None;
                    due.extend(entry.client.upgrade());
                }
            }
            if !due.is_empty() {
                drop(state);
                for client in due {
                    client.expired();
                }
                state = lock(&self.state);
                continue;
            }
            state = match state.earliest() {
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(|poisoned| poisoned.into_inner()),
                Some(at) => {
                    let pause = Duration::from_nanos(at - now);
                    self.changed
                        .wait_timeout(state, pause)
                        .unwrap_or_else(|poisoned| poisoned.into_inner())
                        .0
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Client(Mutex<mpsc::Sender<()>>);

    impl TimerClient for Client {
        fn expired(&self) {
            lock(&self.0).send(()).unwrap();
        }
    }

    #[test]
    fn a_deadline_wakes_its_client_once_and_a_sooner_one_comes_first() {
        let clock = Clock::start();
        let (thread, timers) = TimerThread::start(clock).unwrap();
        let (sender, heard) = mpsc::channel();
        let client = Arc::new(Client(Mutex::new(sender)));
        let weak: Weak<dyn TimerClient> = Arc::downgrade(&(client.clone() as Arc<dyn TimerClient>));
        let late = timers.register(weak.clone());
        let soon = timers.register(weak);
        timers.set(late, Some(u64::MAX));
        timers.set(soon, Some(clock.now() + 1_000_000));
        heard.recv().unwrap();
        timers.set(soon, Some(0));
        heard.recv().unwrap();
        drop(thread);
        assert!(heard.try_recv().is_err());
    }
}
