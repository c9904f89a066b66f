//! The forwarding database: where stations are, by VLAN and address (802.1D-2004, 7.9; independent learning, one filtering
//! identifier a VLAN).
//!
//! Entries stand in one array that is made once. An index with twice as many places finds them by a keyed hash; each port's
//! learned entries also form a list, the one heard last in front. So the oldest entry of a port is at the end of its list:
//! ageing and eviction take it from there. To flush a port, its list is hung behind that of stale entries and its generation
//! is raised; to flush a VLAN, only the VLAN's generation is raised, and who next needs room on a port cleans up its list.

mod hash;
mod index;
mod lists;
#[cfg(test)]
mod tests;

use hash::HashKey;
use index::Index;
use lists::{List, NONE};

use crate::port_set::MAX_PORTS;
use crate::{Error, Mac, PortIndex, VlanId};

/// One station. 32 bytes, and 8 of the index.
#[derive(Clone, Copy)]
struct Entry {
    /// VLAN and address; 0 marks a free entry.
    key: u64,
    /// When it was last heard, in seconds.
    heard: u32,
    /// The generations of its port and VLAN when it was learned.
    port_generation: u32,
    vlan_generation: u32,
    previous: u32,
    next: u32,
    port: u16,
    fixed: bool,
}

const FREE: Entry = Entry {
    key: 0,
    heard: 0,
    port_generation: 0,
    vlan_generation: 0,
    previous: NONE,
    next: NONE,
    port: 0,
    fixed: false,
};

/// What a port holds.
#[derive(Clone, Copy)]
struct PortPart {
    list: List,
    generation: u32,
    /// How many flushes of VLANs its list was cleaned up after.
    cleaned: u64,
    limit: u32,
}

/// A station's key, and where the table may have it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spot {
    key: u64,
    hash: u64,
}

impl Spot {
    /// Whether it is that of `mac` in `vlan`.
    #[inline]
    pub fn is_of(&self, vlan: VlanId, mac: Mac) -> bool {
        self.key == pack(vlan, mac)
    }
}

/// What became of a source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// It was known here.
    Known,
    /// It is new.
    New,
    /// It was on this port before.
    Moved(PortIndex),
    /// It has a static entry on this port, which stays.
    StaticElsewhere(PortIndex),
    /// The port has as many stations as it may.
    AboveLimit,
    /// The table is full of static entries.
    Full,
}

/// A known station, as it is shown to users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station {
    /// Its address.
    pub mac: Mac,
    /// Its VLAN.
    pub vlan: VlanId,
    /// Its port.
    pub port: PortIndex,
    /// Seconds since it was heard; `None` for a static entry.
    pub age: Option<u32>,
}

/// The table.
pub struct Fdb {
    entries: Box<[Entry]>,
    index: Index,
    key: HashKey,
    ports: Box<[PortPart]>,
    vlans: Box<[u32]>,
    /// Entries of flushed ports, which are still in the index.
    stale: List,
    free: List,
    fixed: usize,
    vlan_flushes: u64,
    /// In seconds.
    ageing: u32,
    evictions: u64,
}

fn pack(vlan: VlanId, mac: Mac) -> u64 {
    u64::from(vlan.get()) << 48 | mac.as_u64()
}

impl Fdb {
    /// An empty table of `capacity` entries. `key` has to be random.
    pub(crate) fn new(capacity: usize, key: [u64; 2], ageing: u32) -> Self {
        let mut fdb = Self {
            entries: vec![FREE; capacity].into_boxed_slice(),
            index: Index::new(capacity),
            key: HashKey(key),
            ports: vec![
                PortPart {
                    list: List::EMPTY,
                    generation: 0,
                    cleaned: 0,
                    limit: u32::MAX
                };
                MAX_PORTS
            ]
            .into_boxed_slice(),
            vlans: vec![0; 4096].into_boxed_slice(),
            stale: List::EMPTY,
            free: List::EMPTY,
            fixed: 0,
            vlan_flushes: 0,
            ageing,
            evictions: 0,
        };
        for at in 0..capacity as u32 {
            fdb.free.push_front(&mut fdb.entries, at);
        }
        fdb
    }

    /// Bytes that the table takes for each entry it can hold.
    pub fn bytes_per_entry(&self) -> usize {
        size_of::<Entry>() + self.index.bytes() / self.entries.len()
    }

    /// How many entries were thrown out because the table was full.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Sets the ageing time in seconds. It counts for entries that are there already.
    pub(crate) fn set_ageing(&mut self, seconds: u32) {
        self.ageing = seconds;
    }

    /// Sets how many stations `port` may have.
    pub(crate) fn set_limit(&mut self, port: PortIndex, limit: Option<u32>) {
        self.ports[port.get()].limit = limit.unwrap_or(u32::MAX);
    }

    /// How many entries are taken, stale ones among them.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len() as usize
    }

    /// The spot of `mac` in `vlan`.
    #[inline]
    pub(crate) fn spot(&self, vlan: VlanId, mac: Mac) -> Spot {
        let key = pack(vlan, mac);
        let hash = self.key.hash(key);
        Spot { key, hash }
    }

    /// Has what is at these spots brought into the caches, all at once; the number says nothing.
    pub(crate) fn touch(&self, spots: &[Spot]) -> u64 {
        // The index first, which says where the entries are: neither loop waits for what it loads.
        let mut touched = spots
            .iter()
            .fold(0, |touched, spot| touched | self.index.touch(spot.hash));
        for spot in spots {
            if let Some(at) = self.index.find(spot.hash, |_| true) {
                touched |= self.entries[at as usize].key;
            }
            touched |= u64::from(self.vlans[(spot.key >> 48) as usize]);
        }
        touched
    }

    /// Where `mac` is, if it is known and was heard recently enough.
    #[inline]
    pub fn lookup(&self, vlan: VlanId, mac: Mac, now: u32) -> Option<PortIndex> {
        self.lookup_at(self.spot(vlan, mac), now)
    }

    /// Where the station at a spot is, if it is known and was heard recently enough.
    #[inline]
    pub(crate) fn lookup_at(&self, spot: Spot, now: u32) -> Option<PortIndex> {
        let at = self.find(spot)?;
        let entry = &self.entries[at as usize];
        if !self.is_live(entry, now) {
            return None;
        }
        PortIndex::new(entry.port.into())
    }

    #[inline]
    fn find(&self, spot: Spot) -> Option<u32> {
        self.index
            .find(spot.hash, |at| self.entries[at as usize].key == spot.key)
    }

    #[inline]
    fn is_live(&self, entry: &Entry, now: u32) -> bool {
        entry.fixed
            || (entry.port_generation == self.ports[usize::from(entry.port)].generation
                && entry.vlan_generation == self.vlans[(entry.key >> 48) as usize]
                && now.saturating_sub(entry.heard) < self.ageing)
    }

    /// Notes that the station at a spot was heard on `port` (802.1D-2004, 7.8). `now` is in seconds.
    #[inline]
    pub(crate) fn learn_at(&mut self, spot: Spot, port: PortIndex, now: u32) -> Learned {
        let Some(at) = self.find(spot) else {
            return self.insert(spot, port, now);
        };
        let entry = self.entries[at as usize];
        if entry.fixed {
            return match PortIndex::new(entry.port.into()) {
                Some(home) if home != port => Learned::StaticElsewhere(home),
                _ => Learned::Known,
            };
        }
        let live = self.is_live(&entry, now);
        if live && usize::from(entry.port) == port.get() {
            if entry.heard != now {
                self.entries[at as usize].heard = now;
                self.ports[port.get()].list.move_to_front(&mut self.entries, at);
            }
            return Learned::Known;
        }
        let before = PortIndex::new(entry.port.into()).filter(|_| live);
        self.remove(at);
        match (self.insert(spot, port, now), before) {
            (Learned::New, Some(before)) => Learned::Moved(before),
            (learned, _) => learned,
        }
    }

    fn insert(&mut self, Spot { key, hash }: Spot, port: PortIndex, now: u32) -> Learned {
        if self.ports[port.get()].list.len() >= self.ports[port.get()].limit {
            self.clean_up(port.get(), now);
            if self.ports[port.get()].list.len() >= self.ports[port.get()].limit {
                return Learned::AboveLimit;
            }
        }
        let Some(at) = self.allocate() else {
            return Learned::Full;
        };
        self.entries[at as usize] = Entry {
            key,
            heard: now,
            port_generation: self.ports[port.get()].generation,
            vlan_generation: self.vlans[(key >> 48) as usize],
            port: port.get() as u16,
            ..FREE
        };
        self.ports[port.get()].list.push_front(&mut self.entries, at);
        self.index.insert(hash, at);
        Learned::New
    }

    /// A free entry: one that is free, one of a flushed port, or the oldest of the port that has the most.
    fn allocate(&mut self) -> Option<u32> {
        if self.free.is_empty() {
            if let Some(at) = self.stale.last() {
                self.remove(at);
            } else {
                let fullest = self.ports.iter().max_by_key(|port| port.list.len())?;
                let at = fullest.list.last()?;
                self.remove(at);
                self.evictions += 1;
            }
        }
        self.free.pop_front(&mut self.entries)
    }

    /// Takes an entry out of index and list, and frees it.
    fn remove(&mut self, at: u32) {
        let entry = self.entries[at as usize];
        self.index.remove(self.key.hash(entry.key), at, |other| {
            self.key.hash(self.entries[other as usize].key)
        });
        let port = &mut self.ports[usize::from(entry.port)];
        if entry.fixed {
            self.fixed -= 1;
        } else if entry.port_generation == port.generation {
            port.list.unlink(&mut self.entries, at);
        } else {
            self.stale.unlink(&mut self.entries, at);
        }
        self.entries[at as usize] = FREE;
        self.free.push_front(&mut self.entries, at);
    }

    /// Removes what has aged from the end of a port's list; after a flush of VLANs, whatever that made stale too.
    fn clean_up(&mut self, port: usize, now: u32) {
        self.age_port(port, now, usize::MAX);
        if self.ports[port].cleaned == self.vlan_flushes {
            return;
        }
        self.ports[port].cleaned = self.vlan_flushes;
        let mut next = self.ports[port].list.last();
        while let Some(at) = next {
            let entry = self.entries[at as usize];
            next = (entry.previous != NONE).then_some(entry.previous);
            if !self.is_live(&entry, now) {
                self.remove(at);
            }
        }
    }

    fn age_port(&mut self, port: usize, now: u32, most: usize) -> usize {
        let mut aged = 0;
        while aged < most
            && let Some(at) = self.ports[port].list.last()
            && !self.is_live(&self.entries[at as usize], now)
        {
            self.remove(at);
            aged += 1;
        }
        aged
    }

    /// Frees entries that have aged, at most `most` of them.
    pub(crate) fn age(&mut self, now: u32, most: usize) {
        let mut left = most;
        for port in 0..self.ports.len() {
            left -= self.age_port(port, now, left);
        }
    }

    /// Forgets what was learned on `port`.
    pub fn flush_port(&mut self, port: PortIndex) {
        let part = &mut self.ports[port.get()];
        part.generation = part.generation.wrapping_add(1);
        let list = std::mem::replace(&mut part.list, List::EMPTY);
        self.stale.append(&mut self.entries, list);
    }

    /// Forgets what was learned in `vlan`.
    pub fn flush_vlan(&mut self, vlan: VlanId) {
        let generation = &mut self.vlans[usize::from(vlan.get())];
        *generation = generation.wrapping_add(1);
        self.vlan_flushes += 1;
    }

    /// Forgets all that was learned.
    pub fn flush(&mut self) {
        (0..MAX_PORTS)
            .filter_map(PortIndex::new)
            .for_each(|port| self.flush_port(port));
    }

    /// Sets a static entry, in place of any other for that station.
    pub(crate) fn set_static(&mut self, vlan: VlanId, mac: Mac, port: PortIndex) -> Result<(), Error> {
        let key = pack(vlan, mac);
        if let Some(at) = self.find(self.spot(vlan, mac)) {
            self.remove(at);
        }
        let at = self.allocate().ok_or(Error::FdbFull(self.fixed))?;
        self.entries[at as usize] = Entry {
            key,
            port: port.get() as u16,
            fixed: true,
            ..FREE
        };
        self.fixed += 1;
        self.index.insert(self.key.hash(key), at);
        Ok(())
    }

    /// Removes the entry of a station, static or learned.
    pub fn forget(&mut self, vlan: VlanId, mac: Mac) -> Result<(), Error> {
        let at = self
            .find(self.spot(vlan, mac))
            .ok_or(Error::NoEntry { mac, vlan })?;
        self.remove(at);
        Ok(())
    }

    /// Removes all entries of a port that goes away, or of those of its VLANs that `leaves` names.
    pub(crate) fn remove_static(&mut self, port: PortIndex, leaves: impl Fn(u16) -> bool) {
        for at in 0..self.entries.len() as u32 {
            let entry = self.entries[at as usize];
            if entry.fixed && usize::from(entry.port) == port.get() && leaves((entry.key >> 48) as u16) {
                self.remove(at);
            }
        }
    }

    /// All stations that are known at `now` (in seconds), in no order.
    pub fn stations(&self, now: u32) -> impl Iterator<Item = Station> + '_ {
        self.entries
            .iter()
            .filter(move |entry| entry.key != 0 && self.is_live(entry, now))
            .filter_map(move |entry| {
                Some(Station {
                    mac: Mac::from_u64(entry.key),
                    vlan: VlanId::new((entry.key >> 48) as u16).ok()?,
                    port: PortIndex::new(entry.port.into())?,
                    age: (!entry.fixed).then(|| now.saturating_sub(entry.heard)),
                })
            })
    }
}
