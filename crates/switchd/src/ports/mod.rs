//! Where frames come from and go to: one file a kind.

mod guest;
mod interface;
mod packet;
mod router;
mod stream;
mod tap;
mod vhost_user;

use std::ops::Range;
use std::os::fd::BorrowedFd;

use ostler_netio::{Admitted, Header, Offloads};
use ostler_switch::RxFrame;

pub(crate) use guest::GuestLink;
pub(crate) use packet::PacketLink;
pub(crate) use router::RouterLink;
pub(crate) use stream::StreamLink;
pub(crate) use tap::TapLink;
pub(crate) use vhost_user::VhostUserLink;

/// Frames that a port takes in before others have their turn, and bytes of them.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 512 << 10;

/// Why a link is over, for the user to read.
#[derive(Debug)]
pub(crate) struct Gone(pub String);

/// What a port is connected to, while it is. No call ever blocks.
pub(crate) trait Link {
    /// The descriptor that becomes readable when there is something to receive, or the end.
    fn readable(&self) -> BorrowedFd<'_>;

    /// The descriptor to wait at for room; `None` while nothing waits for it.
    fn writable(&self) -> Option<BorrowedFd<'_>>;

    /// Takes frames in until there are none or the batch is full.
    fn receive(&mut self, batch: &mut Batch) -> Result<(), Gone>;

    /// Sends a frame, given in parts. False if there is no room for it, or the link is over: that shows when it is flushed.
    fn send(&mut self, parts: &[&[u8]]) -> bool;

    /// Which frames it takes of which something is left to be done.
    fn takes(&self) -> Offloads {
        Offloads::NONE
    }

    /// Sends a frame of which something is left to be done, of what [`Link::takes`] says.
    fn send_headed(&mut self, _header: &Header, _parts: &[&[u8]]) -> bool {
        false
    }

    /// Passes on what was sent, as far as the other side takes it.
    fn flush(&mut self) -> Result<(), Gone>;

    /// Whether there are frames of which [`Link::readable`] does not tell.
    fn has_frames(&self) -> bool {
        false
    }

    /// The switch is about to sleep. True if there are frames after all.
    fn sleep(&mut self) -> bool {
        false
    }

    /// The switch is awake.
    fn stay_awake(&mut self) {}

    /// Frames that were lost between the switch and the other side, of which the core knows nothing.
    fn lost(&self) -> Lost {
        Lost::default()
    }

    /// What each queue pair has received and sent, where there are some.
    fn queue_pairs(&self) -> Vec<[u64; 2]> {
        Vec::new()
    }

    /// Looks whether the other side can be reached at all, for links that do not tell.
    fn is_up(&mut self) -> Result<bool, Gone> {
        Ok(true)
    }

    /// Why it is not up, for links that know.
    fn why_down(&self) -> Option<String> {
        None
    }

    /// Whether [`Link::is_up`] says something else than it last did, for links that know it at once.
    fn may_change(&self) -> bool {
        false
    }
}

/// Frames that nobody else counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    /// They came faster than they were taken, or were no frames.
    pub received: u64,
    /// The host did not take them after all.
    pub sent: u64,
}

/// Frames that a port received.
#[derive(Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    frames: Vec<Taken>,
    /// Buffers that frames came in, which are done with.
    spare: Vec<Vec<u8>>,
}

/// One of them.
struct Taken {
    place: Place,
    /// What is left to be done to it.
    header: Header,
    wire_len: usize,
}

/// Where its bytes are.
enum Place {
    Shared(Range<usize>),
    /// In a buffer of its own, from there on.
    Own(Vec<u8>, usize),
}

impl Taken {
    fn bytes<'a>(&'a self, shared: &'a [u8]) -> &'a [u8] {
        match &self.place {
            Place::Shared(range) => &shared[range.clone()],
            Place::Own(buffer, start) => &buffer[*start..],
        }
    }
}

impl Batch {
    pub fn clear(&mut self) {
        self.bytes.clear();
        for taken in self.frames.drain(..) {
            if let Place::Own(buffer, _) = taken.place {
                self.spare.push(buffer);
            }
        }
    }

    /// The buffers of [`Batch::push_own`] that are done with.
    pub fn take_spare(&mut self) -> impl Iterator<Item = Vec<u8>> {
        self.spare.drain(..)
    }

    pub fn is_full(&self) -> bool {
        self.frames.len() >= BATCH || self.bytes.len() >= BATCH_BYTES
    }

    /// Adds a frame.
    pub fn push(&mut self, frame: &[u8]) {
        self.push_parts(&Header::default(), &[frame]);
    }

    /// Adds a frame, given in parts, with what is left to be done to it.
    pub fn push_parts(&mut self, header: &Header, parts: &[&[u8]]) {
        let start = self.bytes.len();
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.admit(header, start);
    }

    /// Adds a frame in a buffer of its own, where it begins at `start`.
    pub fn push_own(&mut self, header: &Header, mut buffer: Vec<u8>, start: usize) {
        let admitted = ostler_netio::admit(*header, &mut buffer[start..]);
        self.note(Place::Own(buffer, start), admitted);
    }

    /// Has `fill` append a frame, and say what is left to be done to it if there was one.
    pub fn push_with<E>(
        &mut self,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<Option<Header>, E>,
    ) -> Result<bool, E> {
        self.push_behind(0, fill)
    }

    /// The same for a frame with `skipped` bytes in front that are not its own.
    pub fn push_behind<E>(
        &mut self,
        skipped: usize,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<Option<Header>, E>,
    ) -> Result<bool, E> {
        let start = self.bytes.len() + skipped;
        let Some(header) = fill(&mut self.bytes)? else {
            return Ok(false);
        };
        self.admit(&header, start);
        Ok(true)
    }

    fn admit(&mut self, header: &Header, start: usize) {
        let admitted = ostler_netio::admit(*header, &mut self.bytes[start..]);
        self.note(Place::Shared(start..self.bytes.len()), admitted);
    }

    fn note(&mut self, place: Place, admitted: Option<Admitted>) {
        let (header, wire_len) = admitted.map_or((Header::default(), 0), |a| (a.header, a.wire_len));
        self.frames.push(Taken {
            place,
            header,
            wire_len,
        });
    }

    pub fn frame(&self, index: usize) -> &[u8] {
        self.frames
            .get(index)
            .map_or(&[], |taken| taken.bytes(&self.bytes))
    }

    /// What is left to be done to a frame, if anything is.
    pub fn header(&self, index: usize) -> Option<&Header> {
        let header = self.frames.get(index).map(|taken| &taken.header);
        header.filter(|header| !header.is_plain())
    }

    pub fn frames(&self) -> impl Iterator<Item = RxFrame<'_>> + Clone {
        self.frames.iter().map(|taken| RxFrame {
            bytes: taken.bytes(&self.bytes),
            wire_len: taken.wire_len,
        })
    }
}
