//! Packets of the GDB remote serial protocol (GDB manual, appendix E.1): `$body#checksum`, answered by `+` or `-`.

/// Longest body of a packet that a client may send, in bytes after unescaping. Told to it in hexadecimal as `PacketSize`.
pub const MAX_BODY: usize = 0x4000;

/// What a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A packet with a good checksum.
    Packet(Vec<u8>),
    /// A packet with a bad checksum, or one that is too long.
    Damaged,
    /// The byte that interrupts.
    Interrupt,
    /// The last answer arrived damaged.
    Again,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    #[default]
    Outside,
    Body,
    Escaped,
    Checksum(Option<u8>),
}

/// Cuts frames out of a stream.
#[derive(Debug, Default)]
pub struct Framer {
    place: Place,
    body: Vec<u8>,
    sum: u8,
    too_long: bool,
}

impl Framer {
    /// Takes bytes, and appends the frames that they complete.
    pub fn feed(&mut self, bytes: &[u8], frames: &mut Vec<Frame>) {
        for &byte in bytes {
            self.take(byte, frames);
        }
    }

    fn take(&mut self, byte: u8, frames: &mut Vec<Frame>) {
        match self.place {
            Place::Outside => match byte {
                b'$' => self.begin(),
                3 => frames.push(Frame::Interrupt),
                b'-' => frames.push(Frame::Again),
                _ => {}
            },
            // A packet begins anew: the rest of the last one was lost.
            Place::Body | Place::Escaped if byte == b'$' => self.begin(),
            Place::Body if byte == b'#' => self.place = Place::Checksum(None),
            Place::Body => {
                self.sum = self.sum.wrapping_add(byte);
                if byte == b'}' {
                    self.place = Place::Escaped;
                } else {
                    self.push(byte);
                }
            }
            Place::Escaped => {
                self.sum = self.sum.wrapping_add(byte);
                self.place = Place::Body;
                self.push(byte ^ 0x20);
            }
            Place::Checksum(None) => self.place = Place::Checksum(Some(byte)),
            Place::Checksum(Some(first)) => {
                self.place = Place::Outside;
                let good = hex_byte(first, byte) == Some(self.sum) && !self.too_long;
                frames.push(if good {
                    Frame::Packet(std::mem::take(&mut self.body))
                } else {
                    Frame::Damaged
                });
            }
        }
    }

    fn begin(&mut self) {
        self.place = Place::Body;
        self.body.clear();
        self.sum = 0;
        self.too_long = false;
    }

    fn push(&mut self, byte: u8) {
        if self.body.len() < MAX_BODY {
            self.body.push(byte);
        } else {
            self.too_long = true;
        }
    }
}

/// The packet with `body`, what needs it escaped.
pub fn packet(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len() + 8);
    bytes.push(b'$');
    for &byte in body {
        if matches!(byte, b'$' | b'#' | b'}' | b'*') {
            bytes.extend([b'}', byte ^ 0x20]);
        } else {
            bytes.push(byte);
        }
    }
    let sum = bytes[1..].iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    bytes.extend(format!("#{sum:02x}").as_bytes());
    bytes
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|value| value as u8)
}

fn hex_byte(high: u8, low: u8) -> Option<u8> {
    Some(digit(high)? << 4 | digit(low)?)
}

/// `bytes` in hexadecimal.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes behind hexadecimal text.
pub fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|&[high, low]| hex_byte(high, low)).collect()
}

/// A number in hexadecimal, as addresses and lengths are written.
pub fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 16 {
        return None;
    }
    text.iter()
        .try_fold(0, |value, &byte| Some(value << 4 | u64::from(digit(byte)?)))
}

/// The parts of `text` before and after the first `separator`.
pub fn split(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&byte| byte == separator)?;
    Some((&text[..at], &text[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames(bytes: &[u8]) -> Vec<Frame> {
        let mut frames = Vec::new();
        Framer::default().feed(bytes, &mut frames);
        frames
    }

    #[test]
    fn packets_interrupts_and_damage_are_told_apart() {
        assert_eq!(
            frames(b"++$g#67\x03$m1,2#00-$x"),
            [
                Frame::Packet(b"g".to_vec()),
                Frame::Interrupt,
                Frame::Damaged,
                Frame::Again
            ]
        );
        assert_eq!(frames(b"$abc$g#67"), [Frame::Packet(b"g".to_vec())]);
        // The byte of an interrupt is one of the data within a packet.
        assert_eq!(frames(b"$\x03#03"), [Frame::Packet(b"\x03".to_vec())]);
    }

    #[test]
    fn a_packet_that_is_too_long_is_damaged_and_takes_no_more_memory() {
        let mut framer = Framer::default();
        let mut out = Vec::new();
        framer.feed(b"$", &mut out);
        for _ in 0..1000 {
            framer.feed(&[b'x'; 4096], &mut out);
        }
        assert!(framer.body.capacity() <= 2 * MAX_BODY);
        framer.feed(b"#00$g#67", &mut out);
        assert_eq!(out, [Frame::Damaged, Frame::Packet(b"g".to_vec())]);
    }

    #[test]
    fn numbers_and_bytes_are_hexadecimal() {
        assert_eq!(number(b"ffffffff81000000"), Some(0xffff_ffff_8100_0000));
        assert_eq!(
            (number(b""), number(b"g"), number(b"10000000000000000")),
            (None, None, None)
        );
        assert_eq!(from_hex(b"00fF"), Some(vec![0, 255]));
        assert_eq!((from_hex(b"0"), from_hex(b"+1")), (None, None));
        assert_eq!(to_hex(&[1, 0xab]), "01ab");
    }

    proptest! {
        #[test]
        fn what_is_packed_arrives(body in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
            let bytes = packet(&body);
            let mut got = Vec::new();
            let mut framer = Framer::default();
            let (one, two) = bytes.split_at(cut.min(bytes.len()));
            framer.feed(one, &mut got);
            framer.feed(two, &mut got);
            prop_assert_eq!(got, [Frame::Packet(body)]);
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = frames(&bytes);
        }
    }
}
