//! The network itself: frames of the guest, what the host's sockets give, and a clock in; frames and wishes out. It opens
//! nothing, so all of it can be tested without a network.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex};

use crate::config::{Config, Transport};
use crate::dhcp::{self, Network, Purpose};
use crate::dns::{self, Code, Query};
use crate::guests::{Directory, locked};
use crate::output::{Output, Segment, Takes};
use crate::tcp::{BUFFER, Connection};
use crate::time::Millis;
use crate::wire::{
    ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ICMP, Ipv4, Mac, TCP, Tcp, UDP, UDP_LEN, Udp, VNET_LEN,
    address_at, flags, fold, sum, u16_at,
};

/// Bits of the byte in which the guest's side tells what the guest takes.
const TAKES_CHECKSUM: u8 = 1;
const TAKES_LARGE: u8 = 2;

/// TCP connections at most, and those that are not yet open.
const MAX_CONNECTIONS: usize = 512;
const MAX_HALF_OPEN: usize = 128;
/// A connection over which nothing came for so long may make room for another.
const IDLE: Millis = 60_000;
/// Bytes in the buffers of all connections, of each direction.
const BUFFERS: usize = 64 << 20;
/// Datagram flows at most, and how long one lives after its last datagram.
const MAX_FLOWS: usize = 256;
const FLOW_LIFE: Millis = 60_000;
/// A query's: resolvers do not wait longer.
const QUERY_LIFE: Millis = 10_000;
/// Where several guests share a network, each has a part of its connections and flows at most.
const PARTS: usize = 4;

/// Names a connection or a flow to the host's side.
pub type Id = u64;

/// What datagrams a flow carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// UDP.
    Udp,
    /// ICMP echo: the guest's port is its identifier.
    Ping,
}

/// What the host's side is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a socket for the connection.
    Connect {
        /// The connection.
        connection: Id,
        /// Where it leads.
        to: SocketAddr,
    },
    /// Close the connection's socket.
    Close {
        /// The connection.
        connection: Id,
        /// By a reset.
        reset: bool,
    },
    /// Send a datagram by the flow's socket; open one if it has none.
    Send {
        /// The flow.
        flow: Id,
        /// Which kind of socket.
        kind: Kind,
        /// Where all of the flow's datagrams go.
        to: SocketAddr,
        /// A UDP payload, or a whole ICMP message.
        payload: Vec<u8>,
    },
    /// Send a datagram by a forwarded port's socket.
    Reply {
        /// Which of the configuration's forwards.
        forward: usize,
        /// The client.
        to: SocketAddr,
        /// The payload.
        payload: Vec<u8>,
    },
    /// Close the flow's socket.
    Forget {
        /// The flow.
        flow: Id,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FlowKey {
    kind: Kind,
    guest: SocketAddrV4,
    peer: SocketAddrV4,
}

/// Whose datagrams a flow's are.
#[derive(Debug, Clone, Copy)]
enum Origin {
    Guest { to: SocketAddr },
    Host { forward: usize, client: SocketAddr },
}

#[derive(Debug)]
struct Flow {
    id: Id,
    origin: Origin,
    used: Millis,
}

/// The network.
pub struct Core {
    config: Config,
    network: Network,
    output: Output,
    connections: BTreeMap<Id, Connection>,
    by_ends: HashMap<(SocketAddrV4, SocketAddrV4), Id>,
    /// The connection whose turn it is when there is little room.
    turn: Id,
    flows: HashMap<FlowKey, Flow>,
    flow_keys: HashMap<Id, FlowKey>,
    next_cleaning: Millis,
    /// Leases and names, which others look at too.
    directory: Arc<Mutex<Directory>>,
    actions: VecDeque<Action>,
    last_id: Id,
    /// The secret of first sequence numbers (RFC 6528).
    secret: RandomState,
}

impl Core {
    /// The network of `config`.
    pub fn new(config: Config) -> Self {
        let gateway = config.subnet.gateway;
        let network = Network {
            server: gateway,
            mask: config.subnet.mask(),
            router: config.router.or((!config.restrict).then_some(gateway)),
            dns: config.dns,
            domain: config.domain.clone(),
            lease: config.lease,
        };
        let mut output = Output::new(config.mac, gateway);
        for host in &config.plan.hosts {
            if let Some(mac) = host.mac {
                output.learn(host.address, mac);
            }
        }
        let lease = Millis::from(config.lease) * 1000;
        let directory = Directory::new(config.subnet, config.dns, lease, config.plan.clone());
        Self {
            output,
            network,
            connections: BTreeMap::new(),
            by_ends: HashMap::new(),
            turn: 0,
            flows: HashMap::new(),
            flow_keys: HashMap::new(),
            next_cleaning: 0,
            directory: Arc::new(Mutex::new(directory)),
            config,
            actions: VecDeque::new(),
            last_id: 0,
            secret: RandomState::new(),
        }
    }

    /// Leases and names, for others to look at and to change.
    pub fn directory(&self) -> Arc<Mutex<Directory>> {
        self.directory.clone()
    }

    /// The next frame for the guest, behind its virtio-net header.
    pub fn next_frame(&mut self) -> Option<Vec<u8>> {
        self.output.pop()
    }

    /// The next wish.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn new_id(&mut self) -> Id {
        self.last_id += 1;
        self.last_id
    }

    /// Takes in a frame of the guest, behind its virtio-net header. Whatever makes no sense is dropped.
    pub fn input(&mut self, bytes: &[u8], now: Millis) {
        // A frame that cannot be parsed has nobody to complain to.
        let _ = self.try_input(bytes, now);
    }

    fn try_input(&mut self, bytes: &[u8], now: Millis) -> Option<()> {
        let (header, frame) = bytes.split_at_checked(VNET_LEN)?;
        let (ethernet, payload) = frame.split_at_checked(ETHERNET_LEN)?;
        self.output.takes = Takes {
            checksum: header[10] & TAKES_CHECKSUM != 0,
            large: header[10] & TAKES_LARGE != 0,
        };
        let source: Mac = *ethernet[6..].first_chunk()?;
        let for_us = ethernet[..6] == self.config.mac || ethernet[..6] == [0xff; 6];
        if !for_us || source[0] & 1 != 0 {
            return None;
        }
        match u16_at(ethernet, 12)? {
            ETHERTYPE_ARP => self.input_arp(source, payload),
            ETHERTYPE_IPV4 => {
                let packet = Ipv4::parse(payload)?;
                let complete = header[0] & 1 == 0;
                if packet.fragment {
                    return None;
                }
                if packet.protocol == UDP
                    && let Some(datagram) = Udp::parse(packet.payload)
                    && datagram.destination == dhcp::SERVER_PORT
                {
                    return self.input_dhcp(datagram.payload, now);
                }
                if !self.is_guest(packet.source) {
                    return None;
                }
                self.output.learn(packet.source, source);
                match packet.protocol {
                    TCP => {
                        let segment = Tcp::parse(packet.payload)?;
                        (!complete || packet.checksum_holds()).then_some(())?;
                        self.input_tcp(&packet, &segment, now);
                        Some(())
                    }
                    UDP => {
                        let datagram = Udp::parse(packet.payload)?;
                        let checked = complete && datagram.has_checksum;
                        (!checked || packet.checksum_holds()).then_some(())?;
                        self.input_udp(&packet, &datagram, now)
                    }
                    ICMP => self.input_icmp(&packet, now),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// True if `address` is one that a guest may have.
    fn is_guest(&self, address: Ipv4Addr) -> bool {
        self.config.subnet.is_guest(address) && self.config.dns != Some(address)
    }

    /// True if `address` is the gateway's or the name server's.
    fn is_ours(&self, address: Ipv4Addr) -> bool {
        address == self.config.subnet.gateway || self.config.dns == Some(address)
    }

    /// Answers who has our addresses, and takes answers to us (RFC 826).
    fn input_arp(&mut self, source: Mac, payload: &[u8]) -> Option<()> {
        const HEADER: [u8; 7] = [0, 1, 8, 0, 6, 4, 0];
        let message = payload.get(..28)?;
        let (sender, target) = (address_at(message, 14)?, address_at(message, 24)?);
        if message[..7] != HEADER || !self.is_ours(target) {
            return None;
        }
        if self.is_guest(sender) {
            self.output.learn(sender, source);
        }
        if message[7] != 1 {
            return None;
        }
        let mut reply = [0; 28];
        reply[..7].copy_from_slice(&HEADER);
        reply[7] = 2;
        reply[8..14].copy_from_slice(&self.config.mac);
        reply[14..18].copy_from_slice(&target.octets());
        reply[18..28].copy_from_slice(&message[8..18]);
        self.output.ethernet(source, ETHERTYPE_ARP, &reply);
        Some(())
    }

    fn input_dhcp(&mut self, payload: &[u8], now: Millis) -> Option<()> {
        if !self.config.dhcp {
            return None;
        }
        let request = dhcp::Request::parse(payload)?;
        let client = request.client;
        if client[0] & 1 != 0 {
            return None;
        }
        let mut directory = locked(&self.directory);
        let address = match request.purpose(self.network.server)? {
            Purpose::Discover | Purpose::Take => {
                let name = request.hostname();
                let address = directory.offer(client, name.as_deref(), request.wanted(), now);
                if let Some(address) = address.filter(|address| request.takes(*address)) {
                    directory.bind(client, address, name, request.client_id, now);
                }
                address
            }
            Purpose::Inform => None,
            Purpose::Release(address) => {
                directory.release(client, address);
                return None;
            }
            Purpose::Decline(address) => {
                directory.decline(client, address, now);
                return None;
            }
        };
        drop(directory);
        let answer = request.answer(address, &self.network)?;
        // Only what it was given: a client may claim to have any address.
        if Some(answer.to) == address {
            self.output.learn(answer.to, client);
        }
        let from = SocketAddrV4::new(self.network.server, dhcp::SERVER_PORT);
        let to = SocketAddrV4::new(answer.to, dhcp::CLIENT_PORT);
        self.output.udp(from, to, &answer.message);
        Some(())
    }

    /// Where the host reaches what the guest calls `to`; `None` if it is not to be reached.
    fn outside(&self, to: SocketAddrV4) -> Option<SocketAddr> {
        let address = *to.ip();
        if self.config.restrict {
            return None;
        }
        if self.config.dns == Some(address) && to.port() == dns::PORT {
            return self.config.upstream;
        }
        // Everything else goes by the other router.
        if self.config.router.is_some() {
            return None;
        }
        if address == self.config.subnet.gateway {
            let loopback = SocketAddrV4::new(Ipv4Addr::LOCALHOST, to.port());
            return self.config.loopback.then_some(loopback.into());
        }
        let [first, ..] = address.octets();
        let nowhere = self.config.subnet.contains(address) || matches!(first, 0 | 127 | 224..);
        (!nowhere).then_some(to.into())
    }

    fn first_sequence(&self, ends: (SocketAddrV4, SocketAddrV4), now: Millis) -> u32 {
        // 250 a millisecond, as RFC 6528 has it, above a secret of these ends.
        (self.secret.hash_one(ends) as u32).wrapping_add((now as u32).wrapping_mul(250))
    }

    fn input_tcp(&mut self, packet: &Ipv4<'_>, segment: &Tcp<'_>, now: Millis) {
        let guest = SocketAddrV4::new(packet.source, segment.source);
        let peer = SocketAddrV4::new(packet.destination, segment.destination);
        if let Some(connection) = self
            .by_ends
            .get(&(guest, peer))
            .and_then(|id| self.connections.get_mut(id))
        {
            return connection.input(segment, now);
        }
        let opens = segment.has(flags::SYN) && !segment.has(flags::ACK | flags::RST | flags::FIN);
        if opens
            && let Some(to) = self.outside(peer)
            && self.make_room(*guest.ip(), now)
        {
            let first = self.first_sequence((guest, peer), now);
            let connection = Connection::by_guest(guest, peer, segment, first, now);
            let id = self.add(connection);
            self.actions.push_back(Action::Connect { connection: id, to });
        } else if !segment.has(flags::RST) {
            self.refuse(guest, peer, segment);
        }
    }

    fn add(&mut self, connection: Connection) -> Id {
        let id = self.new_id();
        self.by_ends.insert((connection.guest, connection.peer), id);
        self.connections.insert(id, connection);
        self.set_limits();
        id
    }

    /// Shares the memory for buffers among the connections.
    fn set_limits(&mut self) {
        let limit = (BUFFERS / self.connections.len().max(1)).min(BUFFER);
        for connection in self.connections.values_mut() {
            connection.limit(limit);
        }
    }

    /// How many of `all` a guest may have.
    fn share(&self, all: usize) -> usize {
        if self.config.shared { all / PARTS } else { all }
    }

    /// True if `guest` may have another connection; one that has been idle for long makes room for it.
    fn make_room(&mut self, guest: Ipv4Addr, now: Millis) -> bool {
        let is_own = |connection: &&Connection| *connection.guest.ip() == guest;
        let half_open = || {
            self.connections
                .values()
                .filter(|connection| connection.is_half_open())
        };
        if half_open().count() >= MAX_HALF_OPEN
            || half_open().filter(is_own).count() >= self.share(MAX_HALF_OPEN)
        {
            return false;
        }
        let own = self.connections.values().filter(is_own).count();
        let own_only = own >= self.share(MAX_CONNECTIONS);
        if !own_only && self.connections.len() < MAX_CONNECTIONS {
            return true;
        }
        let idlest = self
            .connections
            .iter()
            .filter(|(_, connection)| !own_only || is_own(connection))
            .min_by_key(|(_, connection)| connection.used);
        match idlest.map(|(id, connection)| (*id, connection.used)) {
            Some((id, used)) if now.saturating_sub(used) >= IDLE => {
                self.host_failed(id);
                self.remove(id, true);
                true
            }
            _ => false,
        }
    }

    fn remove(&mut self, id: Id, reset: bool) {
        if let Some(connection) = self.connections.remove(&id) {
            self.by_ends.remove(&(connection.guest, connection.peer));
            self.actions.push_back(Action::Close {
                connection: id,
                reset,
            });
            self.set_limits();
        }
    }

    /// Answers a segment that belongs to no connection (RFC 9293, 3.10.7.1).
    fn refuse(&mut self, guest: SocketAddrV4, peer: SocketAddrV4, segment: &Tcp<'_>) {
        let len = segment.payload.len() as u32
            + u32::from(segment.has(flags::SYN))
            + u32::from(segment.has(flags::FIN));
        let (flag, sequence, acknowledgment) = if segment.has(flags::ACK) {
            (flags::RST, segment.acknowledgment, 0)
        } else {
            (flags::RST | flags::ACK, 0, segment.sequence.wrapping_add(len))
        };
        let reset = Segment {
            sequence,
            acknowledgment,
            flags: flag,
            window: 0,
            options: &[],
            mss: 536,
        };
        self.output.tcp(peer, guest, &reset, [&[], &[]]);
    }

    fn input_udp(&mut self, packet: &Ipv4<'_>, datagram: &Udp<'_>, now: Millis) -> Option<()> {
        let guest = SocketAddrV4::new(packet.source, datagram.source);
        let peer = SocketAddrV4::new(packet.destination, datagram.destination);
        if self.config.dns == Some(*peer.ip()) && peer.port() == dns::PORT {
            let query = Query::parse(datagram.payload)?;
            if let Some(message) = self.answer(&query, now) {
                self.output.udp(peer, guest, &message);
                return Some(());
            }
        }
        let key = FlowKey {
            kind: Kind::Udp,
            guest,
            peer,
        };
        self.send(key, datagram.payload, now)
    }

    /// The answer to a query that is answered here.
    fn answer(&self, query: &Query<'_>, now: Millis) -> Option<Vec<u8>> {
        let in_domain = query.name.strip_suffix(self.config.domain.as_str());
        let in_domain = in_domain.and_then(|name| name.strip_suffix('.'));
        let (name, ours) = match in_domain {
            Some(name) if !self.config.domain.is_empty() => (name, true),
            _ => (&*query.name, false),
        };
        let directory = locked(&self.directory);
        // A name may be set with the domain in it.
        let address = directory.lookup(&query.name, now).or_else(|| match name {
            "gateway" | "host" => Some(self.config.subnet.gateway),
            "dns" => self.config.dns,
            name => directory.lookup(name, now),
        });
        drop(directory);
        if address.is_some() || ours {
            return Some(query.answer(Code::NoError, address));
        }
        let nobody = self.config.restrict || self.config.upstream.is_none();
        nobody.then(|| query.answer(Code::Refused, None))
    }

    /// ICMP echo (RFC 792): answered for our own addresses, passed on for others.
    fn input_icmp(&mut self, packet: &Ipv4<'_>, now: Millis) -> Option<()> {
        let message = packet.payload;
        let echo = message.len() >= UDP_LEN && message[..2] == [8, 0] && fold(sum(message)) == 0xffff;
        if !echo {
            return None;
        }
        if self.is_ours(packet.destination) {
            let reply = echo_reply(message, u16_at(message, 4)?);
            self.output.ipv4(ICMP, packet.destination, packet.source, &reply);
            return Some(());
        }
        let key = FlowKey {
            kind: Kind::Ping,
            guest: SocketAddrV4::new(packet.source, u16_at(message, 4)?),
            peer: SocketAddrV4::new(packet.destination, 0),
        };
        self.send(key, message, now)
    }

    /// Sends a datagram of the guest by its flow.
    fn send(&mut self, key: FlowKey, payload: &[u8], now: Millis) -> Option<()> {
        if !self.flows.contains_key(&key) {
            let to = self.outside(key.peer)?;
            self.add_flow(key, Origin::Guest { to }, now);
        }
        let flow = self.flows.get_mut(&key)?;
        flow.used = now;
        let payload = payload.to_vec();
        self.actions.push_back(match flow.origin {
            Origin::Guest { to } => Action::Send {
                flow: flow.id,
                kind: key.kind,
                to,
                payload,
            },
            Origin::Host { forward, client } => Action::Reply {
                forward,
                to: client,
                payload,
            },
        });
        Some(())
    }

    /// Adds a flow; the one that was used least of late makes room for it.
    fn add_flow(&mut self, key: FlowKey, origin: Origin, now: Millis) {
        let is_own = |other: &FlowKey| other.guest.ip() == key.guest.ip();
        let own = self.flows.keys().filter(|other| is_own(other)).count();
        let own_only = own >= self.share(MAX_FLOWS);
        if (own_only || self.flows.len() >= MAX_FLOWS)
            && let Some(oldest) = self
                .flows
                .iter()
                .filter(|(other, _)| !own_only || is_own(other))
                .min_by_key(|(_, flow)| flow.used)
                .map(|(key, _)| *key)
        {
            self.forget(&oldest);
        }
        let id = self.new_id();
        self.flows.insert(
            key,
            Flow {
                id,
                origin,
                used: now,
            },
        );
        self.flow_keys.insert(id, key);
    }

    fn forget(&mut self, key: &FlowKey) {
        if let Some(flow) = self.flows.remove(key) {
            self.flow_keys.remove(&flow.id);
            self.actions.push_back(Action::Forget { flow: flow.id });
        }
    }

    /// A datagram came by a flow's socket: a UDP payload, or a whole ICMP message.
    pub fn datagram(&mut self, flow: Id, payload: &[u8], now: Millis) {
        let Some(key) = self.flow_keys.get(&flow).copied() else {
            return;
        };
        if let Some(flow) = self.flows.get_mut(&key) {
            flow.used = now;
        }
        match key.kind {
            Kind::Udp => self.output.udp(key.peer, key.guest, payload),
            Kind::Ping if payload.len() >= UDP_LEN && payload[..2] == [0, 0] => {
                // The host's kernel has put an identifier of its own there.
                let reply = echo_reply(payload, key.guest.port());
                self.output.ipv4(ICMP, *key.peer.ip(), *key.guest.ip(), &reply);
            }
            Kind::Ping => {}
        }
    }

    /// A datagram came by a forwarded port, from `client`.
    pub fn forwarded_datagram(&mut self, forward: usize, client: SocketAddr, payload: &[u8], now: Millis) {
        let Some(guest) = self.forward(forward, Transport::Udp) else {
            return;
        };
        let peer = SocketAddrV4::new(self.config.subnet.gateway, client.port());
        let key = FlowKey {
            kind: Kind::Udp,
            guest,
            peer,
        };
        match self.flows.get_mut(&key) {
            Some(flow) => {
                flow.used = now;
                // Of two clients with the same port the later one gets the answers.
                flow.origin = Origin::Host { forward, client };
            }
            None => self.add_flow(key, Origin::Host { forward, client }, now),
        }
        self.output.udp(peer, guest, payload);
    }

    /// Where a forward leads.
    fn forward(&self, index: usize, transport: Transport) -> Option<SocketAddrV4> {
        let forward = self.config.forwards.get(index)?;
        let only = || Some(self.config.plan.hosts.first()?.address).filter(|_| !self.config.shared);
        let guest = forward.guest.or_else(only)?;
        (forward.transport == transport).then_some(SocketAddrV4::new(guest, forward.port))
    }

    /// Someone from the host's port `client` came by a forwarded port; `None` if there is no room for the connection.
    pub fn forwarded(&mut self, forward: usize, client: u16, now: Millis) -> Option<Id> {
        let guest = self.forward(forward, Transport::Tcp)?;
        let gateway = self.config.subnet.gateway;
        // Two clients with the same port, at two addresses, are two ports for the guest.
        let mut ports = (0..64u16).map(|step| client.wrapping_add(step).max(1));
        let peer = ports
            .by_ref()
            .map(|port| SocketAddrV4::new(gateway, port))
            .find(|peer| !self.by_ends.contains_key(&(guest, *peer)))?;
        self.make_room(*guest.ip(), now).then_some(())?;
        let first = self.first_sequence((guest, peer), now);
        Some(self.add(Connection::by_host(guest, peer, first, now)))
    }

    /// The connection `id`, if it is still there.
    pub fn connection(&mut self, id: Id) -> Option<&mut Connection> {
        self.connections.get_mut(&id)
    }

    /// The connection's socket failed.
    pub fn host_failed(&mut self, id: Id) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.abort(&mut self.output);
        }
    }

    /// Sends what is to be sent, and ends what is over.
    pub fn poll(&mut self, now: Millis) {
        let turn = self.turn;
        let mut over = Vec::new();
        let mut next_turn = None;
        let (before, after): (Vec<_>, Vec<_>) = self.connections.iter_mut().partition(|(id, _)| **id < turn);
        for (id, connection) in after.into_iter().chain(before) {
            if !self.output.has_room() {
                next_turn.get_or_insert(*id);
            }
            connection.output(&mut self.output, now);
            if let Some(reset) = connection.end() {
                over.push((*id, reset));
            }
        }
        self.turn = next_turn.unwrap_or(0);
        for (id, reset) in over {
            self.remove(id, reset);
        }
        if now >= self.next_cleaning {
            self.next_cleaning = now + 1000;
            self.output.ask_again();
            let old: Vec<_> = self
                .flows
                .iter()
                .filter(|(key, flow)| {
                    let query = key.peer.port() == dns::PORT;
                    now.saturating_sub(flow.used) >= if query { QUERY_LIFE } else { FLOW_LIFE }
                })
                .map(|(key, _)| *key)
                .collect();
            old.iter().for_each(|key| self.forget(key));
        }
    }

    /// When [`Core::poll`] has to be called if nothing happens before.
    pub fn deadline(&self) -> Option<Millis> {
        let cleaning = (!self.flows.is_empty()).then_some(self.next_cleaning);
        let timers = self.connections.values().filter_map(Connection::deadline);
        timers.chain(cleaning).min()
    }
}

/// The reply to an echo, with this identifier.
fn echo_reply(message: &[u8], identifier: u16) -> Vec<u8> {
    let mut reply = message.to_vec();
    reply[..4].fill(0);
    reply[4..6].copy_from_slice(&identifier.to_be_bytes());
    let checksum = !fold(sum(&reply));
    reply[2..4].copy_from_slice(&checksum.to_be_bytes());
    reply
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
