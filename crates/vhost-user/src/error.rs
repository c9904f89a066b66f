//! What a front end can do wrong, for the user to read.

use std::io;

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It hung up between two messages.
    #[error("the front end closed the connection")]
    Closed,
    /// It hung up within a message.
    #[error("the front end closed the connection in the middle of a message")]
    CutShort,
    /// A header with another version, or that of a reply.
    #[error("the front end sent a message with flags {0:#x}: it speaks another protocol")]
    Flags(u32),
    /// A message longer than any of the protocol's.
    #[error("the front end sent a message of {0} bytes, more than any has")]
    TooLong(usize),
    /// A request that is unknown or was not negotiated.
    #[error("the front end sent request {0}, which was not offered")]
    Request(u32),
    /// A payload of another length than its request has.
    #[error("the front end sent {len} bytes with request {request}, which has another length")]
    Length {
        /// Its number.
        request: u32,
        /// Bytes behind the header.
        len: usize,
    },
    /// More or fewer descriptors than belong to a request, or some that were lost.
    #[error("the front end sent {given} descriptors with a request that has {wanted}")]
    Descriptors {
        /// That came.
        given: usize,
        /// That belong to it.
        wanted: usize,
    },
    /// More descriptors than any message has, or more than this process may open.
    #[error("the front end sent more descriptors than a message has, or than this process may open")]
    TooManyDescriptors,
    /// Features that were not offered.
    #[error("the front end chose the features {0:#x}, which were not offered")]
    Features(u64),
    /// A change of what a ring that runs stands on.
    #[error("the front end changed ring {0} while it ran")]
    RingRuns(u32),
    /// No such ring.
    #[error("the front end named ring {0}, which is not there")]
    NoRing(u32),
    /// A value that makes no sense for a ring.
    #[error("the front end gave ring {ring} the value {value}, which it cannot have")]
    RingValue {
        /// Which.
        ring: u32,
        /// What it was to have.
        value: u32,
    },
    /// A ring was started before it was described.
    #[error("the front end started ring {0} without saying where it is")]
    RingUnknown(u32),
    /// An address of a ring that lies in no region.
    #[error("the front end put a ring at {0:#x}, which is in none of its memory regions")]
    RingAddress(u64),
    /// A ring without a descriptor for kicks.
    #[error("the front end wants ring {0} to be polled; give it a descriptor for kicks")]
    NoKick(u32),
    /// A memory region that cannot be.
    #[error("the front end described a memory region that cannot be: {0}")]
    Region(&'static str),
    /// A memory region that the host does not map.
    #[error("a memory region of the front end cannot be mapped: {0}")]
    Map(io::Error),
    /// Regions over each other.
    #[error("the memory regions of the front end do not fit together: {0}")]
    Layout(String),
    /// The file behind a region got shorter.
    #[error("the front end took memory away while it was used")]
    MemoryGone,
    /// A descriptor for kicks or calls that is no eventfd.
    #[error("the front end sent a descriptor that is no eventfd: {0}")]
    NoEvent(io::Error),
    /// The host refuses what calls are made with.
    #[error("the host refuses io_uring, without which a peer's eventfd cannot be signalled safely: {0}")]
    NoUring(io::Error),
    /// It does not read what it asked for.
    #[error("the front end does not take its answers")]
    DeafFrontEnd,
    /// Anything else that the host says.
    #[error("the connection to the front end failed: {0}")]
    Host(io::Error),
}

impl From<rustix::io::Errno> for Error {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Host(error.into())
    }
}
