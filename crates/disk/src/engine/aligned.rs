//! Memory that direct I/O can use.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use ostler_memory::IoBuf;

/// Zeroed heap memory with a given alignment.
#[derive(Debug)]
pub(crate) struct AlignedBuf {
    ptr: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the buffer is owned memory, reached through `&self` and `&mut self` as a boxed slice would be.
unsafe impl Send for AlignedBuf {}
// SAFETY: as above.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// `len` zero bytes (at least 1) aligned to `align`, a power of two of at most a page.
    pub(crate) fn new(len: usize, align: usize) -> Self {
        let layout =
            Layout::from_size_align(len.max(1), align).expect("sizes and alignments are small constants");
        // SAFETY: the layout has a size of at least 1.
        let ptr = unsafe { alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(ptr) else {
            handle_alloc_error(layout)
        };
        Self { ptr, layout }
    }

    /// The whole buffer, for the kernel.
    pub(crate) fn io_buf(&self) -> IoBuf {
        IoBuf::new(self.ptr.as_ptr(), self.layout.size())
    }

    /// The bytes. Not while the kernel works on them.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the memory is ours, initialized, and of this size.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.layout.size()) }
    }

    /// The bytes, writable. Not while the kernel works on them.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes the access ours alone.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.layout.size()) }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.ptr.as_ptr(), self.layout) };
    }
}
