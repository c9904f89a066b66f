//! A back end that serves: its session, the memory that it shares with us, and its rings.

use std::os::fd::{BorrowedFd, OwnedFd};

use ostler_virtio::Chain;
use ostler_worker::EventLoop;
use rustix::event::epoll::EventFlags;

use super::request;
use crate::front::{Arena, BackEndError, DriverRing, Passed, Sent, Session, ShadowRing};

pub(super) struct Server {
    session: Session,
    arena: Arena,
    rings: Vec<ShadowRing>,
}

impl Server {
    /// Has a session serve `rings` rings. `events` tells of its answers with the tokens from `answers` on, and of its socket with
    /// `socket`.
    pub fn start(
        mut session: Session,
        rings: usize,
        stop: BorrowedFd<'_>,
        (events, answers, socket): (&EventLoop, u64, u64),
    ) -> Result<Self, BackEndError> {
        let arena = Arena::new()?;
        let rings = (0..rings).map(ShadowRing::new).collect::<Result<Vec<_>, _>>()?;
        let drivers: Vec<&DriverRing> = rings.iter().map(ShadowRing::driver).collect();
        session.start(&arena, &drivers, 0, stop)?;
        let watch = |fd: &OwnedFd, token| {
            // At their edge, as nobody reads them.
            events.add_flags(fd, token, EventFlags::IN | EventFlags::ET)
        };
        for (token, ring) in (answers..).zip(&rings) {
            watch(ring.driver().call(), token).map_err(|error| refused(error.source))?;
        }
        events
            .add(&session.socket(), socket)
            .map_err(|error| refused(error.source))?;
        Ok(Self {
            session,
            arena,
            rings,
        })
    }

    /// What would become of a request of ring `ring`.
    pub fn fits(&self, ring: usize, chain: &Chain) -> Sent {
        self.rings[ring].fits(&self.arena, chain)
    }

    /// Passes a request on, or gives it back if it does not fit, or would change something that is `readonly`.
    pub fn send(&mut self, ring: usize, chain: Chain, readonly: bool) -> Passed {
        let may_pass = |head: &[u8]| !readonly || request::only_reads(head);
        self.rings[ring].send_if(&mut self.arena, chain, may_pass)
    }

    /// Has the back end look at a ring.
    pub fn wake(&mut self, ring: usize) -> Result<(), BackEndError> {
        self.rings[ring].wake(&self.arena)
    }

    /// The next answer of a ring: the request with the answer in it, and the answer's length.
    pub fn answered(&mut self, ring: usize) -> Result<Option<(Chain, u32)>, BackEndError> {
        self.rings[ring].answered(&mut self.arena)
    }

    /// Whether a ring seems to have answers.
    pub fn looks_answered(&self) -> bool {
        self.rings.iter().any(|ring| ring.looks_used(&self.arena))
    }

    /// Whether it is still there, and silent beside its rings.
    pub fn look(&self) -> Result<(), BackEndError> {
        self.session.look()
    }

    /// The rings are not used any more; the session can be started again.
    pub fn stop(mut self) -> Result<Session, BackEndError> {
        self.session.stop()?;
        Ok(self.session)
    }

    /// It is lost: what it did not answer, by rings.
    pub fn into_unanswered(self, events: &EventLoop) -> Vec<Vec<Chain>> {
        // The other side has the same open files, which would stay in the set.
        let _ = events.remove(&self.session.socket());
        for ring in &self.rings {
            let _ = events.remove(ring.driver().call());
        }
        self.rings.into_iter().map(ShadowRing::into_unanswered).collect()
    }
}

fn refused(source: std::io::Error) -> BackEndError {
    BackEndError::Host {
        what: "an entry of an epoll set",
        source,
    }
}
