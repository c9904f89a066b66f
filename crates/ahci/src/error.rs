/// Why a controller could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// More drives than ports.
    #[error("a SATA controller has 6 ports, and {0} drives are wanted; give the guest fewer")]
    TooManyDrives(usize),
    /// A drive that is nothing without an image.
    #[error("a SATA disk needs an image; only a CD-ROM drive may be empty")]
    NoDisk,
    /// The host refused a thread, an event or a poll.
    #[error(transparent)]
    Host(#[from] ostler_worker::Error),
    /// The image behind a drive.
    #[error("the disk behind the drive could not be used: {0}")]
    Disk(#[from] ostler_disk::Error),
}
