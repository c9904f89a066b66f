//! The pair of 8259A interrupt controllers with their edge/level registers (Intel 8259A; ICH9 13.4).

/// Inputs of the pair, of which input 2 is the cascade.
pub const INPUTS: u8 = 16;

const CASCADE: u8 = 2;
/// Inputs that can be level-triggered: not the timer, keyboard, cascade, RTC and coprocessor.
const ELCR_MASKS: [u8; 2] = [0xf8, 0xde];

/// Where the initialization sequence stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Init {
    #[default]
    Done,
    /// ICW2 comes next: the vectors.
    Vectors,
    /// ICW3 comes next: the cascade.
    Cascade,
    /// ICW4 comes next: the mode.
    Mode,
}

/// One 8259A.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Chip {
    levels: u8,
    request: u8,
    in_service: u8,
    mask: u8,
    /// Inputs in level mode.
    level_mode: u8,
    vector_base: u8,
    /// The input of lowest priority is this minus one.
    highest: u8,
    init: Init,
    wants_icw4: bool,
    single: bool,
    all_level: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_mask: bool,
    special_fully_nested: bool,
    read_in_service: bool,
    poll: bool,
    /// Set on the second chip of the pair.
    is_slave: bool,
}

impl Chip {
    /// Distance of the most urgent of `inputs` from the highest priority, 8 if there is none.
    fn priority(&self, inputs: u8) -> u8 {
        if inputs == 0 {
            8
        } else {
            inputs.rotate_right(u32::from(self.highest)).trailing_zeros() as u8
        }
    }

    fn is_level(&self, bit: u8) -> bool {
        self.all_level || self.level_mode & bit != 0
    }

    fn set_level(&mut self, input: u8, level: bool) {
        let bit = 1 << input;
        let rising = level && self.levels & bit == 0;
        if level {
            self.levels |= bit;
        } else {
            self.levels &= !bit;
        }
        if self.is_level(bit) {
            self.request = self.request & !bit | self.levels & bit;
        } else if rising {
            self.request |= bit;
        } else if !level {
            // An edge whose line falls before it is acknowledged becomes the spurious interrupt.
            self.request &= !bit;
        }
    }

    /// The input to deliver, if one is more urgent than what is in service.
    fn pending(&self) -> Option<u8> {
        if self.init != Init::Done {
            return None;
        }
        let wanted = self.priority(self.request & !self.mask);
        if wanted == 8 {
            return None;
        }
        let mut busy = self.in_service;
        if self.special_mask {
            busy &= !self.mask;
        }
        if self.special_fully_nested && !self.is_slave {
            busy &= !(1 << CASCADE);
        }
        let input = (wanted + self.highest) & 7;
        // In special mask mode an input in service that is not masked still blocks itself and those below it.
        (wanted < self.priority(busy)).then_some(input)
    }

    fn take(&mut self, input: u8) {
        let bit = 1 << input;
        if !self.is_level(bit) {
            self.request &= !bit;
        }
        if self.auto_eoi {
            if self.rotate_on_auto_eoi {
                self.highest = (input + 1) & 7;
            }
        } else {
            self.in_service |= bit;
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            self.start_init(value);
        } else if value & 0x08 != 0 {
            self.operate(value);
        } else {
            self.end_of_interrupt(value);
        }
    }

    /// ICW1.
    fn start_init(&mut self, value: u8) {
        *self = Self {
            levels: self.levels,
            level_mode: self.level_mode,
            is_slave: self.is_slave,
            init: Init::Vectors,
            wants_icw4: value & 1 != 0,
            single: value & 2 != 0,
            all_level: value & 8 != 0,
            ..Self::default()
        };
        // Edge detection starts anew; lines in level mode are still asking.
        let level_inputs = if self.all_level { 0xff } else { self.level_mode };
        self.request = self.levels & level_inputs;
    }

    /// OCW3.
    fn operate(&mut self, value: u8) {
        if value & 0x04 != 0 {
            self.poll = true;
        }
        if value & 0x02 != 0 {
            self.read_in_service = value & 1 != 0;
        }
        if value & 0x40 != 0 {
            self.special_mask = value & 0x20 != 0;
        }
    }

    /// OCW2.
    fn end_of_interrupt(&mut self, value: u8) {
        let named = value & 7;
        let most_urgent = self.priority(self.in_service);
        let current = (most_urgent < 8).then(|| (most_urgent + self.highest) & 7);
        match value >> 5 {
            0 => self.rotate_on_auto_eoi = false,
            4 => self.rotate_on_auto_eoi = true,
            1 => self.end(current, false),
            5 => self.end(current, true),
            3 => self.end(Some(named), false),
            7 => self.end(Some(named), true),
            6 => self.highest = (named + 1) & 7,
            _ => {}
        }
    }

    fn end(&mut self, input: Option<u8>, rotate: bool) {
        let Some(input) = input else { return };
        self.in_service &= !(1 << input);
        if rotate {
            self.highest = (input + 1) & 7;
        }
    }

    fn write_data(&mut self, value: u8) {
        match self.init {
            Init::Done => self.mask = value,
            Init::Vectors => {
                self.vector_base = value & 0xf8;
                self.init = match (self.single, self.wants_icw4) {
                    (false, _) => Init::Cascade,
                    (true, true) => Init::Mode,
                    (true, false) => Init::Done,
                };
            }
            Init::Cascade => self.init = if self.wants_icw4 { Init::Mode } else { Init::Done },
            Init::Mode => {
                self.auto_eoi = value & 2 != 0;
                self.special_fully_nested = value & 0x10 != 0;
                self.init = Init::Done;
            }
        }
    }

    fn read_command(&self) -> u8 {
        if self.read_in_service {
            self.in_service
        } else {
            self.request
        }
    }
}

/// The pair: the first chip's output is the CPU's INTR, the second hangs on the first's input 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PicPair {
    chips: [Chip; 2],
}

impl Default for PicPair {
    fn default() -> Self {
        let slave = Chip {
            is_slave: true,
            ..Chip::default()
        };
        Self {
            chips: [Chip::default(), slave],
        }
    }
}

impl PicPair {
    /// Sets the level of input 0 to 15. The cascade cannot be driven from outside.
    pub fn set_level(&mut self, input: u8, level: bool) {
        if input < INPUTS && input != CASCADE {
            self.chips[usize::from(input >> 3)].set_level(input & 7, level);
            self.cascade();
        }
    }

    /// Level of INTR.
    pub fn output(&self) -> bool {
        self.chips[0].pending().is_some()
    }

    /// True while an edge at `input` would be remembered for delivery.
    pub fn listens(&self, input: u8) -> bool {
        let chip = &self.chips[usize::from(input >> 3 & 1)];
        chip.init == Init::Done && chip.mask & 1 << (input & 7) == 0
    }

    /// The interrupt-acknowledge cycle: the vector. With no request left it is the spurious one, input 7 or 15.
    pub fn acknowledge(&mut self) -> u8 {
        let Some(input) = self.chips[0].pending() else {
            return self.chips[0].vector_base + 7;
        };
        self.chips[0].take(input);
        if input != CASCADE {
            return self.chips[0].vector_base + input;
        }
        let second = self.chips[1].pending();
        if let Some(input) = second {
            self.chips[1].take(input);
        }
        self.cascade();
        self.chips[1].vector_base + second.unwrap_or(7)
    }

    /// Reads a chip's command (offset 0) or data (offset 1) port.
    pub fn read(&mut self, chip: usize, offset: u64) -> u8 {
        if std::mem::take(&mut self.chips[chip].poll) {
            return self.poll(chip);
        }
        match offset {
            0 => self.chips[chip].read_command(),
            _ => self.chips[chip].mask,
        }
    }

    /// Writes a chip's command (offset 0) or data (offset 1) port.
    pub fn write(&mut self, chip: usize, offset: u64, value: u8) {
        match offset {
            0 => self.chips[chip].write_command(value),
            _ => self.chips[chip].write_data(value),
        }
        self.cascade();
    }

    /// Reads ELCR1 or ELCR2.
    pub fn read_elcr(&self, chip: usize) -> u8 {
        self.chips[chip].level_mode
    }

    /// Writes ELCR1 or ELCR2.
    pub fn write_elcr(&mut self, chip: usize, value: u8) {
        let value = value & ELCR_MASKS[chip];
        let state = &mut self.chips[chip];
        let now_level = value & !state.level_mode;
        state.level_mode = value;
        state.request = state.request & !now_level | state.levels & now_level;
        self.cascade();
    }

    /// The poll command's answer: bit 7 and the input, acknowledged at once.
    fn poll(&mut self, chip: usize) -> u8 {
        let Some(input) = self.chips[chip].pending() else {
            return 0;
        };
        self.chips[chip].take(input);
        self.cascade();
        0x80 | input
    }

    /// Carries the second chip's output to the first's input 2.
    fn cascade(&mut self) {
        let output = self.chips[1].pending().is_some();
        // The request must rise again for each of the second chip's interrupts, also for those that come while one is
        // in service there.
        let first = &mut self.chips[0];
        first.set_level(CASCADE, false);
        first.set_level(CASCADE, output);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As PC firmware and Linux set it up: vectors 0x30 and 0x38, nothing masked.
    fn pair(icw4: u8) -> PicPair {
        let mut pic = PicPair::default();
        for (chip, base, cascade) in [(0, 0x30, 4), (1, 0x38, 2)] {
            pic.write(chip, 0, 0x11);
            pic.write(chip, 1, base);
            pic.write(chip, 1, cascade);
            pic.write(chip, 1, icw4);
            pic.write(chip, 1, 0);
        }
        pic
    }

    fn pulse(pic: &mut PicPair, input: u8) {
        pic.set_level(input, false);
        pic.set_level(input, true);
    }

    #[test]
    fn the_most_urgent_input_comes_first_and_blocks_those_below() {
        let mut pic = pair(1);
        pulse(&mut pic, 4);
        pulse(&mut pic, 1);
        assert_eq!(pic.acknowledge(), 0x31);
        assert!(!pic.output(), "4 waits for the end of 1");
        pulse(&mut pic, 0);
        assert_eq!(pic.acknowledge(), 0x30);
        pic.write(0, 0, 0x20);
        pic.write(0, 0, 0x20);
        assert_eq!(pic.acknowledge(), 0x34);
    }

    #[test]
    fn the_second_chip_comes_through_the_cascade() {
        let mut pic = pair(1);
        pulse(&mut pic, 12);
        pulse(&mut pic, 8);
        assert_eq!(pic.acknowledge(), 0x38);
        assert!(!pic.output());
        pic.write(1, 0, 0x20);
        pic.write(0, 0, 0x20);
        assert!(pic.output());
        assert_eq!(pic.acknowledge(), 0x3c);
    }

    #[test]
    fn a_request_that_goes_away_ends_as_the_spurious_interrupt() {
        let mut pic = pair(1);
        pulse(&mut pic, 3);
        assert!(pic.output());
        pic.set_level(3, false);
        assert!(!pic.output());
        assert_eq!(pic.acknowledge(), 0x37);
        pic.write(0, 0, 0x0b);
        assert_eq!(pic.read(0, 0), 0, "nothing is in service");
    }

    #[test]
    fn level_inputs_ask_until_they_fall() {
        let mut pic = pair(1);
        pic.write_elcr(1, 0xff);
        assert_eq!(pic.read_elcr(1), 0xde);
        pic.set_level(10, true);
        assert_eq!(pic.acknowledge(), 0x3a);
        pic.write(1, 0, 0x20);
        pic.write(0, 0, 0x20);
        assert!(pic.output());
        assert_eq!(pic.acknowledge(), 0x3a);
        pic.set_level(10, false);
        pic.write(1, 0, 0x20);
        pic.write(0, 0, 0x20);
        assert!(!pic.output());
    }

    #[test]
    fn specific_end_and_rotation() {
        let mut pic = pair(1);
        pulse(&mut pic, 5);
        assert_eq!(pic.acknowledge(), 0x35);
        pic.write(0, 0, 0xe0 | 5);
        pulse(&mut pic, 5);
        pulse(&mut pic, 6);
        assert_eq!(pic.acknowledge(), 0x36, "5 has the lowest priority now");
        pic.write(0, 0, 0x60 | 6);
        assert_eq!(pic.acknowledge(), 0x35);
        pic.write(0, 0, 0xc0 | 7);
        pic.write(0, 0, 0x20);
        pulse(&mut pic, 0);
        pulse(&mut pic, 7);
        assert_eq!(pic.acknowledge(), 0x30);
    }

    #[test]
    fn auto_end_leaves_nothing_in_service() {
        let mut pic = pair(3);
        pulse(&mut pic, 1);
        assert_eq!(pic.acknowledge(), 0x31);
        pulse(&mut pic, 5);
        assert_eq!(pic.acknowledge(), 0x35);
        pic.write(0, 0, 0x80);
        pulse(&mut pic, 5);
        assert_eq!(pic.acknowledge(), 0x35);
        pulse(&mut pic, 5);
        pulse(&mut pic, 6);
        assert_eq!(pic.acknowledge(), 0x36, "rotated on auto-EOI");
    }

    #[test]
    fn the_special_mask_lets_lower_inputs_through() {
        let mut pic = pair(1);
        pulse(&mut pic, 1);
        pic.acknowledge();
        pulse(&mut pic, 4);
        assert!(!pic.output());
        pic.write(0, 1, 1 << 1);
        pic.write(0, 0, 0x68);
        assert_eq!(pic.acknowledge(), 0x34);
    }

    #[test]
    fn polling_acknowledges() {
        let mut pic = pair(1);
        pic.write(0, 0, 0x0c);
        assert_eq!(pic.read(0, 0), 0);
        pulse(&mut pic, 4);
        pic.write(0, 0, 0x0c);
        assert_eq!(pic.read(0, 0), 0x84);
        pic.write(0, 0, 0x0b);
        assert_eq!(pic.read(0, 0), 1 << 4);
    }

    #[test]
    fn masks_and_registers_read_back() {
        let mut pic = pair(1);
        pic.write(1, 1, 0xa5);
        assert_eq!((pic.read(0, 1), pic.read(1, 1)), (0, 0xa5));
        pulse(&mut pic, 8);
        pic.write(1, 0, 0x0a);
        assert_eq!(pic.read(1, 0), 1);
        assert!(!pic.output());
        assert!(!pic.listens(8) && pic.listens(9));
    }

    proptest! {
        #[test]
        fn what_is_acknowledged_was_asked_for(
            steps in proptest::collection::vec((0u8..5, 0usize..2, 0u8..18, any::<u8>()), 0..300)
        ) {
            let mut pic = PicPair::default();
            for (kind, chip, input, value) in steps {
                match kind {
                    0 => { pic.read(chip, u64::from(input & 1)); }
                    1 => pic.write(chip, u64::from(input & 1), value),
                    2 => pic.set_level(input, value & 1 != 0),
                    3 => pic.write_elcr(chip, value),
                    _ => {
                        let pending = pic.chips[0].pending();
                        let vector = pic.acknowledge();
                        match pending {
                            None => prop_assert_eq!(vector & 7, 7),
                            Some(CASCADE) => prop_assert_eq!(vector & 0xf8, pic.chips[1].vector_base),
                            Some(input) => prop_assert_eq!(vector, pic.chips[0].vector_base + input),
                        }
                    }
                }
            }
        }
    }
}
