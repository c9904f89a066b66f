//! Reading a request out of a chain (virtio 1.2, 5.2.6). Everything that a guest can get wrong is decided here.

use ostler_disk::{Features, SECTOR_SIZE};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};

use super::account::BlockRequest;
use crate::chain::Chain;
use crate::error::GuestError;

/// Bytes of the header in front of each request.
pub(crate) const HEADER_LEN: usize = 16;
/// Most ranges in a discard or write-zeroes request.
pub(crate) const MAX_RANGES: u32 = 16;
/// Most sectors in one range: 2 GiB.
pub(crate) const MAX_RANGE_SECTORS: u32 = (2 << 30) / SECTOR_SIZE as u32;
/// Bytes of a range.
const RANGE_LEN: usize = 16;
/// The one flag of a range: the host may give the space back.
const RANGE_UNMAP: u32 = 1;

const S_IOERR: u8 = VIRTIO_BLK_S_IOERR as u8;
const S_UNSUPP: u8 = VIRTIO_BLK_S_UNSUPP as u8;

/// A range of a discard or write-zeroes request, in bytes, checked against the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ByteRange {
    pub offset: u64,
    pub len: u64,
    pub unmap: bool,
}

/// What the guest asks for. Offsets are bytes and lie, with the data, inside the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    /// Fill the writable bytes, all but the last.
    Read {
        offset: u64,
    },
    /// Store the readable bytes behind the header.
    Write {
        offset: u64,
    },
    Flush,
    GetId,
    Discard(Ranges),
    WriteZeroes(Ranges),
    /// Answer with this status at once.
    Refuse(u8),
}

/// A short list that needs no allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ranges {
    list: [ByteRange; MAX_RANGES as usize],
    len: usize,
}

impl Ranges {
    pub fn iter(&self) -> impl Iterator<Item = &ByteRange> {
        self.list[..self.len].iter()
    }

    /// Bytes of all ranges; at most 16 times 2 GiB.
    pub fn bytes(&self) -> u64 {
        self.iter().map(|range| range.len).sum()
    }

    /// The end of the range that reaches furthest.
    pub fn end(&self) -> u64 {
        self.iter()
            .map(|range| range.offset + range.len)
            .max()
            .unwrap_or(0)
    }
}

/// Reads the request in `chain` for a disk of `size` bytes.
///
/// # Errors
/// If the chain has no header or no room for a status: then there is no way to answer.
pub(crate) fn parse(chain: &Chain, size: u64, able: Features) -> Result<Request, GuestError> {
    let mut header = [0; HEADER_LEN];
    if chain.read_at(0, &mut header) < HEADER_LEN {
        return Err(GuestError::Request("a block request without a whole header"));
    }
    if chain.writable_bytes() == 0 {
        return Err(GuestError::Request("a block request without room for its status"));
    }
    let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let mut sector = [0; 8];
    sector.copy_from_slice(&header[8..]);
    let sector = u64::from_le_bytes(sector);
    Ok(match kind {
        VIRTIO_BLK_T_IN => match check_data(sector, chain.writable_bytes() - 1, size) {
            Some(offset) => Request::Read { offset },
            None => Request::Refuse(S_IOERR),
        },
        VIRTIO_BLK_T_OUT => match check_data(sector, chain.readable_bytes() - HEADER_LEN, size) {
            Some(offset) if !able.readonly => Request::Write { offset },
            _ => Request::Refuse(S_IOERR),
        },
        VIRTIO_BLK_T_FLUSH => Request::Flush,
        VIRTIO_BLK_T_GET_ID => Request::GetId,
        VIRTIO_BLK_T_DISCARD if able.discard && !able.readonly => match ranges(chain, size, 0) {
            Ok(ranges) => Request::Discard(ranges),
            Err(status) => Request::Refuse(status),
        },
        VIRTIO_BLK_T_WRITE_ZEROES if able.write_zeroes && !able.readonly => {
            match ranges(chain, size, RANGE_UNMAP) {
                Ok(ranges) => Request::WriteZeroes(ranges),
                Err(status) => Request::Refuse(status),
            }
        }
        _ => Request::Refuse(S_UNSUPP),
    })
}

/// What kind of request is in `chain`, for the account; `None` if it is of no kind that is counted.
pub(crate) fn kind(chain: &Chain) -> Option<BlockRequest> {
    let mut kind = [0; 4];
    if chain.read_at(0, &mut kind) < kind.len() {
        return None;
    }
    match u32::from_le_bytes(kind) {
        VIRTIO_BLK_T_IN => Some(BlockRequest::Read),
        VIRTIO_BLK_T_OUT | VIRTIO_BLK_T_WRITE_ZEROES => Some(BlockRequest::Write),
        VIRTIO_BLK_T_FLUSH => Some(BlockRequest::Flush),
        VIRTIO_BLK_T_DISCARD => Some(BlockRequest::Discard),
        _ => None,
    }
}

/// The byte offset of `len` bytes at `sector`, if these are whole sectors of the disk.
fn check_data(sector: u64, len: usize, size: u64) -> Option<u64> {
    let offset = sector.checked_mul(SECTOR_SIZE)?;
    let end = offset.checked_add(len as u64)?;
    (len > 0 && (len as u64).is_multiple_of(SECTOR_SIZE) && end <= size).then_some(offset)
}

/// The ranges of a discard or write-zeroes request, or the status to refuse it with.
fn ranges(chain: &Chain, size: u64, allowed_flags: u32) -> Result<Ranges, u8> {
    let bytes = chain.readable_bytes() - HEADER_LEN;
    let len = bytes / RANGE_LEN;
    if !bytes.is_multiple_of(RANGE_LEN) || len == 0 || len > MAX_RANGES as usize {
        return Err(S_IOERR);
    }
    let mut ranges = Ranges {
        list: [ByteRange::default(); MAX_RANGES as usize],
        len,
    };
    for (i, range) in ranges.list[..len].iter_mut().enumerate() {
        let mut raw = [0; RANGE_LEN];
        chain.read_at(HEADER_LEN + i * RANGE_LEN, &mut raw);
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, f0, f1, f2, f3] = raw;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
        let flags = u32::from_le_bytes([f0, f1, f2, f3]);
        if flags & !allowed_flags != 0 {
            return Err(S_UNSUPP);
        }
        let bytes = u64::from(sectors) * SECTOR_SIZE;
        let offset = sector.checked_mul(SECTOR_SIZE).ok_or(S_IOERR)?;
        let end = offset.checked_add(bytes).ok_or(S_IOERR)?;
        if end > size || sectors > MAX_RANGE_SECTORS {
            return Err(S_IOERR);
        }
        *range = ByteRange {
            offset,
            len: bytes,
            unmap: flags & RANGE_UNMAP != 0,
        };
    }
    Ok(ranges)
}
