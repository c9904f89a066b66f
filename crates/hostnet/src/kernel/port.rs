//! Ports: how they look, how they are made and changed.

use super::link::{self, Link};
use super::{bridge, tap, unsupported, vlan};
use crate::netlink::constants::*;
use crate::netlink::{Request, Transaction, attribute};
use crate::{Error, Flag, Port, PortSettings, PortVlans, Role, State};

fn number(flag: Flag) -> u16 {
    match flag {
        Flag::Isolated => IFLA_BRPORT_ISOLATED,
        Flag::BpduGuard => IFLA_BRPORT_GUARD,
        Flag::RootGuard => IFLA_BRPORT_PROTECT,
        Flag::Learning => IFLA_BRPORT_LEARNING,
        Flag::Flood => IFLA_BRPORT_UNICAST_FLOOD,
        Flag::Hairpin => IFLA_BRPORT_MODE,
        Flag::Locked => IFLA_BRPORT_LOCKED,
    }
}

pub(super) fn view(port: &Link, bridge: &Link, vlans: Option<PortVlans>) -> Port {
    let (role, state) = role_and_state(port, bridge);
    let on = |flag: &Flag| port.port_u8(number(*flag)).is_some_and(|on| on != 0);
    Port {
        name: port.name.clone(),
        up: port.up && port.running,
        mac: port.mac,
        mtu: port.mtu,
        role,
        state,
        path_cost: port.port_u32(IFLA_BRPORT_COST),
        priority: port.port_u16(IFLA_BRPORT_PRIORITY),
        vlans,
        flags: Flag::ALL.into_iter().filter(on).collect(),
        tap: tap::tap(port),
        designated_bridge: role.and(attribute(&port.slave_data, IFLA_BRPORT_BRIDGE_ID).and_then(bridge::id)),
        counters: port.counters,
    }
}

/// The kernel tells a state; the role follows from who is designated on the port's segment.
fn role_and_state(port: &Link, bridge: &Link) -> (Option<Role>, State) {
    const DISABLED: u8 = 0;
    const LEARNING: u8 = 2;
    const FORWARDING: u8 = 3;
    let told = port.port_u8(IFLA_BRPORT_STATE).unwrap_or(DISABLED);
    let state = match told {
        LEARNING => State::Learning,
        FORWARDING => State::Forwarding,
        _ => State::Discarding,
    };
    if bridge.bridge_u32(IFLA_BR_STP_STATE).unwrap_or(0) == 0 {
        return (None, state);
    }
    let ours =
        attribute(&port.slave_data, IFLA_BRPORT_BRIDGE_ID) == attribute(&bridge.data, IFLA_BR_BRIDGE_ID);
    let port_id = port.port_u16(IFLA_BRPORT_ID);
    let role = if told == DISABLED {
        Role::Disabled
    } else if port.port_u16(IFLA_BRPORT_NO) == bridge.bridge_u16(IFLA_BR_ROOT_PORT) {
        Role::Root
    } else if ours && port.port_u16(IFLA_BRPORT_DESIGNATED_PORT) == port_id {
        Role::Designated
    } else if ours {
        Role::Backup
    } else {
        Role::Alternate
    };
    (Some(role), state)
}

/// The interface, if it is there and nobody's port.
pub(super) fn free(links: &[Link], name: &str) -> Result<Link, Error> {
    let found = links.iter().find(|l| l.name == name);
    let link = found.ok_or_else(|| Error::NoInterface(name.into()))?;
    if let Some(master) = link.master {
        let owner = links.iter().find(|l| l.index == master);
        return Err(Error::Taken {
            port: name.into(),
            owner: owner.map_or_else(|| format!("interface {master}"), |l| l.name.clone()),
        });
    }
    if link.is_bridge() {
        return Err(unsupported(format!(
            "`{name}` is a bridge, and a bridge cannot be a port; join two by a veth pair"
        )));
    }
    Ok(link.clone())
}

/// Makes the interface a port, with its settings, and switches it on.
pub(super) fn add(
    transaction: &mut Transaction,
    bridge: &Link,
    port: &Link,
    settings: &PortSettings,
) -> Result<(), Error> {
    transaction.step(
        format!("making {} a port of {}", port.name, bridge.name),
        &link::set_master(port.index, bridge.index),
        Some(link::set_master(port.index, 0)),
    )?;
    // With what the bridge gave it.
    let joined = link::link(transaction.netlink(), &port.name)?;
    set(transaction, bridge, &joined, settings)?;
    if !port.up {
        transaction.step(
            format!("switching {} on", port.name),
            &link::switch(port.index, true),
            Some(link::switch(port.index, false)),
        )?;
    }
    Ok(())
}

/// One setting, by a message of its own, so that the kernel takes it or leaves it.
pub(super) fn option(port: &Link, inside: impl FnOnce(Request) -> Request) -> Request {
    Request::link(RTM_NEWLINK, 0, 0, port.index).nest(IFLA_LINKINFO, |r| {
        r.text(IFLA_INFO_SLAVE_KIND, "bridge")
            .nest(IFLA_INFO_SLAVE_DATA, inside)
    })
}

pub(super) fn set(
    transaction: &mut Transaction,
    bridge: &Link,
    port: &Link,
    settings: &PortSettings,
) -> Result<(), Error> {
    let name = &port.name;
    if let Some(mtu) = settings.mtu.filter(|mtu| Some(*mtu) != port.mtu) {
        let undo = port.mtu.map(|mtu| link::set_mtu(port.index, mtu));
        let what = format!("setting the MTU of {name} to {mtu}");
        transaction.step(what, &link::set_mtu(port.index, mtu), undo)?;
    }
    if let Some(cost) = settings.path_cost {
        let request = |value| option(port, |r| r.u32(IFLA_BRPORT_COST, value));
        let undo = port.port_u32(IFLA_BRPORT_COST).map(request);
        let what = format!("setting the path cost of {name} to {cost}");
        transaction.step(what, &request(cost), undo)?;
    }
    if let Some(priority) = settings.priority {
        let request = |value| option(port, |r| r.u16(IFLA_BRPORT_PRIORITY, value));
        let undo = port.port_u16(IFLA_BRPORT_PRIORITY).map(request);
        let what = format!("setting the priority of {name} to {priority}");
        transaction.step(what, &request(priority), undo)?;
    }
    for &(flag, on) in &settings.flags {
        let kind = number(flag);
        let had = port
            .port_u8(kind)
            .ok_or_else(|| unsupported(format!("this kernel's bridge ports have no `{flag}`")))?;
        let request = |on| option(port, |r| r.u8(kind, on));
        let what = format!("switching `{flag}` of {name}");
        transaction.step(what, &request(on.into()), Some(request(had)))?;
    }
    match &settings.vlans {
        Some(vlans) => vlan::set(transaction, bridge, port, vlans),
        None => Ok(()),
    }
}
