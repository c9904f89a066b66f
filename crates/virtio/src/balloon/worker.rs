//! Serves the queues, and asks for statistics now and then.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ostler_memory::GuestRam;
use vmm_sys_util::eventfd::EventFd;

use super::device::{F_REPORTING, F_STATISTICS};
use super::pages::{Given, give_back, give_back_reported, numbers};
use super::shared::Shared;
use super::statistics::{MAX_BYTES, Statistics};
use crate::chain::Chain;
use crate::device::{Activation, ActiveQueue, Notify};
use crate::error::{Error, GuestError};
use crate::event_loop::EventLoop;
use crate::metrics::DeviceMetrics;
use crate::queue_server::{Answer, QueueServer, Served, publish};
use crate::worker::clear;

const STOP: u64 = 0;
const INTERVAL: u64 = 1;
/// Kicks of queue n have this token plus n.
const FIRST_QUEUE: u64 = 16;

/// Queue numbers (5.5.2); for reports see [`super::device`].
const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const STATISTICS: u16 = 2;
const REPORTS: [u16; 2] = [4, 3];

/// How many buffers with statistics are read in one go.
const BATCH: usize = 64;

/// What is in a queue that is answered at once.
#[derive(Clone, Copy)]
enum Content {
    Inflate,
    Deflate,
    Reports,
}

pub(crate) struct BalloonWorker {
    served: Vec<(Content, QueueServer)>,
    statistics: Option<StatisticsQueue>,
    /// Queues that the driver enabled without a use for them.
    idle: Vec<ActiveQueue>,
    /// When the guest is asked for statistics next.
    next_request: Option<Instant>,
    ram: Arc<GuestRam>,
    shared: Arc<Shared>,
    notify: Arc<dyn Notify>,
    metrics: Arc<DeviceMetrics>,
    events: EventLoop,
    /// The driver broke the rules: nothing is served until the reset.
    broken: bool,
}

impl BalloonWorker {
    pub fn new(
        mut activation: Activation,
        shared: Arc<Shared>,
        metrics: Arc<DeviceMetrics>,
    ) -> Result<Self, Error> {
        let events = EventLoop::new()?;
        for queue in &activation.queues {
            events.add(&*queue.kick, FIRST_QUEUE + u64::from(queue.index))?;
        }
        events.add(&shared.interval_changed, INTERVAL)?;
        let (ram, notify) = (activation.ram.clone(), activation.notify.clone());
        let mut queues = vec![(Content::Inflate, INFLATE), (Content::Deflate, DEFLATE)];
        if activation.has(F_REPORTING) {
            queues.extend(REPORTS.map(|index| (Content::Reports, index)));
        }
        let served = queues
            .into_iter()
            .filter_map(|(content, index)| {
                let queue = activation.take(index)?;
                Some((content, QueueServer::new(queue, ram.clone(), notify.clone())))
            })
            .collect();
        let statistics = if activation.has(F_STATISTICS) {
            activation.take(STATISTICS)
        } else {
            None
        };
        Ok(Self {
            served,
            statistics: statistics.map(|queue| StatisticsQueue::new(queue, ram.clone())),
            idle: activation.queues,
            next_request: (shared.interval() > 0).then(Instant::now),
            ram,
            shared,
            notify,
            metrics,
            events,
            broken: false,
        })
    }

    /// Works until `stop` is signalled; gives back the queues.
    pub fn run(mut self, stop: &EventFd) -> Vec<ActiveQueue> {
        if let Err(error) = self.events.add(stop, STOP) {
            tracing::error!("a balloon's worker cannot run: {error}");
            return self.finish();
        }
        let mut tokens = Vec::new();
        loop {
            let more = self.work();
            let timeout = if more {
                Some(Duration::ZERO)
            } else {
                self.next_request
                    .filter(|_| !self.broken)
                    .map(|at| at.saturating_duration_since(Instant::now()))
            };
            if let Err(error) = self.events.wait(timeout, &mut tokens) {
                tracing::error!("a balloon's worker ends: {error}");
                return self.finish();
            }
            if tokens.contains(&STOP) {
                return self.finish();
            }
            self.clear_events(&tokens);
        }
    }

    fn clear_events(&mut self, tokens: &[u64]) {
        if tokens.contains(&INTERVAL) {
            clear(&self.shared.interval_changed);
            self.next_request = (self.shared.interval() > 0).then(Instant::now);
        }
        let served = self.served.iter().map(|(_, server)| &server.active);
        let statistics = self.statistics.iter().map(|queue| &queue.active);
        for active in served.chain(statistics).chain(&self.idle) {
            if tokens.contains(&(FIRST_QUEUE + u64::from(active.index))) {
                clear(&active.kick);
                DeviceMetrics::add(&self.metrics.kicks, 1);
            }
        }
    }

    /// Does what there is to do. True if there is more.
    fn work(&mut self) -> bool {
        if self.broken {
            return false;
        }
        self.try_work().unwrap_or_else(|error| {
            self.broken = true;
            self.notify.needs_reset(error);
            false
        })
    }

    fn try_work(&mut self) -> Result<bool, GuestError> {
        let mut more = false;
        for (content, server) in &mut self.served {
            let (ram, metrics) = (&*self.ram, &*self.metrics);
            let served = server.serve(|chain| {
                let given = match content {
                    Content::Inflate => give_back(ram, &numbers(chain)?),
                    Content::Reports => give_back_reported(ram, chain),
                    // The page is there again when the guest touches it.
                    Content::Deflate => Given::default(),
                };
                DeviceMetrics::add(&metrics.requests, 1);
                DeviceMetrics::add(&metrics.errors, given.refused);
                Ok(Answer::Used(0))
            })?;
            more |= match served {
                Served::All => server.active.vring.enable_kicks()?,
                Served::More | Served::Later => true,
            };
        }
        let Some(statistics) = &mut self.statistics else {
            return Ok(more);
        };
        more |= statistics.receive(&self.shared, &*self.notify)?;
        if self.next_request.is_some_and(|at| at <= Instant::now()) {
            statistics.ask(&*self.notify)?;
            let seconds = self.shared.interval();
            let pause = Duration::from_secs(seconds.into());
            self.next_request = (seconds > 0).then(|| Instant::now() + pause);
        }
        Ok(more)
    }

    fn finish(self) -> Vec<ActiveQueue> {
        let mut queues = self.idle;
        queues.extend(self.served.into_iter().map(|(_, server)| server.active));
        queues.extend(self.statistics.map(StatisticsQueue::finish));
        queues.sort_by_key(|queue| queue.index);
        queues
    }
}

/// The queue whose buffer the device keeps until it wants new statistics (5.5.6.3).
struct StatisticsQueue {
    active: ActiveQueue,
    chain: Chain,
    /// The chain that is kept.
    held: Option<u16>,
}

impl StatisticsQueue {
    fn new(active: ActiveQueue, ram: Arc<GuestRam>) -> Self {
        Self {
            active,
            chain: Chain::new(ram),
            held: None,
        }
    }

    /// Takes in what the driver tells. True if there is more.
    fn receive(&mut self, shared: &Shared, notify: &dyn Notify) -> Result<bool, GuestError> {
        for _ in 0..BATCH {
            if !self.active.vring.pop(&mut self.chain)? {
                publish(&mut self.active, notify)?;
                return self.active.vring.enable_kicks();
            }
            let mut bytes = [0; MAX_BYTES];
            let read = self.chain.read_at(0, &mut bytes);
            shared.set_statistics(Statistics::parse(&bytes[..read], SystemTime::now()));
            if let Some(older) = self.held.replace(self.chain.head()) {
                self.active.vring.push_used(older, 0)?;
            }
        }
        publish(&mut self.active, notify)?;
        Ok(true)
    }

    /// Gives the buffer back: the driver fills it anew.
    fn ask(&mut self, notify: &dyn Notify) -> Result<(), GuestError> {
        if let Some(head) = self.held.take() {
            self.active.vring.push_used(head, 0)?;
        }
        publish(&mut self.active, notify)
    }

    /// The queue as if the buffer had not been taken.
    fn finish(mut self) -> ActiveQueue {
        if self.held.is_some() {
            self.active.vring.undo_pop(1);
        }
        self.active
    }
}
