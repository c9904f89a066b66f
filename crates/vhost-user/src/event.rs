//! The eventfds of a front end, which it can fill, and whose O_NONBLOCK it can clear, as that belongs to the open file.
//!
//! Kicks are listened for at their edge and never read, so nothing waits for them. A call goes by io_uring, which signals an eventfd
//! from within the kernel and never waits for room in it; a plain write would.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::{IoUring, opcode};
use rustix::event::epoll;

use crate::Error;

fn ring() -> Result<IoUring, Error> {
    IoUring::builder().dontfork().build(1).map_err(Error::NoUring)
}

/// An eventfd that is listened to.
pub(crate) struct Kick {
    descriptor: OwnedFd,
    events: Arc<OwnedFd>,
}

impl Kick {
    /// Has `events` tell of it by `token`. What is no eventfd is refused: listening to a file of another kind could mean to wait for
    /// its server.
    pub fn listen(descriptor: OwnedFd, events: &Arc<OwnedFd>, token: u64) -> Result<Self, Error> {
        let ring = ring()?;
        let submitter = ring.submitter();
        submitter
            .register_eventfd(descriptor.as_raw_fd())
            .map_err(Error::NoEvent)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&**events, &descriptor, epoll::EventData::new_u64(token), flags)?;
        Ok(Self {
            descriptor,
            events: events.clone(),
        })
    }
}

impl Drop for Kick {
    fn drop(&mut self) {
        // The front end has the same open file, which keeps it in the set beyond our closing it.
        let _ = epoll::delete(&*self.events, &self.descriptor);
    }
}

/// An eventfd that is signalled.
pub(crate) struct Call(IoUring);

impl Call {
    /// The ring keeps the eventfd; the descriptor is not needed any more.
    pub fn new(descriptor: OwnedFd) -> Result<Self, Error> {
        let ring = ring()?;
        let submitter = ring.submitter();
        submitter
            .register_eventfd(descriptor.as_raw_fd())
            .map_err(Error::NoEvent)?;
        Ok(Self(ring))
    }

    /// Raises the eventfd by one.
    pub fn signal(&mut self) -> Result<(), Error> {
        let nothing = opcode::Nop::new().build();
        // SAFETY: the entry refers to no memory.
        let pushed = unsafe { self.0.submission().push(&nothing) };
        if pushed.is_ok() {
            self.0.submit().map_err(Error::Host)?;
        }
        self.0.completion().for_each(drop);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn a_call_raises_an_eventfd_and_does_not_wait_for_a_full_one() {
        let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let mut call = match Call::new(event.try_clone().unwrap()) {
            Err(Error::NoUring(error)) => {
                eprintln!("SKIPPED a_call_raises_an_eventfd_and_does_not_wait_for_a_full_one: {error}");
                return;
            }
            call => call.unwrap(),
        };
        for _ in 0..10 {
            call.signal().unwrap();
        }
        let mut count = [0; 8];
        rustix::io::read(&event, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 10);
        // As full as a program can make it, and blocking: a write would wait for ever.
        rustix::io::write(&event, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let (done, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for _ in 0..10 {
                call.signal().unwrap();
            }
            done.send(()).unwrap();
        });
        wait.recv_timeout(Duration::from_secs(240)).unwrap();
    }

    #[test]
    fn what_is_no_eventfd_is_refused() {
        for descriptor in [
            OwnedFd::from(std::io::pipe().unwrap().1),
            std::fs::File::open("/dev/null").unwrap().into(),
        ] {
            let copy = descriptor.try_clone().unwrap();
            assert!(matches!(
                Call::new(copy),
                Err(Error::NoEvent(_) | Error::NoUring(_))
            ));
            let events = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC).unwrap());
            let kick = Kick::listen(descriptor, &events, 0);
            assert!(matches!(kick, Err(Error::NoEvent(_) | Error::NoUring(_))));
        }
    }
}
