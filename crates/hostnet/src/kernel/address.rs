//! Addresses of interfaces (`rtnetlink(7)`, RTM_NEWADDR).

use std::net::Ipv4Addr;

use super::link::Link;
use crate::netlink::constants::*;
use crate::netlink::{Netlink, Request, attribute, u32_of};
use crate::{Error, Subnet};

/// Bytes of `struct ifaddrmsg`.
const HEADER: usize = 8;
const AF_INET: u8 = libc::AF_INET as u8;

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
