//! What can go wrong, by whose fault.

/// Why a device could not be made or started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The driver set the device up in a way that cannot work.
    #[error("the guest's driver set the device up wrongly: {0}")]
    Guest(#[from] GuestError),
    /// The host refused a thread, an event or a poll.
    #[error(transparent)]
    Host(#[from] ostler_worker::Error),
    /// The disk behind a block device.
    #[error("the disk behind the device could not be used: {0}")]
    Disk(#[from] ostler_disk::Error),
    /// The network back end behind a network device.
    #[error("the network behind the device could not be used: {0}")]
    Net(#[from] ostler_netio::Error),
}

/// What a guest's driver did against the specification. The device then needs a reset; nothing else is harmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GuestError {
    /// A queue size of zero, not a power of two, or above the maximum (2.7).
    #[error("queue size {0} is not a power of two up to the maximum")]
    QueueSize(u16),
    /// A ring is misaligned or outside of RAM.
    #[error("a ring at {0:#x} is misaligned or not in RAM")]
    RingAddress(u64),
    /// The available index ran ahead by more than the queue's size.
    #[error("the available index jumped from {next} to {index}")]
    AvailableIndex {
        /// The next index that the device would take.
        next: u16,
        /// What the driver wrote.
        index: u16,
    },
    /// More chains at once than the queue has entries: some descriptors are in use twice.
    #[error("more chains are in use than the queue has entries")]
    TooManyChains,
    /// A descriptor index at or past the table's size.
    #[error("descriptor index {0} is past the table")]
    DescriptorIndex(u16),
    /// More descriptors than a chain may have, which a loop ends in too.
    #[error("a descriptor chain is too long or loops")]
    ChainTooLong,
    /// The chain's bytes add up to 4 GiB or more (2.7.5.2).
    #[error("a descriptor chain holds 4 GiB or more")]
    ChainTooLarge,
    /// An indirect descriptor within an indirect table, or one that has NEXT set (2.7.5.3.1).
    #[error("an indirect descriptor is nested or continued")]
    IndirectNested,
    /// An indirect table of no entries or with a part of one.
    #[error("an indirect table has {0} bytes, no positive multiple of 16")]
    IndirectLength(u32),
    /// A device-readable descriptor after a device-writable one (2.7.4.2).
    #[error("a readable descriptor follows a writable one")]
    Order,
    /// A buffer that is not in RAM.
    #[error("a buffer of {len:#x} bytes at {gpa:#x} is not in RAM")]
    BufferAddress {
        /// Guest-physical address.
        gpa: u64,
        /// Length in bytes.
        len: u32,
    },
    /// The rings cannot be read or written any more.
    #[error("a ring at {0:#x} could not be accessed")]
    RingAccess(u64),
    /// A request that the device cannot answer, as it has nowhere to put the answer.
    #[error("a request is malformed: {0}")]
    Request(&'static str),
}
