//! The thread that has the conversation with a back end, from one to the next.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use ostler_virtio::vsock::plug;
use ostler_worker::{EventLoop, clear};
use vmm_sys_util::eventfd::EventFd;

use super::rings::{Rings, accepts};
use super::{Shared, Wish};
use crate::front::{BackEndError, Session};

const STOP: u64 = 0;
const LOOK: u64 = 1;
const PLUG: u64 = 2;
const SOCKET: u64 = 3;

/// Between a back end that failed and the next wish for one.
const PAUSE: Duration = Duration::from_millis(250);
/// Queue pairs of the card.
const PAIRS: usize = 1;

pub(super) struct Keeper {
    shared: Arc<Shared>,
    plug: OwnedFd,
    events: EventLoop,
    /// The number of the last wish.
    wished: u32,
}

impl Keeper {
    pub fn new(shared: Arc<Shared>, plug: OwnedFd) -> Result<Self, ostler_worker::Error> {
        let events = EventLoop::new()?;
        events.add(&shared.look, LOOK)?;
        Ok(Self {
            shared,
            plug,
            events,
            wished: 0,
        })
    }

    /// Works until `stop` is signalled.
    pub fn run(&mut self, stop: &EventFd) {
        // SAFETY: `stop` is open for longer than this function runs.
        let stopped = unsafe { BorrowedFd::borrow_raw(stop.as_raw_fd()) };
        if let Err(error) = self.events.add(stop, STOP) {
            tracing::error!("a card gets no vhost-user back end: {error}");
            return;
        }
        while let Some(connection) = self.next_connection() {
            let lost = self.serve(UnixStream::from(connection), stopped);
            {
                let mut state = self.shared.lock();
                self.shared.take_rings(&mut state);
                state.lost = None;
            }
            self.shared.set_up(false);
            match lost {
                BackEndError::Stopped => return,
                error => tracing::warn!("the vhost-user back end of a card is gone: {error}"),
            }
            if !self.pause() {
                return;
            }
        }
    }

    /// Waits; the tokens of what happened. None if this thread is to end.
    fn wait(&mut self, timeout: Option<Duration>) -> Option<Vec<u64>> {
        let mut tokens = Vec::new();
        if let Err(error) = self.events.wait(timeout, &mut tokens) {
            tracing::error!("a card gets no vhost-user back end any more: {error}");
            return None;
        }
        if tokens.contains(&LOOK) {
            clear(&self.shared.look);
        }
        (!tokens.contains(&STOP)).then_some(tokens)
    }

    /// Lets some time pass. False if this thread is to end.
    fn pause(&mut self) -> bool {
        let end = std::time::Instant::now() + PAUSE;
        loop {
            let left = end.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return true;
            }
            if self.wait(Some(left)).is_none() {
                return false;
            }
        }
    }

    /// Wishes for a connection, and waits for it. None if this thread is to end.
    fn next_connection(&mut self) -> Option<OwnedFd> {
        if let Err(error) = self.events.add(&self.plug, PLUG) {
            tracing::error!("a card gets no vhost-user back end: {error}");
            return None;
        }
        let connection = self.connection_by_plug();
        let _ = self.events.remove(&self.plug);
        connection
    }

    fn connection_by_plug(&mut self) -> Option<OwnedFd> {
        self.wish();
        loop {
            if !self.wait(None)?.contains(&PLUG) {
                continue;
            }
            match plug::take(&self.plug) {
                Ok(Some((id, Ok(connection)))) if id == self.wished => return Some(connection),
                Ok(Some((id, Err(number)))) if id == self.wished => {
                    let why = std::io::Error::from_raw_os_error(number as i32);
                    tracing::warn!("there is no vhost-user back end for a card: {why}");
                    if !self.pause() {
                        return None;
                    }
                    self.wish();
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!("nobody connects a card to a vhost-user back end any more: {error}");
                    let _ = self.events.remove(&self.plug);
                }
            }
        }
    }

    fn wish(&mut self) {
        self.wished = self.wished.wrapping_add(1);
        if let Err(error) = plug::wish(&self.plug, self.wished, 0) {
            tracing::warn!("nobody connects a card to a vhost-user back end: {error}");
        }
    }

    /// Has a back end serve the card's rings for as long as it does; says how it ended.
    fn serve(&mut self, socket: UnixStream, stop: BorrowedFd<'_>) -> BackEndError {
        let mut session = match Session::greet(socket, PAIRS, stop) {
            Ok(session) => session,
            Err(error) => return error,
        };
        if let Err(error) = self.events.add(&session.socket(), SOCKET) {
            return BackEndError::host("an entry of an epoll set")(std::io::Error::other(error));
        }
        let lost = self.serve_session(&mut session, stop);
        let _ = self.events.remove(&session.socket());
        lost.map_or_else(|error| error, |never| match never {})
    }

    fn serve_session(
        &mut self,
        session: &mut Session,
        stop: BorrowedFd<'_>,
    ) -> Result<std::convert::Infallible, BackEndError> {
        // How the rings run that the back end has.
        let mut running: Option<Wish> = None;
        loop {
            let wish = {
                let mut state = self.shared.lock();
                if let Some(error) = state.lost.take() {
                    return Err(error);
                }
                if running.is_some_and(|running| running != state.wish) {
                    self.shared.take_rings(&mut state);
                }
                state.wish
            };
            if running.is_some_and(|running| running != wish) {
                session.stop()?;
                session.settle(stop)?;
                running = None;
            }
            if wish.open && running.is_none() {
                let rings = Rings::new(accepts(session))?;
                rings.start(session, wish.takes, stop)?;
                running = Some(wish);
                if !self.shared.give_rings(rings, wish)? {
                    continue;
                }
            }
            self.shared.set_up(true);
            let tokens = self.wait(None).ok_or(BackEndError::Stopped)?;
            if tokens.contains(&SOCKET) {
                session.look()?;
            }
        }
    }
}
