//! The switch: its ports, its settings, and what it tells about them.

mod ahead;
mod egress;
mod flow;
mod forward;
mod ingress;
mod mirror;
mod multicast;
#[cfg(test)]
mod tests;
mod tree;

pub use mirror::Mirror;

use crate::bucket::{Bucket, Rate};
use crate::config::{PortConfig, SwitchConfig};
use crate::counters::PortCounters;
use crate::fdb::Fdb;
use crate::frame::RxFrame;
use crate::groups::{Due, Groups, RouterPort};
use crate::port_set::{MAX_PORTS, PortIndex, PortSet};
use crate::rstp::Bridge;
use crate::vlan::{TagAction, TagType, VlanId};
use crate::{Error, Mac, Time};

/// Where frames go.
pub trait Output {
    /// `port` is to send frame `index` of the batch, with this done to its tag. Returns whether its queue had room.
    fn send(&mut self, port: PortIndex, index: usize, tag: TagAction) -> bool;

    /// `port` is to send a frame of the switch's own. Returns whether its queue had room.
    fn originate(&mut self, port: PortIndex, frame: &[u8]) -> bool;
}

/// A port and what belongs to it.
struct Slot {
    config: PortConfig,
    counters: PortCounters,
    /// Whether its link is up.
    up: bool,
    /// Whether BPDU guard has shut it.
    guarded: bool,
    ingress_rate: Option<Bucket>,
    egress_rate: Option<Bucket>,
    storm_unknown: Option<Bucket>,
    storm_multicast: Option<Bucket>,
    storm_broadcast: Option<Bucket>,
    /// How many BPDUs are listened to.
    bpdus: Bucket,
}

/// BPDUs that a port listens to. A neighbour has to send a tenth of them at most.
const BPDU_RATE: Rate = Rate {
    per_second: 50,
    burst: 100,
};

impl Slot {
    fn new(config: PortConfig) -> Self {
        let mut slot = Self {
            config,
            counters: PortCounters::default(),
            up: false,
            guarded: false,
            ingress_rate: None,
            egress_rate: None,
            storm_unknown: None,
            storm_multicast: None,
            storm_broadcast: None,
            bpdus: Bucket::new(BPDU_RATE),
        };
        slot.fill_buckets();
        slot
    }

    fn fill_buckets(&mut self) {
        let config = &self.config;
        self.ingress_rate = config.ingress_rate.map(Bucket::new);
        self.egress_rate = config.egress_rate.map(Bucket::new);
        self.storm_unknown = config.storm.unknown.map(Bucket::new);
        self.storm_multicast = config.storm.multicast.map(Bucket::new);
        self.storm_broadcast = config.storm.broadcast.map(Bucket::new);
    }

    fn enabled(&self) -> bool {
        self.up && !self.guarded
    }
}

/// The ports of a switch by what they do, so that a flood is a few operations on sets.
struct Sets {
    learning: PortSet,
    forwarding: PortSet,
    isolated: PortSet,
    unknown: PortSet,
    multicast: PortSet,
    broadcast: PortSet,
    mirrors: PortSet,
}

/// A switch.
pub struct Switch {
    config: SwitchConfig,
    slots: Vec<Option<Box<Slot>>>,
    sets: Sets,
    /// The member ports of each VLAN that has some.
    members: Vec<Option<Box<PortSet>>>,
    fdb: Fdb,
    tree: Option<Bridge>,
    mirrors: Vec<Mirror>,
    groups: Option<Groups>,
    /// Kept for its room.
    questions: Vec<Due>,
    now: Time,
    next_second: Time,
    /// Of the batch that is taken in.
    flow: Option<flow::Flow>,
    /// Of the same.
    ahead: ahead::Ahead,
    /// Until when stations age after the forward delay, in seconds.
    fast_ageing_until: u32,
    strays: u64,
}

impl Switch {
    /// A switch without ports. `key` has to be random: it keeps outsiders from choosing addresses that slow the table down.
    pub fn new(config: SwitchConfig, key: [u64; 2], now: Time) -> Result<Self, Error> {
        config.check()?;
        let mut members = Vec::new();
        members.resize_with(4096, || None);
        Ok(Self {
            slots: Vec::new(),
            sets: Sets {
                learning: PortSet::EMPTY,
                forwarding: PortSet::EMPTY,
                isolated: PortSet::EMPTY,
                unknown: PortSet::EMPTY,
                multicast: PortSet::EMPTY,
                broadcast: PortSet::EMPTY,
                mirrors: PortSet::EMPTY,
            },
            members,
            fdb: Fdb::new(config.fdb_entries, key, config.ageing),
            tree: config
                .spanning_tree
                .clone()
                .map(|tree| Bridge::new(tree, config.mac)),
            mirrors: Vec::new(),
            groups: config
                .snooping
                .clone()
                .map(|snooping| Groups::new(snooping, config.mac)),
            questions: Vec::new(),
            now,
            next_second: now + std::time::Duration::from_secs(1),
            flow: None,
            ahead: ahead::Ahead::new(),
            fast_ageing_until: 0,
            strays: 0,
            config,
        })
    }

    /// Adds a port, whose link is down, and returns its number: the lowest that is free.
    pub fn add_port(&mut self, config: PortConfig) -> Result<PortIndex, Error> {
        config.check()?;
        let place = self
            .slots
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.slots.len());
        let port = PortIndex::new(place).ok_or(Error::Full(MAX_PORTS))?;
        if place == self.slots.len() {
            self.slots.push(None);
        }
        if let Some(tree) = &mut self.tree {
            tree.add_port(port, config.stp.clone());
        }
        self.slots[place] = Some(Box::new(Slot::new(config)));
        self.apply(port);
        Ok(port)
    }

    /// Changes a port's settings. What was learned on it is forgotten if its VLANs change, and so are static entries in
    /// VLANs that it leaves.
    pub fn set_port(
        &mut self,
        port: PortIndex,
        config: PortConfig,
        now: Time,
        out: &mut impl Output,
    ) -> Result<(), Error> {
        config.check()?;
        self.advance(now);
        let slot = self.slot_mut(port).ok_or(Error::NoPort(port))?;
        let before = std::mem::replace(&mut slot.config, config.clone());
        slot.fill_buckets();
        if before.vlans != config.vlans {
            self.leave_vlans(port, &before);
            self.fdb.flush_port(port);
            self.fdb.remove_static(port, |vlan| {
                VlanId::new(vlan).is_ok_and(|vlan| !config.vlans.contains(vlan))
            });
            if let Some(groups) = &mut self.groups {
                groups.forget(port, |vlan| !config.vlans.contains(vlan));
            }
        }
        self.apply(port);
        if let Some(tree) = &mut self.tree {
            tree.set_port(port, config.stp);
            self.act(out);
        }
        Ok(())
    }

    /// Removes a port, with its entries and its mirrors.
    pub fn remove_port(&mut self, port: PortIndex, now: Time, out: &mut impl Output) -> Result<(), Error> {
        let config = self.slot_mut(port).ok_or(Error::NoPort(port))?.config.clone();
        self.set_link(port, false, now, out)?;
        if let Some(tree) = &mut self.tree {
            tree.remove_port(port);
            self.act(out);
        }
        self.leave_vlans(port, &config);
        self.fdb.flush_port(port);
        self.fdb.remove_static(port, |_| true);
        self.fdb.set_limit(port, None);
        self.forget_mirrors_of(port);
        if let Some(groups) = &mut self.groups {
            groups.forget(port, |_| true);
            groups.set_always(port, false);
        }
        self.slots[port.get()] = None;
        let sets = &mut self.sets;
        for set in [
            &mut sets.isolated,
            &mut sets.unknown,
            &mut sets.multicast,
            &mut sets.broadcast,
        ] {
            set.set(port, false);
        }
        Ok(())
    }

    /// Says that a port's link came up or went down. What was learned on it is forgotten when it goes down. A port that BPDU
    /// guard has shut stays shut.
    pub fn set_link(
        &mut self,
        port: PortIndex,
        up: bool,
        now: Time,
        out: &mut impl Output,
    ) -> Result<(), Error> {
        self.advance(now);
        self.slot_mut(port).ok_or(Error::NoPort(port))?.up = up;
        self.enable(port, out);
        Ok(())
    }

    /// Opens a port again that BPDU guard has shut.
    pub fn clear_guard(&mut self, port: PortIndex, now: Time, out: &mut impl Output) -> Result<(), Error> {
        self.advance(now);
        self.slot_mut(port).ok_or(Error::NoPort(port))?.guarded = false;
        self.enable(port, out);
        Ok(())
    }

    /// Takes the frames that a port received, in order.
    pub fn receive_batch<'a>(
        &mut self,
        port: PortIndex,
        frames: impl IntoIterator<Item = RxFrame<'a>, IntoIter: Clone>,
        now: Time,
        out: &mut impl Output,
    ) {
        self.advance(now);
        self.flow = None;
        let frames = frames.into_iter();
        self.look_ahead(port, frames.clone());
        for (index, frame) in frames.enumerate() {
            self.take(port, index, frame, out);
        }
    }

    /// Takes one frame: a batch of one.
    pub fn receive(&mut self, port: PortIndex, frame: &[u8], now: Time, out: &mut impl Output) {
        self.receive_batch(port, [RxFrame::from(frame)], now, out);
    }

    /// A port's settings.
    pub fn port(&self, port: PortIndex) -> Option<&PortConfig> {
        self.slot(port).map(|slot| &slot.config)
    }

    /// The ports in order.
    pub fn ports(&self) -> impl Iterator<Item = PortIndex> + '_ {
        (0..self.slots.len())
            .filter(|&place| self.slots[place].is_some())
            .filter_map(PortIndex::new)
    }

    /// A port's counters.
    pub fn counters(&self, port: PortIndex) -> Option<&PortCounters> {
        self.slot(port).map(|slot| &slot.counters)
    }

    /// Frames from ports that are not there.
    pub fn strays(&self) -> u64 {
        self.strays
    }

    /// Whether BPDU guard has shut the port.
    pub fn is_guarded(&self, port: PortIndex) -> bool {
        self.slot(port).is_some_and(|slot| slot.guarded)
    }

    /// Whether the port forwards.
    pub fn is_forwarding(&self, port: PortIndex) -> bool {
        self.sets.forwarding.contains(port)
    }

    /// The forwarding table.
    pub fn fdb(&self) -> &Fdb {
        &self.fdb
    }

    /// The forwarding table, to flush it.
    pub fn fdb_mut(&mut self) -> &mut Fdb {
        &mut self.fdb
    }

    /// All stations that are known now.
    pub fn stations(&self) -> impl Iterator<Item = crate::Station> + '_ {
        self.fdb.stations(self.seconds())
    }

    /// Sets a static entry, in place of any other for that station.
    pub fn set_static(&mut self, vlan: VlanId, mac: Mac, port: PortIndex) -> Result<(), Error> {
        if mac.is_group() || mac == Mac::default() {
            return Err(Error::NotAStation(mac));
        }
        let slot = self.slot(port).ok_or(Error::NoPort(port))?;
        if !slot.config.vlans.contains(vlan) {
            return Err(Error::NotAMember { port, vlan });
        }
        self.fdb.set_static(vlan, mac, port)
    }

    /// Which tags are the switch's own.
    pub fn tags(&self) -> TagType {
        self.config.tags
    }

    /// The spanning tree, if the switch takes part in one.
    pub fn tree(&self) -> Option<&Bridge> {
        self.tree.as_ref()
    }

    fn slot(&self, port: PortIndex) -> Option<&Slot> {
        self.slots.get(port.get())?.as_deref()
    }

    fn slot_mut(&mut self, port: PortIndex) -> Option<&mut Slot> {
        self.slots.get_mut(port.get())?.as_deref_mut()
    }

    fn seconds(&self) -> u32 {
        u32::try_from(self.now.as_secs()).unwrap_or(u32::MAX)
    }

    /// The clock never goes back, whoever reads it.
    fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    /// Brings sets and tables in line with a port's settings.
    fn apply(&mut self, port: PortIndex) {
        let Some(slot) = self.slots[port.get()].as_deref() else {
            return;
        };
        let (config, sets) = (&slot.config, &mut self.sets);
        sets.isolated.set(port, config.isolated);
        sets.unknown.set(port, config.flood.unknown);
        sets.multicast.set(port, config.flood.multicast);
        sets.broadcast.set(port, config.flood.broadcast);
        self.fdb.set_limit(port, config.mac_limit);
        if let Some(groups) = &mut self.groups {
            groups.set_always(port, config.groups.router == RouterPort::Always);
            if config.groups.router == RouterPort::Never {
                groups.forget_router(port);
            }
        }
        for vlan in config.vlans.tagged.iter().chain(config.vlans.untagged.iter()) {
            self.members[usize::from(vlan.get())]
                .get_or_insert_with(|| Box::new(PortSet::EMPTY))
                .set(port, true);
        }
    }

    fn leave_vlans(&mut self, port: PortIndex, config: &PortConfig) {
        for vlan in config.vlans.tagged.iter().chain(config.vlans.untagged.iter()) {
            let members = &mut self.members[usize::from(vlan.get())];
            if let Some(set) = members {
                set.set(port, false);
                if set.is_empty() {
                    *members = None;
                }
            }
        }
    }
}
