//! One queue pair's worker.

use std::sync::Arc;
use std::time::Duration;

use ostler_netio::NetQueue;
use vmm_sys_util::eventfd::EventFd;

use super::control;
use super::receive::{Receiver, Round, drain};
use super::shared::Shared;
use super::transmit::Transmitter;
use crate::device::{ActiveQueue, Notify};
use crate::error::{Error, GuestError};
use crate::event_loop::{EventLoop, Interest};
use crate::metrics::DeviceMetrics;
use crate::queue_server::{QueueServer, Served};
use crate::worker::clear;

const STOP: u64 = 0;
const RECEIVE_KICK: u64 = 1;
const TRANSMIT_KICK: u64 = 2;
const CONTROL_KICK: u64 = 3;
const BACKEND: u64 = 4;

/// What a worker drives.
pub(crate) struct Pair {
    /// Its number.
    pub index: u16,
    pub receiver: Option<Receiver>,
    pub transmitter: Option<Transmitter>,
    /// The control queue, with the first pair.
    pub control: Option<QueueServer>,
    pub queue: Box<dyn NetQueue>,
}

pub(crate) struct NetWorker {
    pair: Pair,
    shared: Arc<Shared>,
    features: u64,
    pairs: u16,
    notify: Arc<dyn Notify>,
    metrics: Arc<DeviceMetrics>,
    events: EventLoop,
    interest: Interest,
    /// The back end is gone: frames of the guest are thrown away.
    dead: bool,
    /// The driver broke the rules: nothing is moved until the reset.
    broken: bool,
    /// What the guest was told of the back end's link.
    link_up: bool,
}

impl NetWorker {
    pub fn new(
        pair: Pair,
        shared: Arc<Shared>,
        features: u64,
        pairs: u16,
        notify: Arc<dyn Notify>,
        metrics: Arc<DeviceMetrics>,
    ) -> Result<Self, Error> {
        let events = EventLoop::new()?;
        if let Some(receiver) = &pair.receiver {
            events.add(&*receiver.active.kick, RECEIVE_KICK)?;
        }
        if let Some(transmitter) = &pair.transmitter {
            events.add(&*transmitter.active.kick, TRANSMIT_KICK)?;
        }
        if let Some(control) = &pair.control {
            events.add(&*control.active.kick, CONTROL_KICK)?;
        }
        let interest = Interest::new(BACKEND);
        let link_up = shared.backend.link_up();
        Ok(Self {
            pair,
            shared,
            features,
            pairs,
            notify,
            metrics,
            events,
            interest,
            dead: false,
            broken: false,
            link_up,
        })
    }

    /// Works until `stop` is signalled.
    pub fn run(mut self, stop: &EventFd) -> Vec<ActiveQueue> {
        if let Err(error) = self.events.add(stop, STOP) {
            tracing::error!("a network worker cannot run: {error}");
            return self.finish();
        }
        let mut tokens = Vec::new();
        loop {
            let round = self.work().unwrap_or_else(|error| {
                self.broken = true;
                self.notify.needs_reset(error);
                Round::NoBuffers
            });
            self.tell_of_link();
            let waited = match round {
                Round::More => self.events.wait(Some(Duration::ZERO), &mut tokens),
                _ => self
                    .watch_backend(round)
                    .and_then(|()| self.events.wait(None, &mut tokens)),
            };
            if let Err(error) = waited {
                tracing::error!("a network worker ends: {error}");
                return self.finish();
            }
            if tokens.contains(&STOP) {
                return self.finish();
            }
            self.clear_kicks(&tokens);
        }
    }

    fn clear_kicks(&self, tokens: &[u64]) {
        for token in tokens {
            let active = match *token {
                RECEIVE_KICK => self.pair.receiver.as_ref().map(|receiver| &receiver.active),
                TRANSMIT_KICK => self
                    .pair
                    .transmitter
                    .as_ref()
                    .map(|transmitter| &transmitter.active),
                CONTROL_KICK => self.pair.control.as_ref().map(|control| &control.active),
                _ => None,
            };
            if let Some(active) = active {
                clear(&active.kick);
                DeviceMetrics::add(&self.metrics.kicks, 1);
            }
        }
    }

    /// Moves frames both ways. [`Round::More`] if there is more to do, else why receiving ended.
    fn work(&mut self) -> Result<Round, GuestError> {
        if self.broken {
            return Ok(Round::NoBuffers);
        }
        let commands = self.serve_control()?;
        self.flush();
        let sent = self.transmit()?;
        let received = self.receive()?;
        if sent == Round::Dead || received == Round::Dead {
            self.backend_gone();
            return Ok(Round::More);
        }
        let more = commands == Served::More || sent == Round::More || received == Round::More;
        if more || self.poll(received) || self.enable_kicks(received)? {
            return Ok(Round::More);
        }
        Ok(received)
    }

    fn serve_control(&mut self) -> Result<Served, GuestError> {
        let (shared, features, pairs) = (&self.shared, self.features, self.pairs);
        match &mut self.pair.control {
            Some(server) => server.serve(|chain| control::answer(chain, shared, features, pairs)),
            None => Ok(Served::All),
        }
    }

    fn flush(&mut self) {
        if self.moves()
            && self.pair.queue.writable().is_some()
            && let Err(error) = self.pair.queue.flush()
        {
            tracing::warn!("a network back end is gone: {error}");
            self.backend_gone();
        }
    }

    /// True while the back end takes and gives frames.
    fn moves(&self) -> bool {
        !self.dead && self.shared.is_active(self.pair.index)
    }

    fn transmit(&mut self) -> Result<Round, GuestError> {
        let moves = self.moves() && self.shared.is_plugged();
        let Some(transmitter) = &mut self.pair.transmitter else {
            return Ok(Round::Empty);
        };
        transmitter.active.vring.disable_kicks()?;
        if !moves {
            return transmitter.discard();
        }
        transmitter.send(&mut *self.pair.queue)
    }

    fn receive(&mut self) -> Result<Round, GuestError> {
        let moves = self.moves();
        if moves && !self.shared.is_plugged() {
            return Ok(drain(&mut *self.pair.queue));
        }
        match &mut self.pair.receiver {
            Some(receiver) if moves => {
                receiver.active.vring.disable_kicks()?;
                receiver.receive(&mut *self.pair.queue, self.shared.large_frames())
            }
            _ => Ok(Round::NoBuffers),
        }
    }

    /// Asks for kicks where they matter. True if something came meanwhile.
    fn enable_kicks(&mut self, received: Round) -> Result<bool, GuestError> {
        let (mut more, moves) = (false, self.moves());
        if let Some(control) = &mut self.pair.control {
            more |= control.active.vring.enable_kicks()?;
        }
        if let Some(transmitter) = &mut self.pair.transmitter {
            more |= transmitter.active.vring.enable_kicks()?;
        }
        // While buffers are left, the guest need not tell of more.
        if let Some(receiver) = &mut self.pair.receiver
            && received == Round::NoBuffers
            && moves
        {
            more |= receiver.active.vring.enable_kicks()?;
        }
        Ok(more)
    }

    /// Listens to the back end for frames only while there are buffers for them, and for room only while frames wait.
    fn watch_backend(&mut self, received: Round) -> Result<(), ostler_worker::Error> {
        let alive = !self.broken && self.moves();
        let readable = (alive && received != Round::NoBuffers)
            .then(|| self.pair.queue.readable())
            .flatten();
        let writable = alive.then(|| self.pair.queue.writable()).flatten();
        self.interest.set(&self.events, readable, writable)
    }

    /// Looks for a short while whether there is more to move, before kicks are asked for again.
    fn poll(&mut self, received: Round) -> bool {
        // It fails again before the sleep, and is dealt with there.
        if self.watch_backend(received).is_err() {
            return false;
        }
        let Some(transmitter) = &mut self.pair.transmitter else {
            return false;
        };
        let sends = &mut transmitter.active.vring;
        let mut buffers = self
            .pair
            .receiver
            .as_mut()
            .filter(|_| received == Round::NoBuffers)
            .map(|receiver| &mut receiver.active.vring);
        // An error shows up again, and is dealt with, when the queue is worked on.
        self.events.poll(|| {
            sends.has_available().unwrap_or(true)
                || buffers
                    .as_mut()
                    .is_some_and(|vring| vring.has_available().unwrap_or(true))
        })
    }

    /// Tells the guest if the back end's link went up or down. One of the workers does.
    fn tell_of_link(&mut self) {
        if self.pair.index != 0 {
            return;
        }
        let up = self.shared.backend.link_up();
        if std::mem::replace(&mut self.link_up, up) != up {
            self.notify.config_changed();
        }
    }

    fn backend_gone(&mut self) {
        if !std::mem::replace(&mut self.dead, true) {
            self.shared.backend_lost();
            self.notify.config_changed();
        }
    }

    fn finish(mut self) -> Vec<ActiveQueue> {
        let receive = self.pair.receiver.take().map(Receiver::finish);
        let transmit = self.pair.transmitter.take().map(|transmitter| transmitter.active);
        let control = self.pair.control.take().map(|control| control.active);
        [receive, transmit, control].into_iter().flatten().collect()
    }
}
