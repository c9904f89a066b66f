//! Where a frame goes (802.1D-2004, 7.7; 802.1Q-2005, 8.6.3 and 8.6.4).

use super::flow::Flow;
use super::ingress::{Fate, Transit};
use super::multicast::Wanted;
use super::{Output, Sets, Slot, Switch};
use crate::Mac;
use crate::bucket::Bucket;
use crate::counters::Drop;
use crate::port_set::{PortIndex, PortSet};
use crate::vlan::VlanId;

/// A kind of flood.
#[derive(Clone, Copy)]
enum Flooded {
    Unknown,
    Multicast,
    Broadcast,
}

impl Switch {
    /// Sends a frame where it is to go. If it `is_flow`, those like it behind it may go there without a look.
    pub(super) fn forward(
        &mut self,
        transit: &Transit<'_>,
        vlan: VlanId,
        is_flow: bool,
        out: &mut impl Output,
    ) -> Result<Fate, Drop> {
        let destination = transit.frame.destination;
        let ports = if destination == Mac::BROADCAST {
            self.flood(transit, vlan, Flooded::Broadcast)?
        } else if destination.is_group() {
            let wanted = self.group_ports(transit, vlan, out)?;
            let flood = self.flood(transit, vlan, Flooded::Multicast)?;
            match wanted {
                None => flood,
                Some(Wanted { ports, is_report }) => {
                    let ports = self.reachable(transit.from, vlan).and(&ports);
                    // A report that no router is there to hear was the switch's alone.
                    if is_report && ports.is_empty() {
                        return Ok(Fate::Consumed);
                    }
                    ports
                }
            }
        } else {
            let spot = self
                .ahead
                .destination(&self.fdb, transit.index, vlan, destination);
            match self.fdb.lookup_at(spot, self.seconds()) {
                Some(port) if port == transit.from => return Err(Drop::SamePort),
                Some(port) if !self.reaches(transit.from, vlan, port) => return Err(Drop::NoDestination),
                Some(port) => {
                    self.flow = is_flow.then(|| Flow::of(transit, vlan, port));
                    return self.send(transit, vlan, port, out);
                }
                None => self.flood(transit, vlan, Flooded::Unknown)?,
            }
        };
        let mut sent = false;
        for port in ports.iter() {
            sent |= self.send_one(transit, vlan, port, out);
        }
        if sent {
            Ok(Fate::Forwarded)
        } else {
            Err(Drop::NoDestination)
        }
    }

    /// Sends a frame at one port.
    pub(super) fn send(
        &mut self,
        transit: &Transit<'_>,
        vlan: VlanId,
        port: PortIndex,
        out: &mut impl Output,
    ) -> Result<Fate, Drop> {
        if self.send_one(transit, vlan, port, out) {
            Ok(Fate::Forwarded)
        } else {
            Err(Drop::NoDestination)
        }
    }

    /// Whether [`Switch::reachable`] has `port`.
    fn reaches(&self, from: PortIndex, vlan: VlanId, port: PortIndex) -> bool {
        let is_member = |members: &PortSet| members.contains(port);
        let Sets {
            forwarding, isolated, ..
        } = &self.sets;
        port != from
            && self.members[usize::from(vlan.get())]
                .as_deref()
                .is_some_and(is_member)
            && forwarding.contains(port)
            && !(isolated.contains(from) && isolated.contains(port))
    }

    /// Ports of the VLAN that forward, except the one that the frame came from and, from an isolated port, isolated ones.
    fn reachable(&self, from: PortIndex, vlan: VlanId) -> PortSet {
        let Some(members) = &self.members[usize::from(vlan.get())] else {
            return PortSet::EMPTY;
        };
        let mut ports = members.and(&self.sets.forwarding);
        ports.set(from, false);
        if self.sets.isolated.contains(from) {
            ports = ports.without(&self.sets.isolated);
        }
        ports
    }

    /// The ports of a flood, if storm control lets it through.
    fn flood(&mut self, transit: &Transit<'_>, vlan: VlanId, kind: Flooded) -> Result<PortSet, Drop> {
        let now = self.now;
        let slot = self.slot_mut(transit.from).ok_or(Drop::PortDown)?;
        if let Some(bucket) = storm_control(slot, kind)
            && !bucket.take(1, now)
        {
            return Err(Drop::Storm);
        }
        let taking = match kind {
            Flooded::Unknown => &self.sets.unknown,
            Flooded::Multicast => &self.sets.multicast,
            Flooded::Broadcast => &self.sets.broadcast,
        };
        Ok(self.reachable(transit.from, vlan).and(taking))
    }
}

fn storm_control(slot: &mut Slot, kind: Flooded) -> Option<&mut Bucket> {
    match kind {
        Flooded::Unknown => slot.storm_unknown.as_mut(),
        Flooded::Multicast => slot.storm_multicast.as_mut(),
        Flooded::Broadcast => slot.storm_broadcast.as_mut(),
    }
}
