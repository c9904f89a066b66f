//! Captures: copies of the frames of a port, or of a VLAN, as a pcapng stream to a client of the control socket.
//!
//! The switch never waits for who reads it. What finds no room in a capture's buffer is counted, and the stream says how many are
//! missing; it ends with the counts as pcapng's own statistics. A capture ends when its client closes its side of the connection,
//! when it has as many frames as it was to have, or when its port is removed.

pub mod pcapng;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime};

use ostler_switch::{PortIndex, TagType};
use ostler_worker::{EventLoop, Interest};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

pub(crate) use pcapng::Direction;

/// Most captures at once.
const MOST: usize = 16;
/// Bytes that wait for the client of a capture.
const ROOM: usize = 4 << 20;

/// What is captured.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// What passes this port in either direction; without one, what comes in at any port.
    pub port: Option<PortIndex>,
    /// Only frames of this VLAN.
    pub vlan: Option<u16>,
    /// Bytes that are kept of each frame.
    pub snaplen: u32,
    /// After so many frames it ends.
    pub count: Option<u64>,
}

/// Where a frame is seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    pub port: PortIndex,
    /// The port's name.
    pub name: &'a str,
    /// The VLAN of the port's untagged frames.
    pub pvid: Option<u16>,
    pub direction: Direction,
}

/// An interface of a capture's file.
#[derive(Default)]
struct Counted {
    number: u32,
    received: u64,
    dropped: u64,
    /// Those of them that no packet told of yet.
    untold: u64,
}

struct Capture {
    stream: UnixStream,
    interest: Interest,
    wish: Wish,
    /// Ports that were seen.
    counted: BTreeMap<PortIndex, Counted>,
    interfaces: u32,
    buffer: Vec<u8>,
    /// How much of the buffer was sent.
    sent: usize,
    written: u64,
    /// Nothing is added any more.
    ended: bool,
}

/// All captures of a switch.
pub(crate) struct Captures {
    tags: TagType,
    captures: Vec<(usize, Capture)>,
}

impl Captures {
    pub fn new(tags: TagType) -> Self {
        Self {
            tags,
            captures: Vec::new(),
        }
    }

    /// Whether there are none: nothing has to be shown to [`Captures::record`] then.
    pub fn is_empty(&self) -> bool {
        self.captures.is_empty()
    }

    /// Whether another one may be added.
    pub fn has_room(&self) -> bool {
        self.captures.len() < MOST
    }

    /// Starts a capture to `stream`. Events of it come with `token`, of which `number` is its own part.
    pub fn add(&mut self, number: usize, token: u64, stream: UnixStream, wish: Wish, events: &EventLoop) {
        let mut buffer = Vec::new();
        pcapng::section(&mut buffer);
        let capture = Capture {
            stream,
            interest: Interest::new(token),
            wish,
            counted: BTreeMap::new(),
            interfaces: 0,
            buffer,
            sent: 0,
            written: 0,
            ended: false,
        };
        self.captures.push((number, capture));
        self.flush(events);
    }

    /// Shows a frame, given in parts, to the captures.
    pub fn record(&mut self, seen: &Seen<'_>, parts: &[&[u8]]) {
        let tags = self.tags;
        for (_, capture) in &mut self.captures {
            if capture.wants(seen, parts, tags) {
                capture.add(seen, parts);
            }
        }
    }

    /// A port is no more: captures of it end, and others forget it.
    pub fn forget(&mut self, port: PortIndex) {
        for (_, capture) in &mut self.captures {
            if capture.wish.port == Some(port) {
                capture.end();
            } else {
                capture.write_statistics(Some(port));
                capture.counted.remove(&port);
            }
        }
    }

    /// Something came of the client of a capture: nothing can but its end.
    pub fn hear(&mut self, number: usize) {
        for (_, capture) in self.captures.iter_mut().filter(|(other, _)| *other == number) {
            let mut bytes = [0; 64];
            match rustix::net::recv(&capture.stream, &mut bytes, RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                Ok((1.., _)) => {}
                Ok((0, _)) | Err(_) => capture.end(),
            }
        }
    }

    /// Sends what clients take now, and forgets captures that are over.
    pub fn flush(&mut self, events: &EventLoop) {
        self.captures.retain_mut(|(_, capture)| {
            let goes_on = capture.flush() && capture.watch(events);
            if !goes_on {
                let _ = capture.interest.set(events, None, None);
            }
            goes_on
        });
    }
}

fn now() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

/// The VLAN of a frame: that of its tag, or that of untagged frames.
fn vlan_of(parts: &[&[u8]], tags: TagType, untagged: Option<u16>) -> Option<u16> {
    let mut front = parts.iter().flat_map(|part| part.iter().copied()).skip(12);
    let mut word = || Some(u16::from_be_bytes([front.next()?, front.next()?]));
    if word()? != tags.ether_type() {
        return untagged;
    }
    match word()? & 0xfff {
        0 => untagged,
        vlan => Some(vlan),
    }
}

impl Capture {
    fn wants(&self, seen: &Seen<'_>, parts: &[&[u8]], tags: TagType) -> bool {
        let port = match self.wish.port {
            Some(port) => port == seen.port,
            // Each frame once.
            None => seen.direction == Direction::In,
        };
        let in_vlan = |vlan| vlan_of(parts, tags, seen.pvid) == Some(vlan);
        !self.ended && port && self.wish.vlan.is_none_or(in_vlan)
    }

    fn add(&mut self, seen: &Seen<'_>, parts: &[&[u8]]) {
        let counted = self.counted.entry(seen.port).or_insert_with(|| {
            pcapng::interface(&mut self.buffer, seen.name, self.wish.snaplen);
            self.interfaces += 1;
            Counted {
                number: self.interfaces - 1,
                ..Counted::default()
            }
        });
        counted.received += 1;
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let snaplen = self.wish.snaplen as usize;
        if self.buffer.len() - self.sent + len.min(snaplen) + pcapng::OVERHEAD > ROOM {
            counted.dropped += 1;
            counted.untold += 1;
            return;
        }
        let packet = pcapng::Packet {
            interface: counted.number,
            time: now(),
            direction: seen.direction,
            dropped: std::mem::take(&mut counted.untold),
        };
        pcapng::packet(&mut self.buffer, &packet, parts, snaplen);
        self.written += 1;
        if self.wish.count.is_some_and(|count| self.written >= count) {
            self.end();
        }
    }

    /// Writes the counts of all interfaces, or of one.
    fn write_statistics(&mut self, only: Option<PortIndex>) {
        for (port, counted) in &self.counted {
            if only.is_none_or(|only| only == *port) {
                pcapng::statistics(
                    &mut self.buffer,
                    counted.number,
                    now(),
                    counted.received,
                    counted.dropped,
                );
            }
        }
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.write_statistics(None);
        }
    }

    /// Sends what the client takes now. False if it is gone, or has everything.
    fn flush(&mut self) -> bool {
        while self.sent < self.buffer.len() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.stream, &self.buffer[self.sent..], flags) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => break,
                Err(_) => return false,
            }
        }
        // What was sent goes when it is worth the move.
        if self.sent == self.buffer.len() || self.sent > ROOM / 2 {
            self.buffer.drain(..self.sent);
            self.sent = 0;
        }
        !(self.ended && self.buffer.is_empty())
    }

    /// Waits for the end of the client, and for room while something waits. False if that cannot be.
    fn watch(&mut self, events: &EventLoop) -> bool {
        let fd = self.stream.as_fd();
        let waits = self.sent < self.buffer.len();
        // The end of a client that is waited for would be told again and again.
        let hears = !self.ended;
        let set = self
            .interest
            .set(events, hears.then_some(fd), waits.then_some(fd));
        set.is_ok()
    }
}
