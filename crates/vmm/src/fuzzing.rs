//! Entries for fuzzers: what clients of a guest send.

use crate::control::{self, Frame, Framer, MAX_TEXT};

/// A debugger's packets.
pub use crate::gdb::fuzz::conversation as gdb;

/// Texts at the control socket, in pieces as long as the first byte says.
pub fn qmp(input: &[u8]) {
    let Some((&first, stream)) = input.split_first() else {
        return;
    };
    let mut framer = Framer::new();
    let mut frames = Vec::new();
    for piece in stream.chunks(usize::from(first).max(1)) {
        framer.feed(piece, &mut frames);
    }
    for frame in frames {
        if let Frame::Text(text) = frame {
            assert!(text.len() <= MAX_TEXT);
            let _ = control::parse(&text);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_fuzzers_found_is_survived() {
        ostler_corpus::replay("vmm-gdb", super::gdb);
        ostler_corpus::replay("vmm-qmp", super::qmp);
    }
}
