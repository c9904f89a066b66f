//! How a switch and its ports are set up, and what of it is refused.

use crate::bucket::Rate;
use crate::groups::{PortGroups, SnoopConfig};
use crate::protect::Protection;
use crate::rstp::{BridgeConfig, StpPortConfig};
use crate::vlan::TagType;
use crate::{Error, Mac, VlanId, VlanSet};

/// Largest forwarding table, in entries.
pub const MAX_FDB: usize = 1 << 20;

/// A whole switch.
#[derive(Clone, Debug)]
pub struct SwitchConfig {
    /// Its own address: of its BPDUs, and the lower part of its bridge identifier.
    pub mac: Mac,
    /// Which tags are its own.
    pub tags: TagType,
    /// How long a station that is not heard stays known, in seconds: 10 to 1,000,000 (802.1D-2004, table 7-5).
    pub ageing: u32,
    /// Entries of the forwarding table: 16 to [`MAX_FDB`].
    pub fdb_entries: usize,
    /// The spanning tree; `None` for a switch without, which forwards on all ports.
    pub spanning_tree: Option<BridgeConfig>,
    /// Which of the addresses 01:80:c2:00:00:0x are forwarded all the same, bit x for each. The bridge group's only without a
    /// spanning tree; those of PAUSE (1) and of link aggregation (2) never.
    pub forward_reserved: u16,
    /// IGMP and MLD snooping; `None` floods groups.
    pub snooping: Option<SnoopConfig>,
}

impl SwitchConfig {
    /// A switch with the standard's defaults.
    pub fn new(mac: Mac) -> Self {
        Self {
            mac,
            tags: TagType::Customer,
            ageing: 300,
            fdb_entries: 16_384,
            spanning_tree: None,
            forward_reserved: 0,
            snooping: None,
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.mac.is_group() || self.mac == Mac::default() {
            return Err(Error::NotAStation(self.mac));
        }
        within("the ageing time", self.ageing.into(), 10, 1_000_000)?;
        within(
            "the size of the forwarding table",
            self.fdb_entries as u64,
            16,
            MAX_FDB as u64,
        )?;
        if let Some(snooping) = &self.snooping {
            snooping.check()?;
        }
        let mut never = 0b110;
        if let Some(tree) = &self.spanning_tree {
            tree.check()?;
            never |= 1;
        }
        match self.forward_reserved & never {
            0 => Ok(()),
            some => Err(Error::NeverForwarded(some.trailing_zeros() as u8)),
        }
    }
}

pub(crate) fn within(what: &'static str, value: u64, least: u64, most: u64) -> Result<(), Error> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(Error::Range {
            what,
            value,
            least,
            most,
        })
    }
}

/// Which frames a port takes by their tag (802.1Q-2005, 8.6.1: acceptable frame types).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Admit {
    /// All.
    #[default]
    All,
    /// Untagged and priority-tagged ones.
    Untagged,
    /// Those with the tag of a VLAN.
    Tagged,
}

/// The VLANs of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortVlans {
    /// Where untagged and priority-tagged frames belong; `None` drops them.
    pub pvid: Option<VlanId>,
    /// VLANs that are sent with a tag.
    pub tagged: VlanSet,
    /// VLANs that are sent without one.
    pub untagged: VlanSet,
    /// Which frames come in.
    pub admit: Admit,
    /// Whether frames of VLANs that the port is not a member of are dropped as they come in (802.1Q-2005, 8.6.2).
    pub ingress_filtering: bool,
    /// Whether frames whose payload starts with a tag of the other kind come in.
    pub foreign_tags: bool,
}

impl PortVlans {
    /// An access port: one VLAN, no tags. A frame with a tag, or with a second one behind a priority tag, is dropped.
    pub fn access(vlan: VlanId) -> Self {
        Self {
            pvid: Some(vlan),
            tagged: VlanSet::empty(),
            untagged: [vlan].into_iter().collect(),
            admit: Admit::Untagged,
            ingress_filtering: true,
            foreign_tags: false,
        }
    }

    /// A trunk: VLANs with tags, and one without if it has a native VLAN.
    pub fn trunk(vlans: VlanSet, native: Option<VlanId>) -> Self {
        let mut tagged = vlans;
        if let Some(native) = native {
            tagged.remove(native);
        }
        Self {
            pvid: native,
            tagged,
            untagged: native.into_iter().collect(),
            admit: if native.is_some() {
                Admit::All
            } else {
                Admit::Tagged
            },
            ingress_filtering: true,
            foreign_tags: true,
        }
    }

    /// Whether the port is in `vlan`.
    pub fn contains(&self, vlan: VlanId) -> bool {
        self.tagged.contains(vlan) || self.untagged.contains(vlan)
    }

    fn check(&self) -> Result<(), Error> {
        if let Some(pvid) = self.pvid.filter(|&pvid| !self.contains(pvid)) {
            return Err(Error::PvidOutside(pvid));
        }
        match self.tagged.iter().find(|&vlan| self.untagged.contains(vlan)) {
            Some(vlan) => Err(Error::BothWays(vlan)),
            None => Ok(()),
        }
    }
}

/// What a port lets out to stations that the switch has not heard of, and to groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flood {
    /// Frames to unknown stations.
    pub unknown: bool,
    /// Frames to groups.
    pub multicast: bool,
    /// Frames to all.
    pub broadcast: bool,
}

impl Default for Flood {
    fn default() -> Self {
        Self {
            unknown: true,
            multicast: true,
            broadcast: true,
        }
    }
}

/// How many frames of a kind a port may bring in; `None` for any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Storm {
    /// Frames to unknown stations.
    pub unknown: Option<Rate>,
    /// Frames to groups.
    pub multicast: Option<Rate>,
    /// Frames to all.
    pub broadcast: Option<Rate>,
}

/// A port.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// Its VLANs.
    pub vlans: PortVlans,
    /// The longest payload that it carries, in bytes: 68 to 65,535.
    pub mtu: u32,
    /// Whether the sources of its frames are learned.
    pub learning: bool,
    /// How many stations it may have in the forwarding table at once.
    pub mac_limit: Option<u32>,
    /// Whether frames from stations above that limit are dropped instead of forwarded.
    pub drop_above_limit: bool,
    /// What is flooded out of it.
    pub flood: Flood,
    /// Isolated ports do not reach each other, only ports that are not.
    pub isolated: bool,
    /// Storm control, in frames a second that come in.
    pub storm: Storm,
    /// The most that comes in, in bytes a second.
    pub ingress_rate: Option<Rate>,
    /// The most that goes out, in bytes a second.
    pub egress_rate: Option<Rate>,
    /// Its part in the spanning tree.
    pub stp: StpPortConfig,
    /// What its station may not pretend to be.
    pub protection: Protection,
    /// Its part in IGMP and MLD snooping.
    pub groups: PortGroups,
}

impl PortConfig {
    /// A port with these VLANs and nothing special.
    pub fn new(vlans: PortVlans) -> Self {
        Self {
            vlans,
            mtu: 1500,
            learning: true,
            mac_limit: None,
            drop_above_limit: false,
            flood: Flood::default(),
            isolated: false,
            storm: Storm::default(),
            ingress_rate: None,
            egress_rate: None,
            stp: StpPortConfig::default(),
            protection: Protection::default(),
            groups: PortGroups::default(),
        }
    }

    /// An access port.
    pub fn access(vlan: VlanId) -> Self {
        Self::new(PortVlans::access(vlan))
    }

    /// A trunk.
    pub fn trunk(vlans: VlanSet, native: Option<VlanId>) -> Self {
        Self::new(PortVlans::trunk(vlans, native))
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        self.vlans.check()?;
        within("the MTU", self.mtu.into(), 68, 65_535)?;
        let storm = [self.storm.unknown, self.storm.multicast, self.storm.broadcast];
        for rate in storm
            .into_iter()
            .chain([self.ingress_rate, self.egress_rate])
            .flatten()
        {
            within("a rate", rate.per_second, 1, 1 << 40)?;
            within("a burst", rate.burst, 1, 1 << 40)?;
        }
        self.stp.check()
    }
}
