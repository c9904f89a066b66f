//! One connection: a stream of the host's, with what waits for it, and the credit of both sides (virtio 1.2, 5.10.6.3).

use std::collections::VecDeque;
use std::num::Wrapping;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use super::packet::{Header, MAX_PAYLOAD, NO_RECEIVE, NO_SEND, Op};

/// Bytes of the guest's that a connection holds until the host takes them, as Linux has it.
pub(crate) const BUFFER: u32 = 256 << 10;

/// The ports of both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ports {
    pub guest: u32,
    pub host: u32,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The guest wants it, and there is no stream yet.
    Wished,
    /// The host wants it, and the guest has not answered.
    Requested,
    Open,
    /// The guest has closed it; what it sent before is still on its way.
    Draining,
}

/// A packet without data that is to be sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pending {
    pub request: bool,
    pub response: bool,
    /// The flags of a shutdown.
    pub shutdown: u32,
    pub credit_update: bool,
    pub credit_request: bool,
}

/// The stream is broken or closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

/// What came of reading the stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Bytes(usize),
    None,
    Ended,
}

pub(crate) struct Connection {
    pub ports: Ports,
    pub stage: Stage,
    stream: Option<OwnedFd>,
    pub pending: Pending,
    /// The stream may have input.
    pub readable: bool,
    /// The host closed its end for good, as the poll says.
    pub hung_up: bool,
    /// It is in the queue of connections with something to send.
    pub queued: bool,
    /// What the host announced to the guest: flags of a shutdown.
    told: u32,
    /// What the guest announced, and what of that the stream was told.
    heard: u32,
    passed: u32,
    /// Bytes from the guest that the stream did not take yet.
    waiting: VecDeque<u8>,
    received: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    /// `forwarded` as the guest knows it.
    told_forwarded: Wrapping<u32>,
    sent: Wrapping<u32>,
    guest_buffer: u32,
    guest_forwarded: Wrapping<u32>,
    /// Asked for credit, and not heard since.
    asked: bool,
}

impl Connection {
    pub fn new(ports: Ports, stage: Stage, stream: Option<OwnedFd>) -> Self {
        Self {
            ports,
            stage,
            stream,
            pending: Pending::default(),
            readable: false,
            hung_up: false,
            queued: false,
            told: 0,
            heard: 0,
            passed: 0,
            waiting: VecDeque::new(),
            received: Wrapping(0),
            forwarded: Wrapping(0),
            told_forwarded: Wrapping(0),
            sent: Wrapping(0),
            guest_buffer: 0,
            guest_forwarded: Wrapping(0),
            asked: false,
        }
    }

    pub fn set_stream(&mut self, stream: OwnedFd) {
        self.stream = Some(stream);
    }

    /// Takes over what every packet says of the guest's buffer.
    pub fn hear_credit(&mut self, header: &Header) {
        self.guest_buffer = header.buffer;
        self.guest_forwarded = Wrapping(header.forwarded);
        self.asked = false;
    }

    /// Bytes that the guest has room for. A guest that claims to have taken more than was sent gets nothing.
    pub fn credit(&self) -> usize {
        let in_flight = (self.sent - self.guest_forwarded).0;
        self.guest_buffer.saturating_sub(in_flight) as usize
    }

    /// Takes data of the guest; an error if there is no room that it was promised, or the stream is gone.
    pub fn take(&mut self, data: &[u8]) -> Result<(), Broken> {
        let room = BUFFER as usize - self.waiting.len();
        if data.len() > room || self.heard & NO_SEND != 0 {
            return Err(Broken);
        }
        self.received += data.len() as u32;
        let now = if self.waiting.is_empty() {
            self.send(data)?
        } else {
            0
        };
        self.forwarded += now as u32;
        self.waiting.extend(&data[now..]);
        self.consider_credit_update();
        Ok(())
    }

    /// Passes on what waits, as far as the stream takes it.
    pub fn flush(&mut self) -> Result<(), Broken> {
        while !self.waiting.is_empty() {
            let front = self.waiting.as_slices().0;
            let count = self.send(front)?;
            if count == 0 {
                break;
            }
            self.waiting.drain(..count);
            self.forwarded += count as u32;
        }
        if self.waiting.is_empty() {
            // What was used for a burst is not kept for an idle connection.
            self.waiting = VecDeque::new();
            self.pass_end();
        }
        self.consider_credit_update();
        Ok(())
    }

    /// True if all that the guest sent was passed on.
    pub fn is_flushed(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The guest hears of free room before what it knows of becomes less than a packet.
    fn consider_credit_update(&mut self) {
        let known_room = BUFFER.saturating_sub((self.received - self.told_forwarded).0);
        self.pending.credit_update |=
            self.forwarded != self.told_forwarded && (known_room as usize) < 2 * MAX_PAYLOAD;
    }

    fn send(&self, data: &[u8]) -> Result<usize, Broken> {
        let stream = self.stream.as_ref().ok_or(Broken)?;
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match rustix::io::retry_on_intr(|| rustix::net::send(stream, data, flags)) {
            Ok(count) => Ok(count),
            Err(Errno::AGAIN) => Ok(0),
            Err(_) => Err(Broken),
        }
    }

    /// Reads input of the stream.
    pub fn read(&mut self, into: &mut [u8]) -> Result<Input, Broken> {
        let stream = self.stream.as_ref().ok_or(Broken)?;
        match rustix::io::retry_on_intr(|| rustix::net::recv(stream, &mut *into, RecvFlags::DONTWAIT)) {
            Ok((0, _)) => {
                self.readable = false;
                Ok(Input::Ended)
            }
            Ok((count, _)) => {
                self.sent += count as u32;
                Ok(Input::Bytes(count))
            }
            Err(Errno::AGAIN) => {
                self.readable = false;
                Ok(Input::None)
            }
            Err(_) => Err(Broken),
        }
    }

    /// True if input could be read and sent now. Asks for credit where only that is missing.
    pub fn can_read(&mut self) -> bool {
        let wants = self.stage == Stage::Open
            && self.readable
            && self.told & NO_SEND == 0
            && self.heard & NO_RECEIVE == 0;
        if wants && self.credit() == 0 && !self.asked {
            self.asked = true;
            self.pending.credit_request = true;
        }
        wants && self.credit() > 0
    }

    /// The stream's input ended: the host sends no more, and takes no more either if it hung up.
    pub fn announce_end(&mut self) {
        let flags = if self.hung_up {
            NO_SEND | NO_RECEIVE
        } else {
            NO_SEND
        };
        if self.told | flags != self.told {
            self.told |= flags;
            self.pending.shutdown = self.told;
        }
    }

    /// True if the guest was told that there is no more input.
    pub fn has_announced_end(&self) -> bool {
        self.told & NO_SEND != 0
    }

    /// The guest sends or receives no more. True if it does neither.
    pub fn hear_shutdown(&mut self, flags: u32) -> bool {
        self.heard |= flags & (NO_SEND | NO_RECEIVE);
        if self.is_flushed() {
            self.pass_end();
        }
        self.heard == NO_SEND | NO_RECEIVE
    }

    /// Ends the stream's directions that the guest ended.
    fn pass_end(&mut self) {
        let Some(stream) = &self.stream else { return };
        // Once each: every shutdown is an event on the stream too.
        let due = self.heard & !self.passed;
        self.passed = self.heard;
        for (flag, how) in [(NO_SEND, Shutdown::Write), (NO_RECEIVE, Shutdown::Read)] {
            if due & flag != 0 {
                // A stream that is gone needs no end.
                let _ = rustix::net::shutdown(stream, how);
            }
        }
    }

    /// Tells a client of the host that it is connected, by the port that it has.
    pub fn greet(&self) -> Result<(), Broken> {
        let line = format!("OK {}\n", self.ports.host);
        match self.send(line.as_bytes())? == line.len() {
            true => Ok(()),
            false => Err(Broken),
        }
    }

    /// The next packet without data, if one is due: its op and flags.
    pub fn next_pending(&mut self) -> Option<(Op, u32)> {
        let pending = &mut self.pending;
        if std::mem::take(&mut pending.request) {
            return Some((Op::Request, 0));
        }
        if std::mem::take(&mut pending.response) {
            return Some((Op::Response, 0));
        }
        let flags = std::mem::take(&mut pending.shutdown);
        if flags != 0 {
            return Some((Op::Shutdown, flags));
        }
        if std::mem::take(&mut pending.credit_request) {
            return Some((Op::CreditRequest, 0));
        }
        std::mem::take(&mut pending.credit_update).then_some((Op::CreditUpdate, 0))
    }

    /// A packet of this connection tells the guest of its credit.
    pub fn tell_credit(&mut self) -> (u32, u32) {
        self.told_forwarded = self.forwarded;
        self.pending.credit_update = false;
        (BUFFER, self.forwarded.0)
    }
}
