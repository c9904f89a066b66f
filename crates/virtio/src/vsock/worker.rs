//! Moves packets between the queues and the table, and lets clients in.

use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use vmm_sys_util::eventfd::EventFd;

use super::device::Shared;
use super::door::Callers;
use super::packet::{HEADER, Header, MAX_PAYLOAD};
use super::plug;
use super::table::Table;
use crate::chain::Chain;
use crate::device::{Activation, ActiveQueue, Notify};
use crate::error::{Error, GuestError};
use crate::event_loop::EventLoop;
use crate::metrics::DeviceMetrics;
use crate::queue_server::{Answer, QueueServer, Served};
use crate::worker::clear;

const STOP: u64 = 0;
const STREAMS: u64 = 1;
const LISTENER: u64 = 2;
const PLUG: u64 = 3;
const CID: u64 = 4;
/// Kicks of queue n have this token plus n.
const FIRST_QUEUE: u64 = 8;
/// Callers have this token plus their ids.
const FIRST_CALLER: u64 = 1 << 32;

/// The queues' numbers (5.10.2).
const RECEIVED: u16 = 0;
const SENT: u16 = 1;
const EVENTS: u16 = 2;

/// The event by which the guest learns that its connections are gone and its CID may be another (5.10.6.7).
const TRANSPORT_RESET: [u8; 4] = [0; 4];

pub(crate) struct VsockWorker {
    received: Option<QueueServer>,
    sent: Option<QueueServer>,
    events_queue: Option<QueueServer>,
    idle: Vec<ActiveQueue>,
    table: Table,
    callers: Callers,
    shared: Arc<Shared>,
    notify: Arc<dyn Notify>,
    metrics: Arc<DeviceMetrics>,
    events: EventLoop,
    /// There may be clients to let in.
    callers_wait: bool,
    /// The plug's other end is there.
    plugged: bool,
    /// The guest has to be told of a transport reset.
    reset_due: bool,
    /// Data on its way.
    data: Vec<u8>,
    broken: bool,
}

impl VsockWorker {
    pub fn new(
        mut activation: Activation,
        shared: Arc<Shared>,
        metrics: Arc<DeviceMetrics>,
    ) -> Result<Self, Error> {
        let events = EventLoop::new()?;
        for queue in &activation.queues {
            events.add(&*queue.kick, FIRST_QUEUE + u64::from(queue.index))?;
        }
        // What was said before the guest's driver asked for its CID is known to it.
        clear(&shared.changed);
        events.add(&shared.changed, CID)?;
        // At each change: out of descriptors, a client that waits would be reported without end.
        let flags = EventFlags::IN | EventFlags::ET;
        events.add_flags(&shared.door.listener(), LISTENER, flags)?;
        if let Some(plug) = shared.door.plug() {
            events.add(plug, PLUG)?;
        }
        let table = Table::new(shared.cid(), shared.door.first_id())?;
        events.add(&table.events(), STREAMS)?;
        let (ram, notify) = (activation.ram.clone(), activation.notify.clone());
        let mut server = |index| {
            activation
                .take(index)
                .map(|queue| QueueServer::new(queue, ram.clone(), notify.clone()))
        };
        let (received, sent, events_queue) = (server(RECEIVED), server(SENT), server(EVENTS));
        Ok(Self {
            received,
            sent,
            events_queue,
            idle: activation.queues,
            table,
            callers: Callers::default(),
            callers_wait: true,
            plugged: shared.door.plug().is_some(),
            shared,
            notify: activation.notify,
            metrics,
            events,
            reset_due: false,
            data: Vec::new(),
            broken: false,
        })
    }

    /// Works until `stop` is signalled; gives back the queues. Connections end with it.
    pub fn run(mut self, stop: &EventFd) -> Vec<ActiveQueue> {
        if let Err(error) = self.events.add(stop, STOP) {
            tracing::error!("a vsock's worker cannot run: {error}");
            return self.finish();
        }
        let mut tokens = Vec::new();
        loop {
            let more = self.work();
            if let Err(error) = self.events.wait(more.then_some(Duration::ZERO), &mut tokens) {
                tracing::error!("a vsock's worker ends: {error}");
                return self.finish();
            }
            if tokens.contains(&STOP) {
                return self.finish();
            }
            for token in &tokens {
                self.handle(*token);
            }
        }
    }

    fn handle(&mut self, token: u64) {
        match token {
            CID => {
                clear(&self.shared.changed);
                self.table.clear(self.shared.cid());
                self.reset_due = true;
            }
            LISTENER => self.callers_wait = true,
            PLUG => self.hear_plug(),
            STREAMS => {
                self.table.look();
            }
            caller if caller >= FIRST_CALLER => self.hear_caller((caller - FIRST_CALLER) as u32),
            queue => {
                let servers = [&self.received, &self.sent, &self.events_queue];
                let served = servers.into_iter().flatten().map(|server| &server.active);
                for active in served.chain(&self.idle) {
                    if queue == FIRST_QUEUE + u64::from(active.index) {
                        clear(&active.kick);
                        DeviceMetrics::add(&self.metrics.kicks, 1);
                    }
                }
            }
        }
    }

    fn let_callers_in(&mut self) {
        let (callers, events) = (&mut self.callers, &self.events);
        self.callers_wait = callers.let_in(&self.shared.door, |stream, id| {
            events.add(&stream, FIRST_CALLER + u64::from(id)).is_ok()
        });
    }

    /// A client said something: perhaps where it wants to go.
    fn hear_caller(&mut self, id: u32) {
        let Some((stream, port)) = self.callers.hear(id) else {
            return;
        };
        // It is the table's from now on; a guest that has to be reset takes nobody.
        match self.events.remove(&stream) {
            Ok(()) if !self.broken => self.table.connect(stream, port),
            Ok(()) => {}
            Err(error) => tracing::warn!("a vsock's client could not be passed on: {error}"),
        }
    }

    fn hear_plug(&mut self) {
        let Some(plug) = self.shared.door.plug() else {
            return;
        };
        loop {
            match plug::take(plug) {
                Ok(Some((id, answer))) => self.table.fulfil(id, answer.ok()),
                Ok(None) => return,
                Err(error) => {
                    tracing::info!("the guest can connect to the host no more: {error}");
                    self.plugged = false;
                    if let Err(error) = self.events.remove(plug) {
                        tracing::warn!("a vsock's plug could not be let go: {error}");
                    }
                    self.table.fail_wishes();
                    return;
                }
            }
        }
    }

    /// Does what there is to do. True if there is more.
    fn work(&mut self) -> bool {
        if self.callers_wait {
            self.let_callers_in();
        }
        if self.broken {
            return self.callers_wait;
        }
        let more = self.try_work().unwrap_or_else(|error| {
            self.broken = true;
            self.table.clear(self.shared.cid());
            self.notify.needs_reset(error);
            false
        });
        more || self.callers_wait
    }

    fn try_work(&mut self) -> Result<bool, GuestError> {
        let mut more = self.tell_reset()?;
        more |= self.take_packets()?;
        for wish in self.table.take_wishes() {
            let asked = self.plugged && self.shared.door.wish(wish.id, wish.port);
            if !asked {
                self.table.fulfil(wish.id, None);
            }
        }
        more |= self.give_packets()?;
        Ok(more)
    }

    /// Reads what the guest sent, as long as there is room for answers.
    fn take_packets(&mut self) -> Result<bool, GuestError> {
        let Some(server) = &mut self.sent else {
            return Ok(false);
        };
        let (table, data, metrics) = (&mut self.table, &mut self.data, &self.metrics);
        let served = server.serve(|chain| {
            if table.is_full() {
                return Ok(Answer::Later);
            }
            let header = read_packet(chain, data)?;
            DeviceMetrics::add(&metrics.requests, 1);
            DeviceMetrics::add(&metrics.bytes_from_guest, data.len() as u64);
            table.receive(&header, data);
            Ok(Answer::Used(0))
        })?;
        match served {
            Served::More => Ok(true),
            Served::Later => Ok(false),
            Served::All => server.active.vring.enable_kicks(),
        }
    }

    /// Fills the guest's buffers.
    fn give_packets(&mut self) -> Result<bool, GuestError> {
        let Some(server) = &mut self.received else {
            return Ok(false);
        };
        let (table, data, metrics) = (&mut self.table, &mut self.data, &self.metrics);
        let was_full = table.is_full();
        let served = server.serve(|chain| {
            let room = chain.writable_bytes();
            if room < HEADER {
                return Err(GuestError::Request("a vsock buffer without room for a header"));
            }
            let Some(header) = table.next((room - HEADER).min(MAX_PAYLOAD), data) else {
                return Ok(Answer::Later);
            };
            chain.write_at(0, &header.bytes());
            chain.write_at(HEADER, data);
            DeviceMetrics::add(&metrics.requests, 1);
            DeviceMetrics::add(&metrics.bytes_to_guest, data.len() as u64);
            Ok(Answer::Used((HEADER + data.len()) as u32))
        })?;
        // Packets of the guest that had to wait can be read now.
        let unblocked = was_full && !table.is_full();
        match served {
            Served::More => Ok(true),
            Served::Later => Ok(unblocked),
            Served::All => Ok(server.active.vring.enable_kicks()? || unblocked),
        }
    }

    /// Tells the guest that its connections are gone, as soon as it has a buffer for that.
    fn tell_reset(&mut self) -> Result<bool, GuestError> {
        let Some(server) = &mut self.events_queue else {
            return Ok(false);
        };
        if !self.reset_due {
            return Ok(false);
        }
        let due = &mut self.reset_due;
        let served = server.serve(|chain| {
            if !std::mem::take(due) {
                return Ok(Answer::Later);
            }
            Ok(Answer::Used(chain.write_at(0, &TRANSPORT_RESET) as u32))
        })?;
        match served {
            Served::All if self.reset_due => server.active.vring.enable_kicks(),
            _ => Ok(false),
        }
    }

    fn finish(self) -> Vec<ActiveQueue> {
        self.shared.door.keep_id(self.table.next_id());
        let mut queues = self.idle;
        let servers = [self.received, self.sent, self.events_queue];
        queues.extend(servers.into_iter().flatten().map(|server| server.active));
        queues.sort_by_key(|queue| queue.index);
        queues
    }
}

/// Reads a packet: its header, and its data into `data`.
fn read_packet(chain: &Chain, data: &mut Vec<u8>) -> Result<Header, GuestError> {
    let mut bytes = [0; HEADER];
    if chain.read_at(0, &mut bytes) < HEADER {
        return Err(GuestError::Request("a vsock packet without a whole header"));
    }
    let header = Header::parse(&bytes);
    let len = header.len as usize;
    if len > MAX_PAYLOAD || len > chain.readable_bytes() - HEADER {
        return Err(GuestError::Request(
            "a vsock packet with less data than it says, or too much",
        ));
    }
    data.resize(len, 0);
    chain.read_at(HEADER, data);
    Ok(header)
}
