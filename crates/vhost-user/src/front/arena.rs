//! The memory that a back end and we share: rings, then room for the bytes of requests.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use ostler_memory::IoBuf;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use vm_memory::{FileOffset, MmapRegion};

use super::BackEndError;
use crate::message::Region;

/// Bytes of a ring with all its parts.
pub(super) const RING_BYTES: u64 = 64 << 10;
/// Where room for requests starts: behind at most 16 rings.
const ROOM_START: u64 = 1 << 20;
/// Room for requests, in bytes. Only what was used once takes memory of the host.
pub(crate) const ROOM: u64 = 32 << 20;
const LEN: u64 = ROOM_START + ROOM;
/// What the back end knows the memory by, as an address of the guest and of this process: neither is true.
pub(super) const BASE: u64 = 1 << 32;

/// Shared memory of one start of the device.
pub(crate) struct Arena {
    map: MmapRegion<()>,
    file: File,
    /// Free room: start and length, by start.
    free: BTreeMap<u64, u64>,
    taken: BTreeMap<u64, u64>,
}

impl Arena {
    /// New memory, full of zeroes, whose size nobody can change.
    pub fn new() -> Result<Self, BackEndError> {
        let refused =
            |source: std::io::Error| BackEndError::host("memory to share with the back end")(source);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(memfd_create("back-end", flags).map_err(|e| refused(e.into()))?);
        file.set_len(LEN).map_err(refused)?;
        // Whoever could make it shorter could end this process by SIGBUS.
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(|e| refused(e.into()))?;
        let mapped = file.try_clone().map_err(refused)?;
        let map = MmapRegion::from_file(FileOffset::new(mapped, 0), LEN as usize)
            .map_err(|error| refused(std::io::Error::other(error)))?;
        Ok(Self {
            map,
            file,
            free: BTreeMap::from([(ROOM_START, ROOM)]),
            taken: BTreeMap::new(),
        })
    }

    /// As it is described to the back end.
    pub fn region(&self) -> Region {
        Region {
            gpa: BASE,
            len: LEN,
            user: BASE,
            offset: 0,
        }
    }

    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Takes `len` bytes, which start at a page.
    pub fn take(&mut self, len: u64) -> Option<u64> {
        let len = len
            .max(1)
            .checked_next_multiple_of(ostler_memory::PAGE_SIZE as u64)?;
        // The first that fits, so that the same few pages are used again and again.
        let (&start, &room) = self.free.iter().find(|(_, room)| **room >= len)?;
        self.free.remove(&start);
        if room > len {
            self.free.insert(start + len, room - len);
        }
        self.taken.insert(start, len);
        Some(start)
    }

    /// Whether [`Arena::take`] would give `len` bytes.
    pub fn has_room(&self, len: u64) -> bool {
        let len = len.max(1).next_multiple_of(ostler_memory::PAGE_SIZE as u64);
        self.free.values().any(|room| *room >= len)
    }

    /// Gives back what [`Arena::take`] gave.
    pub fn give_back(&mut self, mut start: u64) {
        let Some(mut len) = self.taken.remove(&start) else {
            return;
        };
        if let Some((&before, &room)) = self.free.range(..start).next_back()
            && before + room == start
        {
            self.free.remove(&before);
            (start, len) = (before, room + len);
        }
        if let Some(room) = self.free.remove(&(start + len)) {
            len += room;
        }
        self.free.insert(start, len);
    }

    /// Bytes of it, clipped to it.
    pub fn bytes(&self, at: u64, len: usize) -> IoBuf {
        let at = at.min(LEN) as usize;
        IoBuf::new(self.map.as_ptr().wrapping_add(at), len.min(LEN as usize - at))
    }

    fn word<T>(&self, at: u64) -> &T {
        let size = size_of::<T>() as u64;
        assert!(
            at.is_multiple_of(size) && at + size <= LEN,
            "a word of the arena is in it"
        );
        // SAFETY: the word is aligned and in the mapping, which lives as long as `self` and keeps its size. `T` is one of the atomic
        // integers below, for which any bytes are valid, and which others may change.
        unsafe { &*self.map.as_ptr().add(at as usize).cast::<T>() }
    }

    pub fn u16(&self, at: u64) -> &AtomicU16 {
        self.word(at)
    }

    pub fn u32(&self, at: u64) -> &AtomicU32 {
        self.word(at)
    }

    /// Writes a word that nobody looks at before something else is said.
    pub fn set_u64(&self, at: u64, value: u64) {
        self.word::<AtomicU64>(at).store(value.to_le(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nobody_can_change_its_size() {
        let arena = Arena::new().unwrap();
        let file = File::from(arena.file().try_clone_to_owned().unwrap());
        assert!(file.set_len(0).is_err() && file.set_len(LEN * 2).is_err());
        arena.u16(LEN - 2).store(3, Ordering::Relaxed);
        assert_eq!(arena.bytes(LEN - 2, 100).len(), 2);
    }

    proptest! {
        /// Pieces that are taken never overlap, and all room is one again when everything was given back.
        #[test]
        fn room_is_given_once(steps in proptest::collection::vec((any::<bool>(), 0u64..9 << 20), 1..60)) {
            let mut arena = Arena::new().unwrap();
            let mut held: Vec<(u64, u64)> = Vec::new();
            for (take, value) in steps {
                if take {
                    if let Some(start) = arena.take(value) {
                        prop_assert!(start >= ROOM_START && start + value <= LEN && start % 4096 == 0);
                        prop_assert!(held.iter().all(|(other, len)| start + value <= *other || other + len <= start));
                        held.push((start, value.max(1)));
                    }
                } else if !held.is_empty() {
                    arena.give_back(held.swap_remove(value as usize % held.len()).0);
                }
            }
            for (start, _) in held {
                arena.give_back(start);
            }
            prop_assert_eq!(&arena.free, &BTreeMap::from([(ROOM_START, ROOM)]));
        }
    }
}
