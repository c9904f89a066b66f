//! Per-page bookkeeping of one RAM region: the dirty log, and which lines hold code that was decoded.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};

use crate::persistent::Persistent;
use crate::pluggable::Blocks;
use vm_memory::bitmap::{Bitmap, NewBitmap, RefSlice, WithBitmapSlice};

/// Bytes of a guest page, the unit of the dirty log.
pub const PAGE_SIZE: usize = 4096;
/// Bytes of a code line: the unit in which a write is compared with decoded code (64 lines a page).
pub const CODE_LINE_SIZE: usize = 64;

/// Tracks writes to one RAM region.
///
/// Offsets are bytes from the region's start. All methods may be called from any thread.
#[derive(Debug, Default)]
pub struct PageTracker {
    /// True while a dirty log is wanted.
    logging: AtomicBool,
    /// One bit a page, set when the page was written while `logging`.
    dirty: Box<[AtomicU64]>,
    /// One word a page: bit n is set when line n holds decoded code.
    code_lines: Box<[AtomicU64]>,
    /// One counter a page, raised when a write hit decoded code of it.
    code_version: Box<[AtomicU32]>,
    /// The blocks that the region is plugged in, if it is.
    blocks: OnceLock<Arc<Blocks>>,
    /// Whose bytes are a file's.
    persistent: OnceLock<Persistent>,
}

/// A boxed slice of `len` zeroes which the kernel backs only where it is touched.
macro_rules! zeroed_atomics {
    ($atomic:ty, $len:expr) => {
        // SAFETY: an all-zero bit pattern is a valid value of an atomic integer.
        unsafe { Box::<[$atomic]>::new_zeroed_slice($len).assume_init() }
    };
}

impl PageTracker {
    /// A tracker for a region of `bytes` bytes; nothing is dirty, no code is watched.
    pub fn new(bytes: usize) -> Self {
        let pages = bytes.div_ceil(PAGE_SIZE);
        Self {
            logging: AtomicBool::new(false),
            dirty: zeroed_atomics!(AtomicU64, pages.div_ceil(64)),
            code_lines: zeroed_atomics!(AtomicU64, pages),
            code_version: zeroed_atomics!(AtomicU32, pages),
            blocks: OnceLock::new(),
            persistent: OnceLock::new(),
        }
    }

    /// The region is plugged in these blocks from now on.
    pub(crate) fn set_blocks(&self, blocks: Blocks) {
        let _ = self.blocks.set(Arc::new(blocks));
    }

    /// The blocks that the region is plugged in, if it is.
    pub(crate) fn blocks(&self) -> Option<&Arc<Blocks>> {
        self.blocks.get()
    }

    /// The region's bytes are a file's from now on.
    pub(crate) fn set_persistent(&self, persistent: Persistent) {
        let _ = self.persistent.set(persistent);
    }

    /// What is known of a region whose bytes are a file's.
    pub(crate) fn persistent(&self) -> Option<&Persistent> {
        self.persistent.get()
    }

    /// Number of pages tracked.
    pub fn pages(&self) -> usize {
        self.code_lines.len()
    }

    /// Turns the dirty log on or off. Turning it on clears it.
    pub fn set_logging(&self, on: bool) {
        if on {
            for word in &self.dirty {
                word.store(0, Ordering::Relaxed);
            }
        }
        self.logging.store(on, Ordering::SeqCst);
    }

    /// True while writes are logged.
    pub fn is_logging(&self) -> bool {
        self.logging.load(Ordering::Relaxed)
    }

    /// True if `page` was written since the log was last taken.
    pub fn is_dirty(&self, page: usize) -> bool {
        self.dirty
            .get(page / 64)
            .is_some_and(|w| w.load(Ordering::Relaxed) & (1 << (page % 64)) != 0)
    }

    /// Marks `page` dirty, whether or not the log is on.
    pub fn set_dirty(&self, page: usize) {
        if let Some(word) = self.dirty.get(page / 64) {
            word.fetch_or(1 << (page % 64), Ordering::Relaxed);
        }
    }

    /// Returns the dirty log, one bit a page, and clears it.
    pub fn take_dirty(&self) -> Vec<u64> {
        self.dirty
            .iter()
            .map(|word| word.swap(0, Ordering::AcqRel))
            .collect()
    }

    /// Notes that code in `[offset, offset + len)` of one page is about to be decoded.
    ///
    /// Take the page's version before this call, and read the bytes after it: a write that lands later then raises the version, and
    /// so does one that ends the watch meanwhile.
    /// Returns true if the page held no watched code before: other CPUs may hold it as plainly writable.
    pub fn watch_code(&self, offset: usize, len: usize) -> bool {
        let page = offset / PAGE_SIZE;
        let Some(lines) = self.code_lines.get(page) else {
            return false;
        };
        let previous = lines.fetch_or(line_mask(offset % PAGE_SIZE, len), Ordering::SeqCst);
        fence(Ordering::SeqCst);
        previous == 0
    }

    /// True if any line of `page` holds decoded code: a write to it must be reported.
    pub fn has_code(&self, page: usize) -> bool {
        self.code_lines
            .get(page)
            .is_some_and(|lines| lines.load(Ordering::SeqCst) != 0)
    }

    /// True if decoded code lies in `[offset, offset + len)` of one page.
    pub fn holds_code(&self, offset: usize, len: usize) -> bool {
        let lines = self.code_lines.get(offset / PAGE_SIZE);
        lines.is_some_and(|lines| lines.load(Ordering::SeqCst) & line_mask(offset % PAGE_SIZE, len) != 0)
    }

    /// The version of the code in `page`; decoded code is good for as long as this does not change.
    ///
    /// # Panics
    /// If `page` is outside the region.
    pub fn code_version(&self, page: usize) -> &AtomicU32 {
        &self.code_version[page]
    }

    /// Reports a finished write: feeds the dirty log and invalidates decoded code that it touched.
    /// Returns true if decoded code was touched.
    pub fn note_write(&self, offset: usize, len: usize) -> bool {
        if len == 0 {
            return false;
        }
        if let Some(blocks) = self.blocks.get() {
            blocks.take_back(offset, len);
        }
        if let Some(persistent) = self.persistent.get() {
            persistent.take_back(offset, len);
        }
        let mut hit = false;
        let end = offset.saturating_add(len).min(self.pages() * PAGE_SIZE);
        let mut at = offset;
        let logging = self.is_logging();
        while at < end {
            let page = at / PAGE_SIZE;
            let next = ((page + 1) * PAGE_SIZE).min(end);
            if logging {
                self.set_dirty(page);
            }
            hit |= self.invalidate_lines(page, at % PAGE_SIZE, next - at);
            at = next;
        }
        hit
    }

    /// Raises the version of `page` if decoded code lies in the `len` bytes at `start` of it.
    fn invalidate_lines(&self, page: usize, start: usize, len: usize) -> bool {
        let lines = &self.code_lines[page];
        if lines.load(Ordering::SeqCst) & line_mask(start, len) == 0 {
            return false;
        }
        // All decoded code of the page goes at once; what is still good is decoded again on demand.
        lines.store(0, Ordering::SeqCst);
        self.code_version[page].fetch_add(1, Ordering::SeqCst);
        true
    }
}

/// The lines that the `len` bytes at `start` of a page touch, clipped to the page.
fn line_mask(start: usize, len: usize) -> u64 {
    if len == 0 {
        return 0;
    }
    let first = start / CODE_LINE_SIZE;
    let last = ((start + len - 1).min(PAGE_SIZE - 1)) / CODE_LINE_SIZE;
    (u64::MAX << first) & (u64::MAX >> (63 - last))
}

impl<'a> WithBitmapSlice<'a> for PageTracker {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for PageTracker {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.note_write(offset, len);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.is_dirty(offset / PAGE_SIZE)
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}

impl NewBitmap for PageTracker {
    fn with_len(len: usize) -> Self {
        Self::new(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_beside_the_code_leaves_it_alone() {
        let tracker = PageTracker::new(2 * PAGE_SIZE);
        assert!(tracker.watch_code(PAGE_SIZE + 100, 20));
        assert!(
            !tracker.watch_code(PAGE_SIZE + 128, 4),
            "the page was watched already"
        );
        assert!(!tracker.note_write(PAGE_SIZE + 192, 8));
        assert!(tracker.holds_code(PAGE_SIZE + 191, 1) && !tracker.holds_code(PAGE_SIZE + 192, 8));
        assert_eq!(tracker.code_version(1).load(Ordering::Relaxed), 0);
        assert!(
            tracker.note_write(PAGE_SIZE - 8, 8 + 65),
            "reaches line 1 of the page"
        );
        assert_eq!(tracker.code_version(1).load(Ordering::Relaxed), 1);
        assert!(!tracker.has_code(1));
    }

    #[test]
    fn the_dirty_log_sees_writes_only_while_it_is_on() {
        let tracker = PageTracker::new(100 * PAGE_SIZE);
        tracker.mark_dirty(0, 1);
        assert!(!tracker.is_dirty(0));
        tracker.set_logging(true);
        tracker.mark_dirty(70 * PAGE_SIZE - 1, 2);
        assert_eq!(tracker.take_dirty(), vec![0, (1 << 5) | (1 << 6)]);
        assert_eq!(tracker.take_dirty(), vec![0, 0]);
    }

    #[test]
    fn a_write_past_the_end_is_clipped() {
        let tracker = PageTracker::new(PAGE_SIZE);
        tracker.set_logging(true);
        assert!(!tracker.note_write(PAGE_SIZE - 1, usize::MAX));
        assert!(tracker.is_dirty(0));
    }

    proptest::proptest! {
        #[test]
        fn a_line_mask_covers_each_byte_of_the_range(start in 0usize..PAGE_SIZE, len in 1usize..PAGE_SIZE) {
            let end = (start + len).min(PAGE_SIZE);
            let mut expected = 0u64;
            for byte in start..end {
                expected |= 1 << (byte / CODE_LINE_SIZE);
            }
            proptest::prop_assert_eq!(line_mask(start, len), expected);
        }
    }
}
