//! The first steps of a frame: is it one, may it come in here, which VLAN is it in (802.1Q-2005, 8.6.1 and 8.6.2).

use super::{Output, Switch};
use crate::config::Admit;
use crate::counters::Drop;
use crate::fdb::Learned;
use crate::frame::{Frame, RxFrame};
use crate::port_set::PortIndex;
use crate::vlan::VlanId;
use crate::{Mac, Tci};

/// Longest frame that is handled at all: 64 KiB of segments with addresses, tag and EtherType.
const LONGEST: usize = 65_535 + 18;

/// A frame on its way.
#[derive(Clone, Copy)]
pub(super) struct Transit<'a> {
    pub from: PortIndex,
    /// Its place in the batch.
    pub index: usize,
    pub rx: RxFrame<'a>,
    pub frame: Frame<'a>,
}

/// What became of a frame that was not dropped.
pub(super) enum Fate {
    Forwarded,
    Consumed,
}

impl Switch {
    /// Takes a frame, and counts what became of it.
    pub(super) fn take(&mut self, from: PortIndex, index: usize, rx: RxFrame<'_>, out: &mut impl Output) {
        let Some(slot) = self.slot_mut(from) else {
            self.strays += 1;
            return;
        };
        slot.counters.received += 1;
        slot.counters.received_bytes += rx.bytes.len() as u64;
        let fate = self.process(from, index, rx, out);
        let Some(slot) = self.slot_mut(from) else { return };
        match fate {
            Ok(Fate::Forwarded) => slot.counters.forwarded += 1,
            Ok(Fate::Consumed) => slot.counters.consumed += 1,
            Err(reason) => slot.counters.dropped.count(reason),
        }
    }

    fn process(
        &mut self,
        from: PortIndex,
        index: usize,
        rx: RxFrame<'_>,
        out: &mut impl Output,
    ) -> Result<Fate, Drop> {
        let frame = self.admit(from, &rx)?;
        let transit = Transit {
            from,
            index,
            rx,
            frame,
        };
        self.mirror_ingress(&transit, out);
        if let Some(flow) = self.flow.as_ref().filter(|flow| flow.has(&frame)) {
            let (vlan, to) = (flow.vlan, flow.to);
            return self.send(&transit, vlan, to, out);
        }
        self.flow = None;
        if let Some(number) = frame.destination.reserved() {
            if number == 0 && frame.tag.is_none() && self.listens(from) {
                return self.take_bpdu(&transit, out);
            }
            if self.config.forward_reserved >> number & 1 == 0 {
                return Err(Drop::Reserved);
            }
        }
        let vlan = self.classify(&transit)?;
        if !self.sets.learning.contains(from) {
            return Err(Drop::Blocked);
        }
        let protection = &self.slot(from).ok_or(Drop::PortDown)?.config.protection;
        protection.check(&frame, self.config.tags)?;
        // Where nothing has to be looked at or counted for each frame.
        let mut is_flow = protection.is_none();
        is_flow &= self.learn(&transit, vlan)?;
        if !self.sets.forwarding.contains(from) {
            return Err(Drop::Blocked);
        }
        self.forward(&transit, vlan, is_flow, out)
    }

    /// Whether the frame is one, not too long, from a station, and within the port's rate.
    #[inline(always)]
    fn admit<'a>(&mut self, from: PortIndex, rx: &RxFrame<'a>) -> Result<Frame<'a>, Drop> {
        let (tags, now) = (self.config.tags, self.now);
        let is_mirror = self.sets.mirrors.contains(from);
        let slot = self.slot_mut(from).ok_or(Drop::PortDown)?;
        if !slot.enabled() {
            return Err(Drop::PortDown);
        }
        if is_mirror {
            return Err(Drop::MirrorPort);
        }
        let frame = Frame::parse(rx.bytes, tags).ok_or(Drop::Runt)?;
        if rx.wire_len == 0 {
            return Err(Drop::BadOffload);
        }
        let header = if frame.tag.is_some() { 18 } else { 14 };
        if rx.bytes.len() > LONGEST || rx.wire_len.min(rx.bytes.len()) > slot.config.mtu as usize + header {
            return Err(Drop::Oversize);
        }
        if frame.source.is_group() || frame.source == Mac::default() {
            return Err(Drop::BadSource);
        }
        let is_bpdu = frame.destination == Mac::BRIDGE_GROUP;
        if let Some(rate) = &mut slot.ingress_rate
            && !is_bpdu
            && !rate.take(rx.bytes.len() as u64, now)
        {
            return Err(Drop::RateLimit);
        }
        Ok(frame)
    }

    /// The VLAN of a frame: that of its tag, or the port's PVID (802.1Q-2005, 6.7.1).
    fn classify(&self, transit: &Transit<'_>) -> Result<VlanId, Drop> {
        let (tags, frame) = (self.config.tags, &transit.frame);
        let vlans = &self.slot(transit.from).ok_or(Drop::PortDown)?.config.vlans;
        let number = frame.tag.map_or(0, Tci::vid);
        if number == 0xfff {
            return Err(Drop::ReservedVlan);
        }
        let admitted = match vlans.admit {
            Admit::All => true,
            Admit::Untagged => number == 0,
            Admit::Tagged => number != 0,
        };
        if !admitted {
            let double = frame.tag.is_some() && frame.is_double_tagged(tags);
            return Err(if double {
                Drop::DoubleTag
            } else {
                Drop::NotAdmitted
            });
        }
        // A second tag behind a priority tag or on an access port: somebody wants another VLAN than the one that is his.
        let second = frame.tag.is_some() && frame.is_double_tagged(tags);
        if second && (number == 0 || vlans.admit == Admit::Untagged) {
            return Err(Drop::DoubleTag);
        }
        if frame.has_foreign_tag(tags) && !vlans.foreign_tags {
            return Err(Drop::DoubleTag);
        }
        let vlan = match number {
            0 => vlans.pvid.ok_or(Drop::NotAdmitted)?,
            number => VlanId::new(number).map_err(|_| Drop::ReservedVlan)?,
        };
        if vlans.ingress_filtering && !vlans.contains(vlan) {
            return Err(Drop::NotAMember);
        }
        Ok(vlan)
    }

    /// The learning process (802.1D-2004, 7.8). True if the same frame once more would change nothing.
    fn learn(&mut self, transit: &Transit<'_>, vlan: VlanId) -> Result<bool, Drop> {
        let seconds = self.seconds();
        let Some(slot) = self.slots[transit.from.get()].as_deref_mut() else {
            return Ok(false);
        };
        // A VLAN without members would fill the table for nothing (802.1Q-2005, 8.7: the VLAN has to be the port's).
        if !slot.config.learning || !slot.config.vlans.contains(vlan) {
            return Ok(true);
        }
        let source = transit.frame.source;
        let spot = self.ahead.source(&self.fdb, transit.index, vlan, source);
        match self.fdb.learn_at(spot, transit.from, seconds) {
            Learned::Known | Learned::New => return Ok(true),
            Learned::Moved(_) => slot.counters.moves += 1,
            Learned::StaticElsewhere(_) => slot.counters.static_conflicts += 1,
            Learned::AboveLimit if slot.config.drop_above_limit => return Err(Drop::MacLimit),
            Learned::AboveLimit | Learned::Full => {}
        }
        Ok(false)
    }
}
