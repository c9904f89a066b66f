//! Entries for fuzzers: documents of clients.

use crate::Defaults;
use crate::domain::{Domain, class};
use crate::network::Network;
use crate::secret::Secret;
use crate::storage::{Pool, Volume};

/// The definition of a guest. What is taken is given back in a form that is taken for the same.
pub fn domain(input: &[u8]) {
    let Ok(xml) = std::str::from_utf8(input) else {
        return;
    };
    let defaults = Defaults {
        machine: "ostler-q35-1".into(),
        cpu_model: "x86-64-v3".into(),
        memballoon: true,
    };
    let random = &mut |bytes: &mut [u8]| bytes.fill(7);
    let _ = class(xml);
    if let Ok(domain) = Domain::define(xml, &defaults, random) {
        let text = domain.xml(true);
        let again =
            Domain::define(&text, &defaults, random).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(again.xml(true), text);
    }
}

/// Networks, pools, volumes and secrets; likewise.
pub fn objects(input: &[u8]) {
    let Ok(xml) = std::str::from_utf8(input) else {
        return;
    };
    let random = &mut |bytes: &mut [u8]| bytes.fill(7);
    if let Ok(network) = Network::define(xml, "virbr0", random) {
        assert_eq!(
            Network::define(&network.xml(), "virbr1", random).unwrap(),
            network
        );
    }
    if let Ok(pool) = Pool::define(xml, random) {
        assert_eq!(Pool::define(&pool.xml(None), random).unwrap(), pool);
    }
    let _ = Volume::parse(xml, None);
    let _ = Volume::parse(xml, Some(1 << 20));
    if let Ok(secret) = Secret::define(xml, random) {
        assert_eq!(Secret::define(&secret.xml(), random).unwrap(), secret);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_fuzzers_found_is_survived() {
        ostler_corpus::replay("libvirt-xml-domain", super::domain);
        ostler_corpus::replay("libvirt-xml-objects", super::objects);
    }
}
