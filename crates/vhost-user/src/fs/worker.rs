//! The thread of a share: requests go to its virtiofsd, answers come from there, and without one the guest hears that nobody is there.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use ostler_memory::GuestRam;
use ostler_virtio::vsock::plug;
use ostler_virtio::{Activation, ActiveQueue, Chain, DeviceMetrics, Error, GuestError, Notify};
use ostler_worker::{EventLoop, clear};
use vmm_sys_util::eventfd::EventFd;

use super::device::Shared;
use super::request;
use super::server::Server;
use crate::front::{self, BackEndError, Sent, Session};

const STOP: u64 = 0;
const PLUG: u64 = 1;
const SOCKET: u64 = 2;
const FIRST_KICK: u64 = 16;
const FIRST_ANSWER: u64 = 32;

/// The queue for requests that overtake others, and the one for the others (5.11.2).
pub(super) const QUEUES: usize = 2;
/// Requests, or answers, of one ring in one go.
const BATCH: usize = 64;

/// What there is of a virtiofsd.
enum BackEnd {
    /// None.
    Gone,
    /// None, and none can be had: the plug has no other end.
    Never,
    /// The wish with this number was sent.
    Wished(u32),
    There(Server),
}

pub(super) struct FsWorker {
    shared: Arc<Shared>,
    queues: Vec<ActiveQueue>,
    /// Queues whose next request cannot be passed on yet.
    waits: [bool; QUEUES],
    spare: Vec<Chain>,
    back_end: BackEnd,
    /// A connection that came.
    came: Option<OwnedFd>,
    ram: Arc<GuestRam>,
    events: EventLoop,
    notify: Arc<dyn Notify>,
    metrics: Arc<DeviceMetrics>,
    /// The driver broke the rules: nothing is served until the reset.
    broken: bool,
}

impl FsWorker {
    pub fn new(
        activation: Activation,
        shared: Arc<Shared>,
        metrics: Arc<DeviceMetrics>,
    ) -> Result<Self, Error> {
        if activation.queues.len() != QUEUES {
            return Err(GuestError::Request("a share needs both of its queues").into());
        }
        let events = EventLoop::new()?;
        for (token, queue) in (FIRST_KICK..).zip(&activation.queues) {
            events.add(&*queue.kick, token)?;
        }
        events.add(&shared.plug, PLUG)?;
        Ok(Self {
            shared,
            queues: activation.queues,
            waits: [false; QUEUES],
            spare: Vec::new(),
            back_end: BackEnd::Gone,
            came: None,
            ram: activation.ram,
            events,
            notify: activation.notify,
            metrics,
            broken: false,
        })
    }

    /// Works until `stop` is signalled.
    pub fn run(mut self, stop: &EventFd) -> Vec<ActiveQueue> {
        if let Err(error) = self.events.add(stop, STOP) {
            tracing::error!("a share cannot be served: {error}");
            return self.finish();
        }
        // SAFETY: `stop` is open for longer than this function runs.
        let stopped = unsafe { BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(stop)) };
        if let Some(session) = self.shared.take_session() {
            self.begin(Ok(session), stopped);
        }
        let mut tokens = Vec::new();
        loop {
            if let Some(connection) = self.came.take() {
                let rings = self.queues.len();
                let session = Session::greet(UnixStream::from(connection), rings, stopped);
                self.begin(session, stopped);
            }
            let more = self.serve();
            let (queues, back_end) = (self.queues.iter().zip(&self.waits), &self.back_end);
            let ready = || {
                queues
                    .clone()
                    .any(|(queue, waits)| !waits && queue.vring.looks_available())
                    || matches!(back_end, BackEnd::There(server) if server.looks_answered())
            };
            let polled = !more && !self.broken && self.events.poll(ready);
            let timeout = (more || polled).then_some(Duration::ZERO);
            if let Err(error) = self.events.wait(timeout, &mut tokens) {
                tracing::error!("a share is not served any more: {error}");
                return self.finish();
            }
            for token in &tokens {
                match *token {
                    STOP => return self.finish(),
                    PLUG => self.hear_plug(),
                    SOCKET => {
                        if let BackEnd::There(server) = &self.back_end
                            && let Err(error) = server.look()
                        {
                            self.lose(&error);
                        }
                    }
                    kick => {
                        let queue = kick
                            .checked_sub(FIRST_KICK)
                            .and_then(|at| self.queues.get(at as usize));
                        if let Some(queue) = queue {
                            clear(&queue.kick);
                            DeviceMetrics::add(&self.metrics.kicks, 1);
                        }
                    }
                }
            }
        }
    }

    /// The queues come back; what the back end did not answer is forgotten with the driver that asked.
    fn finish(mut self) -> Vec<ActiveQueue> {
        if let BackEnd::There(server) = std::mem::replace(&mut self.back_end, BackEnd::Gone) {
            match server.stop() {
                Ok(session) => self.shared.keep_session(session),
                Err(error) => tracing::warn!("the virtiofsd of '{}' is gone: {error}", self.shared.tag),
            }
        }
        self.queues
    }

    /// Begins to use a back end that was greeted.
    fn begin(&mut self, session: Result<Session, BackEndError>, stop: BorrowedFd<'_>) {
        let rings = self.queues.len();
        let place = (&self.events, FIRST_ANSWER, SOCKET);
        self.back_end = match session.and_then(|session| Server::start(session, rings, stop, place)) {
            Ok(server) => BackEnd::There(server),
            Err(BackEndError::Stopped) => BackEnd::Gone,
            Err(error) => {
                tracing::warn!("the virtiofsd of '{}' cannot be used: {error}", self.shared.tag);
                DeviceMetrics::add(&self.metrics.errors, 1);
                BackEnd::Gone
            }
        };
        if matches!(self.back_end, BackEnd::Gone) {
            self.refuse_next();
        }
    }

    /// The wish came to nothing: whoever waits for it hears so, and the next one may wish again.
    fn refuse_next(&mut self) {
        let refused = (0..self.queues.len()).try_for_each(|queue| {
            let mut chain = self.spare();
            if self.queues[queue].vring.pop(&mut chain)? {
                self.refuse(queue, chain, request::NOT_CONNECTED)?;
            }
            self.publish(queue)
        });
        if let Err(error) = refused {
            self.break_down(error);
        }
    }

    fn hear_plug(&mut self) {
        loop {
            match plug::take(&self.shared.plug) {
                Ok(None) => return,
                // An answer to a wish of before the last reset is of no use: a virtiofsd ends with its connection.
                Ok(Some((id, _))) if !matches!(self.back_end, BackEnd::Wished(wished) if wished == id) => {}
                Ok(Some((_, Ok(connection)))) => {
                    self.back_end = BackEnd::Gone;
                    self.came = Some(connection);
                }
                Ok(Some((_, Err(number)))) => {
                    let why = std::io::Error::from_raw_os_error(number as i32);
                    tracing::warn!("there is no virtiofsd for '{}': {why}", self.shared.tag);
                    self.back_end = BackEnd::Gone;
                    self.refuse_next();
                }
                Err(error) => {
                    tracing::warn!(
                        "nobody connects a virtiofsd for '{}' any more: {error}",
                        self.shared.tag
                    );
                    let _ = self.events.remove(&self.shared.plug);
                    if !matches!(self.back_end, BackEnd::There(_)) {
                        self.back_end = BackEnd::Never;
                    }
                    return;
                }
            }
        }
    }

    /// The back end is gone: what it owes is answered for it.
    fn lose(&mut self, error: &BackEndError) {
        let BackEnd::There(server) = std::mem::replace(&mut self.back_end, BackEnd::Gone) else {
            return;
        };
        tracing::warn!("the virtiofsd of '{}' is gone: {error}", self.shared.tag);
        DeviceMetrics::add(&self.metrics.errors, 1);
        let unanswered = server.into_unanswered(&self.events);
        let refused = unanswered
            .into_iter()
            .enumerate()
            .try_for_each(|(queue, chains)| {
                chains
                    .into_iter()
                    .try_for_each(|chain| self.refuse(queue, chain, request::NOT_CONNECTED))?;
                self.publish(queue)
            });
        if let Err(error) = refused {
            self.break_down(error);
        }
    }

    fn break_down(&mut self, error: GuestError) {
        self.broken = true;
        self.notify.needs_reset(error);
    }

    /// Passes on what there is; true if there may be more.
    fn serve(&mut self) -> bool {
        let mut more = false;
        for queue in 0..self.queues.len() {
            if self.broken {
                return false;
            }
            match self
                .take_answers(queue)
                .and_then(|answers| Ok(answers | self.take_requests(queue)?))
            {
                Ok(some) => more |= some,
                Err(error) => self.break_down(error),
            }
        }
        more
    }

    /// Gives the guest answers of the back end; true if there may be more.
    fn take_answers(&mut self, queue: usize) -> Result<bool, GuestError> {
        for _ in 0..BATCH {
            let BackEnd::There(server) = &mut self.back_end else {
                return Ok(false);
            };
            match server.answered(queue) {
                Ok(Some((chain, len))) => {
                    DeviceMetrics::add(&self.metrics.requests, 1);
                    DeviceMetrics::add(&self.metrics.bytes_to_guest, len.into());
                    self.queues[queue].vring.push_used(chain.head(), len)?;
                    self.spare.push(chain);
                }
                Ok(None) => return self.publish(queue).map(|()| false),
                Err(error) => {
                    self.publish(queue)?;
                    self.lose(&error);
                    return Ok(false);
                }
            }
        }
        self.publish(queue).map(|()| true)
    }

    /// Gives the back end requests of the guest; true if there may be more that can be passed on now.
    fn take_requests(&mut self, queue: usize) -> Result<bool, GuestError> {
        let mut sent = false;
        let mut more = true;
        self.waits[queue] = false;
        for _ in 0..BATCH {
            let mut chain = self.spare();
            if !self.queues[queue].vring.pop(&mut chain)? {
                self.spare.push(chain);
                more = self.queues[queue].vring.enable_kicks()?;
                if !more {
                    break;
                }
                continue;
            }
            if chain.readable_bytes() + chain.writable_bytes() == 0 {
                self.queues[queue].vring.push_used(chain.head(), 0)?;
                self.spare.push(chain);
                continue;
            }
            match self.pass_on(queue, chain)? {
                Passed::Sent => sent = true,
                Passed::Answered => {}
                Passed::Waits => {
                    self.waits[queue] = true;
                    self.queues[queue].vring.undo_pop(1);
                    more = false;
                    break;
                }
            }
        }
        self.publish(queue)?;
        if sent
            && let BackEnd::There(server) = &mut self.back_end
            && let Err(error) = server.wake(queue)
        {
            self.lose(&error);
        }
        Ok(more)
    }

    fn pass_on(&mut self, queue: usize, chain: Chain) -> Result<Passed, GuestError> {
        match &mut self.back_end {
            BackEnd::There(server) => match server.fits(queue, &chain) {
                Sent::Yes => {
                    let bytes = chain.readable_bytes() as u64;
                    match server.send(queue, chain, self.shared.readonly) {
                        front::Passed::Sent => {
                            DeviceMetrics::add(&self.metrics.bytes_from_guest, bytes);
                            Ok(Passed::Sent)
                        }
                        front::Passed::NoRoom(chain) => {
                            self.spare.push(chain);
                            Ok(Passed::Waits)
                        }
                        front::Passed::Refused(chain) => self
                            .refuse(queue, chain, request::READ_ONLY)
                            .map(|()| Passed::Answered),
                    }
                }
                Sent::Later => {
                    self.spare.push(chain);
                    Ok(Passed::Waits)
                }
                Sent::Never => Err(GuestError::Request("a request for a share is longer than any")),
            },
            BackEnd::Wished(_) => {
                self.spare.push(chain);
                Ok(Passed::Waits)
            }
            BackEnd::Gone if self.came.is_some() => {
                self.spare.push(chain);
                Ok(Passed::Waits)
            }
            BackEnd::Gone if request::begins_session(&chain) => {
                let id = self.shared.next_wish();
                match plug::wish(&self.shared.plug, id, 0) {
                    Ok(()) => {
                        self.back_end = BackEnd::Wished(id);
                        self.spare.push(chain);
                        Ok(Passed::Waits)
                    }
                    Err(error) => {
                        tracing::warn!("nobody connects a virtiofsd for '{}': {error}", self.shared.tag);
                        self.refuse(queue, chain, request::NOT_CONNECTED)
                            .map(|()| Passed::Answered)
                    }
                }
            }
            BackEnd::Gone | BackEnd::Never => self
                .refuse(queue, chain, request::NOT_CONNECTED)
                .map(|()| Passed::Answered),
        }
    }

    /// Answers a request by itself, with an error.
    fn refuse(&mut self, queue: usize, chain: Chain, error: i32) -> Result<(), GuestError> {
        let len = request::refuse(&chain, error);
        self.queues[queue].vring.push_used(chain.head(), len)?;
        self.spare.push(chain);
        Ok(())
    }

    fn publish(&mut self, queue: usize) -> Result<(), GuestError> {
        let queue = &mut self.queues[queue];
        if queue.vring.publish()? {
            self.notify.queue(queue.index);
        }
        Ok(())
    }

    fn spare(&mut self) -> Chain {
        self.spare.pop().unwrap_or_else(|| Chain::new(self.ram.clone()))
    }
}

/// What became of a request.
enum Passed {
    Sent,
    Answered,
    /// It stays in the guest's ring.
    Waits,
}
