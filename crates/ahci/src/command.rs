//! What a drive makes of a command: the work that its worker has to do for it.

use crate::fis::Taskfile;

/// How the bytes of a command, and its end, travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Programmed input or output: a PIO set-up comes in front of the data.
    Pio,
    /// DMA.
    Dma,
    /// Native command queueing; the end is a set-device-bits FIS with this tag.
    Queued(u8),
    /// A packet command, whose end is a register FIS in all modes.
    Packet,
}

/// What has to be done for one command. Offsets and lengths are bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Nothing: it is over, and this is how.
    Done(Taskfile),
    /// Move these bytes to the guest.
    Send {
        /// The bytes.
        data: Vec<u8>,
        /// How.
        link: Link,
    },
    /// Move bytes of the disk to the guest.
    Read {
        /// First byte on the disk.
        offset: u64,
        /// Bytes.
        len: u64,
        /// How.
        link: Link,
    },
    /// Move bytes of the guest to the disk.
    Write {
        /// First byte on the disk.
        offset: u64,
        /// Bytes.
        len: u64,
        /// How.
        link: Link,
        /// It is done only once it is durable.
        durable: bool,
    },
    /// Take the ranges of a TRIM from the guest, and discard them.
    Trim {
        /// Bytes of the list.
        len: u64,
    },
    /// Make durable what was written.
    Flush,
}
