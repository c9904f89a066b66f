//! The network itself: frames of the guest, what the host's sockets give, and a clock in; frames and wishes out. It opens
//! nothing, so all of it can be tested without a network.

mod connections;
mod echo;
mod flows;
mod leases;
mod names;
mod neighbours;
mod outside;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::RandomState;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex};

use self::flows::{FLOW_LIFE, Flow, FlowKey, QUERY_LIFE};
use crate::config::Config;
use crate::dhcp::{self, Network};
use crate::dns;
use crate::guests::Directory;
use crate::output::{Output, Takes};
use crate::tcp::Connection;
use crate::time::Millis;
use crate::wire::{
    ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ICMP, Ipv4, Mac, TCP, Tcp, UDP, Udp, VNET_LEN, u16_at,
};

/// Bits of the byte in which the guest's side tells what the guest takes.
const TAKES_CHECKSUM: u8 = 1;
const TAKES_LARGE: u8 = 2;

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
            router: (!config.restrict).then_some(gateway),
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

#[cfg(test)]
mod tests;
