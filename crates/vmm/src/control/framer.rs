//! Cuts a stream of bytes into JSON texts. A client need not send line ends between them.

/// Longest text of a client, in bytes.
pub const MAX_TEXT: usize = 64 << 10;
/// Deepest nesting of a client's text.
pub const MAX_DEPTH: usize = 32;

/// What came out of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A text whose brackets match, or a line that begins with none. It may be bad JSON all the same.
    Text(Vec<u8>),
    /// Something too long or too deep, or a string without an end; it was skipped up to the end of its line.
    Garbage(&'static str),
}

/// Cuts frames out of what was fed, holding at most [`MAX_TEXT`] bytes.
#[derive(Debug, Default)]
pub struct Framer {
    text: Vec<u8>,
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// The text began with no bracket: it ends with its line.
    bare: bool,
    skipping: bool,
}

impl Framer {
    /// An empty framer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes and appends the frames that they complete to `frames`.
    pub fn feed(&mut self, bytes: &[u8], frames: &mut Vec<Frame>) {
        for &byte in bytes {
            if self.skipping {
                self.skipping = byte != b'\n';
            } else if self.bare {
                self.bare_byte(byte, frames);
            } else if self.depth == 0 {
                self.begin(byte);
            } else {
                self.advance(byte, frames);
            }
        }
    }

    fn begin(&mut self, byte: u8) {
        match byte {
            b'{' | b'[' => {
                self.text.clear();
                self.text.push(byte);
                self.depth = 1;
            }
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ => {
                self.text.clear();
                self.text.push(byte);
                self.bare = true;
            }
        }
    }

    fn bare_byte(&mut self, byte: u8, frames: &mut Vec<Frame>) {
        if byte == b'\n' {
            self.bare = false;
            frames.push(Frame::Text(std::mem::take(&mut self.text)));
        } else if self.text.len() == MAX_TEXT {
            self.give_up("it is longer than 64 KiB", frames);
        } else {
            self.text.push(byte);
        }
    }

    fn advance(&mut self, byte: u8, frames: &mut Vec<Frame>) {
        if self.text.len() == MAX_TEXT {
            return self.give_up("it is longer than 64 KiB", frames);
        }
        self.text.push(byte);
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                // JSON has no raw control characters in strings; this also ends an unclosed quote with its line.
                b'\n' => self.give_up("a string runs past the end of its line", frames),
                _ => {}
            }
            return;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' if self.depth == MAX_DEPTH => {
                self.give_up("it is nested deeper than 32 levels", frames)
            }
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth -= 1;
                if self.depth == 0 {
                    frames.push(Frame::Text(std::mem::take(&mut self.text)));
                }
            }
            _ => {}
        }
    }

    fn give_up(&mut self, why: &'static str, frames: &mut Vec<Frame>) {
        let ended = self.text.last() == Some(&b'\n');
        *self = Self {
            skipping: !ended,
            ..Self::default()
        };
        frames.push(Frame::Garbage(why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames(bytes: &[u8]) -> Vec<Frame> {
        let mut frames = Vec::new();
        Framer::new().feed(bytes, &mut frames);
        frames
    }

    fn text(text: &str) -> Frame {
        Frame::Text(text.as_bytes().to_vec())
    }

    #[test]
    fn texts_need_no_line_ends() {
        assert_eq!(
            frames(b" {\"a\":{\"b\":[1]}}{}\r\n{\"c\":\"}\\\"{\"}\n{\"half\""),
            [
                text("{\"a\":{\"b\":[1]}}"),
                text("{}"),
                text("{\"c\":\"}\\\"{\"}")
            ]
        );
    }

    #[test]
    fn garbage_ends_with_its_line() {
        assert!(matches!(
            frames(b"quit {}\n{}")[..],
            [Frame::Text(_), Frame::Text(_)]
        ));
        assert_eq!(frames(b"5\n[1]\"x"), [text("5"), text("[1]")]);
        assert!(matches!(frames(&[b'x'; MAX_TEXT + 1])[..], [Frame::Garbage(_)]));
        assert!(matches!(
            frames(b"{\"open\n{}")[..],
            [Frame::Garbage(_), Frame::Text(_)]
        ));
        let deep = "{\"a\":".to_owned() + &"[".repeat(100_000);
        assert!(matches!(frames(deep.as_bytes())[..], [Frame::Garbage(_)]));
        let long = format!("{{\"a\":\"{}\"}}\n{{}}", "x".repeat(MAX_TEXT));
        assert!(matches!(
            frames(long.as_bytes())[..],
            [Frame::Garbage(_), Frame::Text(_)]
        ));
    }

    proptest! {
        #[test]
        fn the_cut_of_the_stream_does_not_matter(
            bytes in proptest::collection::vec(prop_oneof![
                3 => proptest::sample::select(b"{}[]\"\\\n a".to_vec()),
                1 => any::<u8>(),
            ], 0..300),
            cut in 0usize..300,
        ) {
            let cut = cut.min(bytes.len());
            let mut framer = Framer::new();
            let mut in_pieces = Vec::new();
            framer.feed(&bytes[..cut], &mut in_pieces);
            framer.feed(&bytes[cut..], &mut in_pieces);
            prop_assert_eq!(in_pieces, frames(&bytes));
            prop_assert!(framer.text.len() <= MAX_TEXT);
        }

        #[test]
        fn a_json_object_is_one_frame(object in proptest::collection::hash_map(".{0,8}", ".{0,8}", 0..6)) {
            let line = serde_json::to_vec(&object).unwrap();
            prop_assert_eq!(frames(&line), vec![Frame::Text(line.clone())]);
        }
    }
}
