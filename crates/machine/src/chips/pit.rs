//! The 8254 timer (Intel 8254 data sheet): three counters, six modes. Time is an argument, in counter ticks.

/// Ticks a second.
pub const FREQUENCY: u64 = 1_193_182;

/// Ticks that have passed after `nanoseconds`.
pub fn ticks(nanoseconds: u64) -> u64 {
    (u128::from(nanoseconds) * u128::from(FREQUENCY) / 1_000_000_000) as u64
}

/// The first nanosecond at which `ticks` have passed.
pub fn nanoseconds(ticks: u64) -> u64 {
    (u128::from(ticks) * 1_000_000_000).div_ceil(u128::from(FREQUENCY)) as u64
}

/// Which byte of a 16-bit value an access is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Low,
    High,
    Word,
}

/// One counter.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Counter {
    mode: u8,
    bcd: bool,
    access: Access,
    /// Initial count, 1 to 65536 (10000 in BCD); `None` until one was written after the mode.
    count: Option<u32>,
    /// Low byte of a count that is being written.
    low_written: Option<u8>,
    /// The next read of a word gives its high byte.
    read_high: bool,
    latched: Option<u16>,
    latched_status: Option<u8>,
    gate: bool,
    /// Tick at which counting began.
    start: u64,
    /// Ticks counted when the gate stopped it.
    held: u64,
    /// In the modes that a gate edge triggers: it did.
    triggered: bool,
}

impl Counter {
    fn new(gate: bool) -> Self {
        Self {
            mode: 3,
            bcd: false,
            access: Access::Word,
            count: None,
            low_written: None,
            read_high: false,
            latched: None,
            latched_status: None,
            gate,
            start: 0,
            held: 0,
            triggered: false,
        }
    }

    /// Ticks counted since the count was loaded (or since the last trigger), and the count, if it counts at all.
    fn progress(&self, now: u64) -> Option<(u64, u64)> {
        let count = u64::from(self.count?);
        match self.mode {
            1 | 5 => self.triggered.then(|| (now.saturating_sub(self.start), count)),
            _ if self.gate => Some((now.saturating_sub(self.start), count)),
            _ => Some((self.held, count)),
        }
    }

    fn output(&self, now: u64) -> bool {
        let Some((elapsed, count)) = self.progress(now) else {
            return self.mode != 0;
        };
        match self.mode {
            0 | 1 => elapsed >= count,
            2 => !self.gate || elapsed % count != count - 1,
            3 => !self.gate || elapsed % count < count.div_ceil(2),
            _ => elapsed != count,
        }
    }

    /// The tick after `now` at which the output rises next.
    fn next_rise(&self, now: u64) -> Option<u64> {
        if !self.gate && !matches!(self.mode, 1 | 5) {
            return None;
        }
        let (elapsed, count) = self.progress(now)?;
        let after = match self.mode {
            0 | 1 => count.checked_sub(elapsed).filter(|&left| left > 0)?,
            2 | 3 => count - elapsed % count,
            _ => (count + 1).checked_sub(elapsed).filter(|&left| left > 0)?,
        };
        now.checked_add(after)
    }

    /// What the counting element holds.
    fn value(&self, now: u64) -> u16 {
        let Some((elapsed, count)) = self.progress(now) else {
            return self.encode(u64::from(self.count.unwrap_or(0)));
        };
        let modulus = if self.bcd { 10_000 } else { 0x1_0000 };
        let value = match self.mode {
            2 => count - elapsed % count,
            3 => {
                // It counts down by two, twice a period.
                let half = elapsed % count % count.div_ceil(2);
                (count & !1).saturating_sub(2 * half).max(2)
            }
            _ => (count + modulus - elapsed % modulus) % modulus,
        };
        self.encode(value % modulus)
    }

    fn encode(&self, value: u64) -> u16 {
        let value = value as u16;
        if self.bcd {
            ((value / 1000 % 10) << 12) | ((value / 100 % 10) << 8) | ((value / 10 % 10) << 4) | (value % 10)
        } else {
            value
        }
    }

    fn decode(&self, value: u16) -> u32 {
        if !self.bcd {
            return if value == 0 { 0x1_0000 } else { u32::from(value) };
        }
        let decimal = [12, 8, 4, 0]
            .iter()
            .fold(0, |sum, shift| sum * 10 + u32::from(value >> shift & 0xf));
        // Digits above nine are undefined; the sum stays in range.
        if decimal == 0 { 10_000 } else { decimal }
    }

    fn status(&self, now: u64) -> u8 {
        let access = match self.access {
            Access::Low => 1,
            Access::High => 2,
            Access::Word => 3,
        };
        let null_count = self.count.is_none();
        u8::from(self.output(now)) << 7
            | u8::from(null_count) << 6
            | access << 4
            | self.mode << 1
            | u8::from(self.bcd)
    }

    fn set_mode(&mut self, control: u8, now: u64) {
        let access = match control >> 4 & 3 {
            0 => {
                self.latched.get_or_insert(self.value(now));
                return;
            }
            1 => Access::Low,
            2 => Access::High,
            _ => Access::Word,
        };
        let mode = match control >> 1 & 7 {
            mode @ 0..=5 => mode,
            mode => mode - 4,
        };
        *self = Self {
            mode,
            bcd: control & 1 != 0,
            access,
            ..Self::new(self.gate)
        };
    }

    fn write(&mut self, value: u8, now: u64) {
        let value = u16::from(value);
        let word = match (self.access, self.low_written.take()) {
            (Access::Low, _) => value,
            (Access::High, _) => value << 8,
            (Access::Word, Some(low)) => value << 8 | u16::from(low),
            (Access::Word, None) => {
                self.low_written = Some(value as u8);
                // The first byte stops a count in mode 0.
                if self.mode == 0 {
                    self.count = None;
                }
                return;
            }
        };
        self.count = Some(self.decode(word));
        if !matches!(self.mode, 1 | 5) {
            self.start = now;
            self.held = 0;
        }
    }

    fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let value = self.latched.unwrap_or_else(|| self.value(now));
        let high = match self.access {
            Access::Low => false,
            Access::High => true,
            Access::Word => {
                self.read_high = !self.read_high;
                !self.read_high
            }
        };
        if self.access != Access::Word || high {
            self.latched = None;
        }
        if high { (value >> 8) as u8 } else { value as u8 }
    }

    fn set_gate(&mut self, gate: bool, now: u64) {
        if gate == self.gate {
            return;
        }
        match (self.mode, gate) {
            (1 | 5, true) => {
                self.start = now;
                self.triggered = true;
            }
            (1 | 5, false) => {}
            (_, false) => self.held = self.progress(now).map_or(0, |(elapsed, _)| elapsed),
            (0 | 4, true) => self.start = now.saturating_sub(self.held),
            (_, true) => self.start = now,
        }
        self.gate = gate;
    }
}

/// The chip. Counter 0 is the system timer, counter 2 the speaker, whose gate is port 0x61.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pit {
    counters: [Counter; 3],
}

impl Default for Pit {
    fn default() -> Self {
        Self {
            counters: [Counter::new(true), Counter::new(true), Counter::new(false)],
        }
    }
}

impl Pit {
    /// Reads port 0 to 3 at tick `now`. The control port reads as ones.
    pub fn read(&mut self, port: u64, now: u64) -> u8 {
        self.counters
            .get_mut(port as usize)
            .map_or(0xff, |counter| counter.read(now))
    }

    /// Writes port 0 to 3 at tick `now`.
    pub fn write(&mut self, port: u64, value: u8, now: u64) {
        match port {
            0..=2 => self.counters[port as usize].write(value, now),
            3 if value >> 6 == 3 => self.read_back(value, now),
            3 => self.counters[usize::from(value >> 6)].set_mode(value, now),
            _ => {}
        }
    }

    /// Level of a counter's output.
    pub fn output(&self, counter: usize, now: u64) -> bool {
        self.counters
            .get(counter)
            .is_some_and(|counter| counter.output(now))
    }

    /// The tick after `now` at which counter 0's output rises.
    pub fn next_rise(&self, now: u64) -> Option<u64> {
        self.counters[0].next_rise(now)
    }

    /// Sets the gate of counter 2.
    pub fn set_speaker_gate(&mut self, gate: bool, now: u64) {
        self.counters[2].set_gate(gate, now);
    }

    /// The gate of counter 2.
    pub fn speaker_gate(&self) -> bool {
        self.counters[2].gate
    }

    fn read_back(&mut self, control: u8, now: u64) {
        for (i, counter) in self.counters.iter_mut().enumerate() {
            if control & 2 << i == 0 {
                continue;
            }
            if control & 0x20 == 0 {
                counter.latched.get_or_insert(counter.value(now));
            }
            if control & 0x10 == 0 {
                counter.latched_status.get_or_insert(counter.status(now));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn load(pit: &mut Pit, counter: u8, mode: u8, count: u16, now: u64) {
        pit.write(3, counter << 6 | 0x30 | mode << 1, now);
        pit.write(u64::from(counter), count as u8, now);
        pit.write(u64::from(counter), (count >> 8) as u8, now);
    }

    fn read_word(pit: &mut Pit, counter: u64, now: u64) -> u16 {
        u16::from(pit.read(counter, now)) | u16::from(pit.read(counter, now)) << 8
    }

    #[test]
    fn mode_0_raises_its_output_at_the_end_and_counts_on() {
        let mut pit = Pit::default();
        load(&mut pit, 0, 0, 100, 1000);
        assert!(!pit.output(0, 1099));
        assert!(pit.output(0, 1100));
        assert_eq!(pit.next_rise(1000), Some(1100));
        assert_eq!(pit.next_rise(1100), None);
        assert_eq!(read_word(&mut pit, 0, 1040), 60);
        assert_eq!(read_word(&mut pit, 0, 1101), 0xffff);
    }

    #[test]
    fn mode_2_is_low_for_one_tick_a_period() {
        let mut pit = Pit::default();
        load(&mut pit, 0, 2, 10, 0);
        let low: Vec<u64> = (0..30).filter(|&t| !pit.output(0, t)).collect();
        assert_eq!(low, [9, 19, 29]);
        assert_eq!(pit.next_rise(0), Some(10));
        assert_eq!(pit.next_rise(10), Some(20));
        assert_eq!(read_word(&mut pit, 0, 13), 7);
    }

    #[test]
    fn mode_3_is_a_square_wave_and_counts_by_two() {
        let mut pit = Pit::default();
        load(&mut pit, 0, 3, 10, 0);
        let levels: Vec<bool> = (0..10).map(|t| pit.output(0, t)).collect();
        assert_eq!(
            levels,
            [true, true, true, true, true, false, false, false, false, false]
        );
        assert_eq!(read_word(&mut pit, 0, 1), 8);
        assert_eq!(read_word(&mut pit, 0, 6), 8);
        assert_eq!(pit.next_rise(3), Some(10));
    }

    #[test]
    fn modes_4_and_5_strobe_once() {
        let mut pit = Pit::default();
        load(&mut pit, 0, 4, 5, 0);
        assert!(pit.output(0, 4) && !pit.output(0, 5) && pit.output(0, 6));
        assert_eq!(pit.next_rise(0), Some(6));
        assert_eq!(pit.next_rise(6), None);
        load(&mut pit, 2, 5, 5, 0);
        assert!(pit.output(2, 5), "not triggered");
        pit.set_speaker_gate(true, 10);
        assert!(!pit.output(2, 15) && pit.output(2, 16));
    }

    #[test]
    fn the_gate_holds_mode_0_and_triggers_mode_1() {
        let mut pit = Pit::default();
        load(&mut pit, 2, 0, 100, 0);
        assert!(!pit.output(2, 500), "the gate is low");
        pit.set_speaker_gate(true, 500);
        assert!(!pit.output(2, 599) && pit.output(2, 600));
        load(&mut pit, 2, 1, 50, 700);
        assert!(pit.output(2, 900));
        pit.set_speaker_gate(false, 900);
        pit.set_speaker_gate(true, 910);
        assert!(!pit.output(2, 959) && pit.output(2, 960));
    }

    #[test]
    fn latches_hold_until_they_are_read() {
        let mut pit = Pit::default();
        load(&mut pit, 0, 2, 0, 0);
        pit.write(3, 0x00, 16);
        assert_eq!(read_word(&mut pit, 0, 1000), 65520);
        assert_eq!(read_word(&mut pit, 0, 1000), 64536);
        pit.write(3, 0xc2, 1016);
        assert_eq!(pit.read(0, 2000), 0x80 | 0x30 | 2 << 1);
        assert_eq!(read_word(&mut pit, 0, 2000), 64520);
    }

    #[test]
    fn single_byte_and_decimal_access() {
        let mut pit = Pit::default();
        pit.write(3, 0x14, 0);
        pit.write(0, 200, 0);
        assert_eq!(pit.read(0, 50), 150);
        pit.write(3, 0x35, 0);
        pit.write(0, 0x00, 0);
        pit.write(0, 0x10, 0);
        assert_eq!(read_word(&mut pit, 0, 1), 0x0999);
    }

    #[test]
    fn a_tick_and_its_nanosecond_agree() {
        for tick in [0, 1, 7, 1_193_182, 4_000_000_000, 40_000_000_000_000] {
            assert_eq!(ticks(nanoseconds(tick)), tick);
        }
    }

    proptest! {
        #[test]
        fn a_rise_is_where_the_output_goes_up(
            writes in proptest::collection::vec((0u64..4, any::<u8>()), 1..40),
            reads in proptest::collection::vec(0u64..8, 0..10),
            gates in any::<u8>(),
        ) {
            let mut pit = Pit::default();
            let mut now = 0;
            for (i, (port, value)) in writes.iter().enumerate() {
                pit.write(*port, *value, now);
                pit.set_speaker_gate(gates >> (i % 8) & 1 != 0, now);
                now += u64::from(*value) * 7;
            }
            for port in reads {
                pit.read(port, now);
            }
            if let Some(rise) = pit.next_rise(now) {
                prop_assert!(rise > now);
                // A count of one has no tick in which it is low.
                if pit.counters[0].count != Some(1) {
                    prop_assert!(pit.output(0, rise));
                    prop_assert!(!pit.output(0, rise - 1));
                }
            }
        }
    }
}
