//! Which memory a guest with firmware sees where: RAM with its holes, ROM, shadow RAM as the host bridge switches it.
//!
//! The accelerator maps what can be read, and only that is writable which may be written; the other accesses arrive at
//! [`ShadowWindow`] and at the flash chips.

use std::sync::{Arc, Mutex};

use ostler_bus::Device;
use ostler_memory::{GuestRam, RamSlot};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::Rom;
use super::pam::{self, Access};
use crate::Error;
use crate::layout::HIGH_RAM_START;
use crate::memory::Memory;
use crate::registers::lock;

/// Start of the window for display memory, where there is no RAM.
const LEGACY_HOLE: u64 = 0xa_0000;
/// Most bytes of the firmware that show below 1 MiB as well.
const LOW_COPY: u64 = 128 << 10;

/// The memory map. Its lock is held while the accelerator takes a new map over.
pub struct MemoryLayout {
    map: Arc<Memory>,
    ram: Arc<GuestRam>,
    /// The code comes first: it is the one that shows below 1 MiB.
    roms: Vec<Rom>,
    state: Mutex<State>,
}

struct State {
    shadow: [Access; pam::PIECES],
    /// Which of the ROMs can be read as memory now.
    shown: Vec<bool>,
}

impl MemoryLayout {
    /// The map after a reset: every ROM shows, no shadow RAM does. The accelerator has it when this returns.
    pub fn new(map: Arc<Memory>, ram: Arc<GuestRam>, roms: Vec<Rom>) -> Result<Self, Error> {
        let layout = Self {
            map,
            ram,
            state: Mutex::new(State {
                shadow: Default::default(),
                shown: vec![true; roms.len()],
            }),
            roms,
        };
        let state = lock(&layout.state);
        layout.apply(&state)?;
        drop(state);
        Ok(layout)
    }

    /// Switches shadow RAM.
    pub fn set_shadow(&self, shadow: [Access; pam::PIECES]) {
        self.change(|state| std::mem::replace(&mut state.shadow, shadow) != shadow);
    }

    /// Says whether ROM number `index` can be read as memory, or only as a device.
    pub fn show(&self, index: usize, shown: bool) {
        self.change(|state| match state.shown.get_mut(index) {
            Some(now) => std::mem::replace(now, shown) != shown,
            None => false,
        });
    }

    /// Makes a change, which says whether there was anything to change.
    fn change(&self, change: impl FnOnce(&mut State) -> bool) {
        let mut state = lock(&self.state);
        if change(&mut state)
            && let Err(error) = self.apply(&state)
        {
            tracing::error!(%error, "the guest's memory map cannot follow its firmware");
        }
    }

    fn apply(&self, state: &State) -> Result<(), Error> {
        Ok(self.map.set_board(self.arrange(state))?)
    }

    /// The map of `state`. Each piece of shadow RAM is a slot of its own, so that a change of one leaves the others alone.
    fn arrange(&self, state: &State) -> Vec<RamSlot> {
        let mut slots = Vec::new();
        for slot in RamSlot::all_of(&self.ram) {
            if slot.gpa != 0 {
                slots.push(slot);
                continue;
            }
            slots.push(part(&slot, 0, LEGACY_HOLE));
            for (number, access) in state.shadow.iter().enumerate() {
                let range = pam::piece(number);
                if access.read {
                    let mut piece = part(&slot, range.base, range.base + range.len);
                    piece.writable = access.write;
                    slots.push(piece);
                } else {
                    slots.extend(self.low_rom(range.base, range.base + range.len));
                }
            }
            slots.push(part(&slot, HIGH_RAM_START, slot.len));
        }
        let shown = self.roms.iter().zip(&state.shown).filter(|(_, shown)| **shown);
        slots.extend(shown.map(|(rom, _)| rom.slot(rom.base, 0, rom.len())));
        slots
    }

    /// Where the copy below 1 MiB starts, and the offset in the ROM that it starts with.
    fn low_copy(&self) -> Option<(&Rom, u64, u64)> {
        let rom = self.roms.first()?;
        let len = rom.len().min(LOW_COPY);
        Some((rom, HIGH_RAM_START - len, rom.len() - len))
    }

    /// The part of the copy below 1 MiB that lies in `[start, end)`.
    fn low_rom(&self, start: u64, end: u64) -> Option<RamSlot> {
        let (rom, base, offset) = self.low_copy()?;
        let start = start.max(base);
        (start < end).then(|| rom.slot(start, offset + (start - base), end - start))
    }
}

fn part(slot: &RamSlot, start: u64, end: u64) -> RamSlot {
    RamSlot {
        gpa: slot.gpa + start,
        len: end - start,
        mapping: slot.mapping.clone(),
        offset: slot.offset + start,
        writable: slot.writable,
    }
}

/// What is left to a device between 0xc0000 and 0xfffff: writes to pieces that are only read from ROM or RAM, and reads
/// where nothing is.
pub struct ShadowWindow(pub Arc<MemoryLayout>);

impl ShadowWindow {
    /// Its size.
    pub const SIZE: u64 = pam::END - pam::START;
}

impl Device for ShadowWindow {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let layout = &self.0;
        let shadow = lock(&layout.state).shadow;
        for (address, byte) in (pam::START + offset..pam::END).zip(&mut *data) {
            let one = std::slice::from_mut(byte);
            if shadow[pam::piece_at(address)].read {
                // All of it is RAM.
                let _ = layout.ram.read_slice(one, GuestAddress(address));
                continue;
            }
            match layout.low_copy() {
                Some((rom, base, start)) if address >= base => rom.read(start + (address - base), one),
                _ => one.fill(0xff),
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let layout = &self.0;
        let shadow = lock(&layout.state).shadow;
        for (address, byte) in (pam::START + offset..pam::END).zip(data) {
            if shadow[pam::piece_at(address)].write {
                // As above.
                let _ = layout.ram.write_slice(&[*byte], GuestAddress(address));
            }
        }
    }
}

/// True if the RAM at address 0 reaches past what the layout cuts out of it.
pub fn is_large_enough(ram: &GuestRam) -> bool {
    ram.iter()
        .any(|region| region.start_addr().0 == 0 && region.len() > HIGH_RAM_START)
}
