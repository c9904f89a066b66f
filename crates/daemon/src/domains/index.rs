//! The guests by UUID and by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ostler_libvirt::types::Uuid;

use super::domain::Domain;

/// All guests. Files that somebody else wrote can give one name to two of them; then the one of the lower UUID has it.
#[derive(Default)]
pub(super) struct Index {
    guests: BTreeMap<Uuid, Arc<Domain>>,
    names: BTreeSet<(String, Uuid)>,
}

impl Index {
    /// Adds a guest. Returns the one that had its UUID.
    pub fn insert(&mut self, domain: Arc<Domain>) -> Option<Arc<Domain>> {
        let before = self.remove(&domain.uuid);
        let name = domain.state().name.clone();
        self.names.insert((name, domain.uuid));
        self.guests.insert(domain.uuid, domain);
        before
    }

    /// Forgets the guest with this UUID.
    pub fn remove(&mut self, uuid: &Uuid) -> Option<Arc<Domain>> {
        let domain = self.guests.remove(uuid)?;
        let name = domain.state().name.clone();
        self.names.remove(&(name, *uuid));
        Some(domain)
    }

    /// Takes in that the guest with this UUID is called otherwise.
    pub fn rename(&mut self, uuid: &Uuid, old: &str, new: &str) {
        if self.names.remove(&(old.to_owned(), *uuid)) {
            self.names.insert((new.to_owned(), *uuid));
        }
    }

    /// The guest with this UUID.
    pub fn get(&self, uuid: &Uuid) -> Option<&Arc<Domain>> {
        self.guests.get(uuid)
    }

    /// The guest of this name.
    pub fn by_name(&self, name: &str) -> Option<&Arc<Domain>> {
        let first = (name.to_owned(), Uuid::default());
        let (found, uuid) = self.names.range(first..).next()?;
        (found == name).then(|| self.guests.get(uuid)).flatten()
    }

    /// Every guest, by UUID.
    pub fn values(&self) -> impl Iterator<Item = &Arc<Domain>> {
        self.guests.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.guests.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domains::definition::Definition;

    fn guest(name: &str, number: u8) -> Arc<Domain> {
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><uuid>00000000-0000-0000-0000-0000000000{number:02x}</uuid>\
             <memory unit='MiB'>16</memory><os><type>hvm</type><kernel>/k</kernel></os></domain>"
        );
        Domain::new(&Definition::read(&xml).unwrap(), None, false)
    }

    fn numbers<'a>(found: impl IntoIterator<Item = &'a Arc<Domain>>) -> Vec<u8> {
        found.into_iter().map(|domain| domain.uuid[15]).collect()
    }

    #[test]
    fn a_guest_is_found_by_what_it_is_called_now() {
        let mut index = Index::default();
        for (name, number) in [("web", 3), ("we", 1), ("webs", 2)] {
            assert!(index.insert(guest(name, number)).is_none());
        }
        assert_eq!((index.len(), numbers(index.values())), (3, vec![1, 2, 3]));
        for (name, number) in [
            ("we", Some(1)),
            ("webs", Some(2)),
            ("web", Some(3)),
            ("w", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(numbers(index.by_name(name)).first().copied(), number, "{name}");
        }
        let web = index.by_name("web").unwrap().clone();
        index.rename(&web.uuid, "web", "other");
        web.state().name = "other".into();
        assert!(index.by_name("web").is_none());
        assert_eq!(numbers(index.by_name("other")), [3]);
        // Another guest of the same UUID takes its place, and its name with it.
        assert_eq!(numbers(&index.insert(guest("third", 3))), [3]);
        assert!(index.by_name("other").is_none());
        assert_eq!(numbers(index.by_name("third")), [3]);
        assert_eq!(numbers(&index.remove(&web.uuid)), [3]);
        assert!(index.by_name("third").is_none() && index.get(&web.uuid).is_none());
        assert_eq!(index.len(), 2);
    }

    #[test]
    fn of_two_guests_of_one_name_each_is_found_when_the_other_is_gone() {
        let mut index = Index::default();
        let (one, two) = (guest("web", 1), guest("web", 2));
        index.insert(two.clone());
        index.insert(one.clone());
        assert_eq!(numbers(index.by_name("web")), [1]);
        index.remove(&one.uuid);
        assert_eq!(numbers(index.by_name("web")), [2]);
        index.remove(&two.uuid);
        assert!(index.by_name("web").is_none());
    }
}
