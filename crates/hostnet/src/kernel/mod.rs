//! The kernel's bridge.

mod address;
mod bridge;
mod fdb;
mod link;
mod macvtap;
mod network;
mod numbered;
mod port;
mod tap;
#[cfg(test)]
mod tests;
mod uplink;
mod vlan;

use std::collections::BTreeMap;

use link::Link;
pub use macvtap::{Macvtap, MacvtapMode, MacvtapSpec};
pub use network::{Forward, Network, Ports, Subnet, Subnet6};
pub use numbered::make_numbered;
pub use tap::TapSpec;
pub use uplink::Uplink;

use crate::firewall::Nft;
use crate::netlink::Netlink;
use crate::{
    BackEnd, Bridge, BridgeSettings, Error, Kind, Mac, PortCounters, PortSettings, Station, Tap, check_name,
};

/// The bridges of a network namespace.
pub struct Kernel {
    netlink: Netlink,
}

impl Kernel {
    /// Those of the calling thread's namespace.
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            netlink: Netlink::open()?,
        })
    }

    /// What passed each interface, by its name.
    pub(crate) fn counters(&mut self) -> Result<BTreeMap<String, PortCounters>, Error> {
        let links = link::links(&mut self.netlink)?.into_iter();
        Ok(links
            .filter_map(|link| Some((link.name, link.counters?)))
            .collect())
    }

    /// All taps.
    pub fn taps(&mut self) -> Result<Vec<Tap>, Error> {
        Ok(link::links(&mut self.netlink)?
            .iter()
            .filter_map(tap::tap)
            .collect())
    }

    /// Makes a tap that stays, switched on; on a failure there is none.
    pub fn create_tap(&mut self, spec: &TapSpec) -> Result<(), Error> {
        tap::create(&mut self.netlink, spec)
    }

    /// Makes a macvtap, switched on, and returns the number of its interface; on a failure there is none.
    pub fn create_macvtap(&mut self, spec: &MacvtapSpec) -> Result<u32, Error> {
        macvtap::create(&mut self.netlink, spec)
    }

    /// All macvtaps.
    pub fn macvtaps(&mut self) -> Result<Vec<Macvtap>, Error> {
        macvtap::list(&mut self.netlink)
    }

    /// Ends one of them, whoever has it open.
    pub fn delete_macvtap(&mut self, macvtap: &Macvtap) -> Result<(), Error> {
        macvtap::delete(&mut self.netlink, macvtap)
    }

    /// Ends a tap or a macvtap, whoever has it open.
    pub fn delete_tap(&mut self, name: &str) -> Result<(), Error> {
        tap::delete(&mut self.netlink, name)
    }

    /// Makes the interface through which the host reaches others a port, with its addresses and routes moved to the bridge. All of it
    /// is undone when the [`Uplink`] is dropped unconfirmed.
    pub fn join_uplink(&mut self, bridge: &str, interface: &str) -> Result<Uplink, Error> {
        uplink::join(bridge, interface)
    }

    /// The reverse: takes the port out, with the bridge's addresses and routes moved to it.
    pub fn leave_uplink(&mut self, bridge: &str, interface: &str) -> Result<(), Error> {
        uplink::leave(&mut self.netlink, bridge, interface)
    }

    /// The networks whose rules are in the firewall.
    pub fn networks(&mut self) -> Result<Vec<Network>, Error> {
        network::list(&Nft::of_host())
    }

    /// Makes a network: a bridge with the host's address and rules of the firewall, which the program `nft` enters. The host forwards
    /// packets of IPv4 from then on, unless the network is isolated.
    pub fn create_network(&mut self, network: &Network, settings: &BridgeSettings) -> Result<(), Error> {
        network::create(&mut self.netlink, &Nft::of_host(), network, settings)
    }

    /// Gives a bridge the rules of a network, in place of those that it may have, in one step.
    pub fn set_network(&mut self, network: &Network) -> Result<(), Error> {
        network::set(&mut self.netlink, &Nft::of_host(), network)
    }

    /// Ends a network, the bridge and the rules.
    pub fn delete_network(&mut self, name: &str) -> Result<(), Error> {
        network::delete(&mut self.netlink, &Nft::of_host(), name)
    }

    /// Gives a bridge another Ethernet address.
    pub fn set_bridge_mac(&mut self, name: &str, mac: Mac) -> Result<(), Error> {
        let (bridge, _) = self.find(name)?;
        let what = format!("giving {name} the address {mac}");
        self.netlink.change(&what, &link::set_mac(bridge.index, mac))
    }

    /// Gives the host its address of IPv6 at a network's bridge, and the one on the link by which guests know it as their router.
    pub fn give_ipv6(&mut self, bridge: &str, address: Subnet6) -> Result<(), Error> {
        network::give_ipv6(&mut self.netlink, bridge, address)
    }

    /// The host's first address of IPv4 at a bridge.
    pub fn address_of(&mut self, bridge: &str) -> Result<Subnet, Error> {
        network::address_of(&mut self.netlink, bridge)
    }

    /// The bridge of that name and all interfaces.
    fn find(&mut self, name: &str) -> Result<(Link, Vec<Link>), Error> {
        find_bridge(&mut self.netlink, name)
    }

    fn find_port(&mut self, bridge: &str, port: &str) -> Result<(Link, Link), Error> {
        let (bridge, links) = self.find(bridge)?;
        let port = find_port(&bridge, &links, port)?;
        Ok((bridge, port))
    }
}

fn find_bridge(netlink: &mut Netlink, name: &str) -> Result<(Link, Vec<Link>), Error> {
    let links = link::links(netlink)?;
    let bridge = links.iter().find(|l| l.is_bridge() && l.name == name).cloned();
    Ok((
        bridge.ok_or_else(|| Error::NoBridge(Kind::Kernel, name.into()))?,
        links,
    ))
}

fn find_port(bridge: &Link, links: &[Link], port: &str) -> Result<Link, Error> {
    let found = links.iter().find(|l| l.is_port_of(bridge) && l.name == port);
    found.cloned().ok_or_else(|| Error::NoPort {
        bridge: bridge.name.clone(),
        port: port.into(),
    })
}

fn unsupported(what: impl Into<String>) -> Error {
    Error::Unsupported {
        who: Kind::Kernel,
        what: what.into(),
    }
}

impl BackEnd for Kernel {
    fn kind(&self) -> Kind {
        Kind::Kernel
    }

    fn bridges(&mut self) -> Result<Vec<Bridge>, Error> {
        let links = link::links(&mut self.netlink)?;
        let vlans = vlan::all(&mut self.netlink)?;
        let mut bridges: Vec<Bridge> = links
            .iter()
            .filter(|link| link.is_bridge())
            .map(|link| bridge::view(link, &links, &vlans))
            .collect();
        bridges.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(bridges)
    }

    fn create(&mut self, name: &str, settings: &BridgeSettings) -> Result<(), Error> {
        bridge::create(&mut self.netlink, check_name(name)?, settings)
    }

    fn delete(&mut self, name: &str) -> Result<(), Error> {
        self.find(name)?;
        self.netlink
            .change(&format!("deleting the bridge {name}"), &link::delete(name))
    }

    fn set_bridge(&mut self, name: &str, settings: &BridgeSettings) -> Result<(), Error> {
        let (bridge, _) = self.find(name)?;
        bridge::check(&bridge, settings)?;
        self.netlink
            .transaction(|transaction| bridge::set(transaction, &bridge, settings))?;
        Ok(())
    }

    fn add_port(&mut self, bridge: &str, port: &str, settings: &PortSettings) -> Result<(), Error> {
        let (bridge, links) = self.find(bridge)?;
        settings.check()?;
        let free = port::free(&links, port)?;
        self.netlink
            .transaction(|transaction| port::add(transaction, &bridge, &free, settings))?;
        Ok(())
    }

    fn remove_port(&mut self, bridge: &str, port: &str) -> Result<(), Error> {
        let (bridge, port) = self.find_port(bridge, port)?;
        let what = format!("taking {} out of {}", port.name, bridge.name);
        self.netlink.change(&what, &link::set_master(port.index, 0))
    }

    fn set_port(&mut self, bridge: &str, port: &str, settings: &PortSettings) -> Result<(), Error> {
        let (bridge, port) = self.find_port(bridge, port)?;
        settings.check()?;
        self.netlink
            .transaction(|transaction| port::set(transaction, &bridge, &port, settings))?;
        Ok(())
    }

    fn stations(&mut self, bridge: &str) -> Result<Vec<Station>, Error> {
        let (bridge, links) = self.find(bridge)?;
        fdb::stations(&mut self.netlink, &bridge, &links)
    }

    fn add_station(&mut self, bridge: &str, port: &str, mac: Mac, vlan: Option<u16>) -> Result<(), Error> {
        let (bridge, port) = self.find_port(bridge, port)?;
        fdb::add(&mut self.netlink, &bridge, &port, mac, vlan)
    }

    fn remove_station(&mut self, bridge: &str, port: &str, mac: Mac, vlan: Option<u16>) -> Result<(), Error> {
        let (bridge, port) = self.find_port(bridge, port)?;
        fdb::remove(&mut self.netlink, &bridge, &port, mac, vlan)
    }

    fn flush(&mut self, bridge: &str, port: Option<&str>) -> Result<(), Error> {
        let request = match port {
            Some(port) => fdb::flush_port(&self.find_port(bridge, port)?.1),
            None => fdb::flush(&self.find(bridge)?.0),
        };
        self.netlink
            .change(&format!("flushing the forwarding table of {bridge}"), &request)
    }
}
