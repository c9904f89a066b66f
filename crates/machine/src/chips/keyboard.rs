//! A keyboard (IBM PS/2 Hardware Interface Technical Reference, "Keyboards (101- and 102-Key)"): it answers commands, and sends
//! the codes of keys once it may.

use std::collections::VecDeque;

use super::keys::Key;

const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const SELF_TEST_PASSED: u8 = 0xaa;

/// Bytes that it keeps while nobody takes them: more than the 16 of a real one, so that a line that is typed at once fits.
const BUFFER: usize = 256;
/// The same for answers.
const ANSWERS: usize = 16;

/// A command whose parameter comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// One that changes nothing here: lights, typematic rate.
    Anything,
    ScanCodeSet,
}

/// The keyboard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyboard {
    scanning: bool,
    set: u8,
    expect: Option<Expect>,
    answers: VecDeque<u8>,
    codes: VecDeque<u8>,
}

impl Default for Keyboard {
    fn default() -> Self {
        Self {
            scanning: true,
            set: 2,
            expect: None,
            answers: VecDeque::new(),
            codes: VecDeque::new(),
        }
    }
}

impl Keyboard {
    /// A key is pressed or released. False if the buffer is full, and the code lost; a keyboard that is switched off loses
    /// them too, and says nothing.
    pub fn key(&mut self, key: Key, pressed: bool) -> bool {
        if !self.scanning {
            return true;
        }
        let codes = key.codes(self.set, pressed);
        let fits = self.codes.len() + codes.len() <= BUFFER;
        if fits {
            self.codes.extend(codes);
        }
        fits
    }

    /// The next byte for the controller, answers first; true marks those that are answers.
    pub fn next_byte(&mut self) -> Option<(u8, bool)> {
        let answer = self.answers.pop_front().map(|byte| (byte, true));
        answer.or_else(|| self.codes.pop_front().map(|byte| (byte, false)))
    }

    /// The controller sends a byte: a command, or a command's parameter.
    pub fn command(&mut self, byte: u8) {
        match self.expect.take() {
            Some(Expect::Anything) => self.answer(&[ACK]),
            Some(Expect::ScanCodeSet) => self.scan_code_set(byte),
            None => self.first_byte(byte),
        }
    }

    fn first_byte(&mut self, command: u8) {
        match command {
            0xff => {
                *self = Self::default();
                self.answer(&[ACK, SELF_TEST_PASSED]);
            }
            0xf6 => self.back_to_defaults(true),
            0xf5 => self.back_to_defaults(false),
            0xf4 => {
                self.codes.clear();
                self.scanning = true;
                self.answer(&[ACK]);
            }
            // An MF2 keyboard.
            0xf2 => self.answer(&[ACK, 0xab, 0x83]),
            0xf0 => {
                self.expect = Some(Expect::ScanCodeSet);
                self.answer(&[ACK]);
            }
            0xed | 0xf3 => {
                self.expect = Some(Expect::Anything);
                self.answer(&[ACK]);
            }
            0xee => self.answer(&[0xee]),
            // Typematic and make codes of set 3.
            0xf7..=0xfa => self.answer(&[ACK]),
            _ => self.answer(&[RESEND]),
        }
    }

    fn back_to_defaults(&mut self, scanning: bool) {
        self.codes.clear();
        self.set = 2;
        self.scanning = scanning;
        self.answer(&[ACK]);
    }

    fn scan_code_set(&mut self, which: u8) {
        match which {
            0 => self.answer(&[ACK, self.set]),
            1 | 2 => {
                self.codes.clear();
                self.set = which;
                self.answer(&[ACK]);
            }
            // There is no set 3.
            _ => self.answer(&[RESEND]),
        }
    }

    fn answer(&mut self, bytes: &[u8]) {
        if self.answers.len() + bytes.len() <= ANSWERS {
            self.answers.extend(bytes);
        }
    }
}
