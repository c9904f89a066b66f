//! ACPI power management of the ICH9 (ICH9 13.8; ACPI 6.5, 4.8): PM1, the PM timer, GPE0, SMI enable.

use crate::registers::Masked;

/// Ports that the block takes.
pub const SIZE: u64 = 0x80;

const PM1_STATUS_ENABLE: u64 = 0x00;
const PM1_CONTROL: u64 = 0x04;
const TIMER: u64 = 0x08;
const GPE0_STATUS: u64 = 0x20;
const GPE0_ENABLE: u64 = 0x28;
const SMI_ENABLE: u64 = 0x30;

const STATUS_TIMER: u16 = 1;
const STATUS_GLOBAL: u16 = 1 << 5;
const STATUS_POWER_BUTTON: u16 = 1 << 8;
const STATUS_RTC: u16 = 1 << 10;
/// The machine has slept.
const STATUS_WAKE: u16 = 1 << 15;
const ENABLE_BITS: u16 = STATUS_TIMER | STATUS_GLOBAL | STATUS_POWER_BUTTON | STATUS_RTC;

const CONTROL_SCI: u16 = 1;
const CONTROL_SLEEP: u16 = 1 << 13;
/// Sleep type and the bits that are plain storage.
const CONTROL_BITS: u16 = CONTROL_SCI | 1 << 1 | 7 << 10;

/// Writes to the SMI command port raise SMIs.
const SMI_BY_COMMAND: u32 = 1 << 5;
/// Anything does.
const SMI_GLOBAL: u32 = 1;

const TIMER_FREQUENCY: u64 = 3_579_545;
const TIMER_MASK: u32 = 0xff_ffff;
/// The timer's top bit changes after this many ticks.
const TIMER_HALF: u64 = 1 << 23;

/// Sleep type of S5 in our tables (ICH9: soft off).
pub const SLEEP_TYPE_OFF: u8 = 7;
/// Sleep type of S3, suspend to RAM: QEMU's, which small guests write without looking into the tables.
pub const SLEEP_TYPE_MEMORY: u8 = 1;

/// What a register write asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Power off.
    PowerOff,
    /// Sleep: memory stays, everything else is lost.
    Sleep,
}

/// State of the block.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pm {
    status: u16,
    enable: u16,
    control: u16,
    gpe_status: u32,
    gpe_enable: u32,
    smi_enable: u32,
    /// [`SMI_GLOBAL`] cannot be changed until a reset.
    smi_locked: bool,
    /// Half periods of the timer up to which its status bit was accounted for.
    halves_seen: u64,
    /// There is the sleep state S3.
    can_sleep: bool,
    /// The machine sleeps.
    asleep: bool,
    /// The power button was pressed since it sleeps.
    button: bool,
    /// The clock's alarm interrupts at the moment.
    alarm: bool,
    /// Who wakes the machine was told of its wish to wake.
    wish_told: bool,
}

fn ticks(now: u64) -> u64 {
    (u128::from(now) * u128::from(TIMER_FREQUENCY) / 1_000_000_000) as u64
}

impl Pm {
    /// The reset state of a machine with firmware. It says that SMIs are set up already, from which firmware knows that it is
    /// not to set up any: there is no SMM.
    pub fn without_smm() -> Self {
        Self {
            smi_enable: SMI_BY_COMMAND,
            ..Self::default()
        }
    }

    /// The same with the sleep state S3, or without.
    pub fn with_sleep(self, can_sleep: bool) -> Self {
        Self { can_sleep, ..self }
    }

    /// Back to the reset state `reset`. The alarm is not ours.
    pub fn reset(&mut self, reset: &Self) {
        *self = Self {
            alarm: self.alarm,
            ..reset.clone()
        };
    }

    /// Ends a sleep in the reset state `reset`, but for what tells the guest why it is awake (ACPI 6.5, 4.8.4.1): the alarm, or else
    /// the power button, as which QEMU presents all other causes. General-purpose events that came meanwhile are still to be
    /// handled, and the mode is that of before.
    pub fn wake(&mut self, reset: &Self) {
        let cause = if self.alarm_wakes() {
            STATUS_RTC
        } else {
            STATUS_POWER_BUTTON
        };
        *self = Self {
            status: STATUS_WAKE | cause,
            control: self.control & CONTROL_SCI,
            gpe_status: self.gpe_status,
            halves_seen: self.halves_seen,
            alarm: self.alarm,
            ..reset.clone()
        };
    }

    /// Level of the clock's alarm interrupt.
    pub fn set_alarm(&mut self, level: bool) {
        self.alarm = level;
    }

    /// True if the machine wants to be woken, once for each sleep.
    pub fn take_wish_to_wake(&mut self) -> bool {
        let new = self.asleep && !self.wish_told && (self.button || self.alarm_wakes());
        self.wish_told |= new;
        new
    }

    fn alarm_wakes(&self) -> bool {
        self.alarm && self.enable & STATUS_RTC != 0
    }

    /// Reads the 32-bit register at `offset`, at `now` nanoseconds.
    pub fn read(&mut self, offset: u64, now: u64) -> u32 {
        self.note_time(now);
        match offset {
            PM1_STATUS_ENABLE => u32::from(self.status) | u32::from(self.enable) << 16,
            PM1_CONTROL => u32::from(self.control),
            TIMER => ticks(now) as u32 & TIMER_MASK,
            GPE0_STATUS => self.gpe_status,
            GPE0_ENABLE => self.gpe_enable,
            SMI_ENABLE => self.smi_enable,
            _ => 0,
        }
    }

    /// Writes the 32-bit register at `offset`, at `now` nanoseconds.
    pub fn write(&mut self, offset: u64, written: Masked, now: u64) -> Option<Request> {
        self.note_time(now);
        match offset {
            PM1_STATUS_ENABLE => {
                self.status &= !(written.value as u16);
                let enable = written.over(u32::from(self.enable) << 16) >> 16;
                self.enable = enable as u16 & ENABLE_BITS;
            }
            PM1_CONTROL => return self.write_control(written),
            GPE0_STATUS => self.gpe_status &= !written.value,
            GPE0_ENABLE => self.gpe_enable = written.over(self.gpe_enable),
            SMI_ENABLE => {
                let kept = if self.smi_locked { SMI_GLOBAL } else { 0 };
                self.smi_enable = written.over(self.smi_enable) & !kept | self.smi_enable & kept;
            }
            _ => {}
        }
        None
    }

    /// True if a write to the command port raises an SMI.
    pub fn smi_by_command(&self) -> bool {
        const BOTH: u32 = SMI_BY_COMMAND | SMI_GLOBAL;
        self.smi_enable & BOTH == BOTH
    }

    /// SMI_LOCK of the LPC bridge: whether SMIs are on stays as it is.
    pub fn lock_smi(&mut self) {
        self.smi_locked = true;
    }

    /// Level of the system control interrupt.
    pub fn interrupt(&self) -> bool {
        let wanted = self.status & self.enable & ENABLE_BITS != 0 || self.gpe_status & self.gpe_enable != 0;
        self.control & CONTROL_SCI != 0 && wanted
    }

    /// The power button is pressed.
    pub fn press_power_button(&mut self) {
        self.status |= STATUS_POWER_BUTTON;
        self.button |= self.asleep;
    }

    /// General-purpose event `number`, of 32, happens.
    pub fn raise_event(&mut self, number: u8) {
        self.gpe_status |= 1 << (number & 31);
    }

    /// Turns ACPI mode on or off, as the firmware's SMI handler would.
    pub fn set_acpi_mode(&mut self, on: bool) {
        self.control = self.control & !CONTROL_SCI | if on { CONTROL_SCI } else { 0 };
    }

    /// When the timer's status bit is set next, in nanoseconds, if an interrupt would come of it.
    pub fn deadline(&mut self, now: u64) -> Option<u64> {
        self.note_time(now);
        if self.enable & STATUS_TIMER == 0 || self.status & STATUS_TIMER != 0 {
            return None;
        }
        let next = u128::from(self.halves_seen + 1) * u128::from(TIMER_HALF) * 1_000_000_000;
        Some(next.div_ceil(u128::from(TIMER_FREQUENCY)) as u64)
    }

    /// Sets the timer's status bit if its top bit has changed.
    pub fn note_time(&mut self, now: u64) {
        let halves = ticks(now) / TIMER_HALF;
        if halves > self.halves_seen {
            self.halves_seen = halves;
            self.status |= STATUS_TIMER;
        }
    }

    fn write_control(&mut self, written: Masked) -> Option<Request> {
        let value = written.over(u32::from(self.control)) as u16;
        if written.value as u16 & 1 << 2 != 0 {
            // GBL_RLS would wake firmware, and there is none that listens.
            tracing::debug!("the guest released the global lock to firmware");
        }
        self.control = value & CONTROL_BITS;
        let sleep_type = (value >> 10 & 7) as u8;
        // Type 0 is what QEMU's machines use for S5; small guests write it without looking into the tables.
        match sleep_type {
            _ if written.value as u16 & CONTROL_SLEEP == 0 => None,
            0 | 6 | SLEEP_TYPE_OFF => Some(Request::PowerOff),
            SLEEP_TYPE_MEMORY if self.can_sleep && !self.asleep => {
                self.asleep = true;
                Some(Request::Sleep)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn word(value: u16, at: u32) -> Masked {
        Masked {
            value: u32::from(value) << (8 * at),
            mask: 0xffff << (8 * at),
        }
    }

    #[test]
    fn the_timer_runs_at_its_frequency_in_24_bits() {
        let mut pm = Pm::default();
        assert_eq!(pm.read(TIMER, 1_000_000_000), 3_579_545);
        assert_eq!(pm.read(TIMER, 10_000_000_000), 35_795_450 & 0xff_ffff);
    }

    #[test]
    fn the_power_button_interrupts_where_it_is_enabled() {
        let mut pm = Pm::default();
        pm.set_acpi_mode(true);
        pm.press_power_button();
        assert!(!pm.interrupt());
        pm.write(PM1_STATUS_ENABLE, word(STATUS_POWER_BUTTON, 2), 0);
        assert!(pm.interrupt());
        pm.write(PM1_STATUS_ENABLE, word(STATUS_POWER_BUTTON, 0), 0);
        assert!(!pm.interrupt());
        assert_eq!(
            pm.read(PM1_STATUS_ENABLE, 0),
            u32::from(STATUS_POWER_BUTTON) << 16
        );
    }

    #[test]
    fn smis_are_on_for_good_once_that_is_locked() {
        let all = |value| Masked {
            value,
            mask: u32::MAX,
        };
        let mut pm = Pm::default();
        pm.write(SMI_ENABLE, all(SMI_BY_COMMAND), 0);
        assert!(!pm.smi_by_command());
        pm.write(SMI_ENABLE, all(SMI_BY_COMMAND | SMI_GLOBAL), 0);
        assert!(pm.smi_by_command());
        pm.lock_smi();
        pm.write(SMI_ENABLE, all(SMI_BY_COMMAND), 0);
        assert!(pm.smi_by_command());
        assert_eq!(pm.read(SMI_ENABLE, 0), SMI_BY_COMMAND | SMI_GLOBAL);
    }

    #[test]
    fn sleeping_with_the_type_of_s5_switches_off() {
        let mut pm = Pm::default();
        assert_eq!(pm.write(PM1_CONTROL, word(7 << 10, 0), 0), None);
        assert_eq!(
            pm.write(PM1_CONTROL, word(7 << 10 | CONTROL_SLEEP, 0), 0),
            Some(Request::PowerOff)
        );
        assert_eq!(
            pm.write(PM1_CONTROL, word(CONTROL_SLEEP, 0), 0),
            Some(Request::PowerOff)
        );
        assert_eq!(pm.write(PM1_CONTROL, word(1 << 10 | CONTROL_SLEEP, 0), 0), None);
        assert_eq!(
            pm.read(PM1_CONTROL, 0) & u32::from(CONTROL_SLEEP),
            0,
            "the bit reads as zero"
        );
    }

    fn asleep(enable: u16) -> (Pm, Pm) {
        let reset = Pm::default().with_sleep(true);
        let mut pm = reset.clone();
        pm.set_acpi_mode(true);
        pm.write(PM1_STATUS_ENABLE, word(enable, 2), 0);
        let sleep = word(CONTROL_SCI | 1 << 10 | CONTROL_SLEEP, 0);
        assert_eq!(pm.write(PM1_CONTROL, sleep, 0), Some(Request::Sleep));
        assert_eq!(pm.write(PM1_CONTROL, sleep, 0), None, "it sleeps already");
        (pm, reset)
    }

    #[test]
    fn the_alarm_wakes_where_it_is_enabled() {
        let (mut pm, _) = asleep(0);
        pm.set_alarm(true);
        assert!(!pm.take_wish_to_wake());
        let (mut pm, reset) = asleep(STATUS_RTC);
        assert!(!pm.take_wish_to_wake());
        pm.set_alarm(true);
        assert!(pm.take_wish_to_wake());
        assert!(!pm.take_wish_to_wake(), "once is enough");
        pm.raise_event(5);
        pm.wake(&reset);
        assert_eq!(
            pm.read(PM1_STATUS_ENABLE, 0),
            u32::from(STATUS_WAKE | STATUS_RTC),
            "nothing is enabled any more"
        );
        assert_eq!(pm.read(PM1_CONTROL, 0), u32::from(CONTROL_SCI));
        assert_eq!(pm.read(GPE0_STATUS, 0), 1 << 5);
        pm.write(PM1_STATUS_ENABLE, word(STATUS_WAKE | STATUS_RTC, 0), 0);
        assert_eq!(pm.read(PM1_STATUS_ENABLE, 0), 0);
        assert!(!pm.take_wish_to_wake(), "it is awake");
    }

    #[test]
    fn the_power_button_wakes_and_what_else_does_looks_like_it() {
        for pressed in [true, false] {
            let (mut pm, reset) = asleep(STATUS_POWER_BUTTON);
            if pressed {
                pm.press_power_button();
            }
            assert_eq!(pm.take_wish_to_wake(), pressed);
            pm.wake(&reset);
            let status = u32::from(STATUS_WAKE | STATUS_POWER_BUTTON);
            assert_eq!(pm.read(PM1_STATUS_ENABLE, 0), status);
        }
    }

    #[test]
    fn a_reset_ends_a_sleep_and_knows_the_alarm() {
        let (mut pm, reset) = asleep(STATUS_RTC);
        pm.set_alarm(true);
        pm.reset(&reset);
        assert!(!pm.take_wish_to_wake());
        pm.write(PM1_STATUS_ENABLE, word(STATUS_RTC, 2), 0);
        let sleep = word(1 << 10 | CONTROL_SLEEP, 0);
        assert_eq!(pm.write(PM1_CONTROL, sleep, 0), Some(Request::Sleep));
        assert!(pm.take_wish_to_wake(), "the alarm interrupts already");
    }

    #[test]
    fn the_timer_status_comes_with_each_change_of_the_top_bit() {
        let mut pm = Pm::default();
        assert_eq!(pm.deadline(0), None);
        pm.write(PM1_STATUS_ENABLE, word(STATUS_TIMER, 2), 0);
        pm.set_acpi_mode(true);
        let at = pm.deadline(0).unwrap();
        assert!(ticks(at - 300) < TIMER_HALF && ticks(at) >= TIMER_HALF);
        pm.note_time(at);
        assert!(pm.interrupt());
        pm.write(PM1_STATUS_ENABLE, word(STATUS_TIMER, 0), at);
        assert!(!pm.interrupt());
        assert!(pm.deadline(at).unwrap() > at);
    }

    proptest! {
        #[test]
        fn any_access_keeps_a_deadline_in_the_future(
            steps in proptest::collection::vec((any::<bool>(), 0u64..SIZE, any::<u32>(), 0u64..1 << 40), 0..100)
        ) {
            let (mut pm, mut now) = (Pm::default(), 0);
            for (is_write, offset, value, later) in steps {
                now += later;
                if is_write {
                    pm.write(offset & !3, Masked { value, mask: u32::MAX }, now);
                } else {
                    pm.read(offset & !3, now);
                }
                prop_assert!(pm.deadline(now).is_none_or(|at| at > now));
            }
        }
    }
}
