//! JSON values one after the other on a stream, without anything between them (RFC 7047, 4; JSON-RPC 1.0).

use serde_json::Value;

/// Bytes of one message. A database with thousands of ports has some megabytes.
pub(super) const LONGEST: usize = 32 << 20;
/// Lists in lists; Open vSwitch's own messages have seven.
const DEEPEST: usize = 100;

/// Finds where a value ends, and holds what is not complete.
#[derive(Default)]
pub(crate) struct Stream {
    buffer: Vec<u8>,
    /// How much of it was looked at.
    scanned: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Stream {
    /// Takes what came in.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message, which is an object; `None` until it is complete. An error ends the connection.
    pub(crate) fn next(&mut self) -> Result<Option<Value>, String> {
        while let Some(&byte) = self.buffer.get(self.scanned) {
            self.scanned += 1;
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'{' | b'[' if self.depth >= DEEPEST => {
                    return Err(format!("lists more than {DEEPEST} deep"));
                }
                b'{' | b'[' => self.depth += 1,
                b'"' if self.depth > 0 => self.in_string = true,
                b'}' | b']' if self.depth > 1 => self.depth -= 1,
                b'}' | b']' if self.depth == 1 => return self.take().map(Some),
                b' ' | b'\t' | b'\r' | b'\n' => {}
                _ if self.depth == 0 => return Err("what is no JSON object".into()),
                _ => {}
            }
        }
        if self.buffer.len() > LONGEST {
            return Err(format!("a message of more than {LONGEST} bytes"));
        }
        Ok(None)
    }

    fn take(&mut self) -> Result<Value, String> {
        let rest = self.buffer.split_off(self.scanned);
        let message = std::mem::replace(&mut self.buffer, rest);
        (self.scanned, self.depth) = (0, 0);
        let value: Value = serde_json::from_slice(&message).map_err(|e| e.to_string())?;
        if value.is_object() {
            Ok(value)
        } else {
            Err("what is no JSON object".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn all(stream: &mut Stream) -> Result<Vec<Value>, String> {
        std::iter::from_fn(|| stream.next().transpose()).collect()
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~\\PC]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z\"\\\\{}]{0,5}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn messages_come_out_however_they_are_cut(
            values in proptest::collection::vec(value(), 0..5),
            cuts in proptest::collection::vec(1usize..40, 1..20),
        ) {
            let messages: Vec<Value> = values.into_iter().map(|v| json!({"id": 1, "result": v})).collect();
            let bytes: Vec<u8> = messages.iter().flat_map(|m| m.to_string().into_bytes()).collect();
            let mut stream = Stream::default();
            let mut seen = Vec::new();
            let mut left = &bytes[..];
            for cut in cuts.iter().cycle() {
                if left.is_empty() { break }
                let (now, later) = left.split_at((*cut).min(left.len()));
                stream.push(now);
                seen.extend(all(&mut stream).unwrap());
                left = later;
            }
            prop_assert_eq!(seen, messages);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut stream = Stream::default();
            stream.push(&bytes);
            if let Ok(values) = all(&mut stream) {
                prop_assert!(values.iter().all(Value::is_object));
            }
        }
    }

    #[test]
    fn depth_and_kind_are_bounded() {
        let mut stream = Stream::default();
        stream.push("[".repeat(101).as_bytes());
        assert!(stream.next().is_err());
        for bad in ["5", "\"text\"", "[1]", "]", "null", "{\"a\":}"] {
            let mut stream = Stream::default();
            stream.push(bad.as_bytes());
            assert!(all(&mut stream).is_err(), "{bad}");
        }
    }
}
