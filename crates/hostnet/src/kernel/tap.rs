//! Taps for guests.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

use super::link::{self, Link};
use super::{find_bridge, port};
use crate::netlink::constants::*;
use crate::netlink::{Netlink, attribute, u32_of};
use crate::{Error, PortSettings, Tap, check_name};

const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const TUNSETPERSIST: libc::Ioctl = 0x4004_54cb;
const TUNSETOWNER: libc::Ioctl = 0x4004_54cc;
const TUNSETGROUP: libc::Ioctl = 0x4004_54ce;
const IFF_TAP: i16 = 0x0002;
const IFF_MULTI_QUEUE: i16 = 0x0100;
const IFF_NO_PI: i16 = 0x1000;
const IFF_VNET_HDR: i16 = 0x4000;
/// Refuses an interface that exists.
const IFF_TUN_EXCL: u16 = 0x8000;

/// A tap to be made. It always has the virtio-net header, which our guests' network cards want.
#[derive(Clone, Debug, Default)]
pub struct TapSpec {
    /// The interface's name.
    pub name: String,
    /// The user who may open it; without, only root.
    pub owner: Option<u32>,
    /// The group that may.
    pub group: Option<u32>,
    /// Several queue pairs.
    pub multi_queue: bool,
    /// The bridge that it becomes a port of, and its settings there.
    pub bridge: Option<(String, PortSettings)>,
}

/// The interface as a tap, if it is one.
pub(super) fn tap(link: &Link) -> Option<Tap> {
    let number = |kind| attribute(&link.data, kind).and_then(u32_of);
    let byte = |kind| attribute(&link.data, kind).and_then(|v| v.first().copied());
    let is_tap = link.kind == "tun" && byte(IFLA_TUN_TYPE) == Some(IFF_TAP as u8);
    is_tap.then(|| Tap {
        name: link.name.clone(),
        owner: number(IFLA_TUN_OWNER),
        group: number(IFLA_TUN_GROUP),
        multi_queue: byte(IFLA_TUN_MULTI_QUEUE) == Some(1),
        vnet_hdr: byte(IFLA_TUN_VNET_HDR) == Some(1),
    })
}

fn set(tun: &File, what: &str, request: libc::Ioctl, value: u32) -> Result<(), Error> {
    // SAFETY: these requests take their argument by value.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), request, libc::c_ulong::from(value)) };
    if result < 0 {
        return Err(Error::io(what)(io::Error::last_os_error()));
    }
    Ok(())
}

/// Until it is told to stay, the tap ends with the descriptor that made it: that is what undoes every step before.
pub(super) fn create(netlink: &mut Netlink, spec: &TapSpec) -> Result<(), Error> {
    let name = check_name(&spec.name)?;
    if link::links(netlink)?.iter().any(|l| l.name == name) {
        return Err(Error::Exists(name.into()));
    }
    let bridge = match &spec.bridge {
        Some((bridge, settings)) => {
            settings.check()?;
            Some((find_bridge(netlink, bridge)?.0, settings))
        }
        None => None,
    };
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map_err(Error::io("opening /dev/net/tun"))?;
    make(&tun, name, spec.multi_queue)?;
    if let Some(owner) = spec.owner {
        set(&tun, "setting the owner of the tap", TUNSETOWNER, owner)?;
    }
    if let Some(group) = spec.group {
        set(&tun, "setting the group of the tap", TUNSETGROUP, group)?;
    }
    let made = link::link(netlink, name)?;
    netlink.transaction(|transaction| match bridge {
        Some((bridge, settings)) => port::add(transaction, &bridge, &made, settings),
        None => {
            let up = link::switch(made.index, true);
            transaction.step(format!("switching {name} on"), &up, None)
        }
    })?;
    set(&tun, "making the tap stay", TUNSETPERSIST, 1)
}

fn make(tun: &File, name: &str, multi_queue: bool) -> Result<(), Error> {
    let mut flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if multi_queue {
        flags |= IFF_MULTI_QUEUE;
    }
    // `struct ifreq`: the name with its zero, then the flags.
    let mut request = [0u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&(flags as u16 | IFF_TUN_EXCL).to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes an ifreq, which is this long.
    if unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) } < 0 {
        let source = io::Error::last_os_error();
        return Err(match source.raw_os_error() {
            Some(libc::EBUSY) => Error::Exists(name.into()),
            _ => Error::io(format!("making the tap {name}"))(source),
        });
    }
    Ok(())
}

pub(super) fn delete(netlink: &mut Netlink, name: &str) -> Result<(), Error> {
    let link = link::link(netlink, name)?;
    if tap(&link).is_none() && link.kind != "macvtap" {
        return Err(Error::Unsupported {
            who: crate::Kind::Kernel,
            what: format!("`{name}` is no tap, and only taps are deleted here"),
        });
    }
    netlink.change(&format!("deleting the tap {name}"), &link::delete(name))
}
