//! The name server at work.

use super::Core;
use crate::dns::{Code, Query};
use crate::guests::locked;
use crate::time::Millis;

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
        let address = directory.lookup(&query.name, now).or_else(|| match name {
            "gateway" | "host" => Some(self.config.subnet.gateway),
            "dns" => self.config.dns,
            name => directory.lookup(name, now),
        });
        drop(directory);
        if address.is_some() || ours {
            return Some(query.answer(Code::NoError, address));
        }
        let nobody = self.config.restrict || self.config.upstream.is_none();
        nobody.then(|| query.answer(Code::Refused, None))
    }
}
