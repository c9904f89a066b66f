//! All connections. Packets of the guest go in, packets for the guest come out; both sides' streams are polled here.
//!
//! Everything is bounded: connections, what each holds of the guest's bytes, and resets that wait for the guest's buffers.

use std::collections::{HashMap, VecDeque};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{Timespec, epoll};

use super::HOST_CID;
use super::connection::{Broken, Connection, Input, Ports, Stage};
use super::packet::{Header, Op, STREAM};
use crate::error::Error;

/// Most connections of a guest, those included that only pass on their last bytes.
pub(crate) const MAX_CONNECTIONS: usize = 256;
/// Most resets that wait for the guest's buffers; before more come, the guest's packets are left where they are.
const MAX_RESETS: usize = 256;
/// Ports of the host's clients are counted from here, above those that people choose.
const FIRST_CLIENT_PORT: u32 = 1 << 30;
/// Streams that are looked at in one go.
const EVENTS: usize = 64;

/// A connection that the guest wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish {
    pub id: u32,
    pub port: u32,
}

pub(crate) struct Table {
    cid: u64,
    connections: HashMap<u32, Connection>,
    by_ports: HashMap<Ports, u32>,
    /// Connections that may have something for the guest.
    ready: VecDeque<u32>,
    resets: VecDeque<Header>,
    /// What is to be asked for at the plug.
    wishes: Vec<Wish>,
    epoll: OwnedFd,
    next_id: u32,
    next_port: u32,
}

impl Table {
    /// No connections yet. Ids are counted from `first_id`: an answer to a wish of before a reset is none of ours.
    pub fn new(cid: u32, first_id: u32) -> Result<Self, Error> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|error| ostler_worker::Error::host("an epoll set")(error.into()))?;
        Ok(Self {
            cid: cid.into(),
            connections: HashMap::new(),
            by_ports: HashMap::new(),
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            wishes: Vec::new(),
            epoll,
            next_id: first_id,
            next_port: FIRST_CLIENT_PORT,
        })
    }

    /// Readable while a stream needs a look.
    pub fn events(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    pub fn next_id(&self) -> u32 {
        self.next_id
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// True if no packet of the guest should be read, as there is no room for its answer.
    pub fn is_full(&self) -> bool {
        self.resets.len() >= MAX_RESETS
    }

    /// Drops every connection, and goes on under another CID.
    pub fn clear(&mut self, cid: u32) {
        self.cid = cid.into();
        self.connections.clear();
        self.by_ports.clear();
        self.ready.clear();
        self.resets.clear();
        self.wishes.clear();
    }

    /// Takes in a packet of the guest.
    pub fn receive(&mut self, header: &Header, data: &[u8]) {
        // Others are not for us, and nobody could be answered (5.10.6.4.1).
        if header.source_cid != self.cid || header.target_cid != HOST_CID {
            return;
        }
        if header.kind != STREAM {
            return self.refuse(header);
        }
        let ports = Ports {
            guest: header.source_port,
            host: header.target_port,
        };
        let known = self.by_ports.get(&ports).copied();
        let Some(id) = known else {
            match header.op {
                Op::Request => self.request(ports, header),
                _ => self.refuse(header),
            }
            return;
        };
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.hear_credit(header);
        let opened = connection.stage == Stage::Open;
        let fine = match header.op {
            Op::Response if connection.stage == Stage::Requested => {
                connection.stage = Stage::Open;
                connection.greet()
            }
            Op::Data if opened => connection.take(data),
            Op::CreditUpdate => Ok(()),
            Op::CreditRequest => {
                connection.pending.credit_update = true;
                Ok(())
            }
            Op::Shutdown if opened => {
                if connection.hear_shutdown(header.flags) {
                    self.drain(id);
                    return self.refuse(header);
                }
                Ok(())
            }
            Op::Reset => return self.remove(id),
            // A second request, or what cannot come now.
            _ => Err(Broken),
        };
        match fine {
            Ok(()) => self.queue(id),
            Err(Broken) => {
                self.remove(id);
                self.refuse(header);
            }
        }
    }

    /// Answers by a reset, unless it is one.
    fn refuse(&mut self, header: &Header) {
        if header.op != Op::Reset {
            self.resets.push_back(header.reset());
        }
    }

    /// The guest wants a connection.
    fn request(&mut self, ports: Ports, header: &Header) {
        if self.connections.len() >= MAX_CONNECTIONS {
            return self.refuse(header);
        }
        let mut connection = Connection::new(ports, Stage::Wished, None);
        connection.hear_credit(header);
        let id = self.add(connection);
        self.wishes.push(Wish { id, port: ports.host });
    }

    /// What the guest wants of the plug, once each.
    pub fn take_wishes(&mut self) -> Vec<Wish> {
        std::mem::take(&mut self.wishes)
    }

    /// The answer to a wish.
    pub fn fulfil(&mut self, id: u32, stream: Option<OwnedFd>) {
        let Some(connection) = self
            .connections
            .get_mut(&id)
            .filter(|it| it.stage == Stage::Wished)
        else {
            return;
        };
        let watched = stream.filter(|stream| watch(&self.epoll, stream, id));
        match watched {
            Some(stream) => {
                connection.set_stream(stream);
                connection.stage = Stage::Open;
                connection.pending.response = true;
                self.queue(id);
            }
            None => self.give_up(id),
        }
    }

    /// No wish will be answered any more.
    pub fn fail_wishes(&mut self) {
        let wished = self
            .connections
            .iter()
            .filter(|(_, it)| it.stage == Stage::Wished);
        let ids: Vec<u32> = wished.map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.give_up(id));
    }

    /// A client of the host wants to be connected with the guest's `port`.
    pub fn connect(&mut self, stream: OwnedFd, port: u32) {
        if self.connections.len() >= MAX_CONNECTIONS || self.is_full() {
            return;
        }
        // There are more ports than connections.
        let host = loop {
            let host = self.next_port;
            self.next_port = self
                .next_port
                .checked_add(1)
                .filter(|port| *port != u32::MAX)
                .unwrap_or(FIRST_CLIENT_PORT);
            if !self.by_ports.contains_key(&Ports { guest: port, host }) {
                break host;
            }
        };
        if !watch(&self.epoll, &stream, self.next_id) {
            return;
        }
        let ports = Ports { guest: port, host };
        let mut connection = Connection::new(ports, Stage::Requested, Some(stream));
        connection.pending.request = true;
        let id = self.add(connection);
        self.queue(id);
    }

    fn add(&mut self, connection: Connection) -> u32 {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        self.by_ports.insert(connection.ports, id);
        self.connections.insert(id, connection);
        id
    }

    /// Forgets a connection; its stream is closed.
    fn remove(&mut self, id: u32) {
        if let Some(connection) = self.connections.remove(&id)
            && self.by_ports.get(&connection.ports) == Some(&id)
        {
            self.by_ports.remove(&connection.ports);
        }
    }

    /// Forgets a connection and tells the guest.
    fn give_up(&mut self, id: u32) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        if connection.stage != Stage::Draining {
            let reset = self.header(connection.ports, Op::Reset, 0);
            self.resets.push_back(reset);
        }
        self.remove(id);
    }

    /// The guest is done with a connection, whose last bytes may wait for the host.
    fn drain(&mut self, id: u32) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if connection.is_flushed() {
            return self.remove(id);
        }
        connection.stage = Stage::Draining;
        let ports = connection.ports;
        self.by_ports.remove(&ports);
    }

    /// Puts a connection among those that may have something for the guest.
    fn queue(&mut self, id: u32) {
        if let Some(connection) = self.connections.get_mut(&id)
            && !connection.queued
        {
            connection.queued = true;
            self.ready.push_back(id);
        }
        // Those that are gone are left in the queue until it is too long.
        if self.ready.len() > 2 * MAX_CONNECTIONS {
            self.ready.retain(|id| self.connections.contains_key(id));
        }
    }

    /// Looks at the streams that something happened to. True if there may be more.
    pub fn look(&mut self) -> bool {
        let mut space = [MaybeUninit::<epoll::Event>::uninit(); EVENTS];
        let happened = match epoll::wait(&self.epoll, &mut space, Some(&Timespec::default())) {
            Ok((happened, _)) => happened
                .iter()
                .map(|event| (event.data.u64() as u32, event.flags))
                .collect(),
            Err(_) => Vec::new(),
        };
        for (id, flags) in &happened {
            self.handle(*id, *flags);
        }
        happened.len() == EVENTS
    }

    fn handle(&mut self, id: u32, flags: epoll::EventFlags) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let over = epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        connection.readable |= flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP | over);
        connection.hung_up |= flags.intersects(over);
        // A client that left before the guest answered.
        let left = connection.stage == Stage::Requested && connection.hung_up;
        if left || connection.flush().is_err() {
            return self.give_up(id);
        }
        if connection.stage == Stage::Draining && connection.is_flushed() {
            return self.remove(id);
        }
        if connection.hung_up && connection.has_announced_end() {
            connection.announce_end();
        }
        self.queue(id);
    }

    /// The next packet for the guest, with at most `room` bytes of data, which are put into `data`.
    pub fn next(&mut self, room: usize, data: &mut Vec<u8>) -> Option<Header> {
        data.clear();
        if let Some(reset) = self.resets.pop_front() {
            return Some(reset);
        }
        while let Some(id) = self.ready.pop_front() {
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            connection.queued = false;
            let ports = connection.ports;
            let readable = connection.can_read();
            if let Some((op, flags)) = connection.next_pending() {
                // It goes to the end: others are next.
                self.queue(id);
                return Some(self.stamp(id, ports, op, flags));
            }
            if !readable || room == 0 {
                continue;
            }
            data.resize(room.min(connection.credit()), 0);
            match connection.read(data) {
                Ok(Input::Bytes(count)) => {
                    data.truncate(count);
                    self.queue(id);
                    let mut header = self.stamp(id, ports, Op::Data, 0);
                    header.len = count as u32;
                    return Some(header);
                }
                Ok(Input::None) => {}
                Ok(Input::Ended) => {
                    connection.announce_end();
                    self.queue(id);
                }
                Err(Broken) => {
                    self.give_up(id);
                    data.clear();
                    return self.resets.pop_front();
                }
            }
            data.clear();
        }
        None
    }

    fn header(&self, ports: Ports, op: Op, flags: u32) -> Header {
        Header {
            source_cid: HOST_CID,
            target_cid: self.cid,
            source_port: ports.host,
            target_port: ports.guest,
            len: 0,
            kind: STREAM,
            op,
            flags,
            buffer: 0,
            forwarded: 0,
        }
    }

    /// A packet of connection `id`, with its credit.
    fn stamp(&mut self, id: u32, ports: Ports, op: Op, flags: u32) -> Header {
        let mut header = self.header(ports, op, flags);
        if let Some(connection) = self.connections.get_mut(&id) {
            (header.buffer, header.forwarded) = connection.tell_credit();
        }
        header
    }
}

/// Watches a stream, at each change of what it can do. False if the host has no room for that.
fn watch(epoll: &OwnedFd, stream: &OwnedFd, id: u32) -> bool {
    let flags =
        epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
    epoll::add(epoll, stream, epoll::EventData::new_u64(id.into()), flags).is_ok()
}
