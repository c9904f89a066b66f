//! The network itself: frames of the guest, what the host's sockets give, and a clock in; frames and wishes out. It opens
//! nothing, so all of it can be tested without a network.

mod advertise;
mod connections;
mod discovery;
mod echo;
mod flows;
mod input;
mod leases;
mod leases6;
mod names;
mod outside;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::RandomState;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use self::advertise::Advertising;
use self::flows::{FLOW_LIFE, Flow, FlowKey, QUERY_LIFE};
use crate::config::Config;
use crate::dhcp::Network;
use crate::dns;
use crate::guests::{Counters, Directory};
use crate::output::Output;
use crate::tcp::Connection;
use crate::time::Millis;

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

/// The network.
pub struct Core {
    config: Config,
    network: Network,
    output: Output,
    connections: BTreeMap<Id, Connection>,
    by_ends: HashMap<(SocketAddr, SocketAddr), Id>,
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
    /// When the router speaks of itself.
    advertising: Advertising,
    /// What is not passed on.
    counters: Arc<Counters>,
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
        let directory = Directory::new(config.subnet, config.dns, config.ipv6, lease, config.plan.clone());
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
            advertising: Advertising::default(),
            counters: Arc::default(),
        }
    }

    /// Leases and names, for others to look at and to change.
    pub fn directory(&self) -> Arc<Mutex<Directory>> {
        self.directory.clone()
    }

    /// What was dropped, for others to look at.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// The next frame for the guest, behind its virtio-net header.
    pub fn next_frame(&mut self) -> Option<Vec<u8>> {
        self.output.pop()
    }

    /// Whether there is one.
    pub fn has_frames(&self) -> bool {
        self.output.has_frames()
    }

    /// Gives back the buffer of a frame that was sent.
    pub fn recycle(&mut self, frame: Vec<u8>) {
        self.output.recycle(frame);
    }

    /// The next wish.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn new_id(&mut self) -> Id {
        self.last_id += 1;
        self.last_id
    }

    /// True if `address` is one that a guest may have: one of the network, or one of its link.
    fn is_guest(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V6(address) if address.is_unicast_link_local() => {
                self.config.ipv6.is_some() && address != self.config.link_local()
            }
            address => self.config.is_guest(address),
        }
    }

    /// True if `address` is the gateway's.
    fn is_gateway(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address == self.config.subnet.gateway,
            IpAddr::V6(address) => self
                .config
                .ipv6
                .is_some_and(|ipv6| address == ipv6.gateway || address == self.config.link_local()),
        }
    }

    /// True if `address` is the name server's.
    fn is_name_server(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.config.dns == Some(address),
            IpAddr::V6(address) => self.config.ipv6.is_some_and(|ipv6| ipv6.dns == Some(address)),
        }
    }

    /// True if `address` is the gateway's or the name server's.
    fn is_ours(&self, address: IpAddr) -> bool {
        self.is_gateway(address) || self.is_name_server(address)
    }

    /// How many of `all` a guest may have.
    fn share(&self, all: usize) -> usize {
        if self.config.shared { all / PARTS } else { all }
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
        self.advertise(now);
        if now >= self.next_cleaning {
            self.next_cleaning = now + 1000;
            self.output.neighbours.ask_again();
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
        let all = timers.chain(cleaning);
        all.chain(self.next_advertisement()).min()
    }
}

#[cfg(test)]
mod tests;
