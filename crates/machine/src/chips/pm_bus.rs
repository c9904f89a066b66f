//! Power management on the bus: its port block, the SMI command port, the SCI.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use ostler_bus::{Device, InterruptLine};

use super::pm::{Pm, Request};
use super::smi::Smi;
use crate::registers::{lock, read_dwords, write_dwords};
use crate::timers::{Clock, TimerClient, TimerId, Timers};
use crate::{MachineEvent, MachineEvents};

/// Written to port 0xb2 to enter ACPI mode.
pub const ACPI_ENABLE: u8 = 2;
/// Written to port 0xb2 to leave ACPI mode.
pub const ACPI_DISABLE: u8 = 3;

/// The block at PMBASE.
pub struct PmBus {
    pm: Mutex<Pm>,
    reset: Pm,
    sci: Arc<dyn InterruptLine>,
    clock: Clock,
    timers: Timers,
    timer: TimerId,
    events: Arc<dyn MachineEvents>,
    /// Of [`Pm`], for whoever asks often.
    asleep: AtomicBool,
}

impl PmBus {
    /// A block in its reset state `reset`.
    pub fn new(
        reset: Pm,
        sci: Arc<dyn InterruptLine>,
        clock: Clock,
        timers: Timers,
        events: Arc<dyn MachineEvents>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<Self>| {
            let timer = timers.register(me.clone());
            Self {
                pm: Mutex::new(reset.clone()),
                reset,
                sci,
                clock,
                timers,
                timer,
                events,
                asleep: AtomicBool::new(false),
            }
        })
    }

    /// Back to the reset state.
    pub fn reset(&self) {
        self.change(|pm, _| pm.reset(&self.reset));
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// True from the write that puts the machine to sleep until [`Self::wake`] or a reset.
    pub fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::SeqCst)
    }

    /// Ends a sleep: the reset state, with the cause of waking.
    pub fn wake(&self) {
        self.change(|pm, _| pm.wake(&self.reset));
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Presses the power button.
    pub fn press_power_button(&self) {
        self.change(|pm, _| pm.press_power_button());
    }

    /// General-purpose event `number` happens.
    pub fn raise_event(&self, number: u8) {
        self.change(|pm, _| pm.raise_event(number));
    }

    /// Whether SMIs are on stays as it is until a reset.
    pub fn lock_smi(&self) {
        self.change(|pm, _| pm.lock_smi());
    }

    /// True if a write to the command port raises an SMI.
    fn smi_by_command(&self) -> bool {
        lock(&self.pm).smi_by_command()
    }

    /// Enters or leaves ACPI mode.
    fn set_acpi_mode(&self, on: bool) {
        self.change(|pm, _| pm.set_acpi_mode(on));
    }

    fn change<R>(&self, change: impl FnOnce(&mut Pm, u64) -> R) -> R {
        let mut pm = lock(&self.pm);
        let now = self.clock.now();
        let result = change(&mut pm, now);
        self.sci.set(pm.interrupt());
        self.timers.set(self.timer, pm.deadline(now));
        if pm.take_wish_to_wake() {
            self.events.notify(MachineEvent::WakeUp);
        }
        result
    }
}

/// The alarm of the clock, which wakes the machine.
pub struct AlarmLine(pub Arc<PmBus>);

impl InterruptLine for AlarmLine {
    fn set(&self, level: bool) {
        self.0.change(|pm, _| pm.set_alarm(level));
    }
}

impl TimerClient for PmBus {
    fn expired(&self) {
        self.change(|pm, now| pm.note_time(now));
    }
}

impl Device for PmBus {
    fn read(&self, offset: u64, data: &mut [u8]) {
        // The timer is read often and a read changes no interrupt: only time does, and its deadline is set.
        let mut pm = lock(&self.pm);
        let now = self.clock.now();
        read_dwords(offset, data, |register| pm.read(register, now));
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let request = self.change(|pm, now| {
            let mut request = None;
            write_dwords(offset, data, |register, written| {
                request = pm.write(register, written, now).or(request)
            });
            if request == Some(Request::Sleep) {
                self.asleep.store(true, Ordering::SeqCst);
                // Before anything can wake the machine.
                self.events.notify(MachineEvent::Suspend);
            }
            request
        });
        if request == Some(Request::PowerOff) {
            self.events.notify(MachineEvent::PowerOff);
        }
    }
}

/// Ports 0xb2 (SMI command) and 0xb3 (its status). The commands that switch the ACPI mode are carried out here, as a handler of
/// firmware would; any other raises an SMI where there is system management mode.
pub struct SmiCommandPorts {
    pm: Arc<PmBus>,
    smi: Option<Arc<Smi>>,
    registers: Mutex<[u8; 2]>,
}

impl SmiCommandPorts {
    /// Ports that switch the mode of `pm`, and drive `smi` if `pm` has that on.
    pub fn new(pm: Arc<PmBus>, smi: Option<Arc<Smi>>) -> Self {
        Self {
            pm,
            smi,
            registers: Mutex::new([0; 2]),
        }
    }
}

impl Device for SmiCommandPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let registers = lock(&self.registers);
        crate::registers::read_bytes(offset, data, |port| registers[(port & 1) as usize]);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        crate::registers::write_bytes(offset, data, |port, value| {
            lock(&self.registers)[(port & 1) as usize] = value;
            match (port & 1, value) {
                (0, ACPI_ENABLE) => self.pm.set_acpi_mode(true),
                (0, ACPI_DISABLE) => self.pm.set_acpi_mode(false),
                (0, _) if self.pm.smi_by_command() => {
                    if let Some(smi) = &self.smi {
                        smi.raise();
                    }
                }
                _ => {}
            }
        });
    }
}
