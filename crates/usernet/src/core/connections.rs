//! TCP connections: who may have one, and what belongs to which.

use std::hash::BuildHasher;
use std::net::SocketAddr;

use super::input::Sender;
use super::{Action, Core, Id};
use crate::config::Transport;
use crate::neighbours::Owner;
use crate::output::Segment;
use crate::tcp::{BUFFER, Connection, Ends};
use crate::time::Millis;
use crate::wire::{Packet, Tcp, flags};

/// TCP connections at most, and those that are not yet open.
pub(super) const MAX_CONNECTIONS: usize = 512;
pub(super) const MAX_HALF_OPEN: usize = 128;
/// A connection over which nothing came for so long may make room for another.
pub(super) const IDLE: Millis = 60_000;
/// Bytes in the buffers of all connections, of each direction.
pub(super) const BUFFERS: usize = 64 << 20;
/// The part of them that is divided among the connections there are. Each keeps what it was promised when there were fewer, so that of
/// all the others the rest is needed.
const DIVIDED: usize = BUFFERS / 4;

impl Core {
    fn first_sequence(&self, ends: (SocketAddr, SocketAddr), now: Millis) -> u32 {
        // 250 a millisecond, as RFC 6528 has it, above a secret of these ends.
        (self.secret.hash_one(ends) as u32).wrapping_add((now as u32).wrapping_mul(250))
    }

    pub(super) fn input_tcp(&mut self, sender: Sender, packet: &Packet<'_>, segment: &Tcp<'_>, now: Millis) {
        let guest = SocketAddr::new(packet.source, segment.source);
        let peer = SocketAddr::new(packet.destination, segment.destination);
        if let Some(connection) = self
            .by_ends
            .get(&(guest, peer))
            .and_then(|id| self.connections.get_mut(id))
        {
            return connection.input(segment, &mut self.output, now);
        }
        let owner = Owner::Card(sender.card);
        let opens = segment.has(flags::SYN) && !segment.has(flags::ACK | flags::RST | flags::FIN);
        if opens
            && let Some(to) = self.outside(peer)
            && self.make_room(owner, now)
        {
            let first = self.first_sequence((guest, peer), now);
            let connection = Connection::by_guest(Ends { guest, peer, owner }, segment, first, now);
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

    /// Shares the memory for buffers among the connections: a power of two for each, as their rings are.
    fn set_limits(&mut self) {
        let share = (DIVIDED / self.connections.len().max(1)).min(BUFFER);
        let limit = 1 << share.max(1).ilog2();
        for connection in self.connections.values_mut() {
            connection.limit(limit);
        }
    }

    /// True if `owner` may have another connection; one that has been idle for long makes room for it.
    pub(super) fn make_room(&mut self, owner: Owner, now: Millis) -> bool {
        let is_own = |connection: &&Connection| connection.owner == owner;
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

    pub(super) fn remove(&mut self, id: Id, reset: bool) {
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
    fn refuse(&mut self, guest: SocketAddr, peer: SocketAddr, segment: &Tcp<'_>) {
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

    /// Someone from the host's port `client` came by a forwarded port; `None` if there is no room for the connection.
    pub fn forwarded(&mut self, forward: usize, client: u16, now: Millis) -> Option<Id> {
        let guest = self.forward(forward, Transport::Tcp)?;
        let gateway = self.gateway_for(guest.ip())?;
        let owner = self.output.neighbours.owner(guest.ip());
        // Two clients with the same port, at two addresses, are two ports for the guest.
        let mut ports = (0..64u16).map(|step| client.wrapping_add(step).max(1));
        let peer = ports
            .by_ref()
            .map(|port| SocketAddr::new(gateway, port))
            .find(|peer| !self.by_ends.contains_key(&(guest, *peer)))?;
        self.make_room(owner, now).then_some(())?;
        let first = self.first_sequence((guest, peer), now);
        Some(self.add(Connection::by_host(Ends { guest, peer, owner }, first, now)))
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
}
