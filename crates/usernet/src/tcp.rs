//! One TCP connection with the guest, which ends here (RFC 9293): what the guest sends goes into a buffer for the host's
//! socket, and what that socket gives goes into a buffer for the guest.
//!
//! The cable to the guest loses next to nothing and has no other users, so there is no congestion control: what the
//! guest's window and the output queue allow is sent. What is lost nevertheless is sent again by its timer, or after three
//! duplicate acknowledgments (RFC 5681, 3.2).

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::neighbours::Owner;
use crate::output::{MTU, Output, Segment};
use crate::time::Millis;
use crate::wire::{IPV4_LEN, IPV6_LEN, TCP_LEN, Tcp, flags};

/// Bytes that each of a connection's two buffers holds at most.
pub const BUFFER: usize = 256 << 10;
/// Our own window's shift (RFC 7323).
const SHIFT: u8 = 4;
/// First and longest time until something is sent again.
const RTO: Millis = 300;
const MAX_RTO: Millis = 60_000;
/// So often something is sent before the guest counts as gone: about eight minutes, as one that is paused does not answer.
const MAX_TRIES: u32 = 15;
/// The same for a SYN: about twenty seconds.
const MAX_SYN_TRIES: u32 = 6;

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
    /// The oldest sequence number that the guest has not acknowledged (SND.UNA), the next one to send (SND.NXT), and the
    /// highest ever sent.
    unacknowledged: u32,
    next: u32,
    highest: u32,
    /// The guest's window in bytes, and its shift.
    window: u32,
    shift: u8,
    mss: usize,
    /// What the guest is to get, from `unacknowledged` on; a SYN that is out is not in it.
    to_guest: VecDeque<u8>,
    /// The host's socket gives nothing more: a FIN follows the buffer.
    host_done: bool,
    /// The next sequence number that the guest sends (RCV.NXT), and the end of the window that it was told.
    expected: u32,
    edge: u32,
    to_host: VecDeque<u8>,
    /// The guest has sent its FIN.
    guest_done: bool,
    /// What the buffers may hold now.
    limit: usize,
    /// Both sides told a shift of their windows.
    scaled: bool,
    /// Our FIN went out at least once.
    fin_sent: bool,
    /// The guest is owed an acknowledgment.
    acknowledge: bool,
    duplicates: u32,
    tries: u32,
    timer: Option<Millis>,
    /// When something last came from either side.
    pub used: Millis,
}

/// `a` comes after `b` in the circle of sequence numbers.
fn after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

/// `bytes` from `at` on, `len` of them, in two pieces.
fn pieces(bytes: &VecDeque<u8>, at: usize, len: usize) -> [&[u8]; 2] {
    let (first, second) = bytes.as_slices();
    let cut = |slice: &[u8], from: usize, to: usize| (from.min(slice.len()), to.min(slice.len()));
    let (a, b) = cut(first, at, at + len);
    let (c, d) = cut(
        second,
        at.saturating_sub(first.len()),
        (at + len).saturating_sub(first.len()),
    );
    [&first[a..b], &second[c..d]]
}

impl Connection {
    fn new(ends: Ends, state: State, first: u32, now: Millis) -> Self {
        let Ends { guest, peer, owner } = ends;
        Self {
            guest,
            peer,
            owner,
            state,
            unacknowledged: first,
            next: first,
            highest: first,
            window: 0,
            shift: 0,
            mss: 536,
            to_guest: VecDeque::new(),
            host_done: false,
            expected: 0,
            edge: 0,
            to_host: VecDeque::new(),
            guest_done: false,
            limit: BUFFER,
            scaled: false,
            fin_sent: false,
            acknowledge: false,
            duplicates: 0,
            tries: 0,
            timer: None,
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
        connection.timer = Some(now);
        connection
    }

    /// Takes what the guest's SYN says.
    fn learn(&mut self, syn: &Tcp<'_>) {
        self.expected = syn.sequence.wrapping_add(1);
        self.edge = self.expected.wrapping_add(u32::from(u16::MAX));
        self.mss = usize::from(syn.mss.unwrap_or(536)).clamp(64, usize::from(our_mss(&self.guest)));
        // Without the option neither side's window has a shift; ours is then told in bytes.
        self.shift = syn.scale.unwrap_or(0);
        self.window = u32::from(syn.window);
        self.scaled = syn.scale.is_some();
    }

    /// The host's socket is connected.
    pub fn connected(&mut self, now: Millis) {
        if self.state == State::Opening {
            self.state = State::SynReceived;
            self.timer = Some(now);
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
            self.send(output, flags::RST | flags::ACK, self.next, &[], [&[], &[]]);
        }
    }

    /// Over: the host's socket is to be closed, by a reset if `true` is inside.
    pub fn end(&self) -> Option<bool> {
        let sent_all = self.host_done && self.fin_acknowledged();
        match self.state {
            State::Dead => Some(true),
            State::Open if sent_all && self.guest_done && self.to_host.is_empty() && !self.acknowledge => {
                Some(false)
            }
            _ => None,
        }
    }

    /// Our FIN went out, and came back acknowledged.
    fn fin_acknowledged(&self) -> bool {
        self.fin_sent && self.to_guest.is_empty() && self.unacknowledged == self.highest
    }

    /// Bytes that the host's socket is to get.
    pub fn for_host(&self) -> &[u8] {
        let (first, second) = self.to_host.as_slices();
        if first.is_empty() { second } else { first }
    }

    /// The host's socket took `count` of them.
    pub fn host_took(&mut self, count: usize, now: Millis) {
        self.used = now;
        self.to_host.drain(..count.min(self.to_host.len()));
        // A window that was nearly closed opens: the guest waits for that.
        let told = self.edge.wrapping_sub(self.expected) as usize;
        if self.room_for_guest() >= told + self.limit / 4 {
            self.acknowledge = true;
        }
    }

    /// The host's socket is to be told that nothing more comes.
    pub fn wants_shutdown(&self) -> bool {
        self.guest_done && self.to_host.is_empty()
    }

    /// Bytes that may come from the host's socket now.
    pub fn room_for_host(&self) -> usize {
        match self.state {
            State::Open if !self.host_done => self.limit.saturating_sub(self.to_guest.len()),
            _ => 0,
        }
    }

    /// The host's socket gave `bytes`; none mean that it gives nothing more.
    pub fn host_gave(&mut self, bytes: &[u8], now: Millis) {
        self.used = now;
        if bytes.is_empty() {
            self.host_done = true;
        } else if !self.host_done {
            self.to_guest.extend(bytes);
        }
    }

    fn room_for_guest(&self) -> usize {
        self.limit.saturating_sub(self.to_host.len())
    }

    /// The buffers may hold `limit` bytes from now on.
    pub fn limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Takes in a segment of the guest.
    pub fn input(&mut self, segment: &Tcp<'_>, now: Millis) {
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
        let told = self.edge.wrapping_sub(self.expected);
        let offset = segment.sequence.wrapping_sub(self.expected);
        if segment.has(flags::RST) {
            // RFC 5961, 3.2: only at the exact place, else whoever guesses one could end it.
            if offset == 0 {
                self.state = State::Dead;
            } else if offset < told {
                self.acknowledge = true;
            }
            return;
        }
        if segment.has(flags::SYN) {
            match self.state {
                // Ours was lost.
                State::SynReceived => self.timer = Some(now),
                _ => self.acknowledge = true,
            }
            return;
        }
        if !segment.has(flags::ACK) {
            return;
        }
        if self.state == State::SynReceived {
            if segment.acknowledgment != self.highest || self.highest == self.unacknowledged {
                return;
            }
            self.unacknowledged = self.highest;
            self.next = self.highest;
            self.state = State::Open;
            self.calm();
        }
        self.input_acknowledgment(segment, now);
        self.input_payload(segment);
    }

    fn input_syn_sent(&mut self, segment: &Tcp<'_>, now: Millis) {
        let right = segment.has(flags::ACK) && segment.acknowledgment == self.highest;
        if !right || self.highest == self.unacknowledged {
            return;
        }
        if segment.has(flags::RST) {
            self.state = State::Dead;
        } else if segment.has(flags::SYN) {
            self.learn(segment);
            self.unacknowledged = self.highest;
            self.next = self.highest;
            self.state = State::Open;
            self.acknowledge = true;
            self.calm();
            self.used = now;
        }
    }

    /// The guest answers: nothing is to be sent again.
    fn calm(&mut self) {
        self.tries = 0;
        self.duplicates = 0;
        self.timer = None;
    }

    fn input_acknowledgment(&mut self, segment: &Tcp<'_>, now: Millis) {
        let acknowledged = segment.acknowledgment.wrapping_sub(self.unacknowledged);
        let out = self.highest.wrapping_sub(self.unacknowledged);
        if acknowledged > out {
            // Of the past, or of what was never sent (RFC 9293, 3.10.7.4).
            self.acknowledge |= after(segment.acknowledgment, self.highest);
            return;
        }
        let window = u32::from(segment.window) << self.shift;
        if acknowledged > 0 {
            // A FIN has a number, but no byte in the buffer.
            let bytes = (acknowledged as usize).min(self.to_guest.len());
            self.to_guest.drain(..bytes);
            self.unacknowledged = segment.acknowledgment;
            if after(self.unacknowledged, self.next) {
                self.next = self.unacknowledged;
            }
            self.calm();
            if acknowledged < out {
                self.timer = Some(now + RTO);
            }
        } else if out > 0 && segment.payload.is_empty() && window == self.window && window > 0 {
            self.duplicates += 1;
            if self.duplicates == 3 {
                self.next = self.unacknowledged;
            }
        } else if window > 0 && self.window == 0 {
            // Probes of a closed window were no loss.
            self.calm();
            self.next = self.unacknowledged;
        }
        self.window = window;
        if window == 0 {
            // A window that stays closed is the guest's right, as long as it answers.
            self.tries = self.tries.min(MAX_SYN_TRIES);
        }
    }

    fn input_payload(&mut self, segment: &Tcp<'_>) {
        let length = segment.payload.len();
        if length == 0 && !segment.has(flags::FIN) {
            // A probe outside the window is to be answered.
            self.acknowledge |= segment.sequence != self.expected;
            return;
        }
        self.acknowledge = true;
        // How much of it is known already.
        let known = self.expected.wrapping_sub(segment.sequence) as usize;
        if after(segment.sequence, self.expected) || known > length || self.guest_done {
            return;
        }
        let told = self.edge.wrapping_sub(self.expected) as usize;
        let fresh = &segment.payload[known..];
        let taken = fresh.len().min(told);
        self.to_host.extend(&fresh[..taken]);
        self.expected = self.expected.wrapping_add(taken as u32);
        if segment.has(flags::FIN) && taken == fresh.len() {
            self.guest_done = true;
            self.expected = self.expected.wrapping_add(1);
        }
    }

    /// The time at which [`Connection::output`] has to be called; `None` if an event has to come first.
    pub fn deadline(&self) -> Option<Millis> {
        self.timer
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
        if self.timer.is_none_or(|at| at > now) {
            return;
        }
        if !self.again(now, MAX_SYN_TRIES) {
            return self.abort(output);
        }
        let mut options = [2, 4, 0, 0, 1, 3, 3, SHIFT];
        options[2..4].copy_from_slice(&our_mss(&self.guest).to_be_bytes());
        let (flag, options) = match self.state {
            State::SynReceived if !self.scaled => (flags::SYN | flags::ACK, &options[..4]),
            State::SynReceived => (flags::SYN | flags::ACK, &options[..]),
            _ => (flags::SYN, &options[..]),
        };
        self.highest = self.unacknowledged.wrapping_add(1);
        self.send(output, flag, self.unacknowledged, options, [&[], &[]]);
    }

    /// Notes that something is sent again; false if that was often enough.
    fn again(&mut self, now: Millis, most: u32) -> bool {
        self.timer = Some(now + (RTO << self.tries.min(8)).min(MAX_RTO));
        self.tries += 1;
        self.tries <= most
    }

    fn output_open(&mut self, output: &mut Output, now: Millis) {
        let mut probe = 0;
        if self.timer.is_some_and(|at| at <= now) {
            if !output.has_room() {
                // Nothing was lost yet.
                self.timer = Some(now + RTO);
            } else if self.again(now, MAX_TRIES) {
                self.next = self.unacknowledged;
                probe = u32::from(self.window == 0);
            } else {
                return self.abort(output);
            }
        }
        while output.has_room() {
            let at = self.next.wrapping_sub(self.unacknowledged) as usize;
            let waiting = self.to_guest.len().saturating_sub(at);
            let window = (self.window.max(probe) as usize).saturating_sub(at);
            let len = waiting
                .min(window)
                .min(output.largest_segment(self.mss, &self.guest));
            let last =
                self.host_done && len == waiting && at <= self.to_guest.len() && !self.fin_acknowledged();
            if len == 0 && !last {
                break;
            }
            let mut flag = flags::ACK;
            if len == waiting {
                flag |= flags::PSH;
            }
            if last {
                flag |= flags::FIN;
                self.fin_sent = true;
            }
            let payload = pieces(&self.to_guest, at, len);
            let header = self.header(flag, self.next, &[]);
            output.tcp(self.peer, self.guest, &header, payload);
            self.sent_window(&header);
            self.next = self.next.wrapping_add(len as u32 + u32::from(last));
            if after(self.next, self.highest) {
                self.highest = self.next;
            }
        }
        let out = self.highest != self.unacknowledged;
        if self.timer.is_none() && (out || !self.to_guest.is_empty()) {
            self.timer = Some(now + RTO);
        }
        if self.acknowledge {
            self.send(output, flags::ACK, self.next, &[], [&[], &[]]);
        }
    }

    fn send(&mut self, output: &mut Output, flag: u8, sequence: u32, options: &[u8], payload: [&[u8]; 2]) {
        let header = self.header(flag, sequence, options);
        output.tcp(self.peer, self.guest, &header, payload);
        self.sent_window(&header);
    }

    /// What a segment says; the window in it is at least what was told before.
    fn header<'a>(&self, flag: u8, sequence: u32, options: &'a [u8]) -> Segment<'a> {
        let told = self.edge.wrapping_sub(self.expected);
        let window = told.max(self.room_for_guest() as u32);
        let syn = flag & flags::SYN != 0;
        let shift = if self.scaled && !syn { SHIFT } else { 0 };
        Segment {
            sequence,
            acknowledgment: if flag & flags::ACK != 0 { self.expected } else { 0 },
            flags: flag,
            // Rounded down; what was told before is accepted nevertheless.
            window: (window >> shift).min(u32::from(u16::MAX)) as u16,
            options,
            mss: self.mss,
        }
    }

    /// Notes what the guest was told.
    fn sent_window(&mut self, header: &Segment<'_>) {
        if header.flags & flags::ACK != 0 {
            let syn = header.flags & flags::SYN != 0;
            let shift = if self.scaled && !syn { SHIFT } else { 0 };
            let edge = self.expected.wrapping_add(u32::from(header.window) << shift);
            if after(edge, self.edge) {
                self.edge = edge;
            }
            self.acknowledge = false;
        }
    }
}
