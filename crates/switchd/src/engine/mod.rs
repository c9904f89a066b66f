//! The loop: frames from ports to the core and from there to ports, links that come and go, clients.

mod links;
mod requests;
mod settings;

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use ostler_netio::Header;
use ostler_switch::rstp::BridgeConfig;
use ostler_switch::{Mac, Output, PortIndex, Switch, TagAction, Time};
use ostler_worker::{EventLoop, Interest};

use crate::Error;
use crate::capture::{Captures, Direction, Seen};
use crate::config::{Config, PortSpec, Source};
use crate::control::Clients;
use crate::ports::{Batch, Gone, Link};

/// How often links are tried again, and those looked at that do not tell of their end.
const CHORES: Duration = Duration::from_millis(250);

/// What an event is about, in the upper bits of a token; the lower are a number.
const STOP: u64 = 0;
const LINK: u64 = 1 << 32;
const LISTENER: u64 = 2 << 32;
pub(crate) const CONTROL: u64 = 3 << 32;
pub(crate) const CLIENT: u64 = 4 << 32;
const CAPTURE: u64 = 16 << 32;
const KIND: u64 = !0 << 32;

/// A port and its way out.
struct Port {
    spec: PortSpec,
    source: Source,
    /// The VLAN of its untagged frames.
    pvid: Option<u16>,
    link: Option<Box<dyn Link>>,
    /// Whether the core was told that the link is up.
    up: bool,
    interest: Interest,
    /// Whether room is waited for.
    wants_room: bool,
    listener: Option<UnixListener>,
    /// Why there is no link.
    why_down: String,
    /// It came with a guest, and goes with it.
    temporary: bool,
    /// Who has which address, if a router is here.
    directory: Option<ostler_usernet::Handle>,
}

/// A switch that runs.
pub struct Engine {
    name: String,
    mac: Mac,
    /// Seconds that a learned station is kept.
    ageing: u32,
    fdb_entries: usize,
    core: Switch,
    ports: Vec<Option<Port>>,
    events: EventLoop,
    clients: Clients,
    started: Instant,
    next_chores: Instant,
    batch: Batch,
    /// Ports with something to flush.
    dirty: Vec<PortIndex>,
    /// A client asked for the end.
    quits: bool,
    work: Work,
    captures: Captures,
    next_capture: usize,
    /// The settings of the spanning tree.
    tree: Option<BridgeConfig>,
}

/// Room for doing what is left to be done to a frame, at the port that sends it.
#[derive(Default)]
struct Work {
    frame: Vec<u8>,
    headers: Vec<u8>,
}

/// The ports as the core's output.
struct Egress<'a> {
    ports: &'a mut [Option<Port>],
    batch: &'a Batch,
    dirty: &'a mut Vec<PortIndex>,
    work: &'a mut Work,
    captures: &'a mut Captures,
}

impl Egress<'_> {
    fn put(&mut self, port: PortIndex, header: Option<Header>, parts: &[&[u8]]) -> bool {
        let slot = self.ports.get_mut(port.get()).and_then(Option::as_mut);
        let Some(slot) = slot else { return false };
        let Some(link) = &mut slot.link else {
            return false;
        };
        if self.dirty.last() != Some(&port) {
            self.dirty.push(port);
        }
        let sent = match header {
            None => link.send(parts),
            Some(header) if header.needs().within(link.takes()) => link.send_headed(&header, parts),
            Some(header) => {
                let Work { frame, headers } = &mut *self.work;
                frame.clear();
                parts.iter().for_each(|part| frame.extend_from_slice(part));
                ostler_netio::finish(&header, frame, headers, &mut |parts| link.send(parts))
            }
        };
        if sent && !self.captures.is_empty() {
            self.captures.record(&slot.seen(port, Direction::Out), parts);
        }
        sent
    }
}

impl Port {
    /// What a capture has to know of a frame that passes.
    fn seen(&self, port: PortIndex, direction: Direction) -> Seen<'_> {
        Seen {
            port,
            name: &self.spec.name,
            pvid: self.pvid,
            direction,
        }
    }
}

impl Output for Egress<'_> {
    fn send(&mut self, port: PortIndex, index: usize, tag: TagAction) -> bool {
        let batch = self.batch;
        let header = batch.header(index).map(|header| header.moved(tag.growth()));
        self.put(port, header, &tag.parts(batch.frame(index)))
    }

    fn originate(&mut self, port: PortIndex, frame: &[u8]) -> bool {
        self.put(port, None, &[frame])
    }
}

/// Calls the core with the ports as its output.
macro_rules! with_core {
    ($engine:expr, |$core:ident, $now:ident, $out:ident| $body:expr) => {{
        let $now = $engine.now();
        let $core = &mut $engine.core;
        let $out = &mut Egress {
            ports: &mut $engine.ports,
            batch: &$engine.batch,
            dirty: &mut $engine.dirty,
            work: &mut $engine.work,
            captures: &mut $engine.captures,
        };
        $body
    }};
}
pub(crate) use with_core;

impl Engine {
    /// A switch as configured, with its clients at `control`. A port whose other side is not there yet waits for it; a port that
    /// cannot be is an error.
    pub fn new(config: Config, control: UnixListener) -> Result<Self, Error> {
        let mut key = [0; 16];
        rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty()).map_err(|error| {
            Error::Host {
                what: "no random numbers for switch",
                name: config.name.clone(),
                source: error.into(),
            }
        })?;
        let (low, high) = key.split_at(8);
        let word = |bytes: &[u8]| bytes.iter().fold(0u64, |word, &byte| word << 8 | u64::from(byte));
        let events = EventLoop::new()?;
        let clients = Clients::new(control, &events)?;
        let now = Instant::now();
        let mut engine = Self {
            name: config.name,
            mac: config.switch.mac,
            ageing: config.switch.ageing,
            fdb_entries: config.switch.fdb_entries,
            captures: Captures::new(config.switch.tags),
            next_capture: 0,
            tree: config.switch.spanning_tree.clone(),
            core: Switch::new(config.switch, [word(low), word(high)], Time::default())?,
            ports: Vec::new(),
            events,
            clients,
            started: now,
            next_chores: now + CHORES,
            batch: Batch::default(),
            dirty: Vec::new(),
            work: Work::default(),
            quits: false,
        };
        for port in config.ports {
            engine.add_port(port, false)?;
        }
        for mirror in &config.mirrors {
            engine.set_mirror(mirror)?;
        }
        Ok(engine)
    }

    /// Runs until `stop` is readable, or a client asks for the end. The sockets that ports listen at are removed then.
    pub fn run(mut self, stop: &impl AsRawFd) -> Result<(), Error> {
        self.events.add(stop, STOP)?;
        let mut tokens = Vec::new();
        loop {
            self.do_what_is_due();
            let timeout = self.prepare_to_sleep();
            self.events.wait(timeout, &mut tokens)?;
            for link in self.links() {
                link.stay_awake();
            }
            if tokens.contains(&STOP) {
                self.remove_all_ports();
                return Ok(());
            }
            for &token in &tokens {
                self.handle(token);
            }
            self.serve_more();
            if self.quits {
                self.remove_all_ports();
                return Ok(());
            }
            self.take_from_rings();
            if !self.captures.is_empty() {
                self.captures.flush(&self.events);
            }
        }
    }

    fn now(&self) -> Time {
        Time::from_nanos(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn links(&mut self) -> impl Iterator<Item = &mut Box<dyn Link>> {
        let ports = self.ports.iter_mut().flatten();
        ports.filter_map(|port| port.link.as_mut())
    }

    fn do_what_is_due(&mut self) {
        if self.core.next_deadline() <= self.now() {
            with_core!(self, |core, now, out| core.poll(now, out));
            self.flush();
        }
        if self.next_chores <= Instant::now() {
            self.next_chores = Instant::now() + CHORES;
            self.mind_links();
        }
    }

    /// How long to sleep: not at all while there are frames of which nothing would tell. Before a sleep they are looked for a short
    /// while, if the last ones came soon.
    fn prepare_to_sleep(&mut self) -> Option<Duration> {
        if self.clients.has_commands() {
            return Some(Duration::ZERO);
        }
        let ports = &self.ports;
        let frames = || {
            let mut links = ports.iter().flatten().filter_map(|port| port.link.as_deref());
            links.any(|link| link.has_frames())
        };
        if self.has_rings() && self.events.poll(frames) {
            return Some(Duration::ZERO);
        }
        // All of them: each has to know that it must wake us.
        let waiting = self.links().map(|link| usize::from(link.sleep())).sum::<usize>();
        if waiting > 0 {
            return Some(Duration::ZERO);
        }
        let core = self
            .core
            .next_deadline()
            .as_nanos()
            .saturating_sub(self.now().as_nanos());
        let chores = self.next_chores.saturating_duration_since(Instant::now());
        Some(if self.has_chores() {
            chores.min(Duration::from_nanos(core))
        } else {
            Duration::from_nanos(core)
        })
    }

    /// Whether a look for frames may find some. Only rings can be looked at; of all else the kernel tells. Where interfaces talk with a router,
    /// each waits for the other, and the look would only keep the router from its processor.
    fn has_rings(&self) -> bool {
        let up = || self.ports.iter().flatten().filter(|port| port.up);
        let routed = up().any(|port| matches!(port.source, Source::Router(_)));
        up().any(|port| match port.source {
            Source::Packet(_) => !routed,
            _ => port.source.has_ring(),
        })
    }

    fn handle(&mut self, token: u64) {
        let number = (token & !KIND) as usize;
        match token & KIND {
            LINK => {
                if let Some(port) = PortIndex::new(number) {
                    self.receive(port);
                    self.make_room(port);
                }
            }
            LISTENER => {
                if let Some(port) = PortIndex::new(number) {
                    self.accept(port);
                }
            }
            CONTROL => self.clients.accept(&self.events),
            CLIENT => self.serve(number),
            CAPTURE => self.captures.hear(number),
            _ => {}
        }
    }

    /// Takes frames from links that have some without telling.
    fn take_from_rings(&mut self) {
        for place in 0..self.ports.len() {
            let link = self.ports[place].as_ref().and_then(|port| port.link.as_deref());
            if link.is_some_and(|link| link.has_frames())
                && let Some(port) = PortIndex::new(place)
            {
                self.receive(port);
            }
        }
    }

    /// Takes a batch of frames from a port through the core.
    fn receive(&mut self, port: PortIndex) {
        let Some(link) = self.slot_mut(port).and_then(|slot| slot.link.take()) else {
            return;
        };
        // Out of its place, so that the batch can be filled; frames never go back where they came from.
        let mut link = link;
        self.batch.clear();
        let end = link.receive(&mut self.batch);
        let may_change = link.may_change();
        if let Some(slot) = self.slot_mut(port) {
            slot.link = Some(link);
        }
        if !self.captures.is_empty() {
            self.show_batch(port);
        }
        with_core!(self, |core, now, out| core.receive_batch(
            port,
            self.batch.frames(),
            now,
            out
        ));
        self.flush();
        if let Err(gone) = end {
            self.lose(port, gone);
        } else if may_change {
            self.see_whether_up(port);
        }
    }

    /// Shows what a port received to the captures.
    fn show_batch(&mut self, port: PortIndex) {
        let Some(slot) = self.ports.get(port.get()).and_then(Option::as_ref) else {
            return;
        };
        let seen = slot.seen(port, Direction::In);
        for frame in self.batch.frames() {
            self.captures.record(&seen, &[frame.bytes]);
        }
    }

    /// Passes on what waited for room at a port.
    fn make_room(&mut self, port: PortIndex) {
        if self.slot_mut(port).is_some_and(|slot| slot.wants_room) {
            self.dirty.push(port);
            self.flush();
        }
    }

    /// Has all ports pass on what the core gave them.
    fn flush(&mut self) {
        // What is lost may make the core send more: until nothing is left.
        while let Some(port) = self.dirty.pop() {
            let flushed = match self.slot_mut(port).and_then(|slot| slot.link.as_mut()) {
                Some(link) => link.flush(),
                None => Ok(()),
            };
            match flushed {
                Ok(()) => self.watch(port),
                Err(gone) => self.lose(port, gone),
            }
        }
    }

    fn slot_mut(&mut self, port: PortIndex) -> Option<&mut Port> {
        self.ports.get_mut(port.get())?.as_mut()
    }

    /// Waits for a port's room only while something waits for it.
    fn watch(&mut self, port: PortIndex) {
        let Some(slot) = self.ports.get_mut(port.get()).and_then(Option::as_mut) else {
            return;
        };
        let Some(link) = &slot.link else { return };
        let room = link.writable();
        if room.is_some() != slot.wants_room {
            slot.wants_room = room.is_some();
            if let Err(error) = slot
                .interest
                .set(&self.events, Some(link.readable().as_fd()), room)
            {
                tracing::warn!("port \"{}\" cannot be watched: {error}", slot.spec.name);
            }
        }
    }
}
