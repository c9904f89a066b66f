//! The real-time clock and its battery-backed memory (Motorola MC146818). Time is an argument: nanoseconds since 1970.

/// Bytes of memory behind ports 0x70 and 0x71.
const BANK: usize = 128;

const SECONDS: usize = 0x00;
const SECONDS_ALARM: usize = 0x01;
const MINUTES: usize = 0x02;
const MINUTES_ALARM: usize = 0x03;
const HOURS: usize = 0x04;
const HOURS_ALARM: usize = 0x05;
const WEEKDAY: usize = 0x06;
const DAY: usize = 0x07;
const MONTH: usize = 0x08;
const YEAR: usize = 0x09;
const A: usize = 0x0a;
const B: usize = 0x0b;
const C: usize = 0x0c;
const D: usize = 0x0d;
/// Where PCs keep the century; the FADT says so.
pub const CENTURY: usize = 0x32;

const A_UPDATE_IN_PROGRESS: u8 = 0x80;
const B_SET: u8 = 0x80;
const B_PERIODIC: u8 = 0x40;
const B_ALARM: u8 = 0x20;
const B_UPDATE: u8 = 0x10;
const B_BINARY: u8 = 0x04;
const B_24_HOURS: u8 = 0x02;
const C_INTERRUPT: u8 = 0x80;
/// Periodic, alarm and update flags have the places of their enables in B.
const C_FLAGS: u8 = B_PERIODIC | B_ALARM | B_UPDATE;
const D_VALID: u8 = 0x80;
const PM: u8 = 0x80;
/// An alarm byte of 0xc0 or more matches everything.
const ANY: u8 = 0xc0;

const SECOND: u64 = 1_000_000_000;
/// The time registers change this long after update-in-progress is shown.
const UPDATE_NOTICE: u64 = 244_000;
const DAY_SECONDS: u64 = 86_400;

/// What the clock shows, from 1970 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct RtcTime {
    pub year: u64,
    /// From 1 on.
    pub month: u64,
    /// From 1 on.
    pub day: u64,
    pub hour: u64,
    pub minute: u64,
    pub second: u64,
}

/// State of the chip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rtc {
    index: u8,
    memory: [u8; BANK],
    flags: u8,
    /// Guest time minus host time, in seconds.
    offset: i64,
    /// While software sets the time: the second that was shown when it began.
    frozen: Option<u64>,
    /// Host time up to which flags were raised.
    accounted: u64,
}

impl Rtc {
    /// A chip that is `offset` seconds ahead of host time, in BCD and 24 hours.
    pub fn new(now: u64, offset: i64) -> Self {
        let mut memory = [0; BANK];
        memory[A] = 0x26;
        memory[B] = B_24_HOURS;
        memory[D] = D_VALID;
        Self {
            index: 0,
            memory,
            flags: 0,
            offset,
            frozen: None,
            accounted: now,
        }
    }

    /// Seconds by which it is ahead of host time.
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// What it shows.
    pub fn time(&self, now: u64) -> RtcTime {
        let second = self.shown(now);
        let (year, month, day) = date(second / DAY_SECONDS);
        let in_day = second % DAY_SECONDS;
        RtcTime {
            year,
            month,
            day,
            hour: in_day / 3600,
            minute: in_day / 60 % 60,
            second: in_day % 60,
        }
    }

    /// Sets a byte of memory as firmware would.
    pub fn set_memory(&mut self, index: usize, value: u8) {
        if let Some(byte) = self.memory.get_mut(index) {
            *byte = value;
        }
    }

    /// Reads port 0 (0x70) or 1 (0x71).
    pub fn read(&mut self, port: u64, now: u64) -> u8 {
        if port == 0 {
            return 0xff;
        }
        self.account(now);
        match usize::from(self.index) {
            A => {
                self.memory[A]
                    | if self.is_updating(now) {
                        A_UPDATE_IN_PROGRESS
                    } else {
                        0
                    }
            }
            C => self.take_flags(),
            index if is_time(index) => self.time_register(index, self.shown(now)),
            index => self.memory[index],
        }
    }

    /// Writes port 0 (0x70) or 1 (0x71).
    pub fn write(&mut self, port: u64, value: u8, now: u64) {
        if port == 0 {
            self.index = value & 0x7f;
            return;
        }
        self.account(now);
        match usize::from(self.index) {
            A => self.memory[A] = value & !A_UPDATE_IN_PROGRESS,
            B => self.write_b(value, now),
            C | D => {}
            index if is_time(index) => self.set_time_register(index, value, now),
            index => self.memory[index] = value,
        }
    }

    /// Level of IRQ 8.
    pub fn interrupt(&self) -> bool {
        self.flags & self.memory[B] & C_FLAGS != 0
    }

    /// Whether the alarm is a reason for [`Self::interrupt`].
    pub fn alarm(&self) -> bool {
        self.flags & self.memory[B] & B_ALARM != 0
    }

    /// Raises the flags of what happened up to `now`.
    pub fn account(&mut self, now: u64) {
        if now < self.accounted {
            // The host's clock was set back.
            self.accounted = now;
            return;
        }
        let before = self.accounted;
        self.accounted = now;
        if let Some(period) = self.period()
            && now / period > before / period
        {
            self.flags |= B_PERIODIC;
        }
        if self.frozen.is_some() || now / SECOND == before / SECOND {
            return;
        }
        self.flags |= B_UPDATE;
        let from = self.guest_second(before);
        if self
            .next_alarm(from)
            .is_some_and(|at| at <= self.guest_second(now))
        {
            self.flags |= B_ALARM;
        }
    }

    /// Host time at which an interrupt comes next, if none changes before; `None` if no interrupt is enabled.
    pub fn deadline(&self, now: u64) -> Option<u64> {
        let waits = |bit: u8| self.memory[B] & bit != 0 && self.flags & bit == 0;
        let periodic = self
            .period()
            .filter(|_| waits(B_PERIODIC))
            .map(|period| (now / period + 1) * period);
        let runs = self.frozen.is_none();
        let update = (runs && waits(B_UPDATE)).then_some((now / SECOND + 1) * SECOND);
        let alarm = if runs && waits(B_ALARM) {
            self.next_alarm(self.guest_second(now))
        } else {
            None
        };
        let alarm = alarm.map(|second| (second as i64).saturating_sub(self.offset).max(0) as u64 * SECOND);
        [periodic, update, alarm].into_iter().flatten().min()
    }

    /// The periodic interrupt's period in nanoseconds, by the rate in A.
    fn period(&self) -> Option<u64> {
        let rate = match self.memory[A] & 0xf {
            0 => return None,
            // With the 32.768 kHz crystal the two fastest rates are those of 8 and 9.
            rate @ 1..=2 => rate + 7,
            rate => rate,
        };
        Some((SECOND << (rate - 1)) / 32_768)
    }

    fn guest_second(&self, now: u64) -> u64 {
        ((now / SECOND) as i64).saturating_add(self.offset).max(0) as u64
    }

    fn shown(&self, now: u64) -> u64 {
        self.frozen.unwrap_or_else(|| self.guest_second(now))
    }

    fn is_updating(&self, now: u64) -> bool {
        self.frozen.is_none() && now % SECOND >= SECOND - UPDATE_NOTICE
    }

    fn take_flags(&mut self) -> u8 {
        let interrupt = if self.interrupt() { C_INTERRUPT } else { 0 };
        std::mem::take(&mut self.flags) | interrupt
    }

    fn write_b(&mut self, value: u8, now: u64) {
        let sets = value & B_SET != 0;
        match (sets, self.frozen) {
            (true, None) => {
                let second = self.guest_second(now);
                for index in (0..BANK).filter(|&index| is_time(index)) {
                    self.memory[index] = self.time_register(index, second);
                }
                self.frozen = Some(second);
            }
            (false, Some(_)) => {
                self.offset = (self.second_in_memory() as i64).saturating_sub((now / SECOND) as i64);
                self.frozen = None;
            }
            _ => {}
        }
        self.memory[B] = value;
    }

    /// A write to a time register. Outside of a set cycle it takes effect at once.
    fn set_time_register(&mut self, index: usize, value: u8, now: u64) {
        let b = self.memory[B];
        self.write_b(b | B_SET, now);
        self.memory[index] = value;
        self.frozen = Some(self.second_in_memory());
        self.write_b(b, now);
    }

    fn time_register(&self, index: usize, second: u64) -> u8 {
        if self.frozen.is_some() && index == WEEKDAY {
            return self.memory[WEEKDAY];
        }
        let (days, in_day) = (second / DAY_SECONDS, second % DAY_SECONDS);
        let (year, month, day) = date(days);
        let plain = match index {
            SECONDS => in_day % 60,
            MINUTES => in_day / 60 % 60,
            HOURS => return self.encode_hour((in_day / 3600) as u8),
            WEEKDAY => (days + 4) % 7 + 1,
            DAY => day,
            MONTH => month,
            YEAR => year % 100,
            _ => year / 100 % 100,
        };
        self.encode(plain as u8)
    }

    /// The time that the registers in memory say; nonsense in them gives some time, never a failure.
    fn second_in_memory(&self) -> u64 {
        let field = |index: usize| u64::from(self.decode(self.memory[index]));
        let year = (field(CENTURY) * 100 + field(YEAR)).max(1970);
        let days = days_before(year, field(MONTH).clamp(1, 12)) + field(DAY).clamp(1, 31) - 1;
        let hour = u64::from(self.decode_hour(self.memory[HOURS]));
        days * DAY_SECONDS + hour * 3600 + field(MINUTES) * 60 + field(SECONDS)
    }

    fn encode(&self, value: u8) -> u8 {
        if self.memory[B] & B_BINARY != 0 {
            value
        } else {
            ((value / 10) << 4) | (value % 10)
        }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.memory[B] & B_BINARY != 0 {
            value
        } else {
            (value >> 4) * 10 + (value & 0xf)
        }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.memory[B] & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let twelve = if hour.is_multiple_of(12) { 12 } else { hour % 12 };
        self.encode(twelve) | if hour >= 12 { PM } else { 0 }
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.memory[B] & B_24_HOURS != 0 {
            return self.decode(value);
        }
        self.decode(value & !PM) % 12 + if value & PM != 0 { 12 } else { 0 }
    }

    /// The first guest second after `after`, within a day, that the alarm matches.
    fn next_alarm(&self, after: u64) -> Option<u64> {
        let wanted = |index: usize, value: u64| {
            let byte = self.memory[index];
            let decoded = if index == HOURS_ALARM {
                self.decode_hour(byte)
            } else {
                self.decode(byte)
            };
            byte >= ANY || u64::from(decoded) == value
        };
        let mut at = after + 1;
        // Skips by hours, then by minutes, then by seconds: fewer than 200 steps.
        while at <= after + DAY_SECONDS {
            let in_day = at % DAY_SECONDS;
            if !wanted(HOURS_ALARM, in_day / 3600) {
                at += 3600 - in_day % 3600;
            } else if !wanted(MINUTES_ALARM, in_day / 60 % 60) {
                at += 60 - in_day % 60;
            } else if !wanted(SECONDS_ALARM, in_day % 60) {
                at += 1;
            } else {
                return Some(at);
            }
        }
        None
    }
}

fn is_time(index: usize) -> bool {
    matches!(
        index,
        SECONDS | MINUTES | HOURS | WEEKDAY | DAY | MONTH | YEAR | CENTURY
    )
}

/// Year, month and day of a day since 1970 (the proleptic Gregorian calendar, by eras of 400 years from 1 March).
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Days from 1970 to the first of a month; `year` is at least 1970.
fn days_before(year: u64, month: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2026-11-22 21:29:58 UTC, a Sunday.
    const NOW: u64 = 1_795_382_998 * SECOND;

    fn get(rtc: &mut Rtc, index: u8, now: u64) -> u8 {
        rtc.write(0, index, now);
        rtc.read(1, now)
    }

    fn put(rtc: &mut Rtc, index: u8, value: u8, now: u64) {
        rtc.write(0, index, now);
        rtc.write(1, value, now);
    }

    fn all(rtc: &mut Rtc, now: u64) -> Vec<u8> {
        [0, 2, 4, 6, 7, 8, 9, 0x32]
            .map(|index| get(rtc, index, now))
            .to_vec()
    }

    #[test]
    fn the_time_is_the_hosts_in_bcd_binary_and_twelve_hours() {
        let mut rtc = Rtc::new(NOW, 0);
        assert_eq!(
            all(&mut rtc, NOW),
            [0x58, 0x29, 0x21, 0x01, 0x22, 0x11, 0x26, 0x20]
        );
        put(&mut rtc, 0x0b, B_BINARY, NOW);
        assert_eq!(all(&mut rtc, NOW), [58, 29, PM | 9, 1, 22, 11, 26, 20]);
        assert_eq!(get(&mut rtc, 0x0d, NOW), D_VALID);
    }

    #[test]
    fn it_can_be_ahead_of_the_host_and_behind() {
        let hours = |offset| get(&mut Rtc::new(NOW, offset), 4, NOW);
        assert_eq!((hours(7200), hours(0), hours(-7200)), (0x23, 0x21, 0x19));
        let time = Rtc::new(NOW, 7200).time(NOW);
        assert_eq!((time.year, time.month, time.day, time.minute), (2026, 11, 22, 29));
        let first = Rtc::new(NOW, -i64::MAX).time(NOW);
        assert_eq!((first.year, first.hour), (1970, 0), "nothing was before");
    }

    #[test]
    fn a_time_that_software_sets_goes_on_from_there() {
        let mut rtc = Rtc::new(NOW, 0);
        put(&mut rtc, 0x0b, B_24_HOURS | B_SET, NOW);
        for (index, value) in [(0, 0x59), (2, 0x59), (4, 0x23), (7, 0x28), (8, 0x02), (9, 0x24)] {
            put(&mut rtc, index, value, NOW + 5 * SECOND);
        }
        assert_eq!(get(&mut rtc, 0, NOW + 9 * SECOND), 0x59);
        put(&mut rtc, 0x0b, B_24_HOURS, NOW + 10 * SECOND);
        assert_eq!(all(&mut rtc, NOW + 11 * SECOND)[..3], [0, 0, 0]);
        assert_eq!(all(&mut rtc, NOW + 11 * SECOND)[4..], [0x29, 0x02, 0x24, 0x20]);
    }

    #[test]
    fn update_in_progress_is_shown_before_the_second_changes() {
        let mut rtc = Rtc::new(NOW, 0);
        assert_eq!(get(&mut rtc, 0x0a, NOW + 999_000_000) & 0x80, 0);
        assert_eq!(get(&mut rtc, 0x0a, NOW + 999_800_000) & 0x80, 0x80);
    }

    #[test]
    fn each_interrupt_has_its_deadline_and_its_flag() {
        let mut rtc = Rtc::new(NOW, 0);
        assert_eq!(rtc.deadline(NOW), None);
        put(&mut rtc, 0x0b, B_24_HOURS | B_UPDATE, NOW);
        assert_eq!(rtc.deadline(NOW), Some(NOW + SECOND));
        rtc.account(NOW + SECOND);
        assert!(rtc.interrupt());
        assert_eq!(rtc.deadline(NOW + SECOND), None, "it waits to be read");
        assert_eq!(get(&mut rtc, 0x0c, NOW + SECOND) & 0x90, 0x90);
        assert!(!rtc.interrupt());

        put(&mut rtc, 0x0b, B_24_HOURS | B_PERIODIC, NOW);
        let period = rtc.deadline(NOW).unwrap() - NOW;
        assert!(period <= SECOND / 1024 + 1, "rate 6 is 1,024 a second");

        put(&mut rtc, 0x0b, B_24_HOURS | B_ALARM, NOW);
        for (index, value) in [(1, 0x00), (3, 0x30), (5, ANY)] {
            put(&mut rtc, index, value, NOW);
        }
        get(&mut rtc, 0x0c, NOW);
        assert_eq!(rtc.deadline(NOW), Some(NOW + 2 * SECOND));
        rtc.account(NOW + 2 * SECOND);
        assert!(rtc.interrupt());
    }

    #[test]
    fn memory_keeps_what_it_is_given() {
        let mut rtc = Rtc::new(NOW, 0);
        rtc.set_memory(0x34, 7);
        assert_eq!(get(&mut rtc, 0x34, NOW), 7);
        put(&mut rtc, 0x0f, 9, NOW);
        assert_eq!(get(&mut rtc, 0x8f, NOW), 9, "bit 7 is the NMI mask");
    }

    proptest! {
        #[test]
        fn dates_and_days_agree(days in 0u64..200_000) {
            let (year, month, day) = date(days);
            prop_assert_eq!(days_before(year, month) + day - 1, days);
        }

        #[test]
        fn any_access_leaves_a_deadline_in_the_future(
            steps in proptest::collection::vec((any::<u8>(), any::<u8>(), 0u64..10 * SECOND), 0..60)
        ) {
            let (mut rtc, mut now) = (Rtc::new(NOW, 0), NOW);
            for (index, value, later) in steps {
                now += later;
                put(&mut rtc, index, value, now);
                all(&mut rtc, now);
                if rtc.offset == 0 {
                    prop_assert!(rtc.deadline(now).is_none_or(|at| at > now));
                }
            }
        }
    }
}
