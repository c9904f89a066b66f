//! What the accelerator maps of a guest whose memory map changes: RAM and ROM as the board has them, and the frame buffer.

use std::sync::{Arc, Mutex};

use ostler_accel::Vm;
use ostler_display::{FrameBufferMap, LEGACY_WINDOW, LEGACY_WINDOW_SIZE};
use ostler_memory::{GuestRam, RamSlot};

use crate::Error;
use crate::registers::lock;

/// Start and end of the hole that a display's window below 1 MiB needs in RAM.
const HOLE: (u64, u64) = (LEGACY_WINDOW, LEGACY_WINDOW + LEGACY_WINDOW_SIZE);

/// The map. Its lock is held while the accelerator takes a new one over; nothing else is locked under it.
pub struct MemoryMap {
    vm: Arc<dyn Vm>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    board: Vec<RamSlot>,
    /// What the board maps for CPUs in system management mode, if the guest has that.
    board_in_smm: Option<Vec<RamSlot>>,
    frame_buffer: Option<RamSlot>,
    all: Arc<[RamSlot]>,
}

impl MemoryMap {
    /// An empty map, which the accelerator does not have yet.
    pub fn new(vm: Arc<dyn Vm>) -> Arc<Self> {
        let state = Mutex::default();
        Arc::new(Self { vm, state })
    }

    /// What the accelerator maps now.
    pub fn slots(&self) -> Arc<[RamSlot]> {
        lock(&self.state).all.clone()
    }

    /// The virtual machine that has the map.
    pub fn vm(&self) -> &Arc<dyn Vm> {
        &self.vm
    }

    /// Changes what the board maps, and what it maps for CPUs in system management mode where there is that. The accelerator has it
    /// when this returns.
    pub fn set_board(&self, slots: Vec<RamSlot>, in_smm: Option<Vec<RamSlot>>) -> Result<(), Error> {
        self.change(|state| {
            state.board = slots;
            state.board_in_smm = in_smm;
        })
    }

    fn change(&self, change: impl FnOnce(&mut State)) -> Result<(), Error> {
        let mut state = lock(&self.state);
        change(&mut state);
        let with_frame_buffer = |board: &[RamSlot]| -> Vec<RamSlot> {
            board.iter().chain(&state.frame_buffer).cloned().collect()
        };
        let all = with_frame_buffer(&state.board);
        let in_smm = state.board_in_smm.as_deref().map(with_frame_buffer);
        state.all = all.clone().into();
        match (self.vm.system_management(), in_smm) {
            (Some(accelerator), Some(in_smm)) => Ok(accelerator.set_slots(all, in_smm)?),
            _ => Ok(self.vm.set_slots(all)?),
        }
    }
}

impl FrameBufferMap for MemoryMap {
    fn place_frame_buffer(&self, slot: Option<RamSlot>) {
        if let Err(error) = self.change(|state| state.frame_buffer = slot) {
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
