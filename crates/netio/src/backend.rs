//! The two handles of a network back end.

use std::os::fd::{BorrowedFd, OwnedFd};

use ostler_memory::IoBuf;

use crate::{Error, KernelWorker};

/// Bytes of the virtio-net header in front of every frame: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset,
/// num_buffers, all little endian (virtio 1.2, 5.1.6).
pub const HEADER_LEN: usize = 12;

/// Bytes of the longest frame (without its header) that moves: an IP packet of 65,535 bytes behind an Ethernet header
/// with a VLAN tag.
pub const MAX_FRAME: usize = 65_535 + 18;

/// Work on frames that one side may leave to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads {
    /// Checksums may be left to the receiver.
    pub checksum: bool,
    /// TCP over IPv4 may come in segments larger than the MTU. Needs `checksum`, as all below do.
    pub tso4: bool,
    /// The same over IPv6.
    pub tso6: bool,
    /// Large TCP segments may carry congestion marks.
    pub ecn: bool,
    /// UDP may come in segments larger than the MTU, over IPv4 and IPv6 (USO).
    pub uso: bool,
}

impl Offloads {
    /// No offload.
    pub const NONE: Self = Self {
        checksum: false,
        tso4: false,
        tso6: false,
        ecn: false,
        uso: false,
    };

    /// Every offload.
    pub const ALL: Self = Self {
        checksum: true,
        tso4: true,
        tso6: true,
        ecn: true,
        uso: true,
    };

    /// True if `self` has nothing that `other` has not.
    pub fn within(self, other: Self) -> bool {
        (!self.checksum || other.checksum)
            && (!self.tso4 || other.tso4)
            && (!self.tso6 || other.tso6)
            && (!self.ecn || other.ecn)
            && (!self.uso || other.uso)
    }
}

/// Control handle of a back end. `&self`, any thread. What has a body fits one that has a single queue pair and no interface of the host.
pub trait NetBackend: Send + Sync {
    /// How many queue pairs can be opened, at least 1.
    fn queue_pairs(&self) -> usize {
        1
    }

    /// What the back end takes over from the guest: offloads of frames that are sent (VIRTIO_NET_F_CSUM, HOST_*).
    fn accepts(&self) -> Offloads;

    /// What the back end can leave to the guest: offloads of frames that are received (VIRTIO_NET_F_GUEST_*).
    fn delivers(&self) -> Offloads;

    /// Says which of [`NetBackend::delivers`] the guest takes; from now on received frames use no others.
    /// Called with [`Offloads::NONE`] on reset.
    fn set_delivered(&self, offloads: Offloads) -> Result<(), Error>;

    /// Whether frames can get anywhere. A device shows it as its link state.
    fn link_up(&self) -> bool;

    /// The largest IP packet that fits a frame, if the host side knows it (VIRTIO_NET_F_MTU).
    fn mtu(&self) -> Option<u16> {
        None
    }

    /// Opens queue pair `index`. Each can be open once at a time; dropping the queue gives it back.
    fn open_queue(&self, index: usize) -> Result<Box<dyn NetQueue>, Error>;

    /// The first `pairs` queue pairs carry frames, the others rest (VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET).
    fn set_active_pairs(&self, pairs: usize) -> Result<(), Error> {
        match pairs {
            1 => Ok(()),
            index => Err(Error::NoQueue { index, pairs: 1 }),
        }
    }

    /// The kernel's own worker for queue pair `index`, where there is one: a device may hand its vrings to it instead of
    /// driving a [`NetQueue`].
    fn vhost(&self, _index: usize) -> Option<&dyn KernelWorker> {
        None
    }

    /// Takes another plug, where the way out is one: who held the other end of the old one is gone, and somebody takes its place.
    fn replug(&self, _plug: OwnedFd) -> Result<(), Error> {
        Err(Error::NoPlug)
    }
}

/// What [`NetQueue::read_frame`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// A frame with its header is in the buffers: so many bytes, header included.
    Frame(usize),
    /// Nothing is there now; wait for [`NetQueue::readable`].
    Empty,
    /// A frame was there that did not fit or made no sense. It is gone, and counted.
    Dropped,
}

/// What [`NetQueue::write_frame`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The frame is on its way.
    Sent,
    /// The frame was dropped, and counted: the peer is slow or gone, or the frame makes no sense.
    Dropped,
}

/// What a queue has seen since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueCounters {
    /// Frames handed to the guest.
    pub received: u64,
    /// Frames taken from the guest and passed on.
    pub sent: u64,
    /// Frames for the guest that were dropped.
    pub receive_drops: u64,
    /// Frames from the guest that were dropped.
    pub send_drops: u64,
}

/// One queue pair, owned by one worker (or one for each direction behind a lock). No call ever blocks.
///
/// Frames may wait inside the queue while its descriptor is not readable: read until [`Received::Empty`] before
/// polling, and again when the guest gives new buffers after it had none.
pub trait NetQueue: Send {
    /// Receives one frame, header first, into `buffers` in order. The buffers' total should be
    /// [`HEADER_LEN`] + [`MAX_FRAME`] when large frames were accepted; a longer frame than fits is dropped.
    /// `num_buffers` of the header is 1; a device that spreads a frame over several chains writes its own.
    ///
    /// An error means that the queue is dead (the peer is gone, the descriptor broke): its descriptor must not be
    /// polled any more.
    ///
    /// # Safety
    /// The buffers are mapped and writable for the time of the call.
    unsafe fn read_frame(&mut self, buffers: &[IoBuf]) -> Result<Received, Error>;

    /// Sends one frame, header first, gathered from `buffers`. A frame of a wrong shape (shorter than header and
    /// Ethernet header, longer than [`MAX_FRAME`], an offload that the back end does not accept) is dropped.
    ///
    /// # Safety
    /// The buffers are mapped for the time of the call.
    unsafe fn write_frame(&mut self, buffers: &[IoBuf]) -> Result<Sent, Error>;

    /// The descriptor to poll for frames (`EPOLLIN`, level triggered); `None` if there will never be any.
    fn readable(&self) -> Option<BorrowedFd<'_>>;

    /// The descriptor to poll for room (`EPOLLOUT`) while frames wait inside the queue; `None` while none wait.
    /// When it becomes writable, call [`NetQueue::flush`].
    fn writable(&self) -> Option<BorrowedFd<'_>>;

    /// Passes on frames that wait inside the queue, as far as the peer takes them now.
    fn flush(&mut self) -> Result<(), Error>;

    /// What was moved and dropped so far.
    fn counters(&self) -> QueueCounters;
}
