//! The table of doorbells.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use ostler_bus::{Doorbell, Space};
use vmm_sys_util::eventfd::EventFd;

type Bells = BTreeMap<(Space, u64), Vec<(Doorbell, Arc<EventFd>)>>;

/// Doorbells by address, read without locks.
#[derive(Default)]
pub struct DoorbellTable {
    bells: ArcSwap<Bells>,
    /// Serializes changes.
    change: Mutex<()>,
}

impl DoorbellTable {
    /// Adds a doorbell.
    pub fn add(&self, doorbell: Doorbell, event: &EventFd) -> io::Result<()> {
        let event = Arc::new(event.try_clone()?);
        self.change(|bells| {
            bells
                .entry((doorbell.space, doorbell.address))
                .or_default()
                .push((doorbell, event));
            Ok(())
        })
    }

    /// Takes a doorbell away.
    pub fn remove(&self, doorbell: Doorbell) -> io::Result<()> {
        self.change(|bells| {
            let key = (doorbell.space, doorbell.address);
            let here = bells.get_mut(&key).ok_or(io::ErrorKind::NotFound)?;
            let at = here
                .iter()
                .position(|(known, _)| *known == doorbell)
                .ok_or(io::ErrorKind::NotFound)?;
            here.swap_remove(at);
            if here.is_empty() {
                bells.remove(&key);
            }
            Ok(())
        })
    }

    fn change(&self, change: impl FnOnce(&mut Bells) -> io::Result<()>) -> io::Result<()> {
        let _guard = self
            .change
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut bells = Bells::clone(&self.bells.load());
        change(&mut bells)?;
        self.bells.store(Arc::new(bells));
        Ok(())
    }

    /// Signals the doorbell that matches this write. Returns false if there is none.
    pub fn ring(&self, space: Space, address: u64, width: u8, value: u64) -> bool {
        let bells = self.bells.load();
        let Some(here) = bells.get(&(space, address)) else {
            return false;
        };
        let mask = if width >= 8 {
            u64::MAX
        } else {
            (1 << (width * 8)) - 1
        };
        for (bell, event) in here {
            if bell.width.is_none_or(|w| w == width) && bell.value.is_none_or(|v| v == value & mask) {
                // A full counter (2^64 - 2 rings not yet read) still wakes the reader.
                let _ = event.write(1);
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_rings_for_its_address_width_and_value_only() {
        let table = DoorbellTable::default();
        let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let bell = Doorbell {
            space: Space::Memory,
            address: 0x1000,
            width: Some(2),
            value: Some(3),
        };
        table.add(bell, &event).unwrap();
        assert!(!table.ring(Space::Memory, 0x1000, 4, 3));
        assert!(!table.ring(Space::Memory, 0x1000, 2, 4));
        assert!(!table.ring(Space::Port, 0x1000, 2, 3));
        assert!(table.ring(Space::Memory, 0x1000, 2, 0xffff_0003));
        assert_eq!(event.read().unwrap(), 1);
        table.remove(bell).unwrap();
        assert!(!table.ring(Space::Memory, 0x1000, 2, 3));
        assert!(table.remove(bell).is_err());
    }
}
