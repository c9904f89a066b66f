//! Frames to groups: who says that he wants them, and where they go (RFC 4541).

use super::ingress::Transit;
use super::{Output, Switch};
use crate::counters::Drop;
use crate::groups::{self, Due, Groups, Message, Route, RouterPort};
use crate::port_set::{PortIndex, PortSet};
use crate::vlan::VlanId;
use crate::{Family, Member};

/// Where a frame to a group goes, if it is not flooded.
pub(super) struct Wanted {
    pub ports: PortSet,
    /// A report is for routers, and for the switch itself.
    pub is_report: bool,
}

impl Switch {
    /// Whether snooping says where a frame to a group goes: the ports, or `None` for a flood.
    pub(super) fn group_ports(
        &mut self,
        transit: &Transit<'_>,
        vlan: VlanId,
        out: &mut impl Output,
    ) -> Result<Option<Wanted>, Drop> {
        let now = self.seconds();
        let Some(groups) = self.groups.as_ref().filter(|groups| groups.covers(vlan)) else {
            return Ok(None);
        };
        match groups::read(&transit.frame) {
            None => {}
            Some(Err(groups::Broken)) => return Err(Drop::BadGroupMessage),
            Some(Ok(message)) => return self.hear(transit.from, vlan, &message, out),
        }
        let Some(group) = Groups::destination(&transit.frame) else {
            return Ok(None);
        };
        Ok(match groups.route(vlan, group, now) {
            Route::Flood => None,
            Route::Ports(ports) => Some(Wanted {
                ports,
                is_report: false,
            }),
        })
    }

    /// A message about groups came.
    fn hear(
        &mut self,
        from: PortIndex,
        vlan: VlanId,
        message: &Message<'_>,
        out: &mut impl Output,
    ) -> Result<Option<Wanted>, Drop> {
        let now = self.seconds();
        let settings = self.slot(from).map(|slot| slot.config.groups).unwrap_or_default();
        let Some(groups) = &mut self.groups else {
            return Ok(None);
        };
        match message {
            // It is flooded (RFC 4541, 2.1.1 (2)).
            Message::Other => Ok(None),
            Message::Query(_) if settings.router == RouterPort::Never => Err(Drop::Rogue),
            Message::Query(query) => {
                groups.hear_query(vlan, from, query, now);
                Ok(None)
            }
            Message::Report(report) => {
                let mut due = std::mem::take(&mut self.questions);
                groups.hear_report(vlan, from, report, settings, now, &mut due);
                self.ask(&mut due, out);
                self.questions = due;
                let family = report.family();
                let routers = self
                    .groups
                    .as_ref()
                    .map(|groups| groups.routers(vlan, family, now));
                // Other stations must not hear it: they would keep silent (RFC 4541, 2.1.1 (1)).
                Ok(routers.map(|ports| Wanted {
                    ports,
                    is_report: true,
                }))
            }
        }
    }

    /// What is due by the clock.
    pub(super) fn tick_groups(&mut self, out: &mut impl Output) {
        let now = self.seconds();
        let Some(groups) = &mut self.groups else { return };
        let (members, forwarding) = (&self.members, &self.sets.forwarding);
        let mut due = std::mem::take(&mut self.questions);
        let is_used = |vlan: VlanId| {
            let members = members[usize::from(vlan.get())].as_deref();
            members.is_some_and(|members| !members.and(forwarding).is_empty())
        };
        groups.tick(now, is_used, &mut due);
        self.ask(&mut due, out);
        self.questions = due;
    }

    /// Asks, with the switch's own address.
    fn ask(&mut self, due: &mut Vec<Due>, out: &mut impl Output) {
        for due in due.drain(..) {
            let Some(groups) = &self.groups else { return };
            let Some(members) = &self.members[usize::from(due.vlan.get())] else {
                continue;
            };
            let ports = members.and(&self.sets.forwarding);
            let (asked, source) = (groups.asked(&due), groups.address(due.family));
            let only = due.about.map(|(_, port)| port);
            for port in ports.iter().filter(|port| only.is_none_or(|only| only == *port)) {
                let kind = self.config.tags.ether_type();
                let Some(slot) = self.slot_mut(port) else { continue };
                let tag = (!slot.config.vlans.untagged.contains(due.vlan)).then_some((kind, due.vlan));
                let frame = groups::write(self.config.mac, source, tag, &asked);
                if out.originate(port, frame.bytes())
                    && let Some(slot) = self.slot_mut(port)
                {
                    slot.counters.originated += 1;
                }
            }
        }
    }

    /// Who is in which group, as far as snooping knows.
    pub fn group_members(&self) -> impl Iterator<Item = Member> + '_ {
        let now = self.seconds();
        self.groups.iter().flat_map(move |groups| groups.members(now))
    }

    /// Who asks in which VLAN: the VLAN, the protocol, the address, and whether it is the switch itself.
    pub fn queriers(&self) -> impl Iterator<Item = (VlanId, Family, std::net::IpAddr, bool)> + '_ {
        let now = self.seconds();
        self.groups.iter().flat_map(move |groups| {
            groups.vlans().filter_map(move |(vlan, family)| {
                let (address, own) = groups.querier(vlan, family, now)?;
                Some((vlan, family, address, own))
            })
        })
    }

    /// The ports of a VLAN where a router is, by one protocol.
    pub fn router_ports(&self, vlan: VlanId, family: Family) -> PortSet {
        let now = self.seconds();
        let groups = self.groups.as_ref();
        groups.map_or(PortSet::EMPTY, |groups| groups.routers(vlan, family, now))
    }

    /// Wishes for groups that found no room in the table.
    pub fn groups_refused(&self) -> u64 {
        self.groups.as_ref().map_or(0, Groups::refused)
    }
}
