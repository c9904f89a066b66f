//! Where what a guest calls leads to on the host, and where the host's forwarded ports lead to.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use super::Core;
use crate::config::Transport;
use crate::dns;

impl Core {
    /// Where the host reaches what the guest calls `to`; `None` if it is not to be reached.
    pub(super) fn outside(&self, to: SocketAddrV4) -> Option<SocketAddr> {
        let address = *to.ip();
        if self.config.restrict {
            return None;
        }
        if self.config.dns == Some(address) && to.port() == dns::PORT {
            return self.config.upstream;
        }
        if address == self.config.subnet.gateway {
            let loopback = SocketAddrV4::new(Ipv4Addr::LOCALHOST, to.port());
            return self.config.loopback.then_some(loopback.into());
        }
        let [first, ..] = address.octets();
        let nowhere = self.config.subnet.contains(address) || matches!(first, 0 | 127 | 224..);
        (!nowhere).then_some(to.into())
    }

    /// Where a forward leads.
    pub(super) fn forward(&self, index: usize, transport: Transport) -> Option<SocketAddrV4> {
        let forward = self.config.forwards.get(index)?;
        let only = || Some(self.config.plan.hosts.first()?.address).filter(|_| !self.config.shared);
        let guest = forward.guest.or_else(only)?;
        (forward.transport == transport).then_some(SocketAddrV4::new(guest, forward.port))
    }
}
