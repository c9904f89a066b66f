//! RAM in huge pages that the host's owner has set aside (hugetlbfs). All of it is taken at the start: a page that could not be had
//! later would be the guest's end.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, fstatfs, memfd_create};
use rustix::io::{Errno, retry_on_intr};
use vm_memory::{FileOffset, MmapRegion};

use crate::ram::Error;
use crate::tracker::PageTracker;

/// Where the logarithm of the pages' size is in the flags (memfd_create(2)).
const SIZE_SHIFT: u32 = 26;
/// The type of the file system (statfs(2)).
const HUGETLBFS: u32 = 0x9584_58f6;

/// Maps `len` bytes in huge pages of `page` bytes, or of the host's default size if that is 0.
pub(crate) fn map(len: u64, page: u64) -> Result<MmapRegion<PageTracker>, Error> {
    let none = |source: Errno| Error::NoSuchPages {
        page,
        source: source.into(),
    };
    let log = match page {
        0 => 0,
        page if page.is_power_of_two() => page.trailing_zeros(),
        _ => return Err(none(Errno::INVAL)),
    };
    let kind = MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain(log << SIZE_SHIFT);
    let file = File::from(memfd_create("guest-ram", MemfdFlags::CLOEXEC | kind).map_err(none)?);
    let refused = |source: io::Error| Error::Map { size: len, source };
    let page = file.metadata().map_err(refused)?.blksize();
    let bytes = usize::try_from(len).map_err(|_| Error::Size(len))?;
    if !len.is_multiple_of(page) {
        return Err(Error::NotWholePages { size: len, page });
    }
    file.set_len(len).map_err(refused)?;
    retry_on_intr(|| fallocate(&file, FallocateFlags::empty(), 0, len)).map_err(|source| match source {
        Errno::NOSPC | Errno::NOMEM => Error::TooFewPages {
            wanted: len / page,
            page,
            free: free(page),
        },
        other => refused(other.into()),
    })?;
    MmapRegion::from_file(FileOffset::new(file, 0), bytes).map_err(|e| refused(io::Error::other(e)))
}

/// Whether a file is in huge pages.
pub(crate) fn is_huge(file: &File) -> bool {
    fstatfs(file).is_ok_and(|stat| stat.f_type as u32 == HUGETLBFS)
}

/// How many pages of this size nobody has.
fn free(page: u64) -> u64 {
    let path = format!(
        "/sys/kernel/mm/hugepages/hugepages-{}kB/free_hugepages",
        page >> 10
    );
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}
