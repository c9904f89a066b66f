//! The last step of a frame: its tag, the port's MTU and rate, the port's queue.

use super::ingress::Transit;
use super::{Output, Switch};
use crate::counters::EgressDrop;
use crate::frame::Tci;
use crate::port_set::PortIndex;
use crate::vlan::{TagAction, TagType, VlanId};

impl Switch {
    /// Has `port` send the frame. Returns whether it does.
    pub(super) fn send_one(
        &mut self,
        transit: &Transit<'_>,
        vlan: VlanId,
        port: PortIndex,
        out: &mut impl Output,
    ) -> bool {
        let (tags, now) = (self.config.tags, self.now);
        let Some(slot) = self.slot_mut(port) else {
            return false;
        };
        slot.counters.offered += 1;
        let untagged = slot.config.vlans.untagged.contains(vlan);
        let tag = tag_action(transit, vlan, untagged, tags);
        let length = transit.rx.bytes.len().saturating_add_signed(tag.growth()) as u64;
        let wire_len = transit
            .rx
            .wire_len
            .min(transit.rx.bytes.len())
            .saturating_add_signed(tag.growth());
        let header = if untagged { 14 } else { 18 };
        let refused = if wire_len > slot.config.mtu as usize + header {
            Some(EgressDrop::TooLong)
        } else if tag == TagAction::Strip && transit.frame.is_double_tagged(tags) {
            Some(EgressDrop::DoubleTag)
        } else if slot
            .egress_rate
            .as_mut()
            .is_some_and(|rate| !rate.take(length, now))
        {
            Some(EgressDrop::RateLimit)
        } else if !out.send(port, transit.index, tag) {
            Some(EgressDrop::QueueFull)
        } else {
            None
        };
        if let Some(reason) = refused {
            slot.counters.egress_dropped.count(reason);
            return false;
        }
        slot.counters.sent += 1;
        slot.counters.sent_bytes += length;
        self.mirror_egress(transit, port, tag, out);
        true
    }
}

/// What becomes of the tag (802.1Q-2005, 6.7.2).
fn tag_action(transit: &Transit<'_>, vlan: VlanId, untagged: bool, tags: TagType) -> TagAction {
    let tag = |tci: Tci| {
        let ([a, b], [c, d]) = (tags.ether_type().to_be_bytes(), tci.0.to_be_bytes());
        [a, b, c, d]
    };
    match (transit.frame.tag, untagged) {
        (None, true) => TagAction::Keep,
        (None, false) => TagAction::Push(tag(Tci(0).in_vlan(vlan))),
        (Some(_), true) => TagAction::Strip,
        (Some(tci), false) if tci.vid() == vlan.get() => TagAction::Keep,
        (Some(tci), false) => TagAction::Replace(tag(tci.in_vlan(vlan))),
    }
}
