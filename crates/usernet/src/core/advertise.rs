//! The router speaks of itself: when it is asked, and from time to time (RFC 4861, 6.2).

use std::hash::BuildHasher;
use std::net::Ipv6Addr;

use super::Core;
use crate::config::Dhcp6;
use crate::ndp::{self, Advertised};
use crate::neighbours::link_local;
use crate::output::MTU;
use crate::time::Millis;

/// Between two advertisements to all that nobody asked for: 200 to 600 s, the standard's defaults.
const LEAST: Millis = 200_000;
const MOST: Millis = 600_000;
/// Between two advertisements to all.
const REST: Millis = 3_000;

/// When advertisements to all are sent.
#[derive(Debug, Default)]
pub(super) struct Advertising {
    /// The next one.
    at: Millis,
    last: Option<Millis>,
}

impl Core {
    /// Someone asks for routers. Who has an address is answered by itself, and at once: a delay by chance keeps several routers
    /// apart, and here is one.
    pub(super) fn solicited(&mut self, by: Ipv6Addr, now: Millis) {
        if !by.is_unspecified() {
            return self.send_advertisement(by);
        }
        let soonest = self.advertising.last.map_or(now, |last| last + REST);
        self.advertising.at = self.advertising.at.min(soonest.max(now));
    }

    /// Tells all, if it is time.
    pub(super) fn advertise(&mut self, now: Millis) {
        if self.config.ipv6.is_none() || now < self.advertising.at {
            return;
        }
        let chance = self.secret.hash_one(now) % (MOST - LEAST);
        self.advertising = Advertising {
            at: now + LEAST + chance,
            last: Some(now),
        };
        self.send_advertisement(ndp::ALL_NODES);
    }

    /// When the next one is due.
    pub(super) fn next_advertisement(&self) -> Option<Millis> {
        self.config.ipv6.map(|_| self.advertising.at)
    }

    fn send_advertisement(&mut self, to: Ipv6Addr) {
        let Some(ipv6) = self.config.ipv6 else { return };
        // Whoever leads to the outside is who speaks, so where that is another one, it is in its name.
        let other = self.config.router_mac;
        let leads = match self.config.router {
            Some(_) => other.is_some(),
            None => !self.config.restrict,
        };
        let message = ndp::router_advertisement(&Advertised {
            mac: other.unwrap_or(self.config.mac),
            mtu: MTU as u32,
            default_router: leads,
            managed: ipv6.dhcp == Dhcp6::Managed,
            other: ipv6.dhcp != Dhcp6::Off,
            prefix: ipv6.gateway,
            autonomous: ipv6.slaac,
            dns: ipv6.dns,
            domain: &self.config.domain,
        });
        match other {
            Some(mac) => self.output.discovery_from(link_local(&mac), to, message),
            None => self.output.discovery(to, message),
        }
    }
}
