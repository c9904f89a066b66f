//! A daemon's stores, and what they have.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use crate::OpenKvm;
use crate::domains::Domains;
use crate::events::Events;
use crate::groups::Groups;
use crate::guest::Outside;
use crate::networks::Networks;
use crate::secrets::Secrets;
use crate::storage::{Places, Pools};

/// Everything that lasts.
pub struct Stores {
    pub domains: Arc<Domains>,
    pub networks: Arc<Networks>,
    pub pools: Arc<Pools>,
    pub secrets: Secrets,
}

/// What there is: the text of each definition, and whether it starts with the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen(BTreeMap<String, (String, bool)>);

impl Stores {
    /// Opened as a daemon does when it starts.
    pub fn open(root: &Path, runtime: &Path, images: &Path) -> Self {
        // Nothing is there yet, the folder of everything included.
        let state = root.join("lib/ostler");
        let networks = Networks::open(&state.join("networks"), runtime).unwrap();
        networks.load().unwrap();
        let places = Places {
            definitions: &state.join("pools"),
            running: &runtime.join("pools"),
            images,
        };
        let pools = Pools::open(&places).unwrap();
        let outside = Outside {
            networks: Box::new(|_| unreachable!("no guest is started")),
            volumes: Box::new(|_, _| unreachable!("no guest is started")),
        };
        let kvm: OpenKvm = Box::new(|| Err("no guest is started".into()));
        let (guests, events) = (state.join("guests"), Arc::new(Events::default()));
        Self {
            domains: Domains::open(&guests, runtime, kvm, (outside, Groups::new(None)), events).unwrap(),
            networks,
            pools,
            secrets: Secrets::open(&state.join("secrets")).unwrap(),
        }
    }

    /// What clients are told that lasts.
    pub fn look(&self) -> Seen {
        let mut seen = BTreeMap::new();
        for domain in self.domains.all() {
            let state = domain.state();
            let definition = state.persistent.as_ref().unwrap();
            assert_eq!(state.name, definition.name);
            let found = (definition.xml.to_string(), state.autostart);
            assert_eq!(seen.insert(format!("guest {}", state.name), found), None);
        }
        for network in self.networks.all() {
            let state = network.state();
            let definition = state.persistent.as_ref().unwrap();
            let found = (definition.network.xml(), state.autostart);
            assert_eq!(seen.insert(format!("network {}", network.name), found), None);
        }
        for pool in self.pools.all() {
            let state = pool.state();
            let found = (state.persistent.as_ref().unwrap().xml(None), state.autostart);
            assert_eq!(seen.insert(format!("pool {}", pool.name), found), None);
        }
        for secret in self.secrets.all(|definition| !definition.ephemeral) {
            let name = crate::uuid::format(&secret.uuid);
            let text = self.secrets.xml(&secret).unwrap();
            let value = self.secrets.value(&secret).ok();
            seen.insert(format!("secret {name}"), (format!("{text}{value:?}"), false));
        }
        Seen(seen)
    }
}

impl Seen {
    /// What there is, without its text.
    pub fn names(&self) -> Vec<(&str, bool)> {
        self.0
            .iter()
            .map(|(name, (_, autostart))| (name.as_str(), *autostart))
            .collect()
    }

    /// Whether a file, if it is a definition, is of something that is there: one that is left out would be there another time.
    pub fn has(&self, path: &Path) -> bool {
        let text = path.to_string_lossy();
        let place = text.strip_suffix(".xml").and_then(|place| place.rsplit_once('/'));
        let Some((folder, name)) = place else {
            return true;
        };
        let kinds = [
            ("guests", "guest"),
            ("networks", "network"),
            ("pools", "pool"),
            ("secrets", "secret"),
        ];
        let kind = kinds.iter().find(|(place, _)| folder.ends_with(place));
        kind.is_none_or(|(_, kind)| self.0.contains_key(&format!("{kind} {name}")))
    }

    /// What is not the same in `other`.
    pub fn difference(&self, other: &Self) -> String {
        let names: BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        let differ = names
            .into_iter()
            .filter(|name| self.0.get(*name) != other.0.get(*name));
        differ
            .map(|name| format!("{name}: {:?} became {:?}\n", self.0.get(name), other.0.get(name)))
            .collect()
    }
}
