//! Moves bytes between streams and queues, and speaks the control protocol.

use std::sync::Arc;
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use super::control::{FromDriver, Outbox, parse};
use super::device::SharedState;
use super::port::Port;
use crate::device::{ActiveQueue, Notify};
use crate::error::{Error, GuestError};
use crate::event_loop::EventLoop;
use crate::metrics::DeviceMetrics;
use crate::queue_server::{Answer, QueueServer, Served};
use crate::worker::clear;

const STOP: u64 = 0;
const RESIZED: u64 = 1;
/// Streams have this token; which one it was does not matter, as all are looked at.
pub(crate) const STREAM: u64 = 2;
/// Kicks of queue n have this token plus n.
const FIRST_QUEUE: u64 = 16;

/// Messages that may wait for the driver's buffers before its own are no longer read.
const MAX_WAITING: usize = 256;

/// The two control queues, with VIRTIO_CONSOLE_F_MULTIPORT.
pub(crate) struct Control {
    pub receive: QueueServer,
    pub transmit: QueueServer,
}

pub(crate) struct ConsoleWorker {
    ports: Vec<Port>,
    control: Option<Control>,
    outbox: Outbox,
    /// The driver said that it is ready for control messages.
    ready: bool,
    shared: Arc<SharedState>,
    notify: Arc<dyn Notify>,
    metrics: Arc<DeviceMetrics>,
    events: EventLoop,
    broken: bool,
}

impl ConsoleWorker {
    pub fn new(
        mut ports: Vec<Port>,
        control: Option<Control>,
        shared: Arc<SharedState>,
        notify: Arc<dyn Notify>,
        metrics: Arc<DeviceMetrics>,
    ) -> Result<Self, (Error, Vec<Port>)> {
        for port in &mut ports {
            // Without the control protocol a port is simply there.
            port.guest_open = control.is_none();
        }
        let made = EventLoop::new().and_then(|events| {
            let pairs = ports
                .iter()
                .flat_map(|port| [&port.receive, &port.transmit])
                .flatten();
            let controls = control
                .iter()
                .flat_map(|control| [&control.receive, &control.transmit]);
            for server in pairs.chain(controls) {
                events.add(&*server.active.kick, FIRST_QUEUE + u64::from(server.active.index))?;
            }
            events.add(&shared.resized, RESIZED)?;
            Ok(events)
        });
        match made {
            Ok(events) => {
                let outbox = Outbox::default();
                let (ready, broken) = (false, false);
                Ok(Self {
                    ports,
                    control,
                    outbox,
                    ready,
                    shared,
                    notify,
                    metrics,
                    events,
                    broken,
                })
            }
            Err(error) => Err((error.into(), ports)),
        }
    }

    /// Works until `stop` is signalled; gives back ports and queues.
    pub fn run(mut self, stop: &EventFd) -> (Vec<Port>, Vec<ActiveQueue>) {
        if let Err(error) = self.events.add(stop, STOP) {
            tracing::error!("a console worker cannot run: {error}");
            return self.finish();
        }
        let mut tokens = Vec::new();
        loop {
            let more = self.work().unwrap_or_else(|error| {
                self.broken = true;
                self.notify.needs_reset(error);
                false
            });
            let running = !self.broken;
            let watched = self
                .ports
                .iter_mut()
                .try_for_each(|port| port.watch(&self.events, running));
            let waited = watched.and_then(|()| self.events.wait(more.then_some(Duration::ZERO), &mut tokens));
            if let Err(error) = waited {
                tracing::error!("a console worker ends: {error}");
                return self.finish();
            }
            if tokens.contains(&STOP) {
                return self.finish();
            }
            self.clear_events(&tokens);
        }
    }

    fn clear_events(&mut self, tokens: &[u64]) {
        let pairs = self
            .ports
            .iter()
            .flat_map(|port| [&port.receive, &port.transmit])
            .flatten();
        let controls = self
            .control
            .iter()
            .flat_map(|control| [&control.receive, &control.transmit]);
        for server in pairs.chain(controls) {
            if tokens.contains(&(FIRST_QUEUE + u64::from(server.active.index))) {
                clear(&server.active.kick);
                DeviceMetrics::add(&self.metrics.kicks, 1);
            }
        }
        if tokens.contains(&RESIZED) {
            clear(&self.shared.resized);
            self.tell_size();
        }
    }

    /// Tells the driver the console's size by message; without the control protocol the configuration says it.
    fn tell_size(&mut self) {
        if !self.ready || self.outbox.len() >= MAX_WAITING {
            return;
        }
        let size = self.shared.size();
        for (id, port) in (0..).zip(&self.ports) {
            if port.console {
                self.outbox.resize(id, size);
            }
        }
    }

    /// Does what there is to do. True if there is more.
    fn work(&mut self) -> Result<bool, GuestError> {
        if self.broken {
            return Ok(false);
        }
        let mut more = self.hear_driver()?;
        for (id, port) in (0..).zip(&mut self.ports) {
            let moved = port.move_bytes()?;
            more |= moved.more;
            if moved.ended && self.ready {
                self.outbox.open(id, false);
            }
            if moved.to_guest + moved.from_guest > 0 {
                DeviceMetrics::add(&self.metrics.requests, 1);
                DeviceMetrics::add(&self.metrics.bytes_to_guest, moved.to_guest as u64);
                DeviceMetrics::add(&self.metrics.bytes_from_guest, moved.from_guest as u64);
            }
        }
        Ok(self.tell_driver()? || more)
    }

    /// Reads the driver's control messages, as long as there is room for the answers.
    fn hear_driver(&mut self) -> Result<bool, GuestError> {
        let Some(control) = &mut self.control else {
            return Ok(false);
        };
        let (ports, outbox, ready, size) = (
            &mut self.ports,
            &mut self.outbox,
            &mut self.ready,
            self.shared.size(),
        );
        let served = control.transmit.serve(|chain| {
            if outbox.len() >= MAX_WAITING {
                return Ok(Answer::Later);
            }
            match parse(chain) {
                Some(FromDriver::DeviceReady(true)) => {
                    *ready = true;
                    (0..).zip(&*ports).for_each(|(id, _)| outbox.add_port(id));
                }
                Some(FromDriver::PortReady(id, true)) => {
                    if let Some(port) = ports.get(id as usize) {
                        introduce(id, port, size, outbox);
                    }
                }
                Some(FromDriver::PortOpen(id, open)) => {
                    if let Some(port) = ports.get_mut(id as usize) {
                        port.guest_open = open;
                    }
                }
                Some(FromDriver::DeviceReady(false) | FromDriver::PortReady(_, false)) | None => {}
            }
            Ok(Answer::Used(0))
        })?;
        match served {
            Served::More => Ok(true),
            Served::Later => Ok(false),
            Served::All => control.transmit.active.vring.enable_kicks(),
        }
    }

    /// Delivers waiting control messages.
    fn tell_driver(&mut self) -> Result<bool, GuestError> {
        let Some(control) = &mut self.control else {
            return Ok(false);
        };
        let before = self.outbox.len();
        let outbox = &mut self.outbox;
        let served = control.receive.serve(|chain| {
            let Some(message) = outbox.pop() else {
                return Ok(Answer::Later);
            };
            // A buffer too small for a name gets what fits.
            Ok(Answer::Used(chain.write_at(0, &message) as u32))
        })?;
        // Messages of the driver that had to wait can be heard now.
        let unblocked = before >= MAX_WAITING && self.outbox.len() < MAX_WAITING;
        match served {
            Served::All if self.outbox.len() > 0 => {
                Ok(control.receive.active.vring.enable_kicks()? || unblocked)
            }
            Served::More => Ok(true),
            _ => Ok(unblocked),
        }
    }

    fn finish(self) -> (Vec<Port>, Vec<ActiveQueue>) {
        let mut queues = Vec::new();
        let mut ports = self.ports;
        for port in &mut ports {
            if let Err(error) = port.watch(&self.events, false) {
                tracing::warn!("a console stream could not be let go: {error}");
            }
            queues.extend([port.receive.take(), port.transmit.take()].into_iter().flatten());
        }
        queues.extend(
            self.control
                .into_iter()
                .flat_map(|control| [control.receive, control.transmit]),
        );
        let mut queues: Vec<_> = queues.into_iter().map(|server| server.active).collect();
        queues.sort_by_key(|queue| queue.index);
        (ports, queues)
    }
}

/// Tells the driver all about a port that it has just taken.
fn introduce(id: u32, port: &Port, size: super::WindowSize, outbox: &mut Outbox) {
    if port.console {
        outbox.console_port(id);
        outbox.resize(id, size);
    }
    if !port.name.is_empty() {
        outbox.name(id, &port.name);
    }
    if !port.ended {
        outbox.open(id, true);
    }
}
