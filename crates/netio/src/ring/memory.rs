//! Memory that two processes share, and that neither can shrink.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::Error;

/// A mapping of a sealed memfd.
#[derive(Debug)]
pub(super) struct SharedMemory {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone, and everything that it does through the pointer is copying bytes and atomic
// access, from any thread.
unsafe impl Send for SharedMemory {}
// SAFETY: as above; shared references only give atomics, and copies whose callers keep to one producer and one consumer.
unsafe impl Sync for SharedMemory {}

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

fn failed(what: &'static str) -> impl Fn(rustix::io::Errno) -> Error {
    move |source| Error::Setup {
        what,
        name: "a ring of frames".into(),
        source: source.into(),
    }
}

impl SharedMemory {
    /// New memory of `len` bytes, all zero.
    pub fn create(len: usize) -> Result<(Self, OwnedFd), Error> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory =
            rustix::fs::memfd_create("ostler-frames", flags).map_err(failed("making the memory of"))?;
        rustix::fs::ftruncate(&memory, len as u64).map_err(failed("sizing the memory of"))?;
        rustix::fs::fcntl_add_seals(&memory, SEALS).map_err(failed("sealing the memory of"))?;
        Ok((Self::map(memory.as_fd(), len)?, memory))
    }

    /// The memory that a peer made, if it is what [`SharedMemory::create`] makes.
    pub fn join(memory: BorrowedFd<'_>, len: usize) -> Result<Self, Error> {
        let seals = rustix::fs::fcntl_get_seals(memory).map_err(failed("examining the memory of"))?;
        let stat = rustix::fs::fstat(memory).map_err(failed("examining the memory of"))?;
        if !seals.contains(SEALS) || stat.st_size != len as i64 {
            return Err(failed("taking over the memory of")(rustix::io::Errno::INVAL));
        }
        Self::map(memory, len)
    }

    fn map(memory: BorrowedFd<'_>, len: usize) -> Result<Self, Error> {
        // SAFETY: the kernel chooses a place that nothing else uses.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                memory,
                0,
            )
        };
        let base = base.map_err(failed("mapping the memory of"))?;
        let base = NonNull::new(base.cast())
            .ok_or_else(|| failed("mapping the memory of")(rustix::io::Errno::NOMEM))?;
        Ok(Self { base, len })
    }

    /// The word at `offset`, a multiple of four.
    pub fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(
            offset.is_multiple_of(4) && offset + 4 <= self.len,
            "a word of the ring"
        );
        // SAFETY: it lies in the mapping, which lives as long as `self`, and is aligned, as the mapping is. All access to these words
        // is atomic.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(offset).cast()) }
    }

    /// Copies `bytes` to `offset`.
    #[inline]
    pub fn store(&self, offset: usize, bytes: &[u8]) {
        assert!(
            offset <= self.len && bytes.len() <= self.len - offset,
            "inside of the ring"
        );
        // SAFETY: source and destination are valid for that many bytes, and `bytes` is no part of the mapping, to which there are
        // no references. The other process may write there at the same time; what then is there means nothing to us.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.as_ptr().add(offset), bytes.len()) };
    }

    /// Appends `len` bytes at `offset` to `to`.
    pub fn append(&self, offset: usize, len: usize, to: &mut Vec<u8>) {
        assert!(
            offset <= self.len && len <= self.len - offset,
            "inside of the ring"
        );
        to.reserve(len);
        // SAFETY: as for `load`; there is room for that many bytes behind those that `to` has, and then they are there.
        unsafe {
            let end = to.as_mut_ptr().add(to.len());
            std::ptr::copy_nonoverlapping(self.base.as_ptr().add(offset), end, len);
            to.set_len(to.len() + len);
        }
    }

    /// Copies what is at `offset` into `bytes`.
    #[inline]
    pub fn load(&self, offset: usize, bytes: &mut [u8]) {
        assert!(
            offset <= self.len && bytes.len() <= self.len - offset,
            "inside of the ring"
        );
        // SAFETY: as for `store`. Bytes that change meanwhile are copied in some state or other, and looked at only in the copy.
        unsafe {
            std::ptr::copy_nonoverlapping(self.base.as_ptr().add(offset), bytes.as_mut_ptr(), bytes.len())
        };
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody has a reference into it any more.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
