//! Entries for fuzzers: what a client sends.

use crate::frame::Message;
use crate::procedures::{TABLE, arguments_are_read};

/// A stream of packets. What is taken for one is what was there.
pub fn packets(mut input: &[u8]) {
    loop {
        let before = input;
        match Message::read(&mut input) {
            Ok(Some(message)) => assert!(before.starts_with(&message.to_bytes())),
            Ok(None) | Err(_) => return,
        }
    }
}

/// The arguments of a call; the first two bytes choose which.
pub fn arguments(input: &[u8]) {
    let Some((&[high, low], bytes)) = input.split_first_chunk() else {
        return;
    };
    let which = usize::from(u16::from_be_bytes([high, low])) % TABLE.len();
    arguments_are_read(TABLE[which].program, TABLE[which].number, bytes);
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_fuzzers_found_is_survived() {
        ostler_corpus::replay("libvirt-packets", super::packets);
        ostler_corpus::replay("libvirt-arguments", super::arguments);
    }
}
