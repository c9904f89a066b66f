//! A worker that answers the requests of one queue, one after the other.

use std::sync::Arc;
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use crate::chain::Chain;
use crate::device::{Activation, ActiveQueue, DeviceKind, Notify};
use crate::error::{Error, GuestError};
use crate::event_loop::EventLoop;
use crate::metrics::DeviceMetrics;
use crate::queue_server::{Answer, QueueServer, Served};
use crate::worker::clear;

const STOP: u64 = 0;
const KICK: u64 = 1;

/// What became of a request.
pub(crate) struct Reply {
    /// Bytes of the answer.
    pub written: u32,
    /// The device says that it failed.
    pub failed: bool,
}

/// See the module's description. `H` answers a request.
pub(crate) struct RequestWorker<H> {
    kind: DeviceKind,
    server: QueueServer,
    events: EventLoop,
    handle: H,
    notify: Arc<dyn Notify>,
    metrics: Arc<DeviceMetrics>,
    /// The driver broke the rules: nothing is served until the reset.
    broken: bool,
}

impl<H: FnMut(&Chain) -> Result<Reply, GuestError>> RequestWorker<H> {
    pub fn new(
        kind: DeviceKind,
        queue: ActiveQueue,
        activation: &Activation,
        metrics: Arc<DeviceMetrics>,
        handle: H,
    ) -> Result<Self, Error> {
        let events = EventLoop::new()?;
        events.add(&*queue.kick, KICK)?;
        let notify = activation.notify.clone();
        Ok(Self {
            kind,
            server: QueueServer::new(queue, activation.ram.clone(), notify.clone()),
            events,
            handle,
            notify,
            metrics,
            broken: false,
        })
    }

    /// Works until `stop` is signalled.
    pub fn run(mut self, stop: &EventFd) -> Option<ActiveQueue> {
        let mut tokens = Vec::new();
        let name = self.kind.name();
        if let Err(error) = self.events.add(stop, STOP) {
            tracing::error!("the worker of a {name} device cannot run: {error}");
            return Some(self.server.active);
        }
        loop {
            let timeout = self.serve().then_some(Duration::ZERO);
            if let Err(error) = self.events.wait(timeout, &mut tokens) {
                tracing::error!("the worker of a {name} device ends: {error}");
                return Some(self.server.active);
            }
            if tokens.contains(&STOP) {
                return Some(self.server.active);
            }
            if tokens.contains(&KICK) {
                clear(&self.server.active.kick);
                DeviceMetrics::add(&self.metrics.kicks, 1);
            }
        }
    }

    /// Serves what is there. True if there is more.
    fn serve(&mut self) -> bool {
        if self.broken {
            return false;
        }
        self.try_serve().unwrap_or_else(|error| {
            self.broken = true;
            self.notify.needs_reset(error);
            false
        })
    }

    fn try_serve(&mut self) -> Result<bool, GuestError> {
        let (handle, metrics) = (&mut self.handle, &self.metrics);
        let served = self.server.serve(|chain| {
            let reply = handle(chain)?;
            DeviceMetrics::add(&metrics.requests, 1);
            DeviceMetrics::add(&metrics.errors, u64::from(reply.failed));
            Ok(Answer::Used(reply.written))
        })?;
        match served {
            Served::All => self.server.active.vring.enable_kicks(),
            Served::More | Served::Later => Ok(true),
        }
    }
}
