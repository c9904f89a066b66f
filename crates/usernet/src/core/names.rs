//! The name server at work.

use std::net::{IpAddr, Ipv6Addr};

use super::Core;
use crate::dns::{Code, Query};
use crate::guests::locked;
use crate::time::Millis;
use crate::wire::Mac;

impl Core {
    /// The answer to a query that is answered here.
    pub(super) fn answer(&self, query: &Query<'_>, now: Millis) -> Option<Vec<u8>> {
        let in_domain = query.name.strip_suffix(self.config.domain.as_str());
        let in_domain = in_domain.and_then(|name| name.strip_suffix('.'));
        let (name, ours) = match in_domain {
            Some(name) if !self.config.domain.is_empty() => (name, true),
            _ => (&*query.name, false),
        };
        let directory = locked(&self.directory);
        // A name may be set with the domain in it.
        let v4 = directory.lookup(&query.name, now).or_else(|| match name {
            "gateway" | "host" => Some(self.config.subnet.gateway),
            "dns" => self.config.dns,
            name => directory.lookup(name, now),
        });
        let ipv6 = self.config.ipv6;
        let seen = |card: &Mac| {
            let fits = |address: &Ipv6Addr| ipv6.is_some_and(|ipv6| ipv6.is_guest(*address));
            self.output.neighbours.address6(card, fits)
        };
        let v6 = directory.lookup6(&query.name, seen, now).or_else(|| match name {
            "gateway" | "host" => Some(ipv6?.gateway),
            "dns" => ipv6?.dns,
            name => directory.lookup6(name, seen, now),
        });
        drop(directory);
        if v4.is_some() || v6.is_some() || ours {
            let address = if query.wants_ipv6() {
                v6.map(IpAddr::V6)
            } else {
                v4.map(IpAddr::V4)
            };
            return Some(query.answer(Code::NoError, address));
        }
        let nobody = self.config.restrict || self.config.upstream.is_none();
        nobody.then(|| query.answer(Code::Refused, None))
    }
}
