//! A thread that does a device's work.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::error::Error;

/// Bytes of a worker's stack.
pub(crate) const STACK: usize = 256 << 10;

/// A worker thread that gives back a `T` when it is stopped.
pub struct Worker<T> {
    running: Running<T>,
    stop: Arc<EventFd>,
}

enum Running<T> {
    Thread(JoinHandle<T>),
    #[cfg(feature = "testing")]
    Scripted(crate::scripted::Scripted<T>),
}

impl<T: Send + 'static> Worker<T> {
    /// Starts `work` on a thread of that name (at most 15 bytes show up). It has to return soon after its argument
    /// becomes readable.
    pub fn spawn(name: String, work: impl FnOnce(Arc<EventFd>) -> T + Send + 'static) -> Result<Self, Error> {
        let stop = Arc::new(new_event()?);
        let seen = stop.clone();
        #[cfg(feature = "testing")]
        if crate::scripted::is_on() {
            let running = Running::Scripted(crate::scripted::spawn(move || work(seen)));
            return Ok(Self { running, stop });
        }
        let thread = std::thread::Builder::new()
            .name(name)
            .stack_size(STACK)
            .spawn(move || work(seen))
            .map_err(Error::host("a worker thread"))?;
        let running = Running::Thread(thread);
        Ok(Self { running, stop })
    }

    /// Ends the thread and waits for what it gives back; `None` if it panicked.
    pub fn stop(self) -> Option<T> {
        if let Err(error) = self.stop.write(1) {
            tracing::error!("a worker could not be told to stop: {error}");
        }
        match self.running {
            Running::Thread(thread) => thread.join().ok(),
            #[cfg(feature = "testing")]
            Running::Scripted(scripted) => Some(scripted.finish()),
        }
    }
}

/// A new event that never blocks its reader.
pub fn new_event() -> Result<EventFd, Error> {
    EventFd::new(EFD_NONBLOCK).map_err(Error::host("an event"))
}

/// Clears an event; one that was not signalled is left as it is.
pub fn clear(event: &EventFd) {
    match event.read() {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => tracing::error!("an event could not be read: {error}"),
    }
}
