//! One TCP connection with the guest, which ends here (RFC 9293): what the guest sends goes into a buffer for the host's
//! socket (`receive`), and what that socket gives goes into a buffer for the guest (`send`).

mod bytes;
mod ranges;
mod receive;
mod send;
mod timing;

use std::net::SocketAddr;

use self::receive::{Answer, Receiver};
use self::send::{Due, Sender};
use crate::neighbours::Owner;
use crate::output::{MTU, Output, Segment};
use crate::time::Millis;
use crate::wire::{IPV4_LEN, IPV6_LEN, TCP_LEN, Tcp, flags};

/// Bytes that each of a connection's two buffers holds at most: a power of two.
pub const BUFFER: usize = 1 << 20;
/// Our own window's shift (RFC 7323).
const SHIFT: u8 = 5;
/// So often a SYN is sent before the guest counts as gone: about twenty seconds.
const MAX_SYN_TRIES: u32 = 6;
/// The room for the host that is told to a guest of its own accord is at least this part of a buffer.
const NEWS: usize = 4;

/// Bytes of payload that fit an Ethernet frame, between ends of this family.
fn our_mss(end: &SocketAddr) -> u16 {
    let header = if end.is_ipv4() { IPV4_LEN } else { IPV6_LEN };
    (MTU - header - TCP_LEN) as u16
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The guest's SYN is here; the host's socket is not connected yet.
    Opening,
    /// Our SYN with an acknowledgment is out.
    SynReceived,
    /// Our SYN is out, for someone on the host who came by a forwarded port.
    SynSent,
    /// Both have seen the other's SYN.
    Open,
    /// Over, by a reset of either side.
    Dead,
}

/// Between whom a connection is.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    pub guest: SocketAddr,
    pub peer: SocketAddr,
    pub owner: Owner,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    /// The guest's end.
    pub guest: SocketAddr,
    /// The other end, as the guest sees it.
    pub peer: SocketAddr,
    /// Whose it is.
    pub owner: Owner,
    state: State,
    sender: Sender,
    receiver: Receiver,
    /// What the buffers may hold now.
    limit: usize,
    /// Both sides told a shift of their windows.
    scaled: bool,
    /// The guest is owed an acknowledgment.
    acknowledge: bool,
    /// When something last came from either side.
    pub used: Millis,
}

/// `a` comes after `b` in the circle of sequence numbers.
fn after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

impl Connection {
    fn new(ends: Ends, state: State, first: u32, now: Millis) -> Self {
        let Ends { guest, peer, owner } = ends;
        Self {
            guest,
            peer,
            owner,
            state,
            sender: Sender::new(first),
            receiver: Receiver::default(),
            limit: BUFFER,
            scaled: false,
            acknowledge: false,
            used: now,
        }
    }

    /// The guest opens it with `syn`; it waits until the host's socket is connected. `first` is our first sequence number.
    pub fn by_guest(ends: Ends, syn: &Tcp<'_>, first: u32, now: Millis) -> Self {
        let mut connection = Self::new(ends, State::Opening, first, now);
        connection.learn(syn);
        connection
    }

    /// Someone on the host opens it.
    pub fn by_host(ends: Ends, first: u32, now: Millis) -> Self {
        let mut connection = Self::new(ends, State::SynSent, first, now);
        connection.sender.timer = Some(now);
        connection
    }

    /// Takes what the guest's SYN says.
    fn learn(&mut self, syn: &Tcp<'_>) {
        self.receiver.start(syn.sequence);
        self.receiver.sack = syn.sack_permitted;
        self.sender.sack = syn.sack_permitted;
        self.sender.mss = usize::from(syn.mss.unwrap_or(536)).clamp(64, usize::from(our_mss(&self.guest)));
        // Without the option neither side's window has a shift; ours is then told in bytes.
        self.sender.shift = syn.scale.unwrap_or(0);
        self.sender.window = u32::from(syn.window);
        self.scaled = syn.scale.is_some();
    }

    /// The host's socket is connected.
    pub fn connected(&mut self, now: Millis) {
        if self.state == State::Opening {
            self.state = State::SynReceived;
            self.sender.timer = Some(now);
        }
    }

    /// Nobody has opened it yet.
    pub fn is_half_open(&self) -> bool {
        self.state != State::Open
    }

    /// The host's end failed: the guest is told by a reset.
    pub fn abort(&mut self, output: &mut Output) {
        if self.state != State::Dead {
            self.state = State::Dead;
            self.send(output, flags::RST | flags::ACK, self.sender.next, &[]);
        }
    }

    /// Over: the host's socket is to be closed, by a reset if `true` is inside.
    pub fn end(&self) -> Option<bool> {
        let sent_all = self.sender.done && self.sender.fin_acknowledged();
        match self.state {
            State::Dead => Some(true),
            State::Open if sent_all && self.wants_shutdown() && !self.acknowledge => Some(false),
            _ => None,
        }
    }

    /// Bytes that the host's socket is to get.
    pub fn for_host(&self) -> &[u8] {
        self.receiver.for_host()
    }

    /// The host's socket took `count` of them.
    pub fn host_took(&mut self, count: usize, now: Millis) {
        self.used = now;
        self.receiver.consume(count, self.limit);
        // A window that was nearly closed opens: the guest waits for that.
        if self.room_for_guest() >= self.receiver.told() as usize + self.limit / NEWS {
            self.acknowledge = true;
        }
    }

    /// The host's socket is to be told that nothing more comes.
    pub fn wants_shutdown(&self) -> bool {
        self.receiver.done && self.receiver.len() == 0
    }

    /// Bytes that may come from the host's socket now.
    pub fn room_for_host(&self) -> usize {
        match self.state {
            State::Open if !self.sender.done => self.limit.saturating_sub(self.sender.len()),
            _ => 0,
        }
    }

    /// A place for `len` bytes of the host's socket, no more than [`Connection::room_for_host`]; [`Connection::host_filled`] says how many
    /// there are.
    pub fn place_for_host(&mut self, len: usize) -> [&mut [u8]; 2] {
        self.sender.spare(len)
    }

    /// The host's socket put `count` bytes there; none mean that it gives nothing more.
    pub fn host_filled(&mut self, count: usize, now: Millis) {
        self.used = now;
        self.sender.filled(count);
        self.sender.done |= count == 0;
    }

    /// The host's socket gave `bytes`; none mean that it gives nothing more.
    #[cfg(any(test, fuzzing))]
    pub fn host_gave(&mut self, bytes: &[u8], now: Millis) {
        self.used = now;
        if !self.sender.done {
            self.sender.push(bytes);
            self.sender.done = bytes.is_empty();
        }
    }

    /// Bytes of memory that both buffers take.
    #[cfg(test)]
    pub fn memory(&self) -> usize {
        self.receiver.capacity() + self.sender.capacity()
    }

    fn room_for_guest(&self) -> usize {
        self.limit.saturating_sub(self.receiver.len())
    }

    /// The buffers may hold `limit` bytes from now on.
    pub fn limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Takes in a segment of the guest. What is to be answered at once is, by `output`.
    pub fn input(&mut self, segment: &Tcp<'_>, output: &mut Output, now: Millis) {
        self.used = now;
        match self.state {
            State::Opening | State::Dead => {
                if segment.has(flags::RST) {
                    self.state = State::Dead;
                }
                return;
            }
            State::SynSent => return self.input_syn_sent(segment, now),
            State::SynReceived | State::Open => {}
        }
        if segment.has(flags::RST) {
            // RFC 5961, 3.2: only at the exact place, else whoever guesses one could end it.
            let offset = segment.sequence.wrapping_sub(self.receiver.expected);
            if offset == 0 {
                self.state = State::Dead;
            } else if offset < self.receiver.told() {
                self.acknowledge = true;
            }
            return;
        }
        if segment.has(flags::SYN) {
            match self.state {
                // Ours was lost.
                State::SynReceived => self.sender.timer = Some(now),
                _ => self.acknowledge = true,
            }
            return;
        }
        if !segment.has(flags::ACK) {
            return;
        }
        if self.state == State::SynReceived {
            if !self.acknowledges_syn(segment) {
                return;
            }
            self.state = State::Open;
            self.sender.opened(segment);
        }
        self.acknowledge |= self.sender.acknowledge(segment, self.limit, now);
        match self.receiver.take(segment) {
            Answer::No => {}
            Answer::Soon => self.acknowledge = true,
            Answer::Now => self.send_acknowledgment(output),
        }
    }

    /// Our SYN is out, and a segment acknowledges it.
    fn acknowledges_syn(&self, segment: &Tcp<'_>) -> bool {
        let Sender {
            highest,
            unacknowledged,
            ..
        } = self.sender;
        segment.has(flags::ACK) && segment.acknowledgment == highest && highest != unacknowledged
    }

    fn input_syn_sent(&mut self, segment: &Tcp<'_>, now: Millis) {
        if !self.acknowledges_syn(segment) {
            return;
        }
        if segment.has(flags::RST) {
            self.state = State::Dead;
        } else if segment.has(flags::SYN) {
            self.learn(segment);
            self.sender.opened(segment);
            self.state = State::Open;
            self.acknowledge = true;
            self.used = now;
        }
    }

    /// The time at which [`Connection::output`] has to be called; `None` if an event has to come first.
    pub fn deadline(&self) -> Option<Millis> {
        self.sender.timer
    }

    /// Sends what is to be sent now.
    pub fn output(&mut self, output: &mut Output, now: Millis) {
        match self.state {
            State::SynReceived | State::SynSent => self.output_syn(output, now),
            State::Open => self.output_open(output, now),
            State::Opening | State::Dead => {}
        }
    }

    fn output_syn(&mut self, output: &mut Output, now: Millis) {
        if self.sender.timer.is_none_or(|at| at > now) {
            return;
        }
        if !self.sender.send_syn(MAX_SYN_TRIES, now) {
            return self.abort(output);
        }
        let [high, low] = our_mss(&self.guest).to_be_bytes();
        let mut options = vec![2, 4, high, low];
        let answers = self.state == State::SynReceived;
        if !answers || self.sender.sack {
            options.extend([1, 1, 4, 2]);
        }
        if !answers || self.scaled {
            options.extend([1, 3, 3, SHIFT]);
        }
        let acknowledges = if answers { flags::ACK } else { 0 };
        self.send(
            output,
            flags::SYN | acknowledges,
            self.sender.unacknowledged,
            &options,
        );
    }

    fn output_open(&mut self, output: &mut Output, now: Millis) {
        if self.sender.mind_timer(output.has_room(), now) == Due::Gone {
            return self.abort(output);
        }
        while output.has_room() {
            let most = output.largest_segment(self.sender.mss, &self.guest);
            let Some(part) = self.sender.next_part(most) else {
                break;
            };
            let flag =
                flags::ACK | if part.push { flags::PSH } else { 0 } | if part.fin { flags::FIN } else { 0 };
            let header = self.header(flag, part.sequence, &[]);
            output.tcp(self.peer, self.guest, &header, self.sender.payload(&part));
            self.sent_window(&header);
            self.sender.sent(&part, now);
        }
        self.sender.wait(now);
        if self.acknowledge {
            self.send_acknowledgment(output);
        }
    }

    /// An acknowledgment by itself, with what came early or twice.
    fn send_acknowledgment(&mut self, output: &mut Output) {
        let option = self.receiver.sack_option();
        self.send(output, flags::ACK, self.sender.next, &option);
    }

    fn send(&mut self, output: &mut Output, flag: u8, sequence: u32, options: &[u8]) {
        let header = self.header(flag, sequence, options);
        output.tcp(self.peer, self.guest, &header, [&[], &[]]);
        self.sent_window(&header);
    }

    /// What a segment says; the window in it is at least what was told before.
    fn header<'a>(&self, flag: u8, sequence: u32, options: &'a [u8]) -> Segment<'a> {
        let window = self.receiver.told().max(self.room_for_guest() as u32);
        let acknowledges = flag & flags::ACK != 0;
        Segment {
            sequence,
            acknowledgment: if acknowledges { self.receiver.expected } else { 0 },
            flags: flag,
            // Rounded down; what was told before is accepted nevertheless.
            window: (window >> self.our_shift(flag)).min(u32::from(u16::MAX)) as u16,
            options,
            mss: self.sender.mss,
        }
    }

    /// The shift of the window in a segment with these flags.
    fn our_shift(&self, flag: u8) -> u8 {
        if self.scaled && flag & flags::SYN == 0 {
            SHIFT
        } else {
            0
        }
    }

    /// Notes what the guest was told.
    fn sent_window(&mut self, header: &Segment<'_>) {
        if header.flags & flags::ACK != 0 {
            let window = u32::from(header.window) << self.our_shift(header.flags);
            let edge = self.receiver.expected.wrapping_add(window);
            if after(edge, self.receiver.edge) {
                self.receiver.edge = edge;
            }
            self.acknowledge = false;
        }
    }
}
