//! The forwarding table.

use super::link::Link;
use super::{port, unsupported};
use crate::netlink::constants::*;
use crate::netlink::{Netlink, Request, attribute, u16_of, u32_of};
use crate::{Error, Mac, Source, Station};

/// `struct ndmsg`.
fn entry(kind: u16, flags: u16, index: u32, state: u16) -> Request {
    let mut header = [0; 12];
    header[0] = AF_BRIDGE;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    // To the bridge, not to the interface's own filter.
    header[10] = if index == 0 { 0 } else { NTF_MASTER };
    Request::new(kind, flags, &header)
}

pub(super) fn stations(netlink: &mut Netlink, bridge: &Link, links: &[Link]) -> Result<Vec<Station>, Error> {
    let mut stations = netlink.dump(
        "listing the forwarding table",
        RTM_GETNEIGH,
        |kind, flags| entry(kind, flags, 0, 0),
        |body| station(body, bridge, links),
    )?;
    stations.sort_by(|a, b| (a.vlan, a.mac, &a.port).cmp(&(b.vlan, b.mac, &b.port)));
    Ok(stations)
}

fn station(body: &[u8], bridge: &Link, links: &[Link]) -> Option<Station> {
    let index = u32_of(body.get(4..)?)?;
    let state = u16_of(body.get(8..)?)?;
    let flags = *body.get(10)?;
    let attributes = body.get(12..)?;
    let master = attribute(attributes, NDA_MASTER).and_then(u32_of);
    // The interfaces' own filters are listed, too.
    if flags & NTF_SELF != 0 || master != Some(bridge.index) {
        return None;
    }
    let source = if state & NUD_PERMANENT != 0 {
        Source::Own
    } else if state & NUD_NOARP != 0 {
        Source::Static
    } else {
        Source::Learned
    };
    // `struct nda_cacheinfo`: confirmed, used, updated, in hundredths of a second ago.
    let updated = attribute(attributes, NDA_CACHEINFO).and_then(|i| u32_of(i.get(8..)?));
    Some(Station {
        mac: attribute(attributes, NDA_LLADDR).and_then(Mac::read)?,
        vlan: attribute(attributes, NDA_VLAN)
            .and_then(u16_of)
            .filter(|v| *v != 0),
        port: links.iter().find(|l| l.index == index)?.name.clone(),
        source,
        age: updated
            .filter(|_| source == Source::Learned)
            .map(|ticks| f64::from(ticks) / 100.0),
    })
}

fn of_station(mut request: Request, mac: Mac, vlan: Option<u16>) -> Request {
    request = request.bytes_of(NDA_LLADDR, &mac.0);
    match vlan {
        Some(vlan) => request.u16(NDA_VLAN, vlan),
        None => request,
    }
}

fn check(bridge: &Link, mac: Mac, vlan: Option<u16>) -> Result<(), Error> {
    if !mac.is_station() {
        return Err(Error::Mac(mac.to_string()));
    }
    if vlan.is_some() && bridge.filters_vlans() != Some(true) {
        return Err(unsupported(format!(
            "{} does not filter VLANs, so its entries have none",
            bridge.name
        )));
    }
    Ok(())
}

pub(super) fn add(
    netlink: &mut Netlink,
    bridge: &Link,
    port: &Link,
    mac: Mac,
    vlan: Option<u16>,
) -> Result<(), Error> {
    check(bridge, mac, vlan)?;
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    let request = entry(RTM_NEWNEIGH, flags, port.index, NUD_NOARP);
    netlink.change(
        &format!("entering {mac} at {}", port.name),
        &of_station(request, mac, vlan),
    )
}

pub(super) fn remove(
    netlink: &mut Netlink,
    bridge: &Link,
    port: &Link,
    mac: Mac,
    vlan: Option<u16>,
) -> Result<(), Error> {
    check(bridge, mac, vlan)?;
    let request = entry(RTM_DELNEIGH, 0, port.index, NUD_REACHABLE);
    netlink.change(
        &format!("removing {mac} from {}", port.name),
        &of_station(request, mac, vlan),
    )
}

/// Forgets what was learned on all ports.
pub(super) fn flush(bridge: &Link) -> Request {
    Request::link(RTM_NEWLINK, 0, 0, bridge.index).nest(IFLA_LINKINFO, |r| {
        r.text(IFLA_INFO_KIND, "bridge")
            .nest(IFLA_INFO_DATA, |r| r.bytes_of(IFLA_BR_FDB_FLUSH, &[]))
    })
}

/// Forgets what was learned on one port.
pub(super) fn flush_port(port: &Link) -> Request {
    port::option(port, |r| r.bytes_of(IFLA_BRPORT_FLUSH, &[]))
}
