//! Bridges: how they look, how they are made and changed.

use super::link::{self, Link};
use super::vlan::Vlans;
use super::{port, unsupported};
use crate::netlink::constants::*;
use crate::netlink::{Netlink, Request, Transaction, attribute};
use crate::{Bridge, BridgeSettings, Error, Kind, Mac, Protocol, Stp};

/// Times are told in hundredths of a second (USER_HZ).
const HZ: u32 = 100;

pub(super) fn view(bridge: &Link, links: &[Link], vlans: &Vlans) -> Bridge {
    let filtering = bridge.filters_vlans();
    let stp = stp(bridge, links);
    let mut ports: Vec<&Link> = links.iter().filter(|l| l.is_port_of(bridge)).collect();
    ports.sort_by_key(|l| l.port_u16(IFLA_BRPORT_NO));
    Bridge {
        name: bridge.name.clone(),
        kind: Kind::Kernel,
        mac: bridge.mac,
        mtu: bridge.mtu,
        up: bridge.up,
        vlan_filtering: filtering,
        ageing: bridge.bridge_u32(IFLA_BR_AGEING_TIME).map(|t| t / HZ),
        ports: ports
            .into_iter()
            .map(|l| {
                let vlans = (filtering == Some(true)).then(|| vlans.of(l.index));
                port::view(l, bridge, vlans)
            })
            .collect(),
        stp,
    }
}

/// A bridge's identifier: two bytes of priority, six of address.
pub(super) fn id(bytes: &[u8]) -> Option<String> {
    let bytes: &[u8; 8] = bytes.try_into().ok()?;
    let priority = u16::from_be_bytes([bytes[0], bytes[1]]);
    let mac = Mac::read(&bytes[2..])?;
    Some(format!("{priority:04x}.{mac}"))
}

fn stp(bridge: &Link, links: &[Link]) -> Stp {
    let on = bridge.bridge_u32(IFLA_BR_STP_STATE).unwrap_or(0) != 0;
    let seconds = |kind| bridge.bridge_u32(kind).map(|t| t / HZ);
    let mut stp = Stp {
        protocol: if on { Protocol::Stp } else { Protocol::Off },
        priority: bridge.bridge_u16(IFLA_BR_PRIORITY),
        bridge_id: attribute(&bridge.data, IFLA_BR_BRIDGE_ID).and_then(id),
        max_age: seconds(IFLA_BR_MAX_AGE),
        hello: seconds(IFLA_BR_HELLO_TIME),
        forward_delay: seconds(IFLA_BR_FORWARD_DELAY),
        ..Stp::default()
    };
    if on {
        let root = bridge.bridge_u16(IFLA_BR_ROOT_PORT).filter(|n| *n != 0);
        let is_root = |l: &&Link| l.is_port_of(bridge) && l.port_u16(IFLA_BRPORT_NO) == root;
        stp.root_id = attribute(&bridge.data, IFLA_BR_ROOT_ID).and_then(id);
        stp.root_port = root.and_then(|_| Some(links.iter().find(is_root)?.name.clone()));
        stp.root_path_cost = bridge.bridge_u32(IFLA_BR_ROOT_PATH_COST);
        stp.topology_change = bridge.bridge_u8(IFLA_BR_TOPOLOGY_CHANGE).map(|on| on != 0);
    }
    stp
}

/// Whether the settings are in range, fit together and are known to this kernel.
pub(super) fn check(bridge: &Link, settings: &BridgeSettings) -> Result<(), Error> {
    settings.check()?;
    if settings.protocol == Some(Protocol::Rstp) {
        return Err(unsupported(
            "it speaks STP, not RSTP; use STP, or a bridge of Open vSwitch",
        ));
    }
    if settings.vlan_filtering == Some(true) && bridge.filters_vlans().is_none() {
        return Err(unsupported(
            "this kernel's bridge has no VLAN filtering (CONFIG_BRIDGE_VLAN_FILTERING); use a bridge of Open vSwitch",
        ));
    }
    let times = [settings.max_age, settings.hello, settings.forward_delay];
    if times.iter().all(Option::is_none) {
        return Ok(());
    }
    let now = |kind| bridge.bridge_u32(kind).map(|t| t / HZ);
    let (Some(max_age), Some(hello), Some(delay)) = (
        settings.max_age.or(now(IFLA_BR_MAX_AGE)),
        settings.hello.or(now(IFLA_BR_HELLO_TIME)),
        settings.forward_delay.or(now(IFLA_BR_FORWARD_DELAY)),
    ) else {
        return Ok(());
    };
    // 802.1D-2004, 17.14.
    if 2 * delay.saturating_sub(1) < max_age || max_age < 2 * (hello + 1) {
        return Err(Error::Range {
            what: "max age",
            value: max_age.into(),
            range: "at most 2 x (forward delay - 1) and at least 2 x (hello time + 1)",
        });
    }
    Ok(())
}

pub(super) fn create(netlink: &mut Netlink, name: &str, settings: &BridgeSettings) -> Result<(), Error> {
    if link::links(netlink)?.iter().any(|l| l.name == name) {
        return Err(Error::Exists(name.into()));
    }
    let mac = Mac::random()?;
    let made = netlink.transaction(|transaction| {
        // With an address of its own: else the kernel takes a port's, and another one when that goes.
        let request = Request::link(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0, 0)
            .text(IFLA_IFNAME, name)
            .bytes_of(IFLA_ADDRESS, &mac.0)
            .nest(IFLA_LINKINFO, |r| r.text(IFLA_INFO_KIND, "bridge"));
        transaction.step(
            format!("making the bridge {name}"),
            &request,
            Some(link::delete(name)),
        )?;
        // What the kernel can do shows on the new bridge.
        let bridge = link::link(transaction.netlink(), name)?;
        check(&bridge, settings)?;
        set(transaction, &bridge, settings)?;
        let up = link::switch(bridge.index, true);
        transaction.step(format!("switching {name} on"), &up, None)
    });
    match made {
        Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => Err(unsupported(format!(
            "it is not in this kernel ({error}); `modprobe bridge` may load it"
        ))),
        other => other.map(drop),
    }
}

/// One setting, by a message of its own, so that the kernel takes it or leaves it.
fn option(bridge: &Link, inside: impl FnOnce(Request) -> Request) -> Request {
    Request::link(RTM_NEWLINK, 0, 0, bridge.index).nest(IFLA_LINKINFO, |r| {
        r.text(IFLA_INFO_KIND, "bridge").nest(IFLA_INFO_DATA, inside)
    })
}

/// Changes what has to be changed, the protocol last: the kernel checks the forward delay only while STP is on.
pub(super) fn set(
    transaction: &mut Transaction,
    bridge: &Link,
    settings: &BridgeSettings,
) -> Result<(), Error> {
    let name = &bridge.name;
    if let Some(mtu) = settings.mtu.filter(|mtu| Some(*mtu) != bridge.mtu) {
        let undo = bridge.mtu.map(|mtu| link::set_mtu(bridge.index, mtu));
        let what = format!("setting the MTU of {name} to {mtu}");
        transaction.step(what, &link::set_mtu(bridge.index, mtu), undo)?;
    }
    if let Some(priority) = settings.priority {
        let request = |value| option(bridge, |r| r.u16(IFLA_BR_PRIORITY, value));
        let undo = bridge.bridge_u16(IFLA_BR_PRIORITY).map(request);
        let what = format!("setting the priority of {name} to {priority}");
        transaction.step(what, &request(priority), undo)?;
    }
    for (what, kind, value) in [
        ("hello time", IFLA_BR_HELLO_TIME, settings.hello),
        ("max age", IFLA_BR_MAX_AGE, settings.max_age),
        ("forward delay", IFLA_BR_FORWARD_DELAY, settings.forward_delay),
        ("ageing time", IFLA_BR_AGEING_TIME, settings.ageing),
    ] {
        let Some(value) = value else { continue };
        let request = |ticks| option(bridge, |r| r.u32(kind, ticks));
        let undo = bridge.bridge_u32(kind).map(request);
        let what = format!("setting the {what} of {name} to {value} s");
        transaction.step(what, &request(value * HZ), undo)?;
    }
    if let Some(filtering) = settings.vlan_filtering {
        // Off is what a kernel without it does anyway.
        if let Some(had) = bridge.filters_vlans() {
            let request = |on| option(bridge, |r| r.u8(IFLA_BR_VLAN_FILTERING, on));
            let what = format!("switching the VLAN filtering of {name}");
            transaction.step(what, &request(filtering.into()), Some(request(had.into())))?;
        }
    }
    if let Some(protocol) = settings.protocol {
        let request = |on| option(bridge, |r| r.u32(IFLA_BR_STP_STATE, on));
        let undo = bridge.bridge_u32(IFLA_BR_STP_STATE).map(|on| request(on.min(1)));
        let on = (protocol != Protocol::Off).into();
        transaction.step(format!("switching the STP of {name}"), &request(on), undo)?;
    }
    Ok(())
}
