//! The way to the host's switch: rings of frames that are shared with it, and that survive its restart.
//!
//! A guest's process opens nothing. It has a *plug*, a socket to whoever started it. When it has no connection to the switch, it asks
//! there for one by a byte; the other end connects to the switch and sends what it got through the plug: the connection, on which
//! both sides wake each other, and the memory of the rings. The connection belongs to the guest alone, so that the switch sees it end
//! at once when the guest does; and the other way round.

mod plug;
mod queue;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::epoll;
use rustix::net::{RecvFlags, SendFlags};

pub use plug::{plug_in, wait_for_wish};
use queue::SwitchEnd;

use crate::copied::CopiedQueue;
use crate::ring::FrameRings;
use crate::slots::Slots;
use crate::{Error, NetBackend, NetQueue, Offloads};

/// The back end at the end of a plug.
#[derive(Debug)]
pub struct SwitchNet {
    shared: Arc<Shared>,
    slots: Slots,
}

#[derive(Debug)]
struct Shared {
    /// Readable when the connection is; the plug while there is none. One whose other end is gone would be readable for ever.
    events: OwnedFd,
    /// True while there is a connection.
    up: AtomicBool,
    /// Held by the one queue, for a call at a time.
    ends: Mutex<Ends>,
    /// What the guest takes over. Inside of the lock of `ends`, so that each connection hears of it.
    delivered: Mutex<Offloads>,
}

#[derive(Debug)]
struct Ends {
    /// Leads to who connects us.
    plug: OwnedFd,
    /// The switch, while there is one.
    link: Option<Link>,
}

/// A connection to the switch.
#[derive(Debug)]
struct Link {
    connection: OwnedFd,
    rings: FrameRings,
}

fn failed(what: &'static str) -> impl FnOnce(rustix::io::Errno) -> Error {
    move |source| Error::Setup {
        what,
        name: "the way to a switch".into(),
        source: source.into(),
    }
}

impl SwitchNet {
    /// The back end on `plug`. A connection that waits there already is taken.
    pub fn new(plug: OwnedFd) -> Result<Self, Error> {
        check(&plug)?;
        let events = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed("making an epoll set for"))?;
        watch(&events, plug.as_fd()).map_err(failed("watching"))?;
        let shared = Arc::new(Shared {
            events,
            up: AtomicBool::new(false),
            ends: Mutex::new(Ends { plug, link: None }),
            delivered: Mutex::new(Offloads::NONE),
        });
        shared.look_for_link(&mut shared.lock());
        Ok(Self {
            shared,
            slots: Slots::new(1),
        })
    }
}

fn check(plug: &OwnedFd) -> Result<(), Error> {
    match rustix::net::sockopt::socket_type(plug).map_err(failed("examining"))? {
        rustix::net::SocketType::STREAM => Ok(()),
        _ => Err(failed("taking over")(rustix::io::Errno::INVAL)),
    }
}

fn watch(events: &OwnedFd, fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    epoll::add(events, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delivered(&self) -> Offloads {
        *self.delivered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection that came through the plug.
    fn look_for_link(&self, ends: &mut Ends) {
        match plug::take(&ends.plug) {
            Ok(Some((connection, memory))) => match FrameRings::join(memory.as_fd()) {
                Ok(rings) => {
                    self.forget(ends.plug.as_fd());
                    if let Err(error) = watch(&self.events, connection.as_fd()) {
                        tracing::warn!("the connection to a switch cannot be watched: {error}");
                    }
                    rings.announce(self.delivered());
                    ends.link = Some(Link { connection, rings });
                    self.up.store(true, Ordering::SeqCst);
                }
                Err(error) => {
                    tracing::warn!("a switch sent what is no ring: {error}");
                    self.ask(ends);
                }
            },
            Ok(None) => {}
            // Nobody is there who could connect us: the card stays without a link.
            Err(_) => self.forget(ends.plug.as_fd()),
        }
    }

    /// The switch is gone, or does not keep to the rules: asks for a new connection.
    fn lose(&self, ends: &mut Ends) {
        if let Some(link) = ends.link.take() {
            self.forget(link.connection.as_fd());
            self.up.store(false, Ordering::SeqCst);
            self.wait_for_link(ends);
        }
    }

    fn wait_for_link(&self, ends: &Ends) {
        if let Err(error) = watch(&self.events, ends.plug.as_fd()) {
            tracing::warn!("the plug of a card cannot be watched: {error}");
        }
        self.ask(ends);
    }

    fn forget(&self, fd: BorrowedFd<'_>) {
        // It may be forgotten already.
        let _ = epoll::delete(&self.events, fd);
    }

    fn ask(&self, ends: &Ends) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        if let Err(error) = rustix::net::send(&ends.plug, &[plug::WISH], flags) {
            tracing::warn!("nobody connects the card to a switch again: {error}");
        }
    }
}

impl Link {
    /// Wakes the switch if it sleeps. False if it is gone.
    fn wake(&self) -> bool {
        if !self.rings.must_wake() {
            return true;
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::send(&self.connection, &[0], flags) {
            // If there is no room, it has enough to wake up for.
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => true,
            Err(_) => false,
        }
    }

    /// Takes what the switch wrote to wake us. False if it is gone.
    fn clear(&self) -> bool {
        let mut bytes = [0; 64];
        match rustix::net::recv(&self.connection, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((count, _)) => count > 0,
            Err(error) => matches!(error, rustix::io::Errno::AGAIN | rustix::io::Errno::INTR),
        }
    }
}

impl NetBackend for SwitchNet {
    /// All, whatever the switch takes: the rest is done here.
    fn accepts(&self) -> Offloads {
        Offloads::ALL
    }

    fn delivers(&self) -> Offloads {
        Offloads::ALL
    }

    fn set_delivered(&self, offloads: Offloads) -> Result<(), Error> {
        let ends = self.shared.lock();
        *self
            .shared
            .delivered
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = offloads;
        if let Some(link) = &ends.link {
            link.rings.announce(offloads);
        }
        Ok(())
    }

    fn link_up(&self) -> bool {
        self.shared.up.load(Ordering::SeqCst)
    }

    fn open_queue(&self, index: usize) -> Result<Box<dyn NetQueue>, Error> {
        let slot = self.slots.take(index)?;
        Ok(Box::new(CopiedQueue::new(SwitchEnd(self.shared.clone()), slot)))
    }

    fn replug(&self, plug: OwnedFd) -> Result<(), Error> {
        check(&plug)?;
        let mut ends = self.shared.lock();
        self.shared.forget(ends.plug.as_fd());
        ends.plug = plug;
        if ends.link.is_none() {
            self.shared.wait_for_link(&ends);
        }
        Ok(())
    }
}

/// What both ends of a plug meet.
fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the other end of the plug is gone")
}
