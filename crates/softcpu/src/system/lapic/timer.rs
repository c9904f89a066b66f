//! The LAPIC's timer (SDM vol. 3, 11.5.4).
//!
//! Its bus clock is 1 GHz. All times are host TSC values; the guest's TSC deadline is converted when it is written.

/// Bus clock in kHz.
const BUS_KHZ: u64 = 1_000_000;

/// How the timer counts: bits 17 and 18 of its LVT entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Counts down once.
    OneShot,
    /// Starts again from the initial count.
    Periodic,
    /// Fires when the TSC reaches the deadline.
    TscDeadline,
}

impl Mode {
    /// The mode in an LVT entry.
    pub fn of(lvt: u32) -> Self {
        match lvt >> 17 & 3 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            _ => Self::TscDeadline,
        }
    }
}

/// The timer's state.
#[derive(Debug, Clone)]
pub struct Timer {
    /// TSC frequency in kHz.
    tsc_khz: u64,
    /// Initial count.
    pub initial: u32,
    /// Divide configuration register.
    pub divide: u32,
    /// Host TSC at which the count that runs was `initial`.
    start: u64,
    /// Host TSC at which it fires.
    deadline: Option<u64>,
    /// The guest's TSC deadline; 0 when it is not armed.
    pub tsc_deadline: u64,
}

impl Timer {
    /// A stopped timer on a machine whose TSC runs at `tsc_khz`.
    pub fn new(tsc_khz: u64) -> Self {
        Self {
            tsc_khz: tsc_khz.max(1),
            initial: 0,
            divide: 0,
            start: 0,
            deadline: None,
            tsc_deadline: 0,
        }
    }

    /// Sets the frequency of the TSC.
    pub fn set_frequency(&mut self, tsc_khz: u64) {
        self.tsc_khz = tsc_khz.max(1);
    }

    /// A stopped timer with the same clock.
    pub fn new_like(other: &Self) -> Self {
        Self::new(other.tsc_khz)
    }

    /// Divisor of the bus clock.
    fn divisor(&self) -> u64 {
        let code = self.divide & 3 | self.divide >> 1 & 4;
        1 << ((code + 1) & 7)
    }

    fn ticks_to_tsc(&self, ticks: u64) -> u64 {
        let wide = u128::from(ticks) * u128::from(self.divisor()) * u128::from(self.tsc_khz);
        (wide / u128::from(BUS_KHZ)).min(u128::from(u64::MAX)) as u64
    }

    fn tsc_to_ticks(&self, tsc: u64) -> u64 {
        (u128::from(tsc) * u128::from(BUS_KHZ) / (u128::from(self.tsc_khz) * u128::from(self.divisor())))
            as u64
    }

    /// Host TSC at which it fires next.
    pub fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    /// A write of the initial count, in `mode`.
    pub fn set_initial(&mut self, initial: u32, mode: Mode, now: u64) {
        self.initial = initial;
        if mode != Mode::TscDeadline {
            self.start_from(initial, now);
        }
    }

    fn start_from(&mut self, count: u32, now: u64) {
        self.start = now.wrapping_sub(self.ticks_to_tsc(u64::from(self.initial - count.min(self.initial))));
        self.deadline = (count != 0).then(|| now.saturating_add(self.ticks_to_tsc(u64::from(count)).max(1)));
    }

    /// A write of the divide configuration: the count goes on with the new speed.
    pub fn set_divide(&mut self, divide: u32, mode: Mode, now: u64) {
        let count = self.current(mode, now);
        self.divide = divide & 0xb;
        if mode != Mode::TscDeadline && self.deadline.is_some() {
            self.start_from(count, now);
        }
    }

    /// The LVT entry changed from `old` to `new` mode: leaving or entering TSC-deadline mode stops the timer.
    pub fn set_mode(&mut self, old: Mode, new: Mode) {
        if (old == Mode::TscDeadline) != (new == Mode::TscDeadline) {
            self.deadline = None;
            self.tsc_deadline = 0;
            self.initial = 0;
        }
    }

    /// The current count.
    pub fn current(&self, mode: Mode, now: u64) -> u32 {
        if mode == Mode::TscDeadline || self.deadline.is_none() {
            return 0;
        }
        let passed = self.tsc_to_ticks(now.wrapping_sub(self.start));
        let initial = u64::from(self.initial);
        match mode {
            Mode::Periodic if initial != 0 => (initial - passed % initial) as u32,
            _ => initial.saturating_sub(passed) as u32,
        }
    }

    /// Restores a count that runs.
    pub fn set_current(&mut self, count: u32, now: u64) {
        self.start_from(count, now);
    }

    /// A write of IA32_TSC_DEADLINE, `offset` being what is added to the host's TSC.
    pub fn set_tsc_deadline(&mut self, value: u64, offset: u64) {
        self.tsc_deadline = value;
        self.deadline = (value != 0).then(|| {
            // Signed, so that a deadline before the host's zero is long past and not far ahead.
            let host = value.wrapping_sub(offset);
            if (host as i64) < 0 && value < offset {
                0
            } else {
                host
            }
        });
    }

    /// If the timer is due at `now`: rearms or stops it and returns true.
    pub fn fire(&mut self, mode: Mode, now: u64) -> bool {
        let Some(deadline) = self.deadline.filter(|&d| d <= now) else {
            return false;
        };
        match mode {
            Mode::Periodic => {
                let period = self.ticks_to_tsc(u64::from(self.initial)).max(1);
                // Periods that were missed altogether are lost, as on a CPU that could not take them.
                let missed = (now - deadline) / period;
                self.start = deadline.saturating_add(missed * period);
                self.deadline = Some(self.start.saturating_add(period));
            }
            Mode::OneShot => self.deadline = None,
            Mode::TscDeadline => {
                self.deadline = None;
                self.tsc_deadline = 0;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A TSC of 2 GHz: two ticks of it for each of the bus clock.
    fn timer() -> Timer {
        let mut timer = Timer::new(2_000_000);
        timer.divide = 0xb;
        timer
    }

    #[test]
    fn the_divide_register_has_a_hole() {
        let mut timer = timer();
        for (code, divisor) in [
            (0, 2),
            (1, 4),
            (2, 8),
            (3, 16),
            (8, 32),
            (9, 64),
            (10, 128),
            (11, 1),
        ] {
            timer.divide = code;
            assert_eq!(timer.divisor(), divisor, "{code}");
        }
    }

    #[test]
    fn one_shot_fires_once() {
        let mut timer = timer();
        timer.set_initial(1000, Mode::OneShot, 500);
        assert_eq!(timer.deadline(), Some(2500));
        assert_eq!(timer.current(Mode::OneShot, 1500), 500);
        assert!(!timer.fire(Mode::OneShot, 2499));
        assert!(timer.fire(Mode::OneShot, 2500));
        assert!(!timer.fire(Mode::OneShot, 9999));
        assert_eq!(timer.current(Mode::OneShot, 9999), 0);
    }

    #[test]
    fn periodic_keeps_its_phase_and_drops_what_was_missed() {
        let mut timer = timer();
        timer.set_initial(100, Mode::Periodic, 0);
        assert!(timer.fire(Mode::Periodic, 210));
        assert_eq!(timer.deadline(), Some(400));
        assert_eq!(timer.current(Mode::Periodic, 300), 50);
        assert!(timer.fire(Mode::Periodic, 1050));
        assert_eq!(timer.deadline(), Some(1200));
    }

    #[test]
    fn an_initial_count_of_zero_stops() {
        let mut timer = timer();
        timer.set_initial(100, Mode::Periodic, 0);
        timer.set_initial(0, Mode::Periodic, 50);
        assert_eq!(timer.deadline(), None);
    }

    #[test]
    fn a_new_divisor_keeps_the_count() {
        let mut timer = timer();
        timer.set_initial(1000, Mode::OneShot, 0);
        timer.set_divide(0, Mode::OneShot, 1000);
        assert_eq!(timer.current(Mode::OneShot, 1000), 500);
        assert_eq!(timer.deadline(), Some(3000));
    }

    #[test]
    fn tsc_deadlines_are_in_the_guests_clock() {
        let mut timer = timer();
        timer.set_tsc_deadline(5000, 1000);
        assert_eq!(timer.deadline(), Some(4000));
        timer.set_tsc_deadline(5000, 0u64.wrapping_sub(70_000));
        assert_eq!(timer.deadline(), Some(75_000));
        timer.set_tsc_deadline(5, 1000);
        assert!(timer.fire(Mode::TscDeadline, 1));
        assert_eq!(timer.tsc_deadline, 0);
        timer.set_tsc_deadline(5000, 0);
        timer.set_mode(Mode::TscDeadline, Mode::OneShot);
        assert_eq!(timer.deadline(), None);
    }
}
