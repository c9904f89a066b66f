//! Which ports want which groups (IGMP and MLD snooping, RFC 4541), and the switch's part as the one who asks (RFC 3376, 6; RFC 3810, 7).
//!
//! Membership is known per VLAN and group, whatever the sources. All times are whole seconds of the switch's clock. Nothing is kept
//! beyond the bounds of [`SnoopConfig`], whoever says what.

mod message;
mod query;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use message::Family;
pub(crate) use message::{Broken, Change, Message, Query, Report, read};
pub(crate) use query::{Asked, write};

use crate::config::within;
use crate::port_set::{MAX_PORTS, PortIndex, PortSet};
use crate::{Error, Frame, Mac, VlanId, VlanSet};

/// Largest table, in groups.
pub const MAX_GROUPS: usize = 1 << 16;

/// Snooping of a switch. The times are those of RFC 3376, 8, in seconds.
#[derive(Clone, Debug)]
pub struct SnoopConfig {
    /// The VLANs where groups are looked at; in others they are flooded.
    pub vlans: VlanSet,
    /// Whether the switch asks who is in which group, as long as nobody with a lower address does.
    pub querier: bool,
    /// The source of its questions by IGMP. 0.0.0.0 gives way to every other querier.
    pub address: Ipv4Addr,
    /// From question to question: 10 to 31,744.
    pub query_interval: u32,
    /// For stations to answer in: 1 to 25, and less than the interval.
    pub query_response: u32,
    /// How many messages in a row may be lost, and one: 2 to 7.
    pub robustness: u8,
    /// For those who are left in a group to answer in: 1 to 25.
    pub last_member: u32,
    /// Most groups of all VLANs together: 1 to [`MAX_GROUPS`].
    pub groups: usize,
    /// Most groups of a port: 1 to [`MAX_GROUPS`].
    pub port_groups: usize,
}

impl Default for SnoopConfig {
    fn default() -> Self {
        Self {
            vlans: VlanSet::all(),
            querier: false,
            address: Ipv4Addr::UNSPECIFIED,
            query_interval: 125,
            query_response: 10,
            robustness: 2,
            last_member: 1,
            groups: 4096,
            port_groups: 256,
        }
    }
}

impl SnoopConfig {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let (interval, most) = (self.query_interval.into(), MAX_GROUPS as u64);
        within("the query interval", interval, 10, 31_744)?;
        let longest = 25.min(interval - 1);
        within("the query response time", self.query_response.into(), 1, longest)?;
        within("the robustness", self.robustness.into(), 2, 7)?;
        within("the last member time", self.last_member.into(), 1, 25)?;
        within("the number of groups", self.groups as u64, 1, most)?;
        within("the number of a port's groups", self.port_groups as u64, 1, most)
    }

    /// How long a station is taken for a member without having said so again (RFC 3376, 8.4).
    fn membership(&self) -> u32 {
        u32::from(self.robustness) * self.query_interval + self.query_response
    }
}

/// Whether a port leads to a router for groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouterPort {
    /// If a querier is heard there.
    #[default]
    Auto,
    /// It does, and gets all groups.
    Always,
    /// It does not, and questions from there are dropped.
    Never,
}

/// A port's part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortGroups {
    /// Who leaves a group is the only one there: nobody else is asked.
    pub fast_leave: bool,
    /// Whether there is a router.
    pub router: RouterPort,
}

/// A member as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The VLAN.
    pub vlan: VlanId,
    /// The group.
    pub group: IpAddr,
    /// Where it is.
    pub port: PortIndex,
    /// Seconds until it is forgotten, if it says nothing.
    pub left: u32,
}

/// Where frames to a group go.
pub(crate) enum Route {
    /// To all ports of the VLAN.
    Flood,
    /// To these.
    Ports(PortSet),
}

/// A question that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub vlan: VlanId,
    pub family: Family,
    /// About this group, and on this port only.
    pub about: Option<(IpAddr, PortIndex)>,
}

/// A port that wants a group.
#[derive(Clone, Copy, Debug)]
struct Want {
    port: PortIndex,
    until: u32,
    /// Questions that are still to be asked because somebody left.
    ask: u8,
}

#[derive(Debug)]
struct Group {
    ports: PortSet,
    wants: Vec<Want>,
}

/// What is known of queriers in a VLAN, by one protocol.
#[derive(Debug, Default)]
struct Asking {
    /// Ports with a querier, and until when.
    routers: Vec<(PortIndex, u32)>,
    /// Another querier that is asked to ask, and until when.
    other: Option<(IpAddr, u32)>,
    /// How long members stay, as the other querier says.
    membership: Option<u32>,
    /// When the switch asks next.
    next: u32,
    /// Questions of the start, which come faster, that are still to be asked.
    startup: u8,
    /// From when on the first question has been answered, so that silence says that nobody wants a group.
    answered: Option<u32>,
}

impl Asking {
    fn asked_at(&mut self, now: u32, response: u32) {
        self.answered
            .get_or_insert(now.saturating_add(response).saturating_add(1));
    }
}

/// All that is known of groups.
#[derive(Debug)]
pub(crate) struct Groups {
    config: SnoopConfig,
    link_local: Ipv6Addr,
    table: BTreeMap<(VlanId, IpAddr), Group>,
    /// Groups of each port.
    counts: Vec<u32>,
    asking: BTreeMap<(VlanId, Family), Asking>,
    /// Ports that get all groups.
    always: PortSet,
    refused: u64,
}

fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// Groups that everybody gets, whoever wants them: 224.0.0.x (RFC 4541, 2.1.2 (2)), all nodes (3), and what stays in a station.
fn is_for_all(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group.octets()[..3] == [224, 0, 0],
        IpAddr::V6(group) => {
            group.octets()[1] & 15 < 2 || group == Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)
        }
    }
}

impl Groups {
    pub fn new(config: SnoopConfig, mac: Mac) -> Self {
        // The interface identifier of RFC 4291, appendix A.
        let [a, b, c, d, e, f] = mac.0;
        let id = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
        Self {
            config,
            link_local: Ipv6Addr::from((0xfe80 << 112) | u128::from(u64::from_be_bytes(id))),
            table: BTreeMap::new(),
            counts: vec![0; MAX_PORTS],
            asking: BTreeMap::new(),
            always: PortSet::EMPTY,
            refused: 0,
        }
    }

    pub fn covers(&self, vlan: VlanId) -> bool {
        self.config.vlans.contains(vlan)
    }

    /// Wishes that found no room.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// The switch's own address as a querier.
    pub fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.config.address.into(),
            Family::V6 => self.link_local.into(),
        }
    }

    pub fn set_always(&mut self, port: PortIndex, always: bool) {
        self.always.set(port, always);
    }

    /// What a frame to this group is, by its destination: `None` if it is no packet to a group.
    pub fn destination(frame: &Frame<'_>) -> Option<IpAddr> {
        let group: IpAddr = match frame.ether_type {
            0x0800 => Ipv4Addr::from(*frame.payload.get(16..)?.first_chunk::<4>()?).into(),
            0x86dd => Ipv6Addr::from(*frame.payload.get(24..)?.first_chunk::<16>()?).into(),
            _ => return None,
        };
        group.is_multicast().then_some(group)
    }

    /// Where a packet to `group` goes.
    pub fn route(&self, vlan: VlanId, group: IpAddr, now: u32) -> Route {
        let family = family_of(group);
        if is_for_all(group) || !self.is_asked(vlan, family, now) {
            return Route::Flood;
        }
        match self.table.get(&(vlan, group)) {
            Some(group) => Route::Ports(group.ports.or(&self.routers(vlan, family, now))),
            // Neighbour discovery does not depend on what was overheard.
            None if matches!(group, IpAddr::V6(group) if group.octets()[1] & 15 == 2) => Route::Flood,
            None => Route::Ports(self.routers(vlan, family, now)),
        }
    }

    /// Whether somebody asks, and has been answered.
    fn is_asked(&self, vlan: VlanId, family: Family, now: u32) -> bool {
        let asking = self.asking.get(&(vlan, family));
        asking.is_some_and(|asking| asking.answered.is_some_and(|from| from <= now))
    }

    /// The ports where a router is.
    pub fn routers(&self, vlan: VlanId, family: Family, now: u32) -> PortSet {
        let mut routers = self.always;
        if let Some(asking) = self.asking.get(&(vlan, family)) {
            for &(port, until) in &asking.routers {
                if until > now {
                    routers.set(port, true);
                }
            }
        }
        routers
    }

    /// Somebody on `port` asks. Whether that is heard of is the caller's decision.
    pub fn hear_query(&mut self, vlan: VlanId, port: PortIndex, query: &Query, now: u32) {
        let family = family_of(query.source);
        let (robustness, interval) = match query.timing {
            // 0 says nothing (RFC 3376, 4.1.6 and 4.1.7).
            Some((robustness, interval)) if robustness > 0 && interval > 0 => (robustness, interval),
            _ => (self.config.robustness.into(), self.config.query_interval),
        };
        if let Some(group) = query.group {
            self.shorten(
                vlan,
                group,
                port,
                now.saturating_add(query.response * robustness.min(7) + 1),
            );
        }
        // Questions from 0.0.0.0 come from switches (RFC 4541, 2.1.1 (1) b).
        if query.source.is_unspecified() {
            return;
        }
        let own = self.address(family);
        let gives_way = own.is_unspecified() || query.source < own;
        let patience = robustness.min(7) * interval + query.response;
        let until = now.saturating_add(patience);
        let own_membership = self.config.membership();
        let asking = self.asking.entry((vlan, family)).or_default();
        match asking.routers.iter_mut().find(|(other, _)| *other == port) {
            Some(known) => known.1 = until,
            None => asking.routers.push((port, until)),
        }
        let is_better = asking
            .other
            .is_none_or(|(other, until)| query.source <= other || until <= now);
        if is_better && (gives_way || !self.config.querier) {
            asking.other = Some((query.source, until));
            if query.group.is_none() {
                // Not below our own: a neighbour cannot have others forgotten.
                asking.membership = Some(patience.max(own_membership));
                asking.asked_at(now, query.response);
            }
        }
    }

    /// Whether the switch is the one who asks.
    fn is_querier(&self, vlan: VlanId, family: Family, now: u32) -> bool {
        let asking = self.asking.get(&(vlan, family));
        self.config.querier && asking.is_some_and(|asking| asking.other.is_none_or(|(_, until)| until <= now))
    }

    /// A router has asked whether anybody is left: who does not answer is forgotten soon (RFC 4541, 2.1.1 (1)).
    fn shorten(&mut self, vlan: VlanId, group: IpAddr, except: PortIndex, until: u32) {
        if let Some(group) = self.table.get_mut(&(vlan, group)) {
            for want in group.wants.iter_mut().filter(|want| want.port != except) {
                want.until = want.until.min(until);
            }
        }
    }

    /// A station on `port` says something. Questions that follow from it are told to `due`.
    pub fn hear_report(
        &mut self,
        vlan: VlanId,
        port: PortIndex,
        report: &Report<'_>,
        settings: PortGroups,
        now: u32,
        due: &mut Vec<Due>,
    ) {
        report.each(|group, change| {
            if !group.is_multicast() || is_for_all(group) {
                return;
            }
            match change {
                Change::Join => self.join(vlan, group, port, now),
                Change::Leave if settings.fast_leave => self.remove(vlan, group, port),
                Change::Leave | Change::Less => {
                    due.extend(self.leave(vlan, group, port, now));
                }
            }
        });
    }

    fn join(&mut self, vlan: VlanId, address: IpAddr, port: PortIndex, now: u32) {
        let asking = self.asking.get(&(vlan, family_of(address)));
        let membership = asking.and_then(|asking| asking.membership);
        let until = now.saturating_add(membership.unwrap_or_else(|| self.config.membership()));
        let is_full = self.table.len() >= self.config.groups;
        let count = &mut self.counts[port.get()];
        let known = self.table.get_mut(&(vlan, address));
        if let Some(want) = known.and_then(|group| group.wants.iter_mut().find(|want| want.port == port)) {
            (want.until, want.ask) = (until, 0);
            return;
        }
        let is_new = !self.table.contains_key(&(vlan, address));
        if *count as usize >= self.config.port_groups || (is_new && is_full) {
            self.refused += 1;
            return;
        }
        *count += 1;
        let group = self.table.entry((vlan, address)).or_insert_with(|| Group {
            ports: PortSet::EMPTY,
            wants: Vec::new(),
        });
        group.ports.set(port, true);
        group.wants.push(Want { port, until, ask: 0 });
    }

    /// A member left; perhaps there are others. If it is for the switch to ask them, the question is returned.
    fn leave(&mut self, vlan: VlanId, address: IpAddr, port: PortIndex, now: u32) -> Option<Due> {
        let family = family_of(address);
        let is_querier = self.is_querier(vlan, family, now);
        let (last, robustness) = (self.config.last_member, self.config.robustness);
        let group = self.table.get_mut(&(vlan, address))?;
        let want = group.wants.iter_mut().find(|want| want.port == port)?;
        if !is_querier || want.ask > 0 {
            return None;
        }
        // RFC 3376, 6.4.2: as many questions as the robustness says, one last member time apart.
        want.until = want
            .until
            .min(now.saturating_add(last * u32::from(robustness) + 1));
        want.ask = robustness - 1;
        Some(Due {
            vlan,
            family,
            about: Some((address, port)),
        })
    }

    fn remove(&mut self, vlan: VlanId, address: IpAddr, port: PortIndex) {
        let Some(group) = self.table.get_mut(&(vlan, address)) else {
            return;
        };
        let before = group.wants.len();
        group.wants.retain(|want| want.port != port);
        if group.wants.len() < before {
            group.ports.set(port, false);
            self.counts[port.get()] -= 1;
        }
        if group.wants.is_empty() {
            self.table.remove(&(vlan, address));
        }
    }

    /// Forgets what was heard on a port, in all VLANs or where `gone` says so.
    pub fn forget(&mut self, port: PortIndex, gone: impl Fn(VlanId) -> bool) {
        let counts = &mut self.counts;
        if counts[port.get()] > 0 {
            self.table.retain(|&(vlan, _), group| {
                if gone(vlan) && group.ports.contains(port) {
                    group.wants.retain(|want| want.port != port);
                    group.ports.set(port, false);
                    counts[port.get()] -= 1;
                }
                !group.wants.is_empty()
            });
        }
        for (&(vlan, _), asking) in &mut self.asking {
            if gone(vlan) {
                asking.routers.retain(|&(router, _)| router != port);
            }
        }
    }

    /// No router is behind a port any more.
    pub fn forget_router(&mut self, port: PortIndex) {
        for asking in self.asking.values_mut() {
            asking.routers.retain(|&(router, _)| router != port);
        }
    }

    /// The tree changed: members may be elsewhere, so all are asked (RFC 4541, 2.1.1 (4)).
    pub fn ask_again(&mut self, now: u32) {
        for asking in self.asking.values_mut() {
            asking.next = now;
        }
    }

    /// A second has passed: forgets who said nothing, and tells which questions are due. `is_used` says of a VLAN whether anybody is
    /// there to be asked.
    pub fn tick(&mut self, now: u32, is_used: impl Fn(VlanId) -> bool, due: &mut Vec<Due>) {
        let counts = &mut self.counts;
        self.table.retain(|&(vlan, address), group| {
            let Group { ports, wants } = group;
            wants.retain_mut(|want| {
                if want.until <= now {
                    ports.set(want.port, false);
                    counts[want.port.get()] -= 1;
                    return false;
                }
                if want.ask > 0 {
                    want.ask -= 1;
                    due.push(Due {
                        vlan,
                        family: family_of(address),
                        about: Some((address, want.port)),
                    });
                }
                true
            });
            !wants.is_empty()
        });
        for asking in self.asking.values_mut() {
            asking.routers.retain(|&(_, until)| until > now);
            if asking.other.is_some_and(|(_, until)| until <= now) {
                (asking.other, asking.membership) = (None, None);
                // Who takes its place asks at once; if nobody does, nothing is known.
                asking.next = now;
                if !self.config.querier {
                    asking.answered = None;
                }
            }
        }
        if self.config.querier {
            self.ask(now, is_used, due);
        }
    }

    fn ask(&mut self, now: u32, is_used: impl Fn(VlanId) -> bool, due: &mut Vec<Due>) {
        let config = &self.config;
        for vlan in (1..4095).filter_map(|number| VlanId::new(number).ok()) {
            if !is_used(vlan) || !config.vlans.contains(vlan) {
                continue;
            }
            for family in [Family::V4, Family::V6] {
                let asking = self.asking.entry((vlan, family)).or_insert_with(|| Asking {
                    startup: config.robustness,
                    next: now,
                    ..Asking::default()
                });
                if asking.other.is_some() || asking.next > now {
                    continue;
                }
                // RFC 3376, 8.6 and 8.7: at the start four times as often.
                asking.startup = asking.startup.saturating_sub(1);
                let pause = if asking.startup > 0 {
                    (config.query_interval / 4).max(1)
                } else {
                    config.query_interval
                };
                asking.next = now.saturating_add(pause);
                asking.asked_at(now, config.query_response);
                due.push(Due {
                    vlan,
                    family,
                    about: None,
                });
            }
        }
    }

    /// What is asked when `due` is.
    pub fn asked(&self, due: &Due) -> Asked {
        let config = &self.config;
        Asked {
            group: due.about.map(|(group, _)| group),
            response: if due.about.is_some() {
                config.last_member
            } else {
                config.query_response
            },
            robustness: config.robustness,
            interval: config.query_interval,
        }
    }

    /// All members that are known.
    pub fn members(&self, now: u32) -> impl Iterator<Item = Member> + '_ {
        self.table.iter().flat_map(move |(&(vlan, group), known)| {
            known.wants.iter().map(move |want| Member {
                vlan,
                group,
                port: want.port,
                left: want.until.saturating_sub(now),
            })
        })
    }

    /// The querier of a VLAN: its address, and whether it is the switch. `None` if nobody asks.
    pub fn querier(&self, vlan: VlanId, family: Family, now: u32) -> Option<(IpAddr, bool)> {
        let asking = self.asking.get(&(vlan, family))?;
        match asking.other.filter(|&(_, until)| until > now) {
            Some((address, _)) => Some((address, false)),
            None if self.config.querier => Some((self.address(family), true)),
            None => None,
        }
    }

    /// The VLANs of which something is known.
    pub fn vlans(&self) -> impl Iterator<Item = (VlanId, Family)> + '_ {
        self.asking.keys().copied()
    }
}
