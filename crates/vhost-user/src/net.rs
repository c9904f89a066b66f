//! The network card of a foreign guest, as the switch sees it.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use ostler_netio::{Header, Offloads};
use ostler_virtio::GuestError;
use rustix::event::Timespec;
use rustix::event::epoll;

use crate::Error;
use crate::backlog::Backlog;
use crate::frames::{Placed, Taken, place, take};
use crate::message::Request;
use crate::session::{MAX_PAIRS, Reply, Session};
use crate::steering::Steering;
use crate::wire::Wire;

/// The front end's socket among what is listened to; the others are rings.
const SOCKET: u64 = u64::MAX;
/// Messages that are served before frames have their turn.
const MESSAGES: usize = 16;
/// What is no frame is skipped so many times before others have their turn.
const JUNK: usize = 64;

/// Frames that nobody else counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// What the guest sent was no frame.
    pub received: u64,
    /// The guest's buffers went, or were too small, while frames waited for them.
    pub sent: u64,
}

/// Frames of a queue pair, as the switch sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PairCounters {
    /// Taken from the guest.
    pub received: u64,
    /// Put into its buffers.
    pub sent: u64,
}

/// A connection to a front end. No call ever blocks; after an error there is nothing left but to drop it.
pub struct VhostUserNet {
    wire: Wire,
    session: Session,
    steering: Steering,
    /// Frames that wait, for each pair.
    backlogs: [Backlog; MAX_PAIRS],
    lost: Lost,
    pairs: [PairCounters; MAX_PAIRS],
    /// The pair whose frames are taken next.
    turn: usize,
    /// There may be messages of which nothing tells.
    more_messages: bool,
}

/// The number of the ring by which a pair receives, as the guest sees it.
fn receiving(pair: usize) -> usize {
    2 * pair
}

/// The number of the ring by which a pair sends.
fn sending(pair: usize) -> usize {
    2 * pair + 1
}

impl VhostUserNet {
    /// Serves the front end at the other end of `socket`.
    pub fn new(socket: UnixStream) -> Result<Self, Error> {
        let (wire, session) = (Wire::new(socket), Session::new()?);
        let token = epoll::EventData::new_u64(SOCKET);
        epoll::add(session.events(), wire.socket(), token, epoll::EventFlags::IN)?;
        Ok(Self {
            wire,
            session,
            steering: Steering::new(),
            backlogs: Default::default(),
            lost: Lost::default(),
            pairs: [PairCounters::default(); MAX_PAIRS],
            turn: 0,
            more_messages: false,
        })
    }

    /// Becomes readable when there is something to [`VhostUserNet::serve`] or to take.
    pub fn readable(&self) -> BorrowedFd<'_> {
        self.session.events().as_fd()
    }

    /// Whether the guest's driver has its card running: frames can pass.
    pub fn is_up(&self) -> bool {
        self.pairs().any(|pair| self.is_live(pair))
    }

    /// Why frames cannot pass, while they cannot.
    pub fn why_down(&self) -> Option<String> {
        if self.is_up() {
            return None;
        }
        Some(match self.session.rings.iter().find_map(|ring| ring.broken) {
            Some(error) => format!("the guest's driver broke a ring: {error}"),
            None => "the guest's driver has not started its card".into(),
        })
    }

    fn pairs(&self) -> Range<usize> {
        0..self.session.rings.len() / 2
    }

    fn is_live(&self, pair: usize) -> bool {
        let rings = &self.session.rings;
        rings[receiving(pair)].is_live() && rings[sending(pair)].is_live()
    }

    /// Frames that were lost without anybody else's knowing.
    pub fn lost(&self) -> Lost {
        self.lost
    }

    /// What each queue pair has moved that the guest uses.
    pub fn pair_counters(&self) -> Vec<PairCounters> {
        let used = self.pairs().filter(|&pair| self.is_live(pair));
        used.map(|pair| self.pairs[pair]).collect()
    }

    /// What the guest takes of what is left to be done to frames.
    pub fn takes(&self) -> Offloads {
        self.session.takes()
    }

    /// Hears kicks and serves messages; passes on what waits, if there are buffers now.
    pub fn serve(&mut self) -> Result<(), Error> {
        let mut events = [std::mem::MaybeUninit::<epoll::Event>::uninit(); 2 * MAX_PAIRS + 1];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let happened = match epoll::wait(self.session.events(), &mut events, Some(&at_once)) {
            Ok((happened, _)) => happened.iter().any(|event| event.data.u64() == SOCKET),
            Err(rustix::io::Errno::INTR) => true,
            Err(error) => return Err(error.into()),
        };
        self.turn = (self.turn + 1) % self.pairs().len();
        if happened || self.more_messages {
            self.serve_messages()?;
        }
        for pair in self.pairs() {
            if !self.is_live(pair) {
                self.lost.sent += self.backlogs[pair].clear() as u64;
            }
        }
        self.pass_on()
    }

    fn serve_messages(&mut self) -> Result<(), Error> {
        self.more_messages = false;
        for _ in 0..MESSAGES {
            let Some(message) = self.wire.next()? else {
                return Ok(());
            };
            let number = message.header.request;
            let wants_reply = message.header.needs_reply && self.session.acknowledges();
            let done = Request::parse(number, &message.payload)
                .and_then(|request| self.session.handle(request, message.descriptors));
            match done {
                Ok(Reply::Word(word)) => self.wire.answer(number, &word.to_ne_bytes())?,
                Ok(Reply::OfRing(ring, value)) => {
                    self.wire
                        .answer(number, &[ring, value].map(u32::to_ne_bytes).concat())?;
                }
                Ok(Reply::Done) if wants_reply => self.wire.answer(number, &0u64.to_ne_bytes())?,
                Ok(Reply::Done) => {}
                Err(error) => {
                    if wants_reply {
                        // It will find the connection closed if it cannot have the answer.
                        let _ = self.wire.answer(number, &1u64.to_ne_bytes());
                    }
                    return Err(error);
                }
            }
        }
        self.more_messages = true;
        Ok(())
    }

    /// Appends the next frame that the guest sent to `bytes`; says what is left to be done to it. `None` if there is none now.
    pub fn take(&mut self, bytes: &mut Vec<u8>) -> Option<Header> {
        let header_len = self.session.header_len();
        let mut junk = 0;
        let mut idle = 0;
        while idle < self.pairs().len() && junk < JUNK {
            let pair = self.turn;
            let start = bytes.len();
            let ring = &mut self.session.rings[sending(pair)];
            let is_live = ring.is_live();
            match ring.running().map(|live| take(live, header_len, bytes)) {
                // What a ring has that runs and is disabled is thrown away, as the protocol wants it.
                Some(Ok(Taken::Frame(header))) if is_live => {
                    self.pairs[pair].received += 1;
                    self.steering.learn(&[&bytes[start..]], pair);
                    return Some(header);
                }
                Some(Ok(Taken::Junk | Taken::Frame(_))) => {
                    bytes.truncate(start);
                    junk += 1;
                    self.lost.received += 1;
                }
                Some(Ok(Taken::Nothing)) | None => {
                    idle += 1;
                    self.turn = (pair + 1) % self.pairs().len();
                }
                Some(Err(error)) => {
                    bytes.truncate(start);
                    self.fail(sending(pair), error);
                }
            }
        }
        None
    }

    fn fail(&mut self, ring: usize, error: GuestError) {
        self.session.rings[ring].fail(ring as u32, error);
    }

    /// Sends a frame, given in parts. False if there is no room for it.
    pub fn send(&mut self, header: &Header, parts: &[&[u8]]) -> bool {
        let wished = self.steering.pair(parts);
        let pair = match self.is_live(wished) {
            true => Some(wished),
            false => self.pairs().find(|&pair| self.is_live(pair)),
        };
        let Some(pair) = pair else { return false };
        if self.backlogs[pair].is_empty() {
            match self.place(pair, header, parts) {
                Placed::Sent => return true,
                Placed::TooLong => return false,
                Placed::NoBuffers => {}
            }
        }
        self.is_live(pair) && self.backlogs[pair].push(header, parts)
    }

    /// Puts a frame into the buffers of a pair.
    fn place(&mut self, pair: usize, header: &Header, parts: &[&[u8]]) -> Placed {
        let (header_len, mergeable) = (self.session.header_len(), self.session.mergeable());
        let number = receiving(pair);
        let Some(live) = self.session.rings[number].live() else {
            return Placed::NoBuffers;
        };
        match place(live, header, parts, header_len, mergeable) {
            Ok(placed) => {
                self.pairs[pair].sent += u64::from(placed == Placed::Sent);
                placed
            }
            Err(error) => {
                self.fail(number, error);
                Placed::NoBuffers
            }
        }
    }

    /// Frames that wait go where buffers came.
    fn pass_on(&mut self) -> Result<(), Error> {
        let mut moved = false;
        for pair in self.pairs() {
            while let Some((header, frame)) = self.backlogs[pair].pop() {
                match self.place(pair, &header, &[&frame]) {
                    Placed::Sent => moved = true,
                    Placed::TooLong => self.lost.sent += 1,
                    Placed::NoBuffers => {
                        self.backlogs[pair].put_back((header, frame));
                        break;
                    }
                }
            }
        }
        if moved {
            self.flush()
        } else {
            self.session.check_memory()
        }
    }

    /// Shows the guest what was sent to it and what was taken from it.
    pub fn flush(&mut self) -> Result<(), Error> {
        for number in 0..self.session.rings.len() {
            let ring = &mut self.session.rings[number];
            match ring.running().map(|live| live.vring.publish()) {
                Some(Ok(true)) => ring.call()?,
                Some(Ok(false)) | None => {}
                Some(Err(error)) => self.fail(number, error),
            }
        }
        self.session.check_memory()
    }

    /// Whether there is something to serve or to take of which nothing tells.
    pub fn has_work(&self) -> bool {
        self.more_messages || (0..self.session.rings.len()).any(|number| self.has_chains(number))
    }

    /// Whether frames wait for buffers of this ring.
    fn is_waited_for(&self, number: usize) -> bool {
        let pair = number / 2;
        number == receiving(pair) && !self.backlogs[pair].is_empty() && self.is_live(pair)
    }

    /// Whether a ring has chains that are wanted now: frames to take, or buffers for frames that wait.
    fn has_chains(&self, number: usize) -> bool {
        let ring = &self.session.rings[number];
        if number % 2 == 1 {
            ring.looks_available()
        } else {
            self.is_waited_for(number) && ring.has_more()
        }
    }

    /// Asks the guest to kick from now on. True if there is work already.
    pub fn sleep(&mut self) -> bool {
        let mut work = self.more_messages;
        for number in 0..self.session.rings.len() {
            let sends = number % 2 == 1;
            if !sends && !self.is_waited_for(number) {
                continue;
            }
            let enabled = self.session.rings[number].running().map(|live| {
                if sends {
                    live.vring.enable_kicks()
                } else {
                    live.vring.enable_kicks_for_more()
                }
            });
            if let Some(Err(error)) = enabled {
                self.fail(number, error);
            }
            work |= self.has_chains(number);
        }
        work
    }

    /// Tells the guest that it need not kick.
    pub fn stay_awake(&mut self) {
        for number in 0..self.session.rings.len() {
            let disabled = self.session.rings[number]
                .running()
                .map(|live| live.vring.disable_kicks());
            if let Some(Err(error)) = disabled {
                self.fail(number, error);
            }
        }
    }
}
