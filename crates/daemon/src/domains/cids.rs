//! The CIDs of guests that run: no two of them have the same.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ostler_libvirt::types::Uuid;
use ostler_libvirt::{Code, RemoteError};

use super::plan::Vsock;

/// Who has which.
#[derive(Default)]
pub struct Cids(Mutex<BTreeMap<Uuid, u32>>);

impl Cids {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Uuid, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the CID that a guest wishes, or the first that is free; none without a wish. A guest that starts again keeps its own.
    pub fn take(&self, guest: &Uuid, wish: Option<&Vsock>) -> Result<Option<u32>, RemoteError> {
        let mut taken = self.lock();
        let Some(wish) = wish else {
            taken.remove(guest);
            return Ok(None);
        };
        let is_free = |cid: u32| !taken.iter().any(|(other, has)| *has == cid && other != guest);
        let cid = match wish.cid {
            Some(cid) if is_free(cid) => cid,
            Some(cid) => {
                let why = format!("guest CID {cid} is in use by another guest");
                return Err(RemoteError::new(Code::OperationFailed, why));
            }
            None => {
                let own = taken.get(guest).copied();
                let mut all = own.into_iter().chain(ostler_virtio::vsock::GUEST_CIDS);
                let none = || RemoteError::new(Code::OperationFailed, "no guest CID is free");
                all.find(|cid| is_free(*cid)).ok_or_else(none)?
            }
        };
        taken.insert(*guest, cid);
        Ok(Some(cid))
    }

    /// Notes what a guest has that a daemon before us started.
    pub fn found(&self, guest: &Uuid, cid: u32) {
        self.lock().insert(*guest, cid);
    }

    /// The guest runs no more.
    pub fn give_back(&self, guest: &Uuid) {
        self.lock().remove(guest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(cid: Option<u32>) -> Vsock {
        Vsock {
            alias: "vsock0".into(),
            cid,
        }
    }

    #[test]
    fn no_two_guests_have_the_same_and_each_keeps_its_own() {
        let cids = Cids::default();
        let [a, b, c] = [1, 2, 3].map(|n| [n; 16]);
        cids.found(&c, 4);
        assert_eq!(cids.take(&a, Some(&wish(None))).unwrap(), Some(3));
        assert_eq!(cids.take(&b, Some(&wish(None))).unwrap(), Some(5));
        assert_eq!(
            cids.take(&b, Some(&wish(None))).unwrap(),
            Some(5),
            "it starts again"
        );
        let said = cids.take(&b, Some(&wish(Some(3)))).unwrap_err();
        assert!(said.detail.contains("guest CID 3 is in use"), "{said}");
        cids.give_back(&a);
        assert_eq!(cids.take(&b, Some(&wish(Some(3)))).unwrap(), Some(3));
        assert_eq!(cids.take(&b, None).unwrap(), None);
        assert_eq!(cids.take(&a, Some(&wish(None))).unwrap(), Some(3));
    }
}
