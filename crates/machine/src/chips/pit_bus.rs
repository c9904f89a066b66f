//! The 8254 on the bus: its ports, port 0x61, and IRQ 0 by the machine's timers.

use std::sync::{Arc, Mutex};

use ostler_bus::{Device, InterruptLine};

use super::pit::{Pit, nanoseconds, ticks};
use crate::interrupts::{Router, TimerListener};
use crate::registers::{lock, read_bytes, write_bytes};
use crate::timers::{Clock, TimerClient, TimerId, Timers};

const SPEAKER_GATE: u8 = 1;
const SPEAKER_DATA: u8 = 2;
/// Toggles every 15 microseconds, as memory refresh did.
const REFRESH_TOGGLE: u8 = 0x10;
const REFRESH_NANOSECONDS: u64 = 15_085;
const SPEAKER_OUTPUT: u8 = 0x20;
const NMI_CONTROL: u8 = 0x0c;

/// The timer chip with its interrupt.
pub struct PitBus {
    state: Mutex<State>,
    line: Arc<dyn InterruptLine>,
    router: Arc<Router>,
    clock: Clock,
    timers: Timers,
    timer: TimerId,
}

#[derive(Default)]
struct State {
    pit: Pit,
    /// Bits 1 to 3 of port 0x61.
    system_control: u8,
    /// Tick of the next rise, whether or not anyone listens.
    awaited: Option<u64>,
}

impl PitBus {
    /// A chip in its reset state.
    pub fn new(line: Arc<dyn InterruptLine>, router: Arc<Router>, clock: Clock, timers: Timers) -> Arc<Self> {
        let pit = Arc::new_cyclic(|me: &std::sync::Weak<Self>| {
            let timer = timers.register(me.clone());
            Self {
                state: Mutex::default(),
                line,
                router,
                clock,
                timers,
                timer,
            }
        });
        let listener: Arc<dyn TimerListener> = pit.clone();
        pit.router.set_timer_listener(Arc::downgrade(&listener));
        pit
    }

    /// Back to the reset state.
    pub fn reset(&self) {
        let mut state = lock(&self.state);
        *state = State::default();
        self.settle(&mut state, self.now());
    }

    fn now(&self) -> u64 {
        ticks(self.clock.now())
    }

    /// Carries a rise that is due to IRQ 0, else the output's level; then waits for the next rise, if anyone listens.
    ///
    /// A rise while no one listened is carried when someone does: an 8259 remembers an edge that comes while it is
    /// masked. Rises that were missed are one.
    fn settle(&self, state: &mut State, now: u64) {
        if state.awaited.is_some_and(|at| at <= now) {
            self.line.set(false);
            self.line.set(true);
        } else {
            self.line.set(state.pit.output(0, now));
        }
        state.awaited = state.pit.next_rise(now);
        let wanted = state.awaited.filter(|_| self.router.timer_is_heard());
        self.timers.set(self.timer, wanted.map(nanoseconds));
    }

    fn read_system_control(&self) -> u8 {
        let state = lock(&self.state);
        let nanoseconds = self.clock.now();
        let bit = |on: bool, mask: u8| if on { mask } else { 0 };
        state.system_control
            | bit(state.pit.speaker_gate(), SPEAKER_GATE)
            | bit(nanoseconds / REFRESH_NANOSECONDS % 2 == 1, REFRESH_TOGGLE)
            | bit(state.pit.output(2, ticks(nanoseconds)), SPEAKER_OUTPUT)
    }

    fn write_system_control(&self, value: u8) {
        let mut state = lock(&self.state);
        let now = self.now();
        state.system_control = value & (SPEAKER_DATA | NMI_CONTROL);
        state.pit.set_speaker_gate(value & SPEAKER_GATE != 0, now);
    }
}

impl TimerClient for PitBus {
    fn expired(&self) {
        let mut state = lock(&self.state);
        self.settle(&mut state, self.now());
    }
}

impl TimerListener for PitBus {
    fn interrupts_reprogrammed(&self) {
        let mut state = lock(&self.state);
        self.settle(&mut state, self.now());
    }
}

impl Device for PitBus {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut state = lock(&self.state);
        let now = self.now();
        read_bytes(offset, data, |port| state.pit.read(port, now));
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = lock(&self.state);
        let now = self.now();
        // What is due comes first; what is awaited after the write is another rise, perhaps.
        self.settle(&mut state, now);
        write_bytes(offset, data, |port, value| state.pit.write(port, value, now));
        state.awaited = None;
        self.settle(&mut state, now);
    }
}

/// Port 0x61.
pub struct SystemControlPort(pub Arc<PitBus>);

impl Device for SystemControlPort {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(self.0.read_system_control());
    }

    fn write(&self, _: u64, data: &[u8]) {
        if let Some(&value) = data.first() {
            self.0.write_system_control(value);
        }
    }
}
