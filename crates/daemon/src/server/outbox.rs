//! What is sent to a client, and what waits for that.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ostler_libvirt::Message;
use rustix::net::{SendFlags, send};

/// A client with more than this waiting, in bytes, is asked nothing more from, and streams to it rest.
const ROOM: usize = 1 << 20;
/// A client that lets more than this pile up, in bytes, is hung up on.
const LIMIT: usize = 16 << 20;

/// The packets of one client, in order. Adding never waits.
#[derive(Default)]
pub struct Outbox {
    state: Mutex<State>,
    changed: Condvar,
    /// Where a packet goes at once if no other is before it.
    direct: Option<UnixStream>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Vec<u8>>,
    /// Also counts what is being written.
    bytes: usize,
    closed: bool,
}

/// What the thread that writes is to do.
pub enum Next {
    /// Write this.
    Write(Vec<u8>),
    /// Nothing came for a while.
    Idle,
    /// The client is gone, or has to go.
    Closed,
}

impl Outbox {
    /// With a socket that packets may be sent to without waiting. What it has no room for is left to the thread that writes.
    pub fn new(direct: Option<UnixStream>) -> Self {
        Self {
            direct,
            ..Self::default()
        }
    }

    /// Adds a packet; one for a client that is gone is dropped.
    pub fn push(&self, message: &Message) {
        let mut bytes = message.to_bytes();
        let mut state = self.state();
        if state.bytes == 0 && !state.closed {
            bytes.drain(..self.send(&bytes));
            if bytes.is_empty() {
                return;
            }
        }
        if state.bytes > LIMIT {
            state.closed = true;
        }
        if !state.closed {
            state.bytes += bytes.len();
            state.queue.push_back(bytes);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Sends what the socket has room for. Returns how many bytes that was; an error is found by the thread that writes.
    fn send(&self, bytes: &[u8]) -> usize {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let direct = self.direct.as_ref();
        direct.map_or(0, |socket| send(socket, bytes, flags).unwrap_or(0))
    }

    /// Waits until the client has taken most of what there is; false if it is gone.
    pub fn wait_for_room(&self) -> bool {
        let mut state = self.state();
        while state.bytes > ROOM && !state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.closed
    }

    /// True once nothing more is written.
    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Nothing more is written.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.queue.clear();
        drop(state);
        self.changed.notify_all();
    }

    /// What to do next, after `written` bytes were.
    pub fn next(&self, written: usize, patience: Duration) -> Next {
        let mut state = self.state();
        state.bytes -= written;
        if written > 0 {
            self.changed.notify_all();
        }
        let empty = |state: &mut State| state.queue.is_empty() && !state.closed;
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, patience, empty)
            .unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Next::Closed;
        }
        state.queue.pop_front().map_or(Next::Idle, Next::Write)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use ostler_libvirt::frame::PING;

    #[test]
    fn a_client_that_never_reads_is_given_up() {
        let outbox = Outbox::default();
        let mut message = Message::keepalive(PING);
        message.payload = vec![0; 1 << 20];
        for _ in 0..16 {
            outbox.push(&message);
        }
        assert!(matches!(outbox.next(0, Duration::ZERO), Next::Write(_)));
        outbox.push(&message);
        assert!(matches!(outbox.next(0, Duration::ZERO), Next::Closed));
        assert!(!outbox.wait_for_room());
    }

    #[test]
    fn what_the_socket_has_no_room_for_follows_in_order() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut rest = ours.try_clone().unwrap();
        let outbox = Outbox::new(Some(ours));
        let mut sent = Vec::new();
        for serial in 0..8 {
            let mut message = Message::keepalive(PING);
            message.header.serial = serial;
            message.payload = vec![serial as u8; 200_000];
            sent.extend(message.to_bytes());
            outbox.push(&message);
        }
        let reader = std::thread::spawn(move || {
            let mut read = Vec::new();
            theirs.read_to_end(&mut read).unwrap();
            read
        });
        let mut written = 0;
        while let Next::Write(bytes) = outbox.next(written, Duration::ZERO) {
            rest.write_all(&bytes).unwrap();
            written = bytes.len();
        }
        // All is written, and the next one goes at once again.
        let message = Message::keepalive(PING);
        sent.extend(message.to_bytes());
        outbox.push(&message);
        assert!(matches!(outbox.next(0, Duration::ZERO), Next::Idle));
        drop((outbox, rest));
        assert_eq!(reader.join().unwrap(), sent);
    }

    #[test]
    fn packets_leave_in_order() {
        let outbox = Outbox::default();
        assert!(matches!(outbox.next(0, Duration::ZERO), Next::Idle));
        for serial in 0..3 {
            let mut message = Message::keepalive(PING);
            message.header.serial = serial;
            outbox.push(&message);
        }
        let mut written = 0;
        for serial in 0..3u8 {
            let Next::Write(bytes) = outbox.next(written, Duration::ZERO) else {
                panic!("no packet {serial}")
            };
            assert_eq!(bytes[23], serial);
            written = bytes.len();
        }
        assert!(outbox.wait_for_room());
    }
}
