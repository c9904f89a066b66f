//! Entries for fuzzers: what the kernel and Open vSwitch say.

use crate::netlink::codec::{Attributes, messages};
use crate::ovs::{fdb::station, stream::Stream};

/// A datagram of netlink: every message, and attributes within attributes.
pub fn netlink(input: &[u8]) {
    for message in messages(input) {
        for (_, value) in Attributes(message.body) {
            assert!(Attributes(value).count() <= value.len());
        }
    }
}

/// What the database server and the switch's own control socket say: a stream in pieces as long as its first byte says, and the
/// lines of a forwarding table.
pub fn ovsdb(input: &[u8]) {
    let Some((&first, stream)) = input.split_first() else {
        return;
    };
    let mut messages = Stream::default();
    'pieces: for piece in stream.chunks(usize::from(first).max(1)) {
        messages.push(piece);
        loop {
            match messages.next() {
                Ok(Some(message)) => assert!(message.is_object()),
                Ok(None) => break,
                Err(_) => break 'pieces,
            }
        }
    }
    for line in String::from_utf8_lossy(stream).lines() {
        let _ = station(line, |_| Some(String::new()), "br0");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_fuzzers_found_is_survived() {
        ostler_corpus::replay("hostnet-netlink", super::netlink);
        ostler_corpus::replay("hostnet-ovsdb", super::ovsdb);
    }
}
