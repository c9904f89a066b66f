//! The interface through which the host reaches others becomes a port, and its addresses and routes move to the bridge.
//!
//! Who does this over the network may cut himself off. So the change comes back as an [`Uplink`], which undoes it unless it is
//! confirmed.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::link::{self, Link};
use super::{find_bridge, find_port, port, unsupported};
use crate::netlink::constants::*;
use crate::netlink::{Attributes, Netlink, Request, Transaction, Undo, attribute, text, u32_of};
use crate::{Error, Mac, PortSettings};

/// A change that is undone when this is dropped.
#[must_use = "dropping it undoes the change"]
pub struct Uplink {
    netlink: Netlink,
    undo: Vec<Undo>,
}

impl Uplink {
    /// Keeps the change.
    pub fn confirm(mut self) {
        self.undo.clear();
    }

    /// Takes the change back now.
    pub fn undo(mut self) -> Result<(), Error> {
        let undo = std::mem::take(&mut self.undo);
        self.netlink.take_back(undo).map_err(|left| Error::Refused {
            what: "moving the addresses back".into(),
            source: io::Error::other(left),
        })
    }

    /// Keeps the change if the line `yes` comes from `input` within that time; everything else, the end of input too, takes it
    /// back. Says which of the two happened.
    pub fn confirm_by(self, input: impl AsFd, within: Duration) -> Result<bool, Error> {
        if said_yes(input, within) {
            self.confirm();
            return Ok(true);
        }
        self.undo().map(|()| false)
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        let undo = std::mem::take(&mut self.undo);
        // Who wants to know calls `undo`.
        let _ = self.netlink.take_back(undo);
    }
}

fn said_yes(input: impl AsFd, within: Duration) -> bool {
    const LONGEST: usize = 16;
    let deadline = Instant::now() + within;
    let mut line = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(left) = Timespec::try_from(left) else {
            return false;
        };
        let mut fds = [PollFd::new(&input, PollFlags::IN)];
        match poll(&mut fds, Some(&left)) {
            Err(rustix::io::Errno::INTR) if Instant::now() < deadline => continue,
            Ok(1..) => {}
            _ => return false,
        }
        let mut byte = [0];
        match rustix::io::read(&input, &mut byte) {
            Ok(1) if byte[0] == b'\n' => return line.trim_ascii() == b"yes",
            Ok(1) if line.len() < LONGEST => line.push(byte[0]),
            _ => return false,
        }
    }
}

pub(super) fn join(bridge: &str, interface: &str) -> Result<Uplink, Error> {
    let mut netlink = Netlink::open()?;
    let undo = join_by(&mut netlink, bridge, interface)?;
    Ok(Uplink { netlink, undo })
}

pub(super) fn join_by(netlink: &mut Netlink, bridge: &str, interface: &str) -> Result<Vec<Undo>, Error> {
    let (bridge, links) = find_bridge(netlink, bridge)?;
    let uplink = port::free(&links, interface)?;
    let moved = Moved::of(netlink, &uplink)?;
    let ((), undo) = netlink.transaction(|transaction| {
        port::add(transaction, &bridge, &uplink, &PortSettings::default())?;
        // Others know the host by this address.
        if let (Some(mac), Some(had)) = (uplink.mac, bridge.mac) {
            keep_mac(transaction, &bridge, mac, had)?;
        }
        if !bridge.up {
            transaction.step(
                format!("switching {} on", bridge.name),
                &link::switch(bridge.index, true),
                Some(link::switch(bridge.index, false)),
            )?;
        }
        moved.go(transaction, &uplink, &bridge)
    })?;
    Ok(undo)
}

fn keep_mac(transaction: &mut Transaction, bridge: &Link, mac: Mac, had: Mac) -> Result<(), Error> {
    transaction.step(
        format!("giving {} the address {mac}", bridge.name),
        &link::set_mac(bridge.index, mac),
        Some(link::set_mac(bridge.index, had)),
    )
}

pub(super) fn leave(netlink: &mut Netlink, bridge: &str, interface: &str) -> Result<(), Error> {
    let (bridge, links) = find_bridge(netlink, bridge)?;
    let uplink = find_port(&bridge, &links, interface)?;
    let moved = Moved::of(netlink, &bridge)?;
    netlink.transaction(|transaction| {
        transaction.step(
            format!("taking {} out of {}", uplink.name, bridge.name),
            &link::set_master(uplink.index, 0),
            Some(link::set_master(uplink.index, bridge.index)),
        )?;
        moved.go(transaction, &bridge, &uplink)
    })?;
    Ok(())
}

/// What moves: messages of the kernel's own lists.
struct Moved {
    addresses: Vec<Vec<u8>>,
    /// Those of a network first, those by a gateway after them.
    routes: Vec<Vec<u8>>,
}

const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;

impl Moved {
    fn of(netlink: &mut Netlink, from: &Link) -> Result<Self, Error> {
        let addresses = netlink.dump(
            "listing addresses",
            RTM_GETADDR,
            |kind, flags| Request::new(kind, flags, &[0; ADDRESS_HEADER]),
            |body| is_moved_address(body, from).then(|| body.to_vec()),
        )?;
        let mut routes = netlink.dump(
            "listing routes",
            RTM_GETROUTE,
            |kind, flags| Request::new(kind, flags, &[0; ROUTE_HEADER]),
            |body| is_moved_route(body, from).then(|| body.to_vec()),
        )?;
        let composite = |route: &&Vec<u8>| {
            let attributes = &route[ROUTE_HEADER..];
            attribute(attributes, RTA_MULTIPATH).is_some() || attribute(attributes, RTA_NH_ID).is_some()
        };
        if let Some(route) = routes.iter().find(composite) {
            return Err(unsupported(format!(
                "the route to {} has several next hops, and such routes are not moved; delete it first",
                destination(route)
            )));
        }
        routes.sort_by_key(|route| goes_by_gateway(route));
        Ok(Self { addresses, routes })
    }

    fn go(&self, transaction: &mut Transaction, from: &Link, to: &Link) -> Result<(), Error> {
        for address in &self.addresses {
            transaction.step(
                format!("adding {} to {}", address_text(address), to.name),
                &address_request(address, RTM_NEWADDR, to, &from.name),
                Some(address_request(address, RTM_DELADDR, to, &from.name)),
            )?;
        }
        for route in self.routes.iter().rev() {
            transaction.step(
                format!("taking the route to {} from {}", destination(route), from.name),
                &route_request(route, RTM_DELROUTE, from),
                Some(route_request(route, RTM_NEWROUTE, from)),
            )?;
        }
        // Secondary addresses go with the primary one, so they go first.
        for address in self.addresses.iter().rev() {
            transaction.step(
                format!("taking {} from {}", address_text(address), from.name),
                &address_request(address, RTM_DELADDR, from, ""),
                Some(address_request(address, RTM_NEWADDR, from, "")),
            )?;
        }
        for route in &self.routes {
            transaction.step(
                format!("adding the route to {} by {}", destination(route), to.name),
                &route_request(route, RTM_NEWROUTE, to),
                Some(route_request(route, RTM_DELROUTE, to)),
            )?;
        }
        Ok(())
    }
}

/// Those that somebody gave the interface: neither the kernel's link-local ones nor temporary ones.
fn is_moved_address(body: &[u8], link: &Link) -> bool {
    const SCOPE_LINK: u8 = 253;
    let Some(header) = body.get(..ADDRESS_HEADER) else {
        return false;
    };
    let v6 = i32::from(header[0]) == libc::AF_INET6;
    let v4 = i32::from(header[0]) == libc::AF_INET;
    let flags = address_flags(body);
    u32_of(&header[4..]) == Some(link.index)
        && (v4 || v6 && header[3] != SCOPE_LINK && flags & IFA_F_TEMPORARY == 0)
}

fn address_flags(body: &[u8]) -> u32 {
    attribute(&body[ADDRESS_HEADER..], IFA_FLAGS)
        .and_then(u32_of)
        .unwrap_or(body[2].into())
}

fn address_request(body: &[u8], kind: u16, link: &Link, not_label: &str) -> Request {
    let mut header = [0; ADDRESS_HEADER];
    header.copy_from_slice(&body[..ADDRESS_HEADER]);
    header[2] = 0;
    header[4..8].copy_from_slice(&link.index.to_ne_bytes());
    let flags = if kind == RTM_NEWADDR {
        NLM_F_CREATE | NLM_F_EXCL
    } else {
        0
    };
    let mut request = Request::new(kind, flags, &header);
    for (kind, value) in Attributes(&body[ADDRESS_HEADER..]) {
        // The kernel gives an address its interface's name as a label by itself.
        let is_name = kind == IFA_LABEL && text(value) == not_label;
        if kind == IFA_FLAGS || is_name {
            continue;
        }
        request = request.bytes_of(kind, value);
    }
    // It was found to be nobody else's once.
    let keep = IFA_F_MANAGETEMPADDR | IFA_F_NOPREFIXROUTE;
    request.u32(IFA_FLAGS, address_flags(body) & keep | IFA_F_NODAD)
}

fn address_text(body: &[u8]) -> String {
    let attributes = &body[ADDRESS_HEADER..];
    let address = attribute(attributes, IFA_LOCAL).or_else(|| attribute(attributes, IFA_ADDRESS));
    format!("{}/{}", ip_text(address.unwrap_or_default()), body[1])
}

fn ip_text(bytes: &[u8]) -> String {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return std::net::Ipv4Addr::from(v4).to_string();
    }
    <[u8; 16]>::try_from(bytes).map_or_else(|_| "?".into(), |v6| std::net::Ipv6Addr::from(v6).to_string())
}

/// Those that somebody made: not what the kernel makes for each address, nor what it copies for its own use.
fn is_moved_route(body: &[u8], link: &Link) -> bool {
    const RTM_F_CLONED: u32 = 0x200;
    let Some(header) = body.get(..ROUTE_HEADER) else {
        return false;
    };
    let attributes = &body[ROUTE_HEADER..];
    let family = i32::from(header[0]);
    let table = attribute(attributes, RTA_TABLE)
        .and_then(u32_of)
        .unwrap_or(header[4].into());
    let ours = attribute(attributes, RTA_OIF).and_then(u32_of) == Some(link.index)
        || attribute(attributes, RTA_MULTIPATH).is_some_and(|hops| passes(hops, link));
    (family == libc::AF_INET || family == libc::AF_INET6)
        && ours
        && table != RT_TABLE_LOCAL
        && header[5] != RTPROT_KERNEL
        && header[7] == RTN_UNICAST
        && u32_of(&header[8..]).unwrap_or(0) & RTM_F_CLONED == 0
}

/// Whether one of several next hops (`struct rtnexthop`) is on the interface.
fn passes(mut hops: &[u8], link: &Link) -> bool {
    while let Some(len) = crate::netlink::u16_of(hops).map(usize::from) {
        if len < 8 || len > hops.len() {
            return false;
        }
        if u32_of(&hops[4..]) == Some(link.index) {
            return true;
        }
        hops = hops.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

fn goes_by_gateway(route: &[u8]) -> bool {
    let attributes = &route[ROUTE_HEADER..];
    attribute(attributes, RTA_GATEWAY).is_some() || attribute(attributes, RTA_VIA).is_some()
}

fn route_request(body: &[u8], kind: u16, link: &Link) -> Request {
    const RTNH_F_ONLINK: u32 = 4;
    let mut header = [0; ROUTE_HEADER];
    header.copy_from_slice(&body[..ROUTE_HEADER]);
    // Whether a next hop is dead is the kernel's to say.
    let flags = u32_of(&header[8..]).unwrap_or(0) & RTNH_F_ONLINK;
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    let flags = if kind == RTM_NEWROUTE {
        NLM_F_CREATE | NLM_F_EXCL
    } else {
        0
    };
    let mut request = Request::new(kind, flags, &header);
    for (kind, value) in Attributes(&body[ROUTE_HEADER..]) {
        request = match kind {
            RTA_OIF => request.u32(RTA_OIF, link.index),
            RTA_CACHEINFO => request,
            _ => request.bytes_of(kind, value),
        };
    }
    request
}

fn destination(route: &[u8]) -> String {
    match attribute(&route[ROUTE_HEADER..], RTA_DST) {
        Some(network) => format!("{}/{}", ip_text(network), route[1]),
        None => "everywhere".into(),
    }
}
