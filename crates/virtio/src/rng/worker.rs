//! Fills the guest's buffers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ostler_memory::GuestRam;
use rustix::rand::{GetRandomFlags, getrandom};
use vmm_sys_util::eventfd::EventFd;

use crate::chain::Chain;
use crate::device::{ActiveQueue, Notify};
use crate::error::{Error, GuestError};
use crate::event_loop::EventLoop;
use crate::metrics::DeviceMetrics;
use crate::queue_server::{Answer, QueueServer, Served};
use crate::worker::clear;

const STOP: u64 = 0;
const KICK: u64 = 1;

/// Most bytes in one period: a guest cannot keep the host's generator busy.
const BUDGET: usize = 128 << 10;
/// How long a budget lasts.
const PERIOD: Duration = Duration::from_millis(100);

pub(crate) struct RngWorker {
    server: QueueServer,
    events: EventLoop,
    notify: Arc<dyn Notify>,
    metrics: Arc<DeviceMetrics>,
    budget: usize,
    period_end: Instant,
    /// The driver broke the rules: nothing is served until the reset.
    broken: bool,
}

impl RngWorker {
    pub fn new(
        queue: ActiveQueue,
        ram: Arc<GuestRam>,
        notify: Arc<dyn Notify>,
        metrics: Arc<DeviceMetrics>,
    ) -> Result<Self, Error> {
        let events = EventLoop::new()?;
        events.add(&*queue.kick, KICK)?;
        let server = QueueServer::new(queue, ram, notify.clone());
        let (budget, period_end) = (BUDGET, Instant::now() + PERIOD);
        Ok(Self {
            server,
            events,
            notify,
            metrics,
            budget,
            period_end,
            broken: false,
        })
    }

    /// Works until `stop` is signalled.
    pub fn run(mut self, stop: &EventFd) -> Option<ActiveQueue> {
        let mut tokens = Vec::new();
        if let Err(error) = self.events.add(stop, STOP) {
            tracing::error!("the entropy worker cannot run: {error}");
            return Some(self.server.active);
        }
        loop {
            let timeout = self.serve();
            if let Err(error) = self.events.wait(timeout, &mut tokens) {
                tracing::error!("the entropy worker ends: {error}");
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

    /// Serves what is there; returns how long to sleep if there is more to do later.
    fn serve(&mut self) -> Option<Duration> {
        if self.broken {
            return None;
        }
        self.try_serve().unwrap_or_else(|error| {
            self.broken = true;
            self.notify.needs_reset(error);
            None
        })
    }

    fn try_serve(&mut self) -> Result<Option<Duration>, GuestError> {
        if Instant::now() >= self.period_end {
            self.budget = BUDGET;
            self.period_end = Instant::now() + PERIOD;
        }
        let (budget, metrics) = (&mut self.budget, &self.metrics);
        let served = self.server.serve(|chain| {
            if *budget == 0 {
                return Ok(Answer::Later);
            }
            let filled = fill(chain, *budget);
            *budget -= filled;
            DeviceMetrics::add(&metrics.requests, 1);
            DeviceMetrics::add(&metrics.bytes_to_guest, filled as u64);
            Ok(Answer::Used(filled as u32))
        })?;
        let more = match served {
            Served::Later => return Ok(Some(self.period_end.saturating_duration_since(Instant::now()))),
            Served::More => true,
            Served::All => self.server.active.vring.enable_kicks()?,
        };
        Ok(more.then_some(Duration::ZERO))
    }
}

/// Fills the chain with at most `limit` random bytes; returns how many.
fn fill(chain: &Chain, limit: usize) -> usize {
    let wanted = chain.writable_bytes().min(limit);
    let mut done = 0;
    let mut bytes = [0; 4096];
    while done < wanted {
        let part = (wanted - done).min(bytes.len());
        match getrandom(&mut bytes[..part], GetRandomFlags::empty()) {
            Ok(count) => done += chain.write_at(done, &bytes[..count]),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::error!("the host gives no random numbers: {error}");
                break;
            }
        }
    }
    done
}
