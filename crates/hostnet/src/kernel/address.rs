//! Addresses of interfaces (`rtnetlink(7)`, RTM_NEWADDR).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::link::Link;
use crate::netlink::constants::*;
use crate::netlink::{Netlink, Request, attribute, u32_of};
use crate::{Error, Mac, Subnet};

/// Bytes of `struct ifaddrmsg`.
const HEADER: usize = 8;
const AF_INET: u8 = libc::AF_INET as u8;
const AF_INET6: u8 = libc::AF_INET6 as u8;
/// Bits of the network's part.
const PREFIX6: u8 = 64;
/// `<linux/rtnetlink.h>`: an address of one link.
const RT_SCOPE_LINK: u8 = 253;

/// An address of IPv4 that an interface has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// The interface's number.
    pub(super) index: u32,
    pub(super) address: Ipv4Addr,
    pub(super) prefix: u8,
}

fn read(body: &[u8]) -> Option<Address> {
    let (header, attributes) = body.split_at_checked(HEADER)?;
    if header[0] != AF_INET {
        return None;
    }
    let local = attribute(attributes, IFA_LOCAL).or_else(|| attribute(attributes, IFA_ADDRESS))?;
    let bytes: [u8; 4] = local.try_into().ok()?;
    Some(Address {
        index: u32_of(&header[4..])?,
        address: bytes.into(),
        prefix: header[1].min(32),
    })
}

/// All of IPv4.
pub(super) fn all(netlink: &mut Netlink) -> Result<Vec<Address>, Error> {
    let mut header = [0; HEADER];
    header[0] = AF_INET;
    netlink.dump(
        "listing addresses",
        RTM_GETADDR,
        |kind, flags| Request::new(kind, flags, &header),
        read,
    )
}

/// Gives an interface an address.
pub(super) fn add(netlink: &mut Netlink, link: &Link, subnet: Subnet) -> Result<(), Error> {
    let mut header = [0; HEADER];
    (header[0], header[1]) = (AF_INET, subnet.prefix());
    header[4..].copy_from_slice(&link.index.to_ne_bytes());
    let address = subnet.address().octets();
    let request = Request::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &header)
        .bytes_of(IFA_LOCAL, &address)
        .bytes_of(IFA_ADDRESS, &address)
        .bytes_of(IFA_BROADCAST, &subnet.broadcast().octets());
    netlink.change(&format!("adding {subnet} to {}", link.name), &request)
}

/// An address of IPv6 that an interface has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address6 {
    /// The interface's number.
    pub(super) index: u32,
    pub(super) address: Ipv6Addr,
    pub(super) prefix: u8,
}

fn read6(body: &[u8]) -> Option<Address6> {
    let (header, attributes) = body.split_at_checked(HEADER)?;
    if header[0] != AF_INET6 {
        return None;
    }
    let local = attribute(attributes, IFA_LOCAL).or_else(|| attribute(attributes, IFA_ADDRESS))?;
    let bytes: [u8; 16] = local.try_into().ok()?;
    Some(Address6 {
        index: u32_of(&header[4..])?,
        address: bytes.into(),
        prefix: header[1].min(128),
    })
}

/// All of IPv6.
pub(super) fn all6(netlink: &mut Netlink) -> Result<Vec<Address6>, Error> {
    let mut header = [0; HEADER];
    header[0] = AF_INET6;
    netlink.dump(
        "listing addresses of IPv6",
        RTM_GETADDR,
        |kind, flags| Request::new(kind, flags, &header),
        read6,
    )
}

/// Gives an interface an address of a network of 64 bits. Nobody is asked whether it is free: the network is the host's own.
pub(super) fn add6(netlink: &mut Netlink, link: &Link, address: Ipv6Addr) -> Result<(), Error> {
    let mut header = [0; HEADER];
    let scope = if address.is_unicast_link_local() {
        RT_SCOPE_LINK
    } else {
        0
    };
    header[..4].copy_from_slice(&[AF_INET6, PREFIX6, IFA_F_NODAD as u8, scope]);
    header[4..].copy_from_slice(&link.index.to_ne_bytes());
    let request = Request::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &header)
        .bytes_of(IFA_LOCAL, &address.octets())
        .bytes_of(IFA_ADDRESS, &address.octets());
    netlink.change(&format!("adding {address}/{PREFIX6} to {}", link.name), &request)
}

/// The address on its link that is made of a card's (RFC 4291, appendix A).
pub(super) fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_an_address_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..64), family in any::<bool>()) {
            let mut bytes = bytes;
            if let (Some(first), true) = (bytes.first_mut(), family) {
                *first = AF_INET;
            }
            if let Some(address) = read(&bytes) {
                prop_assert!(address.prefix <= 32);
            }
        }
    }
}
