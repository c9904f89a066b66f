//! The accelerator's memory map, put together from what the board shows and from memory that comes and goes.

use std::sync::{Arc, Mutex};

use ostler_accel::{Error, Vm};
use ostler_memory::{GuestRam, RamSlot};

use crate::registers::lock;

/// The map. Its lock is held while the accelerator takes a new one over.
pub struct Memory {
    vm: Arc<dyn Vm>,
    state: Mutex<State>,
}

struct State {
    board: Vec<RamSlot>,
    more: Vec<RamSlot>,
    all: Arc<[RamSlot]>,
    /// It is not what the virtual machine was made with any more.
    changed: bool,
}

impl Memory {
    /// The map that `vm` was made with: all that `ram` has from the start.
    pub fn new(vm: Arc<dyn Vm>, ram: &GuestRam) -> Self {
        let board = RamSlot::all_of(ram);
        let state = State {
            all: board.clone().into(),
            board,
            more: Vec::new(),
            changed: false,
        };
        Self {
            vm,
            state: Mutex::new(state),
        }
    }

    /// What the board shows now: RAM, ROM, and the holes in them.
    pub fn set_board(&self, slots: Vec<RamSlot>) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.board = slots;
        self.apply(&mut state)
    }

    /// What there is beside it now. When this returns, no CPU uses an older map; so it must not be called on a CPU's thread. After an
    /// error the map is as before.
    pub fn set_more(&self, slots: Vec<RamSlot>) -> Result<(), Error> {
        let mut state = lock(&self.state);
        let old = std::mem::replace(&mut state.more, slots);
        if let Err(error) = self.apply(&mut state) {
            state.more = old;
            if let Err(error) = self.apply(&mut state) {
                tracing::error!(%error, "the guest's memory map cannot be what it was");
            }
            return Err(error);
        }
        drop(state);
        self.vm.settle();
        Ok(())
    }

    /// What the accelerator maps now, if that is not what the virtual machine was made with.
    pub fn changed_slots(&self) -> Option<Arc<[RamSlot]>> {
        let state = lock(&self.state);
        state.changed.then(|| state.all.clone())
    }

    fn apply(&self, state: &mut State) -> Result<(), Error> {
        let all: Vec<RamSlot> = state.board.iter().chain(&state.more).cloned().collect();
        self.vm.set_slots(all.clone())?;
        state.all = all.into();
        state.changed = true;
        Ok(())
    }
}
