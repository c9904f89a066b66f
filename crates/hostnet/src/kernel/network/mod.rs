//! Networks of the kernel's: a bridge, the host's address at it, and rules that say whom its stations reach.
//!
//! Nothing is kept in a file: what a network is stands in its table of the firewall, so it is gone together with its rules.

mod forwarding;
mod spec;
mod subnet;
mod subnet6;
#[cfg(test)]
mod tests;

pub use spec::{Forward, Network, Ports};
pub use subnet::Subnet;
pub use subnet6::Subnet6;

use super::{address, bridge, find_bridge, link};
use crate::firewall::{self, Nft};
use crate::netlink::Netlink;
use crate::{BridgeSettings, Error};

/// All of them, by name.
pub(super) fn list(nft: &Nft) -> Result<Vec<Network>, Error> {
    let mut networks = firewall::networks(nft)?;
    networks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(networks)
}

fn find(nft: &Nft, name: &str) -> Result<Network, Error> {
    let mut all = firewall::networks(nft)?.into_iter();
    all.find(|network| network.name == name)
        .ok_or_else(|| Error::NoNetwork(name.into()))
}

/// Refuses an address of a subnet in which the host has one already, but for those of the interface `own`.
fn check_free(netlink: &mut Netlink, network: &Network, own: Option<u32>) -> Result<(), Error> {
    let links = link::links(netlink)?;
    for taken in address::all(netlink)? {
        let other = Some(taken.index) != own;
        if other && network.address.overlaps(taken.address, taken.prefix) {
            let owner = links.iter().find(|link| link.index == taken.index);
            return Err(Error::AddressTaken {
                wanted: network.address.to_string(),
                taken: format!("{}/{}", taken.address, taken.prefix),
                owner: owner.map_or_else(|| format!("interface {}", taken.index), |l| l.name.clone()),
            });
        }
    }
    Ok(())
}

/// Takes the first steps of a change back after a later one failed.
fn undone(cause: Error, undo: &mut [&mut dyn FnMut() -> Result<(), Error>]) -> Error {
    let left: Vec<String> = undo
        .iter_mut()
        .filter_map(|step| step().err().map(|error| error.to_string()))
        .collect();
    match left.is_empty() {
        true => cause,
        false => Error::NotUndone {
            cause: Box::new(cause),
            left: left.join("; "),
        },
    }
}

/// Has the host forward packets where a network needs it.
fn switch_forwarding(network: &Network) -> Result<(), Error> {
    match network.forward {
        Forward::Isolated => Ok(()),
        Forward::Nat | Forward::Route | Forward::Open => {
            forwarding::switch_on()?;
            match network.address6 {
                Some(_) => forwarding::switch_on6(&network.name),
                None => Ok(()),
            }
        }
    }
}

/// Makes a bridge with its address and its rules. The forwarding of packets comes last: it is the step that is not taken back.
pub(super) fn create(
    netlink: &mut Netlink,
    nft: &Nft,
    network: &Network,
    settings: &BridgeSettings,
) -> Result<(), Error> {
    network.check()?;
    check_free(netlink, network, None)?;
    bridge::create(netlink, &network.name, settings)?;
    let delete = |netlink: &mut Netlink| {
        let what = format!("deleting the bridge {}", network.name);
        netlink.change(&what, &link::delete(&network.name))
    };
    let addressed = link::link(netlink, &network.name)
        .and_then(|bridge| address::add(netlink, &bridge, network.address))
        .and_then(|()| firewall::replace(nft, network));
    if let Err(cause) = addressed {
        return Err(undone(cause, &mut [&mut || delete(netlink)]));
    }
    switch_forwarding(network).map_err(|cause| {
        undone(
            cause,
            &mut [&mut || delete(netlink), &mut || {
                firewall::remove(nft, &network.name)
            }],
        )
    })
}

/// Gives a bridge other rules at once; the bridge may be one that somebody else made. Its address is the network's.
pub(super) fn set(netlink: &mut Netlink, nft: &Nft, network: &Network) -> Result<(), Error> {
    network.check()?;
    let (bridge, _) = find_bridge(netlink, &network.name)?;
    check_free(netlink, network, Some(bridge.index))?;
    let had = firewall::networks(nft)?
        .into_iter()
        .find(|other| other.name == network.name);
    firewall::replace(nft, network)?;
    switch_forwarding(network).map_err(|cause| {
        let mut back = || match &had {
            Some(had) => firewall::replace(nft, had),
            None => firewall::remove(nft, &network.name),
        };
        undone(cause, &mut [&mut back])
    })
}

/// Gives the host its address of IPv6 at a network's bridge, and one on the link that is made of the bridge's card, by which guests know
/// it as their router. What is there already stays.
pub(super) fn give_ipv6(netlink: &mut Netlink, name: &str, subnet: Subnet6) -> Result<(), Error> {
    let (bridge, links) = find_bridge(netlink, name)?;
    let all = address::all6(netlink)?;
    for taken in &all {
        if taken.index != bridge.index && subnet.overlaps(taken.address, taken.prefix) {
            let owner = links.iter().find(|link| link.index == taken.index);
            return Err(Error::AddressTaken {
                wanted: subnet.to_string(),
                taken: format!("{}/{}", taken.address, taken.prefix),
                owner: owner.map_or_else(|| format!("interface {}", taken.index), |l| l.name.clone()),
            });
        }
    }
    // Guests are no routers for the host.
    forwarding::hear_no_routers(name)?;
    let mac = bridge.mac.ok_or_else(|| Error::NoInterface(name.into()))?;
    for address in [subnet.address(), address::link_local(mac)] {
        let there = |other: &address::Address6| (other.index, other.address) == (bridge.index, address);
        if !all.iter().any(there) {
            address::add6(netlink, &bridge, address)?;
        }
    }
    Ok(())
}

/// The host's first address at a bridge.
pub(super) fn address_of(netlink: &mut Netlink, name: &str) -> Result<Subnet, Error> {
    let (bridge, _) = find_bridge(netlink, name)?;
    let mut all = address::all(netlink)?.into_iter();
    let found = all.find(|address| address.index == bridge.index);
    let found = found.ok_or_else(|| Error::NoAddress(name.into()))?;
    Subnet::new(found.address, found.prefix)
}

/// Ends a network: the bridge first, so that nobody is connected without rules; its ports are left to the host. A bridge that is gone
/// already is no obstacle.
pub(super) fn delete(netlink: &mut Netlink, nft: &Nft, name: &str) -> Result<(), Error> {
    find(nft, name)?;
    match find_bridge(netlink, name) {
        Err(Error::NoBridge(..)) => {}
        Err(error) => return Err(error),
        Ok(_) => netlink.change(&format!("deleting the bridge {name}"), &link::delete(name))?,
    }
    firewall::remove(nft, name)
}
