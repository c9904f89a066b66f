//! Waiting for events, with a short adaptive poll before the sleep.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

use crate::error::Error;
use crate::pace::scaled;

/// Longest time that a worker polls before it sleeps: what a request that is answered and followed by the next one would cost otherwise,
/// in wake-ups across cores and the guest's exits for them.
const MAX_WINDOW: Duration = Duration::from_micros(100);
/// The first window after one that did not exist.
const FIRST_WINDOW: Duration = Duration::from_micros(10);
/// How often a worker that polls looks whether there are events, too, and lets others have the CPU.
const LOOK: Duration = Duration::from_micros(10);

/// The descriptor of an object that is borrowed for as long.
fn borrow(fd: &impl AsRawFd) -> BorrowedFd<'_> {
    // SAFETY: `fd` owns or borrows an open descriptor, and is borrowed for the result's lifetime.
    unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }
}

/// An epoll set and the poll window of the worker that waits on it.
pub struct EventLoop {
    epoll: OwnedFd,
    window: Duration,
    first_window: Duration,
    max_window: Duration,
    look: Duration,
}

impl EventLoop {
    /// An empty set.
    pub fn new() -> Result<Self, Error> {
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| Error::host("an epoll set")(e.into()))?;
        // On one CPU a poll only keeps the guest from running.
        let several = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1);
        let max_window = if several {
            scaled(MAX_WINDOW)
        } else {
            Duration::ZERO
        };
        Ok(Self {
            epoll,
            window: Duration::ZERO,
            first_window: scaled(FIRST_WINDOW).min(max_window),
            max_window,
            look: scaled(LOOK),
        })
    }

    /// Waits for `token` to be readable from now on (level triggered).
    pub fn add(&self, fd: &impl AsRawFd, token: u64) -> Result<(), Error> {
        self.add_flags(fd, token, epoll::EventFlags::IN)
    }

    /// Waits for `flags` on a descriptor.
    pub fn add_flags(&self, fd: &impl AsRawFd, token: u64, flags: epoll::EventFlags) -> Result<(), Error> {
        epoll::add(&self.epoll, borrow(fd), epoll::EventData::new_u64(token), flags)
            .map_err(|e| Error::host("an entry of an epoll set")(e.into()))
    }

    /// Waits for nothing more on a descriptor.
    pub fn remove(&self, fd: &impl AsRawFd) -> Result<(), Error> {
        epoll::delete(&self.epoll, borrow(fd)).map_err(|e| Error::host("less in an epoll set")(e.into()))
    }

    /// Polls `ready` for the adaptive window; true as soon as it says so, or soon after something happened that
    /// [`EventLoop::wait`] tells of. The window grows while sleeps turn out to be short and shrinks while polling is in vain, down to
    /// none.
    pub fn poll(&mut self, mut ready: impl FnMut() -> bool) -> bool {
        if self.window.is_zero() {
            return ready();
        }
        let start = Instant::now();
        let mut look_at = self.look;
        loop {
            if ready() {
                return true;
            }
            let elapsed = start.elapsed();
            if elapsed >= self.window {
                return false;
            }
            if elapsed >= look_at {
                if self.has_events() {
                    return true;
                }
                std::thread::yield_now();
                look_at = start.elapsed() + self.look;
            }
            for _ in 0..32 {
                std::hint::spin_loop();
            }
        }
    }

    /// Whether [`EventLoop::wait`] would tell of something without sleeping.
    fn has_events(&self) -> bool {
        let mut event = [MaybeUninit::<epoll::Event>::uninit(); 1];
        let happened = epoll::wait(&self.epoll, &mut event, Some(&Timespec::default()));
        happened.is_ok_and(|(happened, _)| !happened.is_empty())
    }

    /// Sleeps until something happens or `timeout` ends; tokens of what happened are put into `tokens`.
    pub fn wait(&mut self, timeout: Option<Duration>, tokens: &mut Vec<u64>) -> Result<(), Error> {
        tokens.clear();
        #[cfg(feature = "testing")]
        if crate::scripted::is_inside() {
            return self.wait_scripted(timeout, tokens);
        }
        let started = Instant::now();
        let timeout = timeout.map(|t| Timespec {
            tv_sec: t.as_secs() as i64,
            tv_nsec: t.subsec_nanos().into(),
        });
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); 16];
        match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok((happened, _)) => tokens.extend(happened.iter().map(|event| event.data.u64())),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::host("a wait")(error.into())),
        }
        // A look without sleeping says nothing about how long a sleep is.
        if timeout
            != Some(Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            })
        {
            self.adapt(started.elapsed());
        }
        Ok(())
    }

    /// The same for a worker that does not sleep but lets others go on.
    #[cfg(feature = "testing")]
    fn wait_scripted(&self, timeout: Option<Duration>, tokens: &mut Vec<u64>) -> Result<(), Error> {
        use crate::scripted::{Rest, Word, rest};
        loop {
            let now = Timespec::default();
            let mut events = [MaybeUninit::<epoll::Event>::uninit(); 16];
            let (happened, _) = epoll::wait(&self.epoll, &mut events, Some(&now))
                .map_err(|e| Error::host("a look at events")(e.into()))?;
            tokens.extend(happened.iter().map(|event| event.data.u64()));
            if !tokens.is_empty() || timeout == Some(Duration::ZERO) {
                rest(Rest::More);
                return Ok(());
            }
            if rest(Rest::Idle) == Word::TimePasses && timeout.is_some() {
                return Ok(());
            }
        }
    }

    fn adapt(&mut self, slept: Duration) {
        self.window = if slept <= self.max_window {
            (self.window * 2).clamp(self.first_window, self.max_window)
        } else if self.window <= self.first_window {
            Duration::ZERO
        } else {
            self.window / 2
        };
    }
}

/// What is listened for on the one or two descriptors of a back end, changed only where it differs.
pub struct Interest {
    token: u64,
    /// Descriptors in the set, with what is waited for.
    watched: Vec<(RawFd, epoll::EventFlags)>,
}

impl Interest {
    /// Nothing yet; events come with `token`.
    pub fn new(token: u64) -> Self {
        Self {
            token,
            watched: Vec::new(),
        }
    }

    /// From now on waits for `readable` to be readable and `writable` to be writable; they may be the same descriptor.
    pub fn set(
        &mut self,
        events: &EventLoop,
        readable: Option<BorrowedFd<'_>>,
        writable: Option<BorrowedFd<'_>>,
    ) -> Result<(), Error> {
        let flags_of = |fd: RawFd| {
            let mut flags = epoll::EventFlags::empty();
            if readable.is_some_and(|other| other.as_raw_fd() == fd) {
                flags |= epoll::EventFlags::IN;
            }
            if writable.is_some_and(|other| other.as_raw_fd() == fd) {
                flags |= epoll::EventFlags::OUT;
            }
            flags
        };
        let wanted = readable.into_iter().chain(writable);
        for fd in wanted {
            let (raw, flags) = (fd.as_raw_fd(), flags_of(fd.as_raw_fd()));
            match self.watched.iter_mut().find(|(watched, _)| *watched == raw) {
                Some((_, now)) if *now == flags => {}
                Some((_, now)) => {
                    epoll::modify(&events.epoll, fd, epoll::EventData::new_u64(self.token), flags)
                        .map_err(|e| Error::host("a change of an epoll set")(e.into()))?;
                    *now = flags;
                }
                None => {
                    events.add_flags(&fd, self.token, flags)?;
                    self.watched.push((raw, flags));
                }
            }
        }
        self.watched.retain(|(raw, _)| {
            let keep = !flags_of(*raw).is_empty();
            if !keep {
                // SAFETY: the number is only compared with the set's entries; one that was closed is in no set.
                let _ = epoll::delete(&events.epoll, unsafe { BorrowedFd::borrow_raw(*raw) });
            }
            keep
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EventFd;

    use super::*;

    /// A loop in the middle of a busy time, on a host with all the time in the world.
    fn busy() -> EventLoop {
        EventLoop {
            window: Duration::from_secs(60),
            max_window: Duration::from_secs(60),
            ..EventLoop::new().unwrap()
        }
    }

    #[test]
    fn a_poll_ends_with_what_it_looks_for_and_with_events() {
        let (mut events, event) = (busy(), EventFd::new(0).unwrap());
        events.add(&event, 7).unwrap();
        let mut looks = 0;
        assert!(events.poll(|| {
            looks += 1;
            looks == 1000
        }));
        event.write(1).unwrap();
        let start = Instant::now();
        assert!(events.poll(|| false));
        assert!(
            start.elapsed() < events.window,
            "it did not wait for the window's end"
        );
        let mut tokens = Vec::new();
        events.wait(Some(Duration::ZERO), &mut tokens).unwrap();
        assert_eq!(tokens, [7]);
    }

    #[test]
    fn the_window_follows_the_sleeps() {
        let mut events = EventLoop {
            window: Duration::ZERO,
            first_window: Duration::from_micros(10),
            max_window: Duration::from_micros(100),
            ..EventLoop::new().unwrap()
        };
        let mut after = |micros| {
            events.adapt(Duration::from_micros(micros));
            events.window.as_micros()
        };
        assert_eq!(
            [90, 90, 90, 90, 90, 90].map(&mut after),
            [10, 20, 40, 80, 100, 100]
        );
        assert_eq!([101, 900, 900, 900, 900].map(&mut after), [50, 25, 12, 6, 0]);
        assert!(!events.poll(|| false), "no window, no poll");
    }
}
