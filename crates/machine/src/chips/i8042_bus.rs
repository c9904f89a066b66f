//! The keyboard controller on the bus: ports 0x60 and 0x64, IRQ 1 and IRQ 12; and who types at its keyboard.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use ostler_bus::{Device, InterruptLine};

use super::i8042::{I8042, Request};
use super::keys::Key;
use crate::registers::lock;
use crate::timers::{Clock, TimerClient, TimerId, Timers};
use crate::{MachineEvent, MachineEvents};

/// Strokes that wait at most.
const STROKES: usize = 64;

/// Keys that are pressed together, for a while.
struct Stroke {
    keys: Vec<Key>,
    time: Duration,
}

/// Who types: one stroke after the other.
#[derive(Default)]
struct Typist {
    held: Vec<Key>,
    waiting: VecDeque<Stroke>,
}

/// The controller with its interrupts. Lock order: the typist's lock, then the chip's.
pub struct I8042Bus {
    chip: Mutex<I8042>,
    keyboard: Arc<dyn InterruptLine>,
    aux: Arc<dyn InterruptLine>,
    events: Arc<dyn MachineEvents>,
    typist: Mutex<Typist>,
    clock: Clock,
    timers: Timers,
    timer: TimerId,
}

impl I8042Bus {
    /// A controller in its reset state.
    pub fn new(
        (keyboard, aux): (Arc<dyn InterruptLine>, Arc<dyn InterruptLine>),
        events: Arc<dyn MachineEvents>,
        clock: Clock,
        timers: Timers,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<Self>| {
            let timer = timers.register(me.clone());
            Self {
                chip: Mutex::default(),
                keyboard,
                aux,
                events,
                typist: Mutex::default(),
                clock,
                timers,
                timer,
            }
        })
    }

    /// Back to the reset state.
    pub fn reset(&self) {
        self.access(|chip| *chip = I8042::default());
    }

    /// Presses keys together, and releases them after `time`; strokes before that one are finished first. False if too many
    /// wait already.
    pub fn press(&self, keys: Vec<Key>, time: Duration) -> bool {
        let mut typist = lock(&self.typist);
        let has_room = typist.waiting.len() < STROKES;
        if has_room {
            typist.waiting.push_back(Stroke { keys, time });
            self.next_stroke(&mut typist);
        }
        has_room
    }

    /// Presses the next keys, if none are held.
    fn next_stroke(&self, typist: &mut Typist) {
        if !typist.held.is_empty() {
            return;
        }
        let Some(Stroke { keys, time }) = typist.waiting.pop_front() else {
            return;
        };
        for key in &keys {
            self.key(*key, true);
        }
        typist.held = keys;
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.timers
            .set(self.timer, Some(self.clock.now().saturating_add(time)));
    }

    fn key(&self, key: Key, pressed: bool) {
        if !self.access(|chip| chip.key(key, pressed)) {
            tracing::debug!("the guest reads no keys; one is lost");
        }
    }

    fn access<R>(&self, access: impl FnOnce(&mut I8042) -> R) -> R {
        let mut chip = lock(&self.chip);
        let result = access(&mut chip);
        self.keyboard.set(chip.keyboard_interrupt());
        self.aux.set(chip.aux_interrupt());
        result
    }

    /// Takes a byte out of the controller. Its lines fall by that, and rise again if there is another byte: each byte is an edge.
    fn take(&self) -> u8 {
        let mut chip = lock(&self.chip);
        let byte = chip.read_data();
        self.keyboard.set(false);
        self.aux.set(false);
        self.keyboard.set(chip.keyboard_interrupt());
        self.aux.set(chip.aux_interrupt());
        byte
    }

    fn write(&self, data: &[u8], write: impl FnOnce(&mut I8042, u8) -> Option<Request>) {
        let Some(&value) = data.first() else { return };
        if self.access(|chip| write(chip, value)) == Some(Request::Reset) {
            self.events.notify(MachineEvent::Reset);
        }
    }
}

impl TimerClient for I8042Bus {
    fn expired(&self) {
        let mut typist = lock(&self.typist);
        for key in std::mem::take(&mut typist.held).into_iter().rev() {
            self.key(key, false);
        }
        self.next_stroke(&mut typist);
    }
}

/// Port 0x60.
pub struct DataPort(pub Arc<I8042Bus>);

impl Device for DataPort {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(self.0.take());
    }

    fn write(&self, _: u64, data: &[u8]) {
        self.0.write(data, I8042::write_data);
    }
}

/// Port 0x64: commands written, status read.
pub struct CommandPort(pub Arc<I8042Bus>);

impl Device for CommandPort {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(self.0.access(|chip| chip.status()));
    }

    fn write(&self, _: u64, data: &[u8]) {
        self.0.write(data, I8042::write_command);
    }
}
