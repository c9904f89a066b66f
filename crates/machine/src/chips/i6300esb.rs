//! The watchdog timer of Intel's 6300ESB (6300ESB datasheet, 14), with two stages of which the second resets the machine.
//!
//! The first stage's interrupt is not sent: there is none in QEMU's either, and drivers do not use it.

use crate::registers::Masked;

/// Bytes of its registers.
pub const SIZE: u64 = 0x10;

/// In configuration space: how the stages count and what they do (16 bits).
pub const CONFIG: u16 = 0x60;
/// What of it is stored.
pub const CONFIG_BITS: u16 = CONFIG_REBOOT_OFF | CONFIG_FAST | 3;
const CONFIG_REBOOT_OFF: u16 = 1 << 5;
/// It counts at 1 MHz, instead of 1 kHz.
const CONFIG_FAST: u16 = 1 << 2;

/// In configuration space: whether it runs (8 bits).
pub const LOCK: u16 = 0x68;
/// What of it is stored.
pub const LOCK_BITS: u8 = LOCKED | LOCK_ENABLE | LOCK_FREE_RUN;
/// This register stays as it is until the next reset.
pub const LOCKED: u8 = 1;
const LOCK_ENABLE: u8 = 1 << 1;
const LOCK_FREE_RUN: u8 = 1 << 2;

const PRELOAD_1: u64 = 0x0;
const PRELOAD_2: u64 = 0x4;
const RELOAD: u64 = 0xc;
/// What is written to [`RELOAD`] before each write to a register.
const UNLOCK: [u32; 2] = [0x80, 0x86];
const RELOAD_RESTART: u32 = 1 << 8;
/// The last reset was the watchdog's. Linux's driver looks for bit 12, the datasheet has it in bit 9.
const RELOAD_TIMEOUT: u32 = 1 << 9 | 1 << 12;

const PRELOAD_MASK: u32 = 0xf_ffff;
/// It counts the clock of PCI, 33 MHz, divided by 2 to the power of these.
const SHIFT_SLOW: u32 = 15;
const SHIFT_FAST: u32 = 5;
/// The shortest stage, in nanoseconds: the host does not wake up more often for a guest, and does not tell more often that time
/// ran out than once a second. The shortest of Linux's driver is a little longer.
const SHORTEST: u64 = 500_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    First,
    Second,
}

/// State of the watchdog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct I6300Esb {
    config: u16,
    lock: u8,
    preload: [u32; 2],
    /// How many of [`UNLOCK`] were written.
    unlocked: usize,
    /// It ran out since that was cleared. No reset changes it.
    timed_out: bool,
    stage: Stage,
    /// When the stage ends, in nanoseconds.
    deadline: Option<u64>,
    /// The CPUs are held, and time stands still. No reset changes it.
    is_held: bool,
    /// What is left of the stage meanwhile.
    left: Option<u64>,
}

impl Default for I6300Esb {
    fn default() -> Self {
        Self {
            config: 0,
            lock: 0,
            preload: [PRELOAD_MASK; 2],
            unlocked: 0,
            timed_out: false,
            stage: Stage::First,
            deadline: None,
            is_held: false,
            left: None,
        }
    }
}

impl I6300Esb {
    /// Back to the reset state.
    pub fn reset(&mut self) {
        *self = Self {
            timed_out: self.timed_out,
            is_held: self.is_held,
            ..Self::default()
        };
    }

    /// Takes in its registers in configuration space, at `now` nanoseconds.
    pub fn configure(&mut self, config: u16, lock: u8, now: u64) {
        self.config = config;
        let was_enabled = self.lock & LOCK_ENABLE != 0;
        self.lock = lock;
        match (was_enabled, lock & LOCK_ENABLE != 0) {
            (false, true) => self.start(Stage::First, now),
            (_, false) => (self.deadline, self.left) = (None, None),
            (true, true) => {}
        }
    }

    /// Reads the 32-bit register at `offset`.
    pub fn read(&self, offset: u64) -> u32 {
        if offset == RELOAD && self.timed_out {
            RELOAD_TIMEOUT
        } else {
            0
        }
    }

    /// Writes the 32-bit register at `offset`, at `now` nanoseconds.
    pub fn write(&mut self, offset: u64, written: Masked, now: u64) {
        if offset == RELOAD && written.value == UNLOCK[0] {
            self.unlocked = 1;
            return;
        }
        if offset == RELOAD && written.value == UNLOCK[1] && self.unlocked == 1 {
            self.unlocked = 2;
            return;
        }
        if self.unlocked != 2 {
            return;
        }
        self.unlocked = 0;
        match offset {
            PRELOAD_1 => self.preload[0] = written.over(self.preload[0]) & PRELOAD_MASK,
            PRELOAD_2 => self.preload[1] = written.over(self.preload[1]) & PRELOAD_MASK,
            RELOAD => {
                if written.value & RELOAD_TIMEOUT != 0 {
                    self.timed_out = false;
                }
                if written.value & RELOAD_RESTART != 0 {
                    self.start(Stage::First, now);
                }
            }
            _ => {}
        }
    }

    /// When a stage ends, in nanoseconds.
    pub fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    /// Looks at the time. True if it has run out and the machine is to be reset; then it is in its reset state.
    pub fn note_time(&mut self, now: u64) -> bool {
        if self.deadline.is_none_or(|at| at > now) {
            return false;
        }
        if self.stage == Stage::First {
            self.start(Stage::Second, now);
            return false;
        }
        self.deadline = None;
        if self.config & CONFIG_REBOOT_OFF == 0 {
            self.timed_out = true;
            self.reset();
            return true;
        }
        if self.lock & LOCK_FREE_RUN != 0 {
            self.start(Stage::First, now);
        }
        false
    }

    /// The CPUs are held: time stands still.
    pub fn hold(&mut self, now: u64) {
        self.is_held = true;
        if let Some(at) = self.deadline.take() {
            self.left = Some(at.saturating_sub(now));
        }
    }

    /// The CPUs run again.
    pub fn go_on(&mut self, now: u64) {
        self.is_held = false;
        if let Some(left) = self.left.take() {
            self.deadline = Some(now + left);
        }
    }

    fn start(&mut self, stage: Stage, now: u64) {
        if self.lock & LOCK_ENABLE == 0 {
            return;
        }
        let preload = match stage {
            Stage::First => self.preload[0],
            Stage::Second => self.preload[1],
        };
        let shift = if self.config & CONFIG_FAST != 0 {
            SHIFT_FAST
        } else {
            SHIFT_SLOW
        };
        let ticks = u64::from(preload) << shift;
        self.stage = stage;
        let length = (ticks * 1000 / 33).max(SHORTEST);
        (self.deadline, self.left) = if self.is_held {
            (None, Some(length))
        } else {
            (Some(now + length), None)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn write(chip: &mut I6300Esb, offset: u64, value: u32, now: u64) {
        for value in [UNLOCK[0], UNLOCK[1]] {
            chip.write(RELOAD, Masked { value, mask: 0xffff }, now);
        }
        chip.write(
            offset,
            Masked {
                value,
                mask: u32::MAX,
            },
            now,
        );
    }

    /// As Linux's driver sets it up for `seconds`: half of them in each stage.
    fn started(seconds: u32) -> I6300Esb {
        let mut chip = I6300Esb::default();
        chip.configure(3, 0, 0);
        write(&mut chip, PRELOAD_1, seconds << 9, 0);
        write(&mut chip, PRELOAD_2, seconds << 9, 0);
        write(&mut chip, RELOAD, RELOAD_RESTART, 0);
        assert_eq!(chip.deadline(), None, "it is not enabled yet");
        chip.configure(3, LOCK_ENABLE, 0);
        chip
    }

    #[test]
    fn it_runs_out_after_both_stages_unless_it_is_restarted() {
        let mut chip = started(30);
        let first = chip.deadline().unwrap();
        assert!((15 * SECOND..16 * SECOND).contains(&first), "{first}");
        assert!(!chip.note_time(first - 1) && chip.deadline() == Some(first));
        assert!(!chip.note_time(first));
        let second = chip.deadline().unwrap();
        assert_eq!(second, 2 * first);
        write(&mut chip, RELOAD, RELOAD_RESTART, second - 1);
        assert_eq!(
            chip.deadline(),
            Some(second - 1 + first),
            "back in the first stage"
        );
        let mut now = chip.deadline().unwrap();
        assert!(!chip.note_time(now));
        now = chip.deadline().unwrap();
        assert_eq!(chip.read(RELOAD), 0);
        assert!(chip.note_time(now));
        assert_eq!(chip.deadline(), None);
        assert_eq!(chip.read(RELOAD), RELOAD_TIMEOUT);
        chip.reset();
        assert_eq!(chip.read(RELOAD), RELOAD_TIMEOUT, "the next boot can see it");
        write(&mut chip, RELOAD, 1 << 9, now);
        assert_eq!(chip.read(RELOAD), 0);
    }

    #[test]
    fn a_register_takes_nothing_that_is_not_unlocked() {
        let mut chip = started(30);
        let before = chip.clone();
        let word = |value| Masked {
            value,
            mask: u32::MAX,
        };
        chip.write(PRELOAD_1, word(1), 5);
        chip.write(RELOAD, word(RELOAD_RESTART), 5);
        chip.write(RELOAD, word(UNLOCK[1]), 5);
        chip.write(PRELOAD_1, word(1), 5);
        assert_eq!(chip, before);
        write(&mut chip, PRELOAD_1, 0xfff0_0001, 5);
        assert_eq!(chip.preload[0], 1);
        chip.write(PRELOAD_2, word(1), 5);
        assert_eq!(chip.preload[1], 30 << 9, "unlocked for one write");
    }

    #[test]
    fn time_stands_still_while_the_cpus_are_held() {
        let mut chip = started(30);
        let first = chip.deadline().unwrap();
        chip.hold(10);
        assert!(chip.deadline().is_none() && !chip.note_time(u64::MAX));
        chip.go_on(first + 100);
        assert_eq!(chip.deadline(), Some(2 * first + 90));
        chip.hold(0);
        chip.configure(3, 0, 0);
        chip.configure(3, LOCK_ENABLE, 0);
        assert_eq!(chip.deadline(), None, "it does not start before they run");
        chip.reset();
        chip.go_on(0);
        assert_eq!(chip.deadline(), None);
    }

    #[test]
    fn without_a_reset_it_counts_once_or_for_ever() {
        for (lock, again) in [(LOCK_ENABLE, false), (LOCK_ENABLE | LOCK_FREE_RUN, true)] {
            let mut chip = I6300Esb::default();
            chip.configure(CONFIG_REBOOT_OFF | CONFIG_FAST, lock, 0);
            write(&mut chip, PRELOAD_1, 0, 0);
            write(&mut chip, RELOAD, RELOAD_RESTART, 0);
            assert_eq!(
                chip.deadline(),
                Some(SHORTEST),
                "a guest cannot make the host spin"
            );
            assert!(!chip.note_time(SHORTEST));
            let second = chip.deadline().unwrap();
            assert_eq!(second - SHORTEST, (u64::from(PRELOAD_MASK) << 5) * 1000 / 33);
            assert!(!chip.note_time(second));
            assert_eq!(chip.deadline().is_some(), again);
            assert_eq!(chip.read(RELOAD), 0);
        }
    }

    proptest! {
        #[test]
        fn any_access_keeps_a_deadline_in_the_future(
            steps in proptest::collection::vec((0u8..6, any::<u64>(), any::<u32>(), 0u64..1 << 40), 0..100)
        ) {
            let (mut chip, mut now) = (I6300Esb::default(), 0);
            for (what, offset, value, later) in steps {
                now += later;
                chip.note_time(now);
                match what {
                    0 => write(&mut chip, offset & 0xc, value, now),
                    1 => chip.write(offset, Masked { value, mask: u32::MAX }, now),
                    2 => chip.configure(value as u16 & CONFIG_BITS, offset as u8 & LOCK_BITS, now),
                    3 => chip.hold(now),
                    4 => chip.go_on(now),
                    _ => chip.reset(),
                }
                // One that was overdue when the CPUs were held may be due at once.
                prop_assert!(chip.deadline().is_none_or(|at| at >= now));
            }
        }
    }
}
