//! A register block whose place on a bus the guest programs.

use std::sync::{Arc, Mutex};

use ostler_bus::{AddressMap, Device, Range};

use crate::registers::lock;

/// A device and where it is now.
pub struct Movable {
    map: Arc<AddressMap>,
    state: Mutex<State>,
}

struct State {
    /// None once it has gone for good.
    device: Option<Arc<dyn Device>>,
    place: Option<Range>,
}

impl Movable {
    /// A device that is not on the bus yet.
    pub fn new(map: Arc<AddressMap>, device: Arc<dyn Device>) -> Self {
        Self {
            map,
            state: Mutex::new(State {
                device: Some(device),
                place: None,
            }),
        }
    }

    /// Moves it. Where another device is in the way it answers nowhere, until it is moved again.
    pub fn move_to(&self, wanted: Option<Range>) {
        let mut state = lock(&self.state);
        if state.place == wanted {
            return;
        }
        if let Some(old) = state.place.take() {
            self.map.remove(old.base);
        }
        if let (Some(range), Some(device)) = (wanted, state.device.clone()) {
            match self.map.insert(range, device) {
                Ok(()) => state.place = Some(range),
                Err(error) => tracing::debug!(%error, "the guest moved registers to where they cannot be"),
            }
        }
    }

    /// Takes the device off the bus for good, and lets it go.
    pub fn detach(&self) {
        self.move_to(None);
        lock(&self.state).device = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ones;

    impl Device for Ones {
        fn read(&self, _: u64, data: &mut [u8]) {
            data.fill(1);
        }
        fn write(&self, _: u64, _: &[u8]) {}
    }

    #[test]
    fn it_follows_and_yields_to_what_is_there() {
        let map = Arc::new(AddressMap::new());
        map.insert(Range::new(0x100, 0x10), Arc::new(Ones)).unwrap();
        let movable = Movable::new(map.clone(), Arc::new(Ones));
        let mut byte = [0];
        movable.move_to(Some(Range::new(0x200, 0x10)));
        assert!(map.read(0x20f, &mut byte));
        movable.move_to(Some(Range::new(0x108, 0x10)));
        assert!(!map.read(0x20f, &mut byte) && !map.read(0x110, &mut byte));
        movable.move_to(Some(Range::new(0x110, 0x10)));
        assert!(map.read(0x110, &mut byte));
        movable.move_to(None);
        assert!(!map.read(0x110, &mut byte));
    }
}
