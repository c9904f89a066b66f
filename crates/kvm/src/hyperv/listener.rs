//! The thread that hears of HvSignalEvent: KVM does that hypercall by itself, and signals an event of the connection's.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use std::os::fd::AsRawFd;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// What the event that ends the thread is known by; connections have 32 bits.
const STOP: u64 = u64::MAX;

/// It ends when it is dropped.
pub struct Listener {
    epoll: Arc<Epoll>,
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Starts it; `heard` is called there with the number of each connection that was signalled.
    pub fn start(heard: impl Fn(u32) + Send + 'static) -> io::Result<Self> {
        let epoll = Arc::new(Epoll::new()?);
        let stop = EventFd::new(EFD_NONBLOCK)?;
        let ends = EpollEvent::new(EventSet::IN, STOP);
        epoll.ctl(ControlOperation::Add, stop.as_raw_fd(), ends)?;
        let waits = epoll.clone();
        let thread = std::thread::Builder::new().name("synic".into());
        let thread = thread.spawn(move || listen(&waits, heard))?;
        Ok(Self {
            epoll,
            stop,
            thread: Some(thread),
        })
    }

    /// Listens to the event of `connection`, too.
    pub fn add(&self, connection: u32, event: &EventFd) -> io::Result<()> {
        // Told of each signal once: so nobody needs to read the event.
        let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
        let what = EpollEvent::new(events, connection.into());
        self.epoll.ctl(ControlOperation::Add, event.as_raw_fd(), what)
    }

    /// Listens to it no more.
    pub fn remove(&self, event: &EventFd) {
        // It fails for an event that was never added, which is as well.
        let _ = self
            .epoll
            .ctl(ControlOperation::Delete, event.as_raw_fd(), EpollEvent::default());
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.stop.write(1).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

fn listen(epoll: &Epoll, heard: impl Fn(u32)) {
    loop {
        let mut events = [EpollEvent::default(); 16];
        let count = match epoll.wait(-1, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return tracing::warn!(%error, "nobody listens to the guest's events any more"),
        };
        for event in &events[..count.min(events.len())] {
            match event.data() {
                STOP => return,
                connection => heard(connection as u32),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn each_signal_is_heard_until_the_event_is_gone() {
        let (tell, told) = channel();
        let listener = Listener::start(move |connection| tell.send(connection).unwrap()).unwrap();
        let [first, second] = [(); 2].map(|()| EventFd::new(EFD_NONBLOCK).unwrap());
        listener.add(7, &first).unwrap();
        listener.add(8, &second).unwrap();
        for _ in 0..3 {
            first.write(1).unwrap();
            assert_eq!(told.recv().unwrap(), 7);
        }
        listener.remove(&first);
        listener.remove(&first);
        first.write(1).unwrap();
        second.write(1).unwrap();
        assert_eq!(told.recv().unwrap(), 8);
        drop(listener);
        assert_eq!(told.iter().count(), 0);
    }
}
