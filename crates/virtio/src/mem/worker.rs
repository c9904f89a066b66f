//! Answers requests, one after the other.

use std::sync::Arc;
use std::time::Duration;

use ostler_memory::GuestRam;
use vmm_sys_util::eventfd::EventFd;

use super::request::{Request, Response};
use super::shared::Shared;
use crate::device::{ActiveQueue, Notify};
use crate::error::{Error, GuestError};
use crate::event_loop::EventLoop;
use crate::metrics::DeviceMetrics;
use crate::queue_server::{Answer, QueueServer, Served};
use crate::worker::clear;

const STOP: u64 = 0;
const KICK: u64 = 1;

pub(crate) struct MemWorker {
    server: QueueServer,
    events: EventLoop,
    shared: Arc<Shared>,
    notify: Arc<dyn Notify>,
    metrics: Arc<DeviceMetrics>,
    /// The driver broke the rules: nothing is served until the reset.
    broken: bool,
}

impl MemWorker {
    pub fn new(
        queue: ActiveQueue,
        ram: Arc<GuestRam>,
        shared: Arc<Shared>,
        notify: Arc<dyn Notify>,
        metrics: Arc<DeviceMetrics>,
    ) -> Result<Self, Error> {
        let events = EventLoop::new()?;
        events.add(&*queue.kick, KICK)?;
        Ok(Self {
            server: QueueServer::new(queue, ram, notify.clone()),
            events,
            shared,
            notify,
            metrics,
            broken: false,
        })
    }

    /// Works until `stop` is signalled.
    pub fn run(mut self, stop: &EventFd) -> Option<ActiveQueue> {
        let mut tokens = Vec::new();
        if let Err(error) = self.events.add(stop, STOP) {
            tracing::error!("a memory device's worker cannot run: {error}");
            return Some(self.server.active);
        }
        loop {
            let timeout = self.serve().then_some(Duration::ZERO);
            if let Err(error) = self.events.wait(timeout, &mut tokens) {
                tracing::error!("a memory device's worker ends: {error}");
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
        let (shared, metrics) = (&self.shared, &self.metrics);
        let served = self.server.serve(|chain| {
            let response = shared.handle(Request::read(chain)?);
            DeviceMetrics::add(&metrics.requests, 1);
            if matches!(response, Response::Error) {
                DeviceMetrics::add(&metrics.errors, 1);
            }
            Ok(Answer::Used(response.write(chain)))
        })?;
        match served {
            Served::All => self.server.active.vring.enable_kicks(),
            Served::More | Served::Later => Ok(true),
        }
    }
}
