//! Streams: what follows a call that opened one, packet by packet, both ways.
//!
//! What a client sends is taken by the thread that reads from it ([`Stream::take`]), which may wait there: a client that sends
//! faster than its data can be put away is not read from meanwhile, so nothing piles up. What is sent to a client waits for room
//! in its outbox ([`Peer::wait_for_room`]) on a thread of the stream.

use std::sync::Arc;

use ostler_libvirt::types::StreamHole;
use ostler_libvirt::{Header, Kind, Message, RemoteError, Status};

use crate::server::{Outbox, error_message};

/// An open stream of a client, of whatever kind.
pub trait Stream: Send + Sync {
    /// Takes a packet of the client, data or a hole; true if it was the last one.
    fn take(&self, message: Message) -> bool;

    /// True once nothing more will come of it.
    fn is_over(&self) -> bool;

    /// The client is gone: moves nothing more.
    fn close(&self);
}

/// The client's end of a stream.
pub struct Peer {
    outbox: Arc<Outbox>,
    header: Header,
}

impl Peer {
    /// Of the client that reads from `outbox`, for the stream that `call` opened.
    pub fn new(outbox: Arc<Outbox>, call: Header) -> Self {
        let header = Header {
            kind: Kind::Stream,
            status: Status::Continue,
            ..call
        };
        Self { outbox, header }
    }

    /// Waits until the client has taken most of what there is for it; false if it is gone.
    pub fn wait_for_room(&self) -> bool {
        self.outbox.wait_for_room()
    }

    /// Sends data. With nothing in it: no more will come.
    pub fn data(&self, payload: Vec<u8>) {
        self.outbox.push(&Message {
            header: self.header,
            payload,
        });
    }

    /// Sends `length` bytes of zeroes as one hole.
    pub fn hole(&self, length: u64) {
        let header = Header {
            kind: Kind::Hole,
            ..self.header
        };
        let length = i64::try_from(length).unwrap_or(i64::MAX);
        // It has no strings and lists, by which alone it could be too long.
        if let Ok(message) = Message::new(header, &StreamHole { length, flags: 0 }) {
            self.outbox.push(&message);
        }
    }

    /// Answers the client's end, or its giving up: both wait for it.
    pub fn end(&self) {
        self.outbox.push(&Message {
            header: Header {
                status: Status::Ok,
                ..self.header
            },
            payload: Vec::new(),
        });
    }

    /// Ends the stream with an error.
    pub fn fail(&self, error: &RemoteError) {
        self.outbox.push(&error_message(self.header, error));
    }
}
