//! The keyboard controller with its keyboard (IBM PS/2; Intel 8042). The second port has no device.

use std::collections::VecDeque;

use super::keyboard::Keyboard;
use super::keys::{Key, RELEASED, RELEASED_BIT, to_set_1};

const STATUS_OUTPUT_FULL: u8 = 0x01;
const STATUS_SYSTEM: u8 = 0x04;
const STATUS_COMMAND: u8 = 0x08;
const STATUS_UNLOCKED: u8 = 0x10;
const STATUS_AUX: u8 = 0x20;

const CONFIG_KEYBOARD_INTERRUPT: u8 = 0x01;
const CONFIG_AUX_INTERRUPT: u8 = 0x02;
const CONFIG_SYSTEM: u8 = 0x04;
const CONFIG_KEYBOARD_OFF: u8 = 0x10;
const CONFIG_AUX_OFF: u8 = 0x20;
const CONFIG_TRANSLATE: u8 = 0x40;

const OUTPUT_RESET_LINE: u8 = 0x01;
const OUTPUT_A20: u8 = 0x02;

/// Answers that wait in the controller at most.
const QUEUE: usize = 16;

/// A command whose parameter comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Config,
    OutputPort,
    KeyboardLoop,
    AuxLoop,
    AuxByte,
}

/// What a write asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// The processor's reset line was pulsed.
    Reset,
}

/// State of controller and keyboard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct I8042 {
    config: u8,
    last_was_command: bool,
    expect: Option<Expect>,
    /// Bytes for the host; true marks those of the second port.
    output: VecDeque<(u8, bool)>,
    a20: bool,
    keyboard: Keyboard,
    /// The code that comes next is that of a key that is released.
    released: bool,
}

impl Default for I8042 {
    fn default() -> Self {
        Self {
            config: CONFIG_KEYBOARD_INTERRUPT | CONFIG_SYSTEM | CONFIG_AUX_OFF | CONFIG_TRANSLATE,
            last_was_command: false,
            expect: None,
            output: VecDeque::with_capacity(QUEUE),
            a20: true,
            keyboard: Keyboard::default(),
            released: false,
        }
    }
}

impl I8042 {
    /// Reads the status port.
    pub fn status(&self) -> u8 {
        let mut status = STATUS_UNLOCKED | STATUS_SYSTEM;
        if self.last_was_command {
            status |= STATUS_COMMAND;
        }
        match self.output.front() {
            Some((_, true)) => status | STATUS_OUTPUT_FULL | STATUS_AUX,
            Some((_, false)) => status | STATUS_OUTPUT_FULL,
            None => status,
        }
    }

    /// Reads the data port.
    pub fn read_data(&mut self) -> u8 {
        let byte = self.output.pop_front().map_or(0, |(byte, _)| byte);
        self.take_from_keyboard();
        byte
    }

    /// Level of IRQ 1.
    pub fn keyboard_interrupt(&self) -> bool {
        self.config & CONFIG_KEYBOARD_INTERRUPT != 0 && matches!(self.output.front(), Some((_, false)))
    }

    /// Level of IRQ 12.
    pub fn aux_interrupt(&self) -> bool {
        self.config & CONFIG_AUX_INTERRUPT != 0 && matches!(self.output.front(), Some((_, true)))
    }

    /// Writes the command port.
    pub fn write_command(&mut self, command: u8) -> Option<Request> {
        self.last_was_command = true;
        self.expect = None;
        match command {
            0x20..=0x3f => self.answer(if command == 0x20 { self.config } else { 0 }),
            0x60 => self.expect = Some(Expect::Config),
            0xa7 => self.config |= CONFIG_AUX_OFF,
            0xa8 => self.config &= !CONFIG_AUX_OFF,
            // Nothing is wrong with the second port's lines; there is no device on them.
            0xa9 | 0xab => self.answer(0),
            0xaa => {
                self.config |= CONFIG_SYSTEM;
                self.answer(0x55);
            }
            0xad => self.config |= CONFIG_KEYBOARD_OFF,
            0xae => self.config &= !CONFIG_KEYBOARD_OFF,
            0xc0 => self.answer(0x80),
            0xd0 => self.answer(self.output_port()),
            0xd1 => self.expect = Some(Expect::OutputPort),
            0xd2 => self.expect = Some(Expect::KeyboardLoop),
            0xd3 => self.expect = Some(Expect::AuxLoop),
            0xd4 => self.expect = Some(Expect::AuxByte),
            0xdd => self.a20 = false,
            0xdf => self.a20 = true,
            // Pulses the output lines whose bits are zero; bit 0 is the processor's reset.
            0xf0..=0xff if command & OUTPUT_RESET_LINE == 0 => return Some(Request::Reset),
            _ => {}
        }
        self.take_from_keyboard();
        None
    }

    /// Writes the data port: a parameter, or a byte for the keyboard.
    pub fn write_data(&mut self, value: u8) -> Option<Request> {
        self.last_was_command = false;
        match self.expect.take() {
            Some(Expect::Config) => self.config = value & 0x77,
            Some(Expect::OutputPort) => {
                self.a20 = value & OUTPUT_A20 != 0;
                return (value & OUTPUT_RESET_LINE == 0).then_some(Request::Reset);
            }
            Some(Expect::KeyboardLoop) => self.answer(value),
            Some(Expect::AuxLoop) => self.push(value, true),
            // No device: the byte is never acknowledged.
            Some(Expect::AuxByte) => {}
            None => {
                // Sending a byte turns the keyboard's interface on.
                self.config &= !CONFIG_KEYBOARD_OFF;
                self.keyboard.command(value);
            }
        }
        self.take_from_keyboard();
        None
    }

    fn output_port(&self) -> u8 {
        let a20 = if self.a20 { OUTPUT_A20 } else { 0 };
        let interrupts = u8::from(self.keyboard_interrupt()) << 4 | u8::from(self.aux_interrupt()) << 5;
        OUTPUT_RESET_LINE | a20 | interrupts | 0xc0
    }

    /// A key of the keyboard is pressed or released. False if nobody takes what it sends, and its buffer is full.
    pub fn key(&mut self, key: Key, pressed: bool) -> bool {
        let taken = self.keyboard.key(key, pressed);
        self.take_from_keyboard();
        taken
    }

    /// Takes the keyboard's bytes, one at a time: the next one when that was read.
    fn take_from_keyboard(&mut self) {
        while self.output.is_empty() && self.config & CONFIG_KEYBOARD_OFF == 0 {
            let Some((byte, is_answer)) = self.keyboard.next_byte() else {
                return;
            };
            if self.config & CONFIG_TRANSLATE == 0 {
                self.answer(byte);
            } else if byte == RELEASED && !is_answer {
                self.released = true;
            } else {
                // A prefix has the bit that marks a release already.
                let released = if std::mem::take(&mut self.released) {
                    RELEASED_BIT
                } else {
                    0
                };
                self.answer(to_set_1(byte) | released);
            }
        }
    }

    fn answer(&mut self, byte: u8) {
        self.push(byte, false);
    }

    /// Queues a byte for the host; what no one reads is lost at last.
    fn push(&mut self, byte: u8, aux: bool) {
        if self.output.len() < QUEUE {
            self.output.push_back((byte, aux));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chips::keys::Key;
    use proptest::prelude::*;

    fn drain(chip: &mut I8042) -> Vec<u8> {
        let mut bytes = Vec::new();
        while chip.status() & STATUS_OUTPUT_FULL != 0 {
            bytes.push(chip.read_data());
        }
        bytes
    }

    #[test]
    fn the_probe_that_linux_makes_is_answered() {
        let mut chip = I8042::default();
        assert_eq!(chip.status() & STATUS_OUTPUT_FULL, 0);
        chip.write_command(0x20);
        let config = chip.read_data();
        chip.write_command(0x60);
        chip.write_data(config | CONFIG_KEYBOARD_OFF);
        chip.write_command(0xaa);
        assert_eq!(drain(&mut chip), [0x55]);
        chip.write_command(0xd3);
        chip.write_data(0x5a);
        assert_eq!(
            chip.status() & (STATUS_AUX | STATUS_OUTPUT_FULL),
            STATUS_AUX | STATUS_OUTPUT_FULL
        );
        assert_eq!(drain(&mut chip), [0x5a]);
        chip.write_data(0xf2);
        assert!(chip.keyboard_interrupt());
        assert_eq!(drain(&mut chip), [ACK, 0xab, 0x41]);
        chip.write_data(0xed);
        chip.write_data(0x02);
        assert_eq!(drain(&mut chip), [ACK, ACK]);
        assert!(!chip.keyboard_interrupt());
    }

    const ACK: u8 = 0xfa;

    fn key(name: &str) -> Key {
        Key::from_name(name).unwrap()
    }

    #[test]
    fn keys_come_translated_or_not_as_the_controller_is_told() {
        let mut chip = I8042::default();
        chip.key(key("down"), true);
        chip.key(key("down"), false);
        assert!(chip.keyboard_interrupt());
        assert_eq!(drain(&mut chip), [0xe0, 0x50, 0xe0, 0xd0]);
        chip.write_command(0x60);
        chip.write_data(CONFIG_KEYBOARD_INTERRUPT);
        chip.key(key("down"), true);
        chip.key(key("down"), false);
        assert_eq!(drain(&mut chip), [0xe0, 0x72, 0xe0, 0xf0, 0x72]);
        // In set 1 without translation.
        chip.write_data(0xf0);
        chip.write_data(1);
        assert_eq!(drain(&mut chip), [ACK, ACK]);
        chip.key(key("a"), true);
        chip.key(key("a"), false);
        assert_eq!(drain(&mut chip), [0x1e, 0x9e]);
        chip.write_data(0xf0);
        chip.write_data(0);
        assert_eq!(drain(&mut chip), [ACK, ACK, 1]);
        chip.write_data(0xf0);
        chip.write_data(3);
        assert_eq!(drain(&mut chip), [ACK, 0xfe]);
    }

    #[test]
    fn keys_wait_while_the_interface_is_off_and_are_lost_while_the_keyboard_is() {
        let mut chip = I8042::default();
        chip.write_command(0xad);
        chip.key(key("a"), true);
        assert_eq!(drain(&mut chip), []);
        chip.write_command(0xae);
        assert_eq!(drain(&mut chip), [0x1e]);
        chip.write_data(0xf5);
        assert_eq!(drain(&mut chip), [ACK]);
        assert!(chip.key(key("b"), true));
        chip.write_data(0xf4);
        assert_eq!(drain(&mut chip), [ACK]);
        chip.key(key("c"), true);
        assert_eq!(drain(&mut chip), [0x2e]);
    }

    #[test]
    fn answers_come_before_keys_and_nothing_is_lost_without_a_word() {
        let mut chip = I8042::default();
        chip.write_command(0xad);
        let typed = (0..1000).take_while(|_| chip.key(key("a"), true)).count();
        assert_eq!(typed, 256);
        chip.write_data(0xee);
        let read = drain(&mut chip);
        assert_eq!((read.len(), read[0], read[1]), (257, 0xee, 0x1e));
    }

    #[test]
    fn the_reset_line_is_found_in_both_ways() {
        let mut chip = I8042::default();
        assert_eq!(chip.write_command(0xfe), Some(Request::Reset));
        assert_eq!(chip.write_command(0xff), None);
        chip.write_command(0xd1);
        assert_eq!(chip.write_data(0x02), Some(Request::Reset));
        chip.write_command(0xd1);
        assert_eq!(chip.write_data(0x03), None);
    }

    proptest! {
        #[test]
        fn any_sequence_ends_with_a_bounded_queue(
            steps in proptest::collection::vec((0u8..3, any::<u8>()), 0..200)
        ) {
            let mut chip = I8042::default();
            for (kind, value) in steps {
                match kind {
                    0 => { chip.write_command(value); }
                    1 => { chip.write_data(value); }
                    _ => { chip.read_data(); }
                }
            }
            // What waits in the keyboard comes after it.
            prop_assert!(drain(&mut chip).len() <= 2 * QUEUE);
            prop_assert!(!chip.keyboard_interrupt() && !chip.aux_interrupt());
        }
    }
}
