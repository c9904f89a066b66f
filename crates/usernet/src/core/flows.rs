//! Flows of datagrams: UDP, and ICMP echo.

use std::net::SocketAddr;

use super::input::Sender;
use super::{Action, Core, Id, Kind};
use crate::config::Transport;
use crate::dns::{self, Query};
use crate::neighbours::Owner;
use crate::time::Millis;
use crate::wire::{Packet, Udp};

/// Datagram flows at most, and how long one lives after its last datagram.
pub(super) const MAX_FLOWS: usize = 256;
pub(super) const FLOW_LIFE: Millis = 60_000;
/// A query's: resolvers do not wait longer.
pub(super) const QUERY_LIFE: Millis = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FlowKey {
    pub(super) kind: Kind,
    pub(super) guest: SocketAddr,
    pub(super) peer: SocketAddr,
}

/// Whose datagrams a flow's are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin {
    Guest { to: SocketAddr },
    Host { forward: usize, client: SocketAddr },
}

#[derive(Debug)]
pub(super) struct Flow {
    pub(super) id: Id,
    pub(super) origin: Origin,
    owner: Owner,
    pub(super) used: Millis,
}

impl Core {
    pub(super) fn input_udp(
        &mut self,
        sender: Sender,
        packet: &Packet<'_>,
        datagram: &Udp<'_>,
        now: Millis,
    ) -> Option<()> {
        let guest = SocketAddr::new(packet.source, datagram.source);
        let peer = SocketAddr::new(packet.destination, datagram.destination);
        if self.is_name_server(peer.ip()) && peer.port() == dns::PORT {
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
        self.send(key, sender, datagram.payload, now)
    }

    /// Sends a datagram of the guest by its flow.
    pub(super) fn send(&mut self, key: FlowKey, sender: Sender, payload: &[u8], now: Millis) -> Option<()> {
        if !self.flows.contains_key(&key) {
            let to = self.outside(key.peer)?;
            self.add_flow(key, Origin::Guest { to }, Owner::Card(sender.card), now);
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
    fn add_flow(&mut self, key: FlowKey, origin: Origin, owner: Owner, now: Millis) {
        let is_own = |flow: &Flow| flow.owner == owner;
        let own = self.flows.values().filter(|flow| is_own(flow)).count();
        let own_only = own >= self.share(MAX_FLOWS);
        if (own_only || self.flows.len() >= MAX_FLOWS)
            && let Some(oldest) = self
                .flows
                .iter()
                .filter(|(_, flow)| !own_only || is_own(flow))
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
                owner,
                used: now,
            },
        );
        self.flow_keys.insert(id, key);
    }

    pub(super) fn forget(&mut self, key: &FlowKey) {
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
            Kind::Ping => self.echoed(&key, payload),
        }
    }

    /// A datagram came by a forwarded port, from `client`.
    pub fn forwarded_datagram(&mut self, forward: usize, client: SocketAddr, payload: &[u8], now: Millis) {
        let Some(guest) = self.forward(forward, Transport::Udp) else {
            return;
        };
        let Some(gateway) = self.gateway_for(guest.ip()) else {
            return;
        };
        let peer = SocketAddr::new(gateway, client.port());
        let owner = self.output.neighbours.owner(guest.ip());
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
            None => self.add_flow(key, Origin::Host { forward, client }, owner, now),
        }
        self.output.udp(peer, guest, payload);
    }
}
