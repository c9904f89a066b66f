//! What a queue is asked, and what it answers.

use ostler_memory::IoBuf;

use crate::RequestError;

/// Bytes of a sector: every offset and length of a request is a multiple of it.
pub const SECTOR_SIZE: u64 = 512;

/// One request. Offsets and lengths are bytes.
#[derive(Debug, Clone, Copy)]
pub enum Op<'a> {
    /// Fill `buffers`, in order, from the disk at `offset`.
    Read {
        /// First byte on the disk.
        offset: u64,
        /// Where the bytes go; the lengths add up to the length of the read.
        buffers: &'a [IoBuf],
    },
    /// Store `buffers`, in order, at `offset`.
    Write {
        /// First byte on the disk.
        offset: u64,
        /// Where the bytes are.
        buffers: &'a [IoBuf],
    },
    /// Make durable all writes that completed before this was submitted.
    Flush,
    /// The contents of the range are no longer needed; reading it gives anything that was there, or zeroes.
    Discard {
        /// First byte on the disk.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// The range reads as zeroes afterwards.
    WriteZeroes {
        /// First byte on the disk.
        offset: u64,
        /// Bytes.
        len: u64,
        /// The host may give the space back; otherwise it stays allocated.
        unmap: bool,
    },
}

/// The end of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// The token that the request came with.
    pub token: u64,
    /// How it went. A read or write that succeeds has moved all of its bytes.
    pub result: Result<(), RequestError>,
}
