//! VLANs of ports, where the kernel's bridge filters them.

use std::collections::BTreeMap;

use super::link::Link;
use super::unsupported;
use crate::netlink::constants::*;
use crate::netlink::{Attributes, Netlink, Request, Transaction, attribute, u16_of, u32_of};
use crate::{Error, PortVlans};

/// The flags of each VLAN of an interface, by VLAN.
type Table = BTreeMap<u16, u16>;

/// The VLANs of all ports.
pub(super) struct Vlans(Vec<(u32, Table)>);

impl Vlans {
    pub(super) fn of(&self, index: u32) -> PortVlans {
        let mut vlans = PortVlans::default();
        for (&vlan, flags) in self.0.iter().filter(|(i, _)| *i == index).flat_map(|(_, t)| t) {
            if flags & BRIDGE_VLAN_INFO_PVID != 0 {
                vlans.pvid = Some(vlan);
            }
            if flags & BRIDGE_VLAN_INFO_UNTAGGED != 0 {
                vlans.untagged.push(vlan);
            } else {
                vlans.tagged.push(vlan);
            }
        }
        vlans
    }
}

pub(super) fn all(netlink: &mut Netlink) -> Result<Vlans, Error> {
    let request =
        |kind, flags| Request::link(kind, flags, AF_BRIDGE, 0).u32(IFLA_EXT_MASK, RTEXT_FILTER_BRVLAN);
    let tables = netlink.dump("listing VLANs of ports", RTM_GETLINK, request, |body| {
        let index = u32_of(body.get(4..)?)?;
        let info = attribute(body.get(16..)?, IFLA_AF_SPEC)?;
        let vlan = |(kind, value): (u16, &[u8])| {
            let (flags, vlan) = (u16_of(value)?, u16_of(value.get(2..)?)?);
            (kind == IFLA_BRIDGE_VLAN_INFO).then_some((vlan, flags))
        };
        Some((index, Attributes(info).filter_map(vlan).collect()))
    })?;
    Ok(Vlans(tables))
}

fn entry(kind: u16, port: &Link, vlan: u16, flags: u16) -> Request {
    let mut info = [0; 4];
    info[..2].copy_from_slice(&flags.to_ne_bytes());
    info[2..].copy_from_slice(&vlan.to_ne_bytes());
    Request::link(kind, 0, AF_BRIDGE, port.index)
        .nest(IFLA_AF_SPEC, |r| r.bytes_of(IFLA_BRIDGE_VLAN_INFO, &info))
}

/// Gives the port these VLANs and no others.
pub(super) fn set(
    transaction: &mut Transaction,
    bridge: &Link,
    port: &Link,
    wanted: &PortVlans,
) -> Result<(), Error> {
    if bridge.filters_vlans().is_none() {
        return Err(unsupported(
            "this kernel's bridge has no VLANs (CONFIG_BRIDGE_VLAN_FILTERING); use a bridge of Open vSwitch",
        ));
    }
    let mut want = Table::new();
    for vlan in &wanted.tagged {
        want.insert(*vlan, 0);
    }
    for vlan in &wanted.untagged {
        want.insert(*vlan, BRIDGE_VLAN_INFO_UNTAGGED);
    }
    if let Some(pvid) = wanted.pvid {
        *want.entry(pvid).or_insert(BRIDGE_VLAN_INFO_UNTAGGED) |= BRIDGE_VLAN_INFO_PVID;
    }
    let all = all(transaction.netlink())?;
    let have: Table = all
        .0
        .into_iter()
        .filter(|(i, _)| *i == port.index)
        .flat_map(|(_, t)| t)
        .collect();
    let name = &port.name;
    for (vlan, flags) in have.iter().filter(|(vlan, _)| !want.contains_key(vlan)) {
        transaction.step(
            format!("taking VLAN {vlan} from {name}"),
            &entry(RTM_DELLINK, port, *vlan, 0),
            Some(entry(RTM_SETLINK, port, *vlan, *flags)),
        )?;
    }
    for (vlan, flags) in want.iter().filter(|(vlan, flags)| have.get(vlan) != Some(flags)) {
        let undo = match have.get(vlan) {
            Some(had) => entry(RTM_SETLINK, port, *vlan, *had),
            None => entry(RTM_DELLINK, port, *vlan, 0),
        };
        transaction.step(
            format!("giving {name} VLAN {vlan}"),
            &entry(RTM_SETLINK, port, *vlan, *flags),
            Some(undo),
        )?;
    }
    Ok(())
}
