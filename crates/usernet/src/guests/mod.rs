//! Who has which address and which name: leases of DHCP, reservations, and names that are set.

mod plan;
mod table;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub use self::plan::{Host, Host6, Plan, check_name};
pub use self::table::Client;
use self::table::{Address, Named, Table};
use crate::config::{Ipv6, Subnet};
use crate::time::Millis;
use crate::wire::Mac;

/// An address that a guest has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The guest's card.
    pub mac: Mac,
    /// Its address.
    pub address: IpAddr,
    /// Its name.
    pub name: Option<String>,
    /// What it calls itself (RFC 2132, 9.14; RFC 8415, 11).
    pub client_id: Option<Vec<u8>>,
    /// Seconds that the lease still lasts.
    pub remaining: u64,
    /// Whether the address is reserved for it.
    pub reserved: bool,
}

/// All of it, for one network.
#[derive(Debug)]
pub struct Directory {
    subnet: Subnet,
    ipv6: Option<Ipv6>,
    names: Vec<(String, IpAddr)>,
    v4: Table<Ipv4Addr>,
    v6: Table<Ipv6Addr>,
}

/// True if a client may have a name of which the other family's table says this.
fn is_free_for<A>(client: Mac, owner: Option<Named<A>>) -> bool {
    owner.is_none_or(|owner| owner.mac == Some(client))
}

impl Directory {
    /// The directory of this network; `lease` is how long an address is given.
    pub fn new(subnet: Subnet, dns: Option<Ipv4Addr>, ipv6: Option<Ipv6>, lease: Millis, plan: Plan) -> Self {
        let (first, last) = (subnet.gateway & subnet.mask(), subnet.gateway | !subnet.mask());
        let never = [subnet.gateway, first, last].into_iter().chain(dns);
        let never6 = ipv6.iter().flat_map(Ipv6::own);
        let mut directory = Self {
            v4: Table::new(lease, never),
            v6: Table::new(lease, never6),
            subnet,
            ipv6,
            names: Vec::new(),
        };
        directory.set_plan(plan);
        directory
    }

    /// Another plan from now on. Leases go on, and are not given again if they do not fit.
    pub fn set_plan(&mut self, plan: Plan) {
        let hosts = plan.hosts.iter().map(Into::into).collect();
        let hosts6 = plan.hosts6.iter().map(Into::into).collect();
        self.v4.set_plan(plan.ranges, hosts);
        self.v6.set_plan(plan.ranges6, hosts6);
        self.names = plan.names;
    }

    /// The address that `client` is to have, which is kept for it for a while; `wanted` is the one that it would like.
    pub fn offer(&mut self, client: &Client<'_>, wanted: Option<Ipv4Addr>, now: Millis) -> Option<Ipv4Addr> {
        self.v4.offer(client, wanted, now)
    }

    /// `client` takes `address`, which was offered to it.
    pub fn bind(&mut self, client: &Client<'_>, address: Ipv4Addr, now: Millis) {
        let v6 = &self.v6;
        let free = |name: &str| is_free_for(client.mac, v6.named(name, now));
        self.v4.bind(client, address, free, now);
    }

    /// `client` gives its address back.
    pub fn release(&mut self, client: Mac, address: Ipv4Addr) {
        self.v4.release(client, address);
    }

    /// `client` found that someone else uses what it was given.
    pub fn decline(&mut self, client: Mac, address: Ipv4Addr, now: Millis) {
        self.v4.decline(client, address, now);
    }

    /// The same as [`Directory::offer`] for IPv6.
    pub fn offer6(&mut self, client: &Client<'_>, wanted: Option<Ipv6Addr>, now: Millis) -> Option<Ipv6Addr> {
        self.v6.offer(client, wanted, now)
    }

    /// `client` takes `address`, which was offered to it.
    pub fn bind6(&mut self, client: &Client<'_>, address: Ipv6Addr, now: Millis) {
        let v4 = &self.v4;
        let free = |name: &str| is_free_for(client.mac, v4.named(name, now));
        self.v6.bind(client, address, free, now);
    }

    /// `client` gives its address back; true if it was its.
    pub fn release6(&mut self, client: Mac, address: Ipv6Addr) -> bool {
        self.v6.release(client, address)
    }

    /// `client` found that someone else uses what it was given; true if it was given that.
    pub fn decline6(&mut self, client: Mac, address: Ipv6Addr, now: Millis) -> bool {
        self.v6.decline(client, address, now)
    }

    /// The address behind a name: small letters, without a domain.
    pub fn lookup(&self, name: &str, now: Millis) -> Option<Ipv4Addr> {
        let set = self.names.iter().find_map(|(known, address)| match address {
            IpAddr::V4(address) if known == name => Some(*address),
            _ => None,
        });
        set.or_else(|| Some(self.v4.named(name, now)?.address))
    }

    /// The address of IPv6 behind a name. A guest need not ask anyone for such an address: `seen` tells which one a card uses.
    pub fn lookup6(
        &self,
        name: &str,
        seen: impl Fn(&Mac) -> Option<Ipv6Addr>,
        now: Millis,
    ) -> Option<Ipv6Addr> {
        let set = self.names.iter().find_map(|(known, address)| match address {
            IpAddr::V6(address) if known == name => Some(*address),
            _ => None,
        });
        let named = self.v6.named(name, now);
        let leased = named.filter(|named| named.leased).map(|named| named.address);
        let by_card = || {
            let card = named.and_then(|named| named.mac);
            seen(&card.or_else(|| self.v4.named(name, now)?.mac)?)
        };
        set.or(leased)
            .or_else(by_card)
            .or_else(|| named.map(|named| named.address))
    }

    fn leases(&self, now: Millis) -> Vec<Lease> {
        let v4 = leases_of(&self.v4, now);
        v4.chain(leases_of(&self.v6, now)).collect()
    }
}

fn leases_of<A: Address + Into<IpAddr>>(table: &Table<A>, now: Millis) -> impl Iterator<Item = Lease> {
    table.leases(now).map(move |(address, mac, entry, host)| {
        let reserved_name = host.and_then(|host| host.name.clone());
        Lease {
            mac,
            address: address.into(),
            name: reserved_name.or_else(|| entry.name.clone()),
            client_id: entry.client_id.clone(),
            remaining: (entry.expires - now) / 1000,
            reserved: host.is_some(),
        }
    })
}

/// Packets of guests that are not passed on by their kind.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub fragments: AtomicU64,
    pub extension_headers: AtomicU64,
}

/// What of the guests' packets was dropped for its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropped {
    /// Fragments of either family.
    pub fragments: u64,
    /// Packets of IPv6 with other extension headers; reports of multicast listeners are among them.
    pub extension_headers: u64,
}

/// A network's directory for others than the network.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(crate) directory: Arc<Mutex<Directory>>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) start: Instant,
}

pub(crate) fn locked(directory: &Mutex<Directory>) -> MutexGuard<'_, Directory> {
    directory.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handle {
    /// The leases that last, by address.
    pub fn leases(&self) -> Vec<Lease> {
        locked(&self.directory).leases(self.start.elapsed().as_millis() as Millis)
    }

    /// What was dropped since the start.
    pub fn dropped(&self) -> Dropped {
        Dropped {
            fragments: self.counters.fragments.load(Ordering::Relaxed),
            extension_headers: self.counters.extension_headers.load(Ordering::Relaxed),
        }
    }

    /// Has the network follow another plan from now on, if it can be.
    pub fn set_plan(&self, plan: Plan) -> Result<(), String> {
        let mut directory = locked(&self.directory);
        plan.check(&directory.subnet, directory.ipv6.as_ref())?;
        directory.set_plan(plan);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
