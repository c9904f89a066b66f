//! Leases and reservations of one family's addresses.

use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::time::Millis;
use crate::wire::Mac;

/// Leases of a family at most.
pub const MAX_LEASES: usize = 4096;
/// How long an address is kept for a client that was offered it and has not asked for it.
pub const OFFER: Millis = 30_000;
/// How long an address is not given that a client found in use, and how many one client may find so.
pub const DECLINED: Millis = 600_000;
const MAX_DECLINED: usize = 16;
/// Bytes of a client's identifier that are kept.
const MAX_CLIENT_ID: usize = 130;

/// An address of either family.
pub trait Address: Copy + Ord + Hash {
    /// The one after it.
    fn next(self) -> Option<Self>;
}

impl Address for Ipv4Addr {
    fn next(self) -> Option<Self> {
        self.to_bits().checked_add(1).map(Self::from_bits)
    }
}

impl Address for Ipv6Addr {
    fn next(self) -> Option<Self> {
        self.to_bits().checked_add(1).map(Self::from_bits)
    }
}

/// Who asks: its card, what it calls itself for the machine, and its name.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    pub mac: Mac,
    pub id: Option<&'a [u8]>,
    pub name: Option<&'a str>,
}

/// An address that is kept for a guest.
#[derive(Debug, Clone)]
pub struct Reservation<A> {
    /// By this it is known first, if it has one.
    pub duid: Option<Vec<u8>>,
    pub mac: Option<Mac>,
    pub name: Option<String>,
    pub address: A,
}

/// What is kept of a lease.
#[derive(Debug)]
pub struct Entry {
    /// None: a client found that someone else uses the address.
    pub mac: Option<Mac>,
    /// The client that found that.
    declined_by: Option<Mac>,
    pub name: Option<String>,
    pub client_id: Option<Vec<u8>>,
    pub expires: Millis,
    /// The client took the address; before that it was only offered.
    pub bound: bool,
}

/// Whose a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named<A> {
    pub address: A,
    /// Its card, as far as it is known.
    pub mac: Option<Mac>,
    /// It has the address now.
    pub leased: bool,
}

/// The table.
#[derive(Debug)]
pub struct Table<A> {
    lease: Millis,
    /// Never given: the network's own addresses.
    never: HashSet<A>,
    ranges: Vec<(A, A)>,
    hosts: Vec<Reservation<A>>,
    reserved: HashSet<A>,
    leases: BTreeMap<A, Entry>,
}

impl<A: Address> Table<A> {
    /// An empty table of leases of this length.
    pub fn new(lease: Millis, never: impl IntoIterator<Item = A>) -> Self {
        Self {
            lease,
            never: never.into_iter().collect(),
            ranges: Vec::new(),
            hosts: Vec::new(),
            reserved: HashSet::new(),
            leases: BTreeMap::new(),
        }
    }

    /// Another plan from now on. Leases go on, and are not given again if they do not fit.
    pub fn set_plan(&mut self, ranges: Vec<(A, A)>, hosts: Vec<Reservation<A>>) {
        self.reserved = hosts.iter().map(|host| host.address).collect();
        self.ranges = ranges;
        self.hosts = hosts;
    }

    fn host(&self, client: &Client<'_>) -> Option<&Reservation<A>> {
        let by_id = |host: &&Reservation<A>| host.duid.is_some() && host.duid.as_deref() == client.id;
        let by_mac = |host: &&Reservation<A>| host.duid.is_none() && host.mac == Some(client.mac);
        let by_name = |host: &&Reservation<A>| {
            let only = host.duid.is_none() && host.mac.is_none();
            only && client.name.is_some() && host.name.as_deref() == client.name
        };
        let find = |wanted: &dyn Fn(&&Reservation<A>) -> bool| self.hosts.iter().find(|host| wanted(host));
        find(&by_id).or_else(|| find(&by_mac)).or_else(|| find(&by_name))
    }

    /// The address that `client` is to have, which is kept for it for a while; `wanted` is the one that it would like.
    pub fn offer(&mut self, client: &Client<'_>, wanted: Option<A>, now: Millis) -> Option<A> {
        let address = self.choose(client, wanted, now)?;
        if !self.leases.contains_key(&address) && self.leases.len() >= MAX_LEASES {
            self.leases.retain(|_, entry| entry.expires > now);
            (self.leases.len() < MAX_LEASES).then_some(())?;
        }
        if !self.is_of(address, client.mac) {
            // What was offered to it before is free again.
            self.leases
                .retain(|_, entry| entry.bound || entry.mac != Some(client.mac));
            let offered = Entry {
                mac: Some(client.mac),
                declined_by: None,
                name: None,
                client_id: None,
                expires: now + OFFER,
                bound: false,
            };
            self.leases.insert(address, offered);
        }
        Some(address)
    }

    fn is_of(&self, address: A, client: Mac) -> bool {
        let entry = self.leases.get(&address);
        entry.is_some_and(|entry| entry.mac == Some(client))
    }

    fn choose(&self, client: &Client<'_>, wanted: Option<A>, now: Millis) -> Option<A> {
        let free = |address: &A| match self.leases.get(address) {
            Some(entry) => entry.mac == Some(client.mac) || entry.expires <= now,
            None => true,
        };
        if let Some(host) = self.host(client)
            && free(&host.address)
        {
            return Some(host.address);
        }
        let mine = self
            .leases
            .iter()
            .filter(|(_, entry)| entry.mac == Some(client.mac));
        let mine = mine
            .max_by_key(|(_, entry)| entry.expires)
            .map(|(address, _)| *address);
        let fits = |address: &A| self.is_dynamic(*address) && free(address);
        if let Some(address) = mine.filter(fits).or(wanted.filter(fits)) {
            return Some(address);
        }
        // Ends soon, however large a range is: there are not more leases and reservations than their bounds.
        let unused = |address: &A| self.is_dynamic(*address) && !self.leases.contains_key(address);
        let mut all = self.ranges.iter().flat_map(|(first, last)| {
            std::iter::successors(Some(*first), |address| address.next())
                .take_while(move |address| address <= last)
        });
        all.find(unused).or_else(|| {
            let over = self.leases.iter().filter(|(address, _)| fits(address));
            over.min_by_key(|(_, entry)| entry.expires)
                .map(|(address, _)| *address)
        })
    }

    /// True if everyone may have `address`.
    fn is_dynamic(&self, address: A) -> bool {
        let in_range = self
            .ranges
            .iter()
            .any(|(first, last)| (first..=last).contains(&&address));
        in_range && !self.never.contains(&address) && !self.reserved.contains(&address)
    }

    /// `client` takes `address`, which was offered to it; `free` says of a name that nobody of the other family has it.
    pub fn bind(&mut self, client: &Client<'_>, address: A, free: impl Fn(&str) -> bool, now: Millis) {
        let old = self.leases.get(&address).and_then(|entry| entry.name.clone());
        // Nobody takes another's name.
        let free =
            |name: &String| free(name) && self.named(name, now).is_none_or(|owner| owner.address == address);
        // Its reservation has a name for it.
        let host = self.host(client).filter(|host| host.address == address);
        let is_named =
            host.is_some_and(|host| host.name.is_some() && (host.mac.is_some() || host.duid.is_some()));
        let asked = client.name.map(str::to_owned);
        let name = asked.into_iter().chain(old).find(|name| !is_named && free(name));
        let lease = self.lease;
        if let Some(entry) = self
            .leases
            .get_mut(&address)
            .filter(|entry| entry.mac == Some(client.mac))
        {
            entry.name = name;
            entry.client_id = client.id.map(|id| id[..id.len().min(MAX_CLIENT_ID)].to_vec());
            entry.expires = now + lease;
            entry.bound = true;
            // A client has one address.
            self.leases
                .retain(|other, entry| *other == address || entry.mac != Some(client.mac));
        }
    }

    /// `client` gives its address back; true if it was its.
    pub fn release(&mut self, client: Mac, address: A) -> bool {
        let own = self.is_of(address, client);
        if own {
            self.leases.remove(&address);
        }
        own
    }

    /// `client` found that someone else uses what it was given; true if it was given that.
    pub fn decline(&mut self, client: Mac, address: A, now: Millis) -> bool {
        let lasting = |entry: &&Entry| entry.declined_by == Some(client) && entry.expires > now;
        let many = self.leases.values().filter(lasting).count() >= MAX_DECLINED;
        if many {
            // Whoever finds so many does not find them.
            return self.release(client, address);
        }
        let entry = self.leases.get_mut(&address);
        let Some(entry) = entry.filter(|entry| entry.mac == Some(client)) else {
            return false;
        };
        *entry = Entry {
            mac: None,
            declined_by: Some(client),
            name: None,
            client_id: None,
            expires: now + DECLINED,
            bound: true,
        };
        true
    }

    /// Whose name it is: small letters, without a domain.
    pub fn named(&self, name: &str, now: Millis) -> Option<Named<A>> {
        let lasts = |entry: &&Entry| entry.bound && entry.expires > now && entry.mac.is_some();
        let reserved = self.hosts.iter().find(|host| host.name.as_deref() == Some(name));
        if let Some(host) = reserved {
            let lease = self.leases.get(&host.address).filter(lasts);
            return Some(Named {
                address: host.address,
                mac: lease.and_then(|entry| entry.mac).or(host.mac),
                leased: lease.is_some(),
            });
        }
        let mut leased = self.leases.iter().filter(|(_, entry)| lasts(entry));
        let (address, entry) = leased.find(|(_, entry)| entry.name.as_deref() == Some(name))?;
        Some(Named {
            address: *address,
            mac: entry.mac,
            leased: true,
        })
    }

    /// The leases that last, each with its reservation if it has one.
    pub fn leases(&self, now: Millis) -> impl Iterator<Item = (A, Mac, &Entry, Option<&Reservation<A>>)> {
        let lasting = self
            .leases
            .iter()
            .filter(move |(_, entry)| entry.bound && entry.expires > now);
        lasting.filter_map(|(address, entry)| {
            let mac = entry.mac?;
            let client = Client {
                mac,
                id: entry.client_id.as_deref(),
                name: entry.name.as_deref(),
            };
            let host = self.host(&client).filter(|host| host.address == *address);
            Some((*address, mac, entry, host))
        })
    }

    /// Leases, offers and declined addresses.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.leases.len()
    }
}
