//! The keys of a PC's keyboard, and their codes (IBM PS/2 Hardware Interface Technical Reference, "Keyboards (101- and 102-Key)").

/// A key: its code in scan code set 1, and whether 0xe0 comes before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    code: u8,
    extended: bool,
}

const EXTENDED: u8 = 0xe0;
/// Set 2: what comes before the code of a key that is released.
pub const RELEASED: u8 = 0xf0;
/// The same in set 1: a bit of the code.
pub const RELEASED_BIT: u8 = 0x80;

impl Key {
    /// The key that QMP calls so (`QKeyCode`).
    pub fn from_name(name: &str) -> Option<Self> {
        let (_, code, extended) = NAMES.iter().find(|(known, ..)| *known == name)?;
        Some(Self {
            code: *code,
            extended: *extended,
        })
    }

    /// What QMP calls the keys that there are.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, ..)| *name)
    }

    /// The key with this number: its code in set 1, with 128 added where 0xe0 comes before it.
    pub fn from_number(number: i64) -> Option<Self> {
        let number = u8::try_from(number).ok()?;
        let code = number & !RELEASED_BIT;
        (code != 0).then_some(Self {
            code,
            extended: number & RELEASED_BIT != 0,
        })
    }

    /// What the keyboard sends for it in scan code set `set`, when it is pressed or released.
    pub fn codes(self, set: u8, pressed: bool) -> Vec<u8> {
        let mut codes = Vec::with_capacity(3);
        codes.extend(self.extended.then_some(EXTENDED));
        match set {
            1 => codes.push(self.code | if pressed { 0 } else { RELEASED_BIT }),
            _ => {
                codes.extend((!pressed).then_some(RELEASED));
                codes.push(from_set_1(self.code));
            }
        }
        codes
    }
}

/// What a translating controller makes of the codes of set 2 below 0x80 (IBM PS/2 Hardware Interface Technical Reference,
/// "Keyboard and Auxiliary Device Controller").
const TO_SET_1: [u8; 128] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59, //
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b, //
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d, //
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f, //
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61, //
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76, //
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, //
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
];

/// A byte of the keyboard as a translating controller passes it on, [`RELEASED`] excepted.
pub fn to_set_1(byte: u8) -> u8 {
    match byte {
        // F7 and Alt with SysRq, whose codes are no seven bits.
        0x83 => 0x41,
        0x84 => 0x54,
        _ => TO_SET_1.get(usize::from(byte)).copied().unwrap_or(byte),
    }
}

fn from_set_1(code: u8) -> u8 {
    // F7 has two codes that the controller takes for it; keyboards send this one.
    if code == 0x41 {
        return 0x83;
    }
    TO_SET_1
        .iter()
        .position(|known| *known == code)
        .map_or(0, |at| at as u8)
}

/// Names, codes in set 1, and whether 0xe0 comes first.
#[rustfmt::skip]
const NAMES: &[(&str, u8, bool)] = &[
    ("esc", 0x01, false), ("1", 0x02, false), ("2", 0x03, false), ("3", 0x04, false), ("4", 0x05, false), ("5", 0x06, false),
    ("6", 0x07, false), ("7", 0x08, false), ("8", 0x09, false), ("9", 0x0a, false), ("0", 0x0b, false), ("minus", 0x0c, false),
    ("equal", 0x0d, false), ("backspace", 0x0e, false), ("tab", 0x0f, false), ("q", 0x10, false), ("w", 0x11, false),
    ("e", 0x12, false), ("r", 0x13, false), ("t", 0x14, false), ("y", 0x15, false), ("u", 0x16, false), ("i", 0x17, false),
    ("o", 0x18, false), ("p", 0x19, false), ("bracket_left", 0x1a, false), ("bracket_right", 0x1b, false), ("ret", 0x1c, false),
    ("ctrl", 0x1d, false), ("a", 0x1e, false), ("s", 0x1f, false), ("d", 0x20, false), ("f", 0x21, false), ("g", 0x22, false),
    ("h", 0x23, false), ("j", 0x24, false), ("k", 0x25, false), ("l", 0x26, false), ("semicolon", 0x27, false),
    ("apostrophe", 0x28, false), ("grave_accent", 0x29, false), ("shift", 0x2a, false), ("backslash", 0x2b, false),
    ("z", 0x2c, false), ("x", 0x2d, false), ("c", 0x2e, false), ("v", 0x2f, false), ("b", 0x30, false), ("n", 0x31, false),
    ("m", 0x32, false), ("comma", 0x33, false), ("dot", 0x34, false), ("slash", 0x35, false), ("shift_r", 0x36, false),
    ("kp_multiply", 0x37, false), ("asterisk", 0x37, false), ("alt", 0x38, false), ("spc", 0x39, false),
    ("caps_lock", 0x3a, false), ("f1", 0x3b, false), ("f2", 0x3c, false), ("f3", 0x3d, false), ("f4", 0x3e, false),
    ("f5", 0x3f, false), ("f6", 0x40, false), ("f7", 0x41, false), ("f8", 0x42, false), ("f9", 0x43, false), ("f10", 0x44, false),
    ("num_lock", 0x45, false), ("scroll_lock", 0x46, false), ("kp_7", 0x47, false), ("kp_8", 0x48, false), ("kp_9", 0x49, false),
    ("kp_subtract", 0x4a, false), ("kp_4", 0x4b, false), ("kp_5", 0x4c, false), ("kp_6", 0x4d, false), ("kp_add", 0x4e, false),
    ("kp_1", 0x4f, false), ("kp_2", 0x50, false), ("kp_3", 0x51, false), ("kp_0", 0x52, false), ("kp_decimal", 0x53, false),
    ("sysrq", 0x54, false), ("less", 0x56, false), ("f11", 0x57, false), ("f12", 0x58, false), ("kp_enter", 0x1c, true),
    ("ctrl_r", 0x1d, true), ("kp_divide", 0x35, true), ("print", 0x37, true), ("alt_r", 0x38, true), ("home", 0x47, true),
    ("up", 0x48, true), ("pgup", 0x49, true), ("left", 0x4b, true), ("right", 0x4d, true), ("end", 0x4f, true),
    ("down", 0x50, true), ("pgdn", 0x51, true), ("insert", 0x52, true), ("delete", 0x53, true), ("meta_l", 0x5b, true),
    ("meta_r", 0x5c, true), ("menu", 0x5d, true), ("compose", 0x5d, true),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_translates_each_key_to_its_code_in_set_1() {
        for (name, code, _) in NAMES {
            let key = Key::from_name(name).unwrap();
            for pressed in [true, false] {
                let mut released = 0;
                let mut translated = Vec::new();
                for byte in key.codes(2, pressed) {
                    match byte {
                        RELEASED => released = RELEASED_BIT,
                        byte => translated.push(to_set_1(byte) | released),
                    }
                }
                // The prefix comes before the release mark, and has its highest bit set anyway.
                assert_eq!(translated, key.codes(1, pressed), "{name} ({code:#x})");
            }
        }
    }

    #[test]
    fn keys_have_the_codes_of_the_standard() {
        let key = |name| Key::from_name(name).unwrap();
        assert_eq!(key("a").codes(2, true), [0x1c]);
        assert_eq!(key("a").codes(2, false), [0xf0, 0x1c]);
        assert_eq!(key("down").codes(2, true), [0xe0, 0x72]);
        assert_eq!(key("down").codes(2, false), [0xe0, 0xf0, 0x72]);
        assert_eq!(key("down").codes(1, false), [0xe0, 0xd0]);
        assert_eq!(key("f7").codes(2, true), [0x83]);
        assert_eq!(Key::from_number(0x1c), Some(key("ret")));
        assert_eq!(Key::from_number(0xd0), Some(key("down")));
        for number in [-1, 0, 128, 256, i64::MAX] {
            assert_eq!(Key::from_number(number), None, "{number}");
        }
        assert_eq!(Key::from_name("Return"), None);
    }
}
