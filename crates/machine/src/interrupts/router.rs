//! From devices' lines to the two interrupt controllers, and from those to the accelerator.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use ostler_accel::{ExternalInterrupts, Vm};
use ostler_bus::{InterruptLine, Msi};

use super::ioapic::{Ioapic, Outcome, PINS};
use super::pic::PicPair;
use crate::registers::lock;

/// The eight PCI interrupt lines PIRQA to PIRQH.
pub const PIRQS: usize = 8;
/// PIRQA is IOAPIC input 16.
pub const FIRST_PIRQ_GSI: u8 = 16;
/// The 8254's IRQ 0 is IOAPIC input 2.
pub const TIMER_GSI: usize = 2;

/// A line into the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// ISA interrupt 0 to 15 (not 2, the cascade).
    Isa(u8),
    /// PIRQA (0) to PIRQH (7).
    Pirq(u8),
    /// An IOAPIC input itself, for the test device.
    Gsi(u8),
}

/// Hears when the guest may want timer interrupts again.
pub trait TimerListener: Send + Sync {
    /// A controller was reprogrammed; IRQ 0 may be listened to now.
    fn interrupts_reprogrammed(&self);
}

/// Both controllers and the wires to them.
pub struct Router {
    vm: Arc<dyn Vm>,
    state: Mutex<State>,
    /// Level of the 8259's output, for a CPU to look at without a lock.
    intr: Arc<AtomicBool>,
    timer: Mutex<Option<Weak<dyn TimerListener>>>,
}

struct State {
    ioapic: Ioapic,
    pic: PicPair,
    /// How many devices raise each line.
    raised: [u32; INPUT_COUNT],
    /// Where each PIRQ goes on the 8259 pair (PIRQ routing registers of the LPC bridge, ICH9 13.1.17).
    pirq_to_isa: [Option<u8>; PIRQS],
}

const ISA_INPUTS: usize = 16;
const INPUT_COUNT: usize = ISA_INPUTS + PIRQS + PINS;

impl Input {
    fn index(self) -> Option<usize> {
        match self {
            Input::Isa(n) => (usize::from(n) < ISA_INPUTS).then_some(usize::from(n)),
            Input::Pirq(n) => (usize::from(n) < PIRQS).then(|| ISA_INPUTS + usize::from(n)),
            Input::Gsi(n) => (usize::from(n) < PINS).then(|| ISA_INPUTS + PIRQS + usize::from(n)),
        }
    }
}

impl State {
    fn new() -> Self {
        Self {
            ioapic: Ioapic::new(0),
            pic: PicPair::default(),
            raised: [0; INPUT_COUNT],
            pirq_to_isa: [None; PIRQS],
        }
    }

    fn is_raised(&self, input: Input) -> bool {
        input.index().is_some_and(|index| self.raised[index] != 0)
    }

    /// Counts one device's change of a line, and carries the new level to the controllers.
    fn change(&mut self, input: Input, raise: bool) -> Option<Msi> {
        let count = &mut self.raised[input.index()?];
        *count = if raise {
            count.saturating_add(1)
        } else {
            count.saturating_sub(1)
        };
        match input {
            Input::Isa(n) => {
                self.drive_isa(n);
                self.drive_gsi(if n == 0 { TIMER_GSI } else { usize::from(n) })
            }
            Input::Pirq(n) => {
                if let Some(isa) = self.pirq_to_isa[usize::from(n)] {
                    self.drive_isa(isa);
                }
                self.drive_gsi(usize::from(FIRST_PIRQ_GSI + n))
            }
            Input::Gsi(n) => {
                if usize::from(n) < ISA_INPUTS {
                    self.drive_isa(n);
                }
                self.drive_gsi(usize::from(n))
            }
        }
    }

    fn drive_isa(&mut self, isa: u8) {
        let from_pirq = (0..PIRQS as u8)
            .any(|n| self.pirq_to_isa[usize::from(n)] == Some(isa) && self.is_raised(Input::Pirq(n)));
        let level = from_pirq || self.is_raised(Input::Isa(isa)) || self.is_raised(Input::Gsi(isa));
        self.pic.set_level(isa, level);
    }

    fn drive_gsi(&mut self, gsi: usize) -> Option<Msi> {
        let number = gsi as u8;
        let wired = match gsi {
            TIMER_GSI => Some(Input::Isa(0)),
            0 => None,
            1..ISA_INPUTS => Some(Input::Isa(number)),
            _ => Some(Input::Pirq(number - FIRST_PIRQ_GSI)),
        };
        let level = wired.is_some_and(|input| self.is_raised(input)) || self.is_raised(Input::Gsi(number));
        self.ioapic.set_level(gsi, level)
    }
}

impl Router {
    /// Controllers in their reset state, connected to `vm`.
    pub fn new(vm: Arc<dyn Vm>) -> Arc<Self> {
        let router = Arc::new(Self {
            vm,
            state: Mutex::new(State::new()),
            intr: Arc::default(),
            timer: Mutex::new(None),
        });
        let pin = IntrPin {
            intr: router.intr.clone(),
            router: Arc::downgrade(&router),
        };
        router.vm.set_external_interrupts(Arc::new(pin));
        router
    }

    /// One more device on `input`.
    pub fn line(self: &Arc<Self>, input: Input) -> Arc<dyn InterruptLine> {
        Arc::new(Line {
            router: self.clone(),
            input,
            level: Mutex::new(false),
        })
    }

    /// Who hears when IRQ 0 may be listened to again.
    pub fn set_timer_listener(&self, listener: Weak<dyn TimerListener>) {
        *lock(&self.timer) = Some(listener);
    }

    /// True while an edge on IRQ 0 would reach a CPU, or be remembered for one.
    pub fn timer_is_heard(&self) -> bool {
        let state = lock(&self.state);
        state.pic.listens(0) || state.ioapic.listens(TIMER_GSI)
    }

    /// Back to the reset state; the levels that devices drive are kept, and the LPC bridge's routes.
    pub fn reset(&self) {
        let mut state = lock(&self.state);
        *state = State {
            raised: state.raised,
            pirq_to_isa: state.pirq_to_isa,
            ..State::new()
        };
        for gsi in 0..PINS {
            // All inputs are masked: no message can come of this.
            let _ = state.drive_gsi(gsi);
        }
        for isa in 0..ISA_INPUTS as u8 {
            state.drive_isa(isa);
        }
        self.publish_pins(&state);
        self.intr.store(state.pic.output(), Ordering::SeqCst);
    }

    /// A LAPIC ended a level-triggered interrupt.
    pub fn end_of_interrupt(&self, vector: u8) {
        let messages = lock(&self.state).ioapic.end_of_interrupt(vector);
        self.deliver(messages);
    }

    /// Programs where PIRQ `n` goes on the 8259 pair.
    pub fn route_pirq(&self, n: usize, isa: Option<u8>) {
        self.with_pic(|state| {
            let Some(old) = state.pirq_to_isa.get(n).copied() else {
                return;
            };
            state.pirq_to_isa[n] = isa.filter(|&isa| usize::from(isa) < ISA_INPUTS);
            for affected in [old, isa].into_iter().flatten() {
                state.drive_isa(affected);
            }
        });
    }

    /// Reads a register of the IOAPIC.
    pub fn read_ioapic(&self, register: u64) -> u32 {
        lock(&self.state).ioapic.read(register)
    }

    /// Writes a register of the IOAPIC.
    pub fn write_ioapic(&self, register: u64, value: u32) {
        let mut state = lock(&self.state);
        let Outcome {
            messages,
            reprogrammed,
        } = state.ioapic.write(register, value);
        if reprogrammed {
            // Under the lock, so that the last change is the one that the accelerator keeps.
            self.publish_pins(&state);
        }
        drop(state);
        self.deliver(messages);
        if reprogrammed {
            self.tell_timer();
        }
    }

    /// Runs `change` on the 8259 pair's registers and carries a change of INTR to the accelerator.
    pub fn access_pic<R>(&self, change: impl FnOnce(&mut PicPair) -> R) -> R {
        let result = self.with_pic(|state| change(&mut state.pic));
        self.tell_timer();
        result
    }

    fn with_pic<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = lock(&self.state);
        let result = change(&mut state);
        let rose = self.note_intr(&state);
        drop(state);
        if rose {
            self.vm.external_interrupt_raised();
        }
        result
    }

    /// Keeps the copy of INTR; true if it is high after a change, so that a CPU has to look.
    fn note_intr(&self, state: &State) -> bool {
        let level = state.pic.output();
        let before = self.intr.swap(level, Ordering::SeqCst);
        level && !before
    }

    fn set_level(&self, input: Input, raise: bool) {
        let mut state = lock(&self.state);
        let message = state.change(input, raise);
        let rose = self.note_intr(&state);
        drop(state);
        if let Some(message) = message {
            self.vm.signal(message);
        }
        if rose {
            self.vm.external_interrupt_raised();
        }
    }

    /// The interrupt-acknowledge cycle.
    fn acknowledge(&self) -> u8 {
        let mut state = lock(&self.state);
        let vector = state.pic.acknowledge();
        let again = state.pic.output();
        self.intr.store(again, Ordering::SeqCst);
        drop(state);
        if again {
            self.vm.external_interrupt_raised();
        }
        vector
    }

    fn publish_pins(&self, state: &State) {
        if let Err(error) = self.vm.set_ioapic_pins(&state.ioapic.pins()) {
            tracing::warn!(%error, "the accelerator did not take the IOAPIC's pins");
        }
    }

    fn deliver(&self, messages: Vec<Msi>) {
        for message in messages {
            self.vm.signal(message);
        }
    }

    fn tell_timer(&self) {
        let listener = lock(&self.timer).as_ref().and_then(Weak::upgrade);
        if let Some(listener) = listener {
            listener.interrupts_reprogrammed();
        }
    }
}

/// The CPU's end of the 8259 pair. It does not keep the machine alive.
struct IntrPin {
    intr: Arc<AtomicBool>,
    router: Weak<Router>,
}

impl ExternalInterrupts for IntrPin {
    fn pending(&self) -> bool {
        self.intr.load(Ordering::SeqCst)
    }

    fn acknowledge(&self) -> Option<u8> {
        self.router.upgrade().map(|router| router.acknowledge())
    }
}

/// One device's end of an input.
struct Line {
    router: Arc<Router>,
    input: Input,
    level: Mutex<bool>,
}

impl InterruptLine for Line {
    fn set(&self, level: bool) {
        let mut current = lock(&self.level);
        if *current != level {
            *current = level;
            self.router.set_level(self.input, level);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.set(false);
    }
}
