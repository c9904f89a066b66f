//! Interfaces as the kernel lists them.

use crate::netlink::constants::*;
use crate::netlink::{Netlink, Request, attribute, text, u16_of, u32_of};
use crate::{Error, Mac, PortCounters};

/// Bytes of `struct ifinfomsg`.
const HEADER: usize = 16;

/// What is read of an interface.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// What somebody wrote on it (`ip link set … alias`), or nothing.
    pub(super) alias: String,
    pub(super) mac: Option<Mac>,
    pub(super) mtu: Option<u32>,
    /// Switched on.
    pub(super) up: bool,
    /// Has a link, too.
    pub(super) running: bool,
    pub(super) master: Option<u32>,
    /// `bridge`, `tun`, …; cards have none.
    pub(super) kind: String,
    /// What that kind tells of itself.
    pub(super) data: Vec<u8>,
    /// `bridge` for its ports.
    pub(super) slave_kind: String,
    /// What the master tells of the port.
    pub(super) slave_data: Vec<u8>,
    pub(super) counters: Option<PortCounters>,
}

/// Reads the first fields of `struct rtnl_link_stats64`: packets, bytes, errors and dropped ones, each received and sent.
fn counters(stats: &[u8]) -> Option<PortCounters> {
    let number = |at: usize| {
        let bytes = stats.get(at * 8..at * 8 + 8)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    };
    Some(PortCounters {
        received: number(0)?,
        sent: number(1)?,
        received_bytes: number(2)?,
        sent_bytes: number(3)?,
        received_errors: number(4)?,
        sent_errors: number(5)?,
        received_dropped: number(6)?,
        sent_dropped: number(7)?,
    })
}

impl Link {
    fn read(body: &[u8]) -> Option<Self> {
        const IFF_LOWER_UP: u32 = 1 << 16;
        let index = u32_of(body.get(4..)?)?;
        let flags = u32_of(body.get(8..)?)?;
        let attributes = body.get(HEADER..)?;
        let info = attribute(attributes, IFLA_LINKINFO).unwrap_or_default();
        let text_of = |kind| attribute(info, kind).map(text).unwrap_or_default();
        let bytes_of = |kind| attribute(info, kind).unwrap_or_default().to_vec();
        Some(Self {
            index,
            name: text(attribute(attributes, IFLA_IFNAME)?),
            alias: attribute(attributes, IFLA_IFALIAS).map(text).unwrap_or_default(),
            mac: attribute(attributes, IFLA_ADDRESS).and_then(Mac::read),
            mtu: attribute(attributes, IFLA_MTU).and_then(u32_of),
            up: flags & IFF_UP != 0,
            running: flags & IFF_LOWER_UP != 0,
            master: attribute(attributes, IFLA_MASTER).and_then(u32_of),
            kind: text_of(IFLA_INFO_KIND),
            data: bytes_of(IFLA_INFO_DATA),
            slave_kind: text_of(IFLA_INFO_SLAVE_KIND),
            slave_data: bytes_of(IFLA_INFO_SLAVE_DATA),
            counters: attribute(attributes, IFLA_STATS64).and_then(counters),
        })
    }

    pub(super) fn is_bridge(&self) -> bool {
        self.kind == "bridge"
    }

    pub(super) fn is_port_of(&self, bridge: &Link) -> bool {
        self.master == Some(bridge.index) && self.slave_kind == "bridge"
    }

    /// A number that the bridge tells of itself; `None` if this kernel has no such thing.
    pub(super) fn bridge_u32(&self, kind: u16) -> Option<u32> {
        attribute(&self.data, kind).and_then(u32_of)
    }

    pub(super) fn bridge_u16(&self, kind: u16) -> Option<u16> {
        attribute(&self.data, kind).and_then(u16_of)
    }

    pub(super) fn bridge_u8(&self, kind: u16) -> Option<u8> {
        attribute(&self.data, kind)?.first().copied()
    }

    /// Whether the bridge filters VLANs; `None` if this kernel's cannot. Such a kernel tells of the switch, but not of the tags' type.
    pub(super) fn filters_vlans(&self) -> Option<bool> {
        self.bridge_u16(IFLA_BR_VLAN_PROTOCOL)?;
        self.bridge_u8(IFLA_BR_VLAN_FILTERING).map(|on| on != 0)
    }

    pub(super) fn port_u32(&self, kind: u16) -> Option<u32> {
        attribute(&self.slave_data, kind).and_then(u32_of)
    }

    pub(super) fn port_u16(&self, kind: u16) -> Option<u16> {
        attribute(&self.slave_data, kind).and_then(u16_of)
    }

    pub(super) fn port_u8(&self, kind: u16) -> Option<u8> {
        attribute(&self.slave_data, kind)?.first().copied()
    }
}

/// All interfaces, by their numbers.
pub(super) fn links(netlink: &mut Netlink) -> Result<Vec<Link>, Error> {
    let mut links = netlink.dump(
        "listing interfaces",
        RTM_GETLINK,
        |kind, flags| Request::link(kind, flags, 0, 0),
        Link::read,
    )?;
    links.sort_by_key(|link| link.index);
    Ok(links)
}

/// The interface of that name.
pub(super) fn link(netlink: &mut Netlink, name: &str) -> Result<Link, Error> {
    links(netlink)?
        .into_iter()
        .find(|link| link.name == name)
        .ok_or_else(|| Error::NoInterface(name.into()))
}

/// Switches an interface on or off.
pub(super) fn switch(index: u32, on: bool) -> Request {
    let set = if on { IFF_UP } else { 0 };
    Request::link_flags(RTM_NEWLINK, 0, 0, index, set, IFF_UP)
}

/// Gives an interface a master, 0 for none.
pub(super) fn set_master(index: u32, master: u32) -> Request {
    Request::link(RTM_NEWLINK, 0, 0, index).u32(IFLA_MASTER, master)
}

pub(super) fn set_mtu(index: u32, mtu: u32) -> Request {
    Request::link(RTM_NEWLINK, 0, 0, index).u32(IFLA_MTU, mtu)
}

pub(super) fn set_mac(index: u32, mac: Mac) -> Request {
    Request::link(RTM_NEWLINK, 0, 0, index).bytes_of(IFLA_ADDRESS, &mac.0)
}

pub(super) fn set_alias(index: u32, alias: &str) -> Request {
    Request::link(RTM_NEWLINK, 0, 0, index).text(IFLA_IFALIAS, alias)
}

pub(super) fn delete_number(index: u32) -> Request {
    Request::link(RTM_DELLINK, 0, 0, index)
}

pub(super) fn delete(name: &str) -> Request {
    Request::link(RTM_DELLINK, 0, 0, 0).text(IFLA_IFNAME, name)
}
