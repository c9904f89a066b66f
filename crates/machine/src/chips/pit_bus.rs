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
    /// Tick of the rise that the timer waits for.
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
        self.settle(&mut state);
    }

    fn now(&self) -> u64 {
        ticks(self.clock.now())
    }

    /// Drives IRQ 0 to the output's level and waits for its next rise, if anyone listens.
    fn settle(&self, state: &mut State) {
        let now = self.now();
        // A wait that is due belongs to the timer thread.
        if state.awaited.is_some_and(|at| at <= now) {
            self.timers.set(self.timer, Some(0));
            return;
        }
        self.line.set(state.pit.output(0, now));
        self.wait_for_rise(state, now);
    }

    fn wait_for_rise(&self, state: &mut State, now: u64) {
        let rise = if self.router.timer_is_heard() {
            state.pit.next_rise(now)
        } else {
            None
        };
        if rise != state.awaited {
            state.awaited = rise;
            self.timers.set(self.timer, rise.map(nanoseconds));
        }
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
        let now = self.now();
        if state.awaited.is_some_and(|at| at <= now) {
            state.awaited = None;
            // Rises that were missed while the host was busy are one.
            self.line.set(false);
            self.line.set(true);
            self.wait_for_rise(&mut state, now);
        }
    }
}

impl TimerListener for PitBus {
    fn interrupts_reprogrammed(&self) {
        let mut state = lock(&self.state);
        self.settle(&mut state);
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
        write_bytes(offset, data, |port, value| state.pit.write(port, value, now));
        state.awaited = None;
        self.timers.set(self.timer, None);
        self.settle(&mut state);
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
