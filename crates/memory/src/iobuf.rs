//! A piece of guest RAM as host code that bypasses `vm-memory` sees it.

use std::fmt;
use std::ptr;

/// A range of host memory for scatter-gather I/O, laid out as the host's `struct iovec`.
///
/// It is a plain address: it neither borrows nor owns. Whoever passes it to an I/O back end promises there that the
/// range stays mapped (and writable, for reads) until the back end says that it is done. Other threads, the guest's
/// CPUs among them, may change the bytes at any time, so nobody may build a Rust reference from it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct IoBuf {
    ptr: *mut u8,
    len: usize,
}

// SAFETY: an IoBuf is an address and a length; using it is unsafe at the place of use, whichever thread that is on.
unsafe impl Send for IoBuf {}
// SAFETY: as above; shared access gives out copies of the address only.
unsafe impl Sync for IoBuf {}

impl IoBuf {
    /// The `len` bytes at `ptr`.
    pub const fn new(ptr: *mut u8, len: usize) -> Self {
        Self { ptr, len }
    }

    /// The range of `bytes`; the borrow ends here, so the caller keeps `bytes` alive.
    pub fn of(bytes: &mut [u8]) -> Self {
        Self::new(bytes.as_mut_ptr(), bytes.len())
    }

    /// The range of `bytes`, for back ends that only read it.
    pub fn of_const(bytes: &[u8]) -> Self {
        Self::new(bytes.as_ptr().cast_mut(), bytes.len())
    }

    /// First address.
    pub const fn as_ptr(&self) -> *mut u8 {
        self.ptr
    }

    /// Bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True if the range is empty.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The range without its first `count` bytes (empty if it has no more).
    #[must_use]
    pub fn advanced(&self, count: usize) -> Self {
        let count = count.min(self.len);
        Self::new(self.ptr.wrapping_add(count), self.len - count)
    }

    /// The first `count` bytes of the range (all of it if it has no more).
    #[must_use]
    pub fn truncated(&self, count: usize) -> Self {
        Self::new(self.ptr, self.len.min(count))
    }

    /// Copies from the range into `target`, as many bytes as both have; returns how many.
    ///
    /// # Safety
    /// The range is mapped and readable.
    pub unsafe fn copy_to(&self, target: &mut [u8]) -> usize {
        let count = self.len.min(target.len());
        // SAFETY: the caller promises the range; `target` is ours alone, so the two do not overlap.
        unsafe { ptr::copy_nonoverlapping(self.ptr, target.as_mut_ptr(), count) };
        count
    }

    /// Copies from `source` into the range, as many bytes as both have; returns how many.
    ///
    /// # Safety
    /// The range is mapped and writable.
    pub unsafe fn copy_from(&self, source: &[u8]) -> usize {
        let count = self.len.min(source.len());
        // SAFETY: the caller promises the range; `source` is borrowed, so nobody writes it through the range.
        unsafe { ptr::copy_nonoverlapping(source.as_ptr(), self.ptr, count) };
        count
    }

    /// Fills the range with zeroes.
    ///
    /// # Safety
    /// The range is mapped and writable.
    pub unsafe fn zero(&self) {
        // SAFETY: the caller promises the range.
        unsafe { ptr::write_bytes(self.ptr, 0, self.len) };
    }

    /// Bytes in all of `buffers`; `None` if the sum overflows.
    pub fn total(buffers: &[IoBuf]) -> Option<usize> {
        buffers
            .iter()
            .try_fold(0usize, |sum, buffer| sum.checked_add(buffer.len))
    }
}

impl fmt::Debug for IoBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IoBuf({:p}+{:#x})", self.ptr, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advancing_and_truncating_stay_inside() {
        let mut bytes = [1u8, 2, 3, 4];
        let buffer = IoBuf::of(&mut bytes);
        assert_eq!(buffer.advanced(3).len(), 1);
        assert!(buffer.advanced(9).is_empty());
        assert_eq!(buffer.truncated(9).len(), 4);
        let mut copy = [0; 2];
        // SAFETY: `bytes` is alive and nobody else uses it.
        let copied = unsafe { buffer.advanced(1).copy_to(&mut copy) };
        assert_eq!((copied, copy), (2, [2, 3]));
        // SAFETY: as above.
        unsafe {
            buffer.truncated(1).copy_from(&[9, 9]);
            buffer.advanced(3).zero();
        }
        assert_eq!(bytes, [9, 2, 3, 0]);
        assert_eq!(
            IoBuf::total(&[buffer, IoBuf::new(ptr::null_mut(), usize::MAX)]),
            None
        );
    }
}
