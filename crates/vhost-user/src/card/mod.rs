//! A network card of our guest whose other end is a back end of vhost-user: DPDK, VPP, Snabb, or a port of our own switch
//! (virtio 1.2, 5.1).
//!
//! ```text
//! guest ── its rings ── card ── copy ──▶ ring 1 of the arena ──▶ back end
//!                            ◀── copy ── ring 0 of the arena ◀──
//! ```
//!
//! The guest's process opens nothing: without a back end, the card asks for one through its *plug*, as vsock does, and whoever minds
//! the plug sends a connection. A thread has the conversation with the back end, which may take its time; the card's worker moves
//! frames in memory and never waits. When the back end goes, breaks a ring or speaks out of turn, the card's link is down until another
//! one came.
//!
//! | file | idea |
//! |---|---|
//! | `rings.rs` | frames in rings of the arena |
//! | `queue.rs` | the other end of the queue pair that the card's worker drives |
//! | `keeper.rs` | the thread: from one back end to the next |

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod keeper;
mod queue;
mod rings;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ostler_netio::{CopiedQueue, Error, NetBackend, NetQueue, Offloads, Slots};
use ostler_worker::Worker;
use rustix::event::epoll;
use rustix::net::SocketType;
use vmm_sys_util::eventfd::EventFd;

use crate::front::BackEndError;
use keeper::Keeper;
use queue::CardEnd;
use rings::Rings;

/// The way to a back end of vhost-user.
pub struct CardNet {
    shared: Arc<Shared>,
    slots: Slots,
    /// Until it is ended.
    keeper: Mutex<Option<Worker<()>>>,
}

/// What the card's worker and the keeper share.
struct Shared {
    /// Readable when the back end has sent frames, or came or went. What is in it is listened to at its edge, and not read.
    events: OwnedFd,
    /// Raised when the back end came or went.
    changed: EventFd,
    /// Raised when the keeper has to look at `state`.
    look: EventFd,
    /// There is a back end.
    up: AtomicBool,
    /// Held for a call at a time.
    state: Mutex<State>,
}

/// What is wished, and what there is.
#[derive(Default)]
struct State {
    wish: Wish,
    /// The rings, while the back end serves them.
    rings: Option<Rings>,
    /// Why the back end is not used any more.
    lost: Option<BackEndError>,
}

/// How rings are to run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Wish {
    /// The guest's driver has its card running.
    open: bool,
    /// What the guest takes over.
    takes: Offloads,
}

fn failed<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
    move |source| Error::Setup {
        what,
        name: "the way to a vhost-user back end".into(),
        source: source.into(),
    }
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

impl CardNet {
    /// The back end at the end of `plug`, which is the guest's end of an [`ostler_virtio::vsock::plug`].
    ///
    /// # Errors
    /// If it is no SEQPACKET socket, or the host gives no events or no thread.
    pub fn new(plug: OwnedFd) -> Result<Self, Error> {
        let kind = rustix::net::sockopt::socket_type(&plug).map_err(failed("examining"))?;
        if kind != SocketType::SEQPACKET {
            return Err(failed("taking over")(rustix::io::Errno::INVAL));
        }
        let event = || {
            ostler_worker::new_event()
                .map_err(other)
                .map_err(failed("an event of"))
        };
        let shared = Arc::new(Shared {
            events: epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed("making an epoll set for"))?,
            changed: event()?,
            look: event()?,
            up: AtomicBool::new(false),
            state: Mutex::default(),
        });
        shared.watch(&shared.changed).map_err(failed("watching"))?;
        let keeper = Keeper::new(shared.clone(), plug).map_err(other);
        let mut keeper = keeper.map_err(failed("watching"))?;
        let keeper = Worker::spawn("net-keeper".into(), move |stop| keeper.run(&stop));
        Ok(Self {
            shared,
            slots: Slots::new(1),
            keeper: Mutex::new(Some(keeper.map_err(other).map_err(failed("a thread for"))?)),
        })
    }
}

impl Drop for CardNet {
    fn drop(&mut self) {
        let keeper = self.keeper.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(keeper) = keeper.take() {
            keeper.stop();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens to something at its edge.
    fn watch(&self, fd: &impl std::os::fd::AsRawFd) -> rustix::io::Result<()> {
        // SAFETY: the descriptor is open, as it is borrowed.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd.as_raw_fd()) };
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&self.events, fd, epoll::EventData::new_u64(0), flags)
    }

    /// The card's worker has seen that something happened.
    fn harvest(&self) {
        let mut happened = [std::mem::MaybeUninit::<epoll::Event>::uninit(); 4];
        let at_once = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // Should it fail, it is readable still, and looked at again.
        let _ = epoll::wait(&self.events, &mut happened, Some(&at_once));
    }

    fn raise(event: &EventFd) {
        if let Err(error) = event.write(1) {
            tracing::trace!("somebody is awake already: {error}");
        }
    }

    /// There is a back end, or none.
    fn set_up(&self, up: bool) {
        if self.up.swap(up, Ordering::SeqCst) != up {
            Self::raise(&self.changed);
        }
    }

    /// Changes what is wished.
    fn wish(&self, change: impl FnOnce(&mut Wish)) {
        let mut state = self.lock();
        let before = state.wish;
        change(&mut state.wish);
        if state.wish != before {
            if !state.wish.open {
                // Nobody looks at them any more.
                self.take_rings(&mut state);
            }
            Self::raise(&self.look);
        }
    }

    /// Gives the card's worker rings that the back end serves. False if they are not wished any more.
    fn give_rings(&self, rings: Rings, wish: Wish) -> Result<bool, BackEndError> {
        let mut state = self.lock();
        if state.wish != wish {
            return Ok(false);
        }
        self.watch(rings.call())
            .map_err(BackEndError::host("an entry of an epoll set"))?;
        state.rings = Some(rings);
        drop(state);
        // Frames may be there already.
        Self::raise(&self.changed);
        Ok(true)
    }

    /// Takes the rings away from the card's worker. True if there were some.
    fn take_rings(&self, state: &mut State) -> bool {
        let Some(rings) = state.rings.take() else {
            return false;
        };
        // The back end has the same open file, which would stay in the set.
        let _ = epoll::delete(&self.events, rings.call().as_fd());
        true
    }

    /// The back end broke the rings.
    fn lose(&self, state: &mut State, error: BackEndError) {
        self.take_rings(state);
        state.lost = Some(error);
        Self::raise(&self.look);
    }
}

impl NetBackend for CardNet {
    /// All, whatever the back end takes: the rest is done here.
    fn accepts(&self) -> Offloads {
        Offloads::ALL
    }

    fn delivers(&self) -> Offloads {
        Offloads::ALL
    }

    fn set_delivered(&self, offloads: Offloads) -> Result<(), Error> {
        self.shared.wish(|wish| wish.takes = offloads);
        Ok(())
    }

    fn link_up(&self) -> bool {
        self.shared.up.load(Ordering::SeqCst)
    }

    fn open_queue(&self, index: usize) -> Result<Box<dyn NetQueue>, Error> {
        let slot = self.slots.take(index)?;
        Ok(Box::new(CopiedQueue::new(
            CardEnd::new(self.shared.clone()),
            slot,
        )))
    }
}
