//! Where what a guest calls leads to on the host, and where the host's forwarded ports lead to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Core;
use crate::config::Transport;
use crate::dns;

impl Core {
    /// Where the host reaches what the guest calls `to`; `None` if it is not to be reached.
    pub(super) fn outside(&self, to: SocketAddr) -> Option<SocketAddr> {
        let address = to.ip();
        if self.config.restrict {
            return None;
        }
        if self.is_name_server(address) && to.port() == dns::PORT {
            return self.config.upstream;
        }
        // Everything else goes by the other router.
        if self.config.router.is_some() {
            return None;
        }
        if self.is_gateway(address) {
            let loopback: IpAddr = match address {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            };
            return self
                .config
                .loopback
                .then_some(SocketAddr::new(loopback, to.port()));
        }
        let nowhere = match address {
            IpAddr::V4(address) => {
                let [first, ..] = address.octets();
                self.config.subnet.contains(address) || matches!(first, 0 | 127 | 224..)
            }
            IpAddr::V6(address) => {
                let inside = self.config.ipv6.is_none_or(|ipv6| ipv6.contains(address));
                inside || is_special(address)
            }
        };
        (!nowhere).then_some(to)
    }

    /// Where a forward leads.
    pub(super) fn forward(&self, index: usize, transport: Transport) -> Option<SocketAddr> {
        let forward = self.config.forwards.get(index)?;
        let only = || {
            let host = self.config.plan.hosts.first()?;
            (!self.config.shared).then_some(host.address.into())
        };
        let guest = forward.guest.or_else(only)?;
        (forward.transport == transport).then_some(SocketAddr::new(guest, forward.port))
    }

    /// The gateway's address in the family of `guest`, in whose name the host speaks to it.
    pub(super) fn gateway_for(&self, guest: IpAddr) -> Option<IpAddr> {
        match guest {
            IpAddr::V4(_) => Some(self.config.subnet.gateway.into()),
            IpAddr::V6(_) => Some(self.config.ipv6?.gateway.into()),
        }
    }
}

/// Addresses that are no other host's: none, the host's own (also written as one of IPv4), those of a link, groups.
fn is_special(address: Ipv6Addr) -> bool {
    // ::/96, of which ::1 is one, and ::ffff:0:0/96 (RFC 4291, 2.5.5).
    let embedded = matches!(address.segments(), [0, 0, 0, 0, 0, 0 | 0xffff, ..]);
    embedded || address.is_unicast_link_local() || address.is_multicast()
}
