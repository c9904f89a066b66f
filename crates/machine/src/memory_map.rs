//! What the accelerator maps of a guest: RAM and ROM as the board has them, the frame buffer, persistent memory, and memory that comes
//! and goes.

use std::sync::{Arc, Mutex};

use ostler_accel::Vm;
use ostler_display::{FrameBufferMap, LEGACY_WINDOW, LEGACY_WINDOW_SIZE};
use ostler_memory::{GuestRam, RamSlot, persistent_slots};

use crate::Error;
use crate::registers::lock;

/// Start and end of the hole that a display's window below 1 MiB needs in RAM.
const HOLE: (u64, u64) = (LEGACY_WINDOW, LEGACY_WINDOW + LEGACY_WINDOW_SIZE);

/// The map. Its lock is held while the accelerator takes a new one over; nothing else is locked under it.
pub struct MemoryMap {
    vm: Arc<dyn Vm>,
    state: Mutex<State>,
}

struct State {
    board: Vec<RamSlot>,
    /// What the board maps for CPUs in system management mode, if the guest has that.
    board_in_smm: Option<Vec<RamSlot>>,
    frame_buffer: Option<RamSlot>,
    persistent: Vec<RamSlot>,
    /// The blocks that are plugged.
    plugged: Vec<RamSlot>,
    /// The whole map outside system management mode, once it is not what the virtual machine was made with any more.
    all: Option<Arc<[RamSlot]>>,
}

impl State {
    /// The map with what `board` maps. Whatever is not the board's is in each of them.
    fn with(&self, board: &[RamSlot]) -> Vec<RamSlot> {
        let others = self.frame_buffer.iter().chain(&self.persistent);
        let slots = board.iter().chain(others).chain(&self.plugged);
        slots.cloned().collect()
    }
}

impl MemoryMap {
    /// The map that `vm` was made with: all that `ram` has from the start, and persistent memory.
    pub fn new(vm: Arc<dyn Vm>, ram: &GuestRam) -> Arc<Self> {
        let state = Mutex::new(State {
            board: RamSlot::all_of(ram),
            board_in_smm: None,
            frame_buffer: None,
            persistent: persistent_slots(ram),
            plugged: Vec::new(),
            all: None,
        });
        Arc::new(Self { vm, state })
    }

    /// What the accelerator maps now, if that is not what the virtual machine was made with.
    pub fn changed_slots(&self) -> Option<Arc<[RamSlot]>> {
        lock(&self.state).all.clone()
    }

    /// The virtual machine that has the map.
    pub fn vm(&self) -> &Arc<dyn Vm> {
        &self.vm
    }

    /// Changes what the board maps, and what it maps for CPUs in system management mode where there is that. The accelerator has it
    /// when this returns.
    pub fn set_board(&self, slots: Vec<RamSlot>, in_smm: Option<Vec<RamSlot>>) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.board = slots;
        state.board_in_smm = in_smm;
        self.apply(&mut state)
    }

    /// Changes which blocks are mapped of the memory that comes and goes. When this returns, no CPU uses an older map; so it must not
    /// be called on a CPU's thread. After an error the map is as before.
    pub fn set_plugged(&self, slots: Vec<RamSlot>) -> Result<(), Error> {
        let mut state = lock(&self.state);
        let old = std::mem::replace(&mut state.plugged, slots);
        if let Err(error) = self.apply(&mut state) {
            state.plugged = old;
            if let Err(error) = self.apply(&mut state) {
                tracing::error!(%error, "the guest's memory map cannot be what it was");
            }
            return Err(error);
        }
        drop(state);
        self.vm.settle();
        Ok(())
    }

    /// Gives the accelerator the map.
    fn apply(&self, state: &mut State) -> Result<(), Error> {
        let all = state.with(&state.board);
        state.all = Some(all.clone().into());
        let in_smm = state.board_in_smm.as_deref().map(|board| state.with(board));
        match (self.vm.system_management(), in_smm) {
            (Some(accelerator), Some(in_smm)) => Ok(accelerator.set_slots(all, in_smm)?),
            _ => Ok(self.vm.set_slots(all)?),
        }
    }
}

impl FrameBufferMap for MemoryMap {
    fn place_frame_buffer(&self, slot: Option<RamSlot>) {
        let mut state = lock(&self.state);
        state.frame_buffer = slot;
        if let Err(error) = self.apply(&mut state) {
            tracing::error!(%error, "the frame buffer cannot be mapped into the guest's memory");
        }
    }
}

/// All RAM but what a display's window hides.
pub fn without_window(ram: &GuestRam) -> Vec<RamSlot> {
    let mut slots = Vec::new();
    for slot in RamSlot::all_of(ram) {
        let end = slot.gpa + slot.len;
        if slot.gpa >= HOLE.1 || end <= HOLE.0 {
            slots.push(slot);
            continue;
        }
        let pieces = [(slot.gpa, HOLE.0), (HOLE.1, end)];
        slots.extend(
            pieces
                .into_iter()
                .filter(|(start, end)| start < end)
                .map(|(start, end)| part(&slot, start - slot.gpa, end - slot.gpa)),
        );
    }
    slots
}

/// The bytes `[start, end)` of a slot.
pub fn part(slot: &RamSlot, start: u64, end: u64) -> RamSlot {
    RamSlot {
        gpa: slot.gpa + start,
        len: end - start,
        mapping: slot.mapping.clone(),
        offset: slot.offset + start,
        writable: slot.writable,
    }
}
