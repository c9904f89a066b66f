//! SIGBUS in memory that a front end shares with us.
//!
//! Whoever shares a file can make it shorter, and huge pages can be used up; the next access then raises SIGBUS, which ends a process.
//! To demand sealed files would be simpler, but files of tmpfs and hugetlbfs that are opened by their path have no seals, and none helps
//! where huge pages run out. So the signal is caught: if the address is in a region of ours, empty memory takes the region's place, the
//! access goes on, and the connection ends as soon as somebody looks. Any other SIGBUS does what it did before.

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::Error;

/// Regions that can be watched at once, in the whole process.
const PLACES: usize = 4096;
/// A place that nobody has.
const FREE: usize = 0;
/// A place that is being filled in. No region starts here.
const CLAIMED: usize = 1;

struct Place {
    start: AtomicUsize,
    end: AtomicUsize,
    replaced: AtomicBool,
}

static PLACES_IN_USE: [Place; PLACES] = [const {
    Place {
        start: AtomicUsize::new(FREE),
        end: AtomicUsize::new(0),
        replaced: AtomicBool::new(false),
    }
}; PLACES];

/// What was done at SIGBUS before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Watches a mapping for as long as it lives, which must not be longer than the mapping does.
pub(crate) struct Guard(&'static Place);

impl Guard {
    /// Watches `len` bytes at `start`, which are a whole mapping.
    ///
    /// # Safety
    /// The range is a mapping that stays until the guard is dropped, and whose contents may become zeroes at any time.
    pub unsafe fn watch(start: *mut u8, len: usize) -> Result<Self, Error> {
        catch_signal()?;
        let claim = |place: &&Place| {
            let claimed = place
                .start
                .compare_exchange(FREE, CLAIMED, Ordering::AcqRel, Ordering::Relaxed);
            claimed.is_ok()
        };
        let place = PLACES_IN_USE.iter().find(claim);
        let place = place.ok_or(Error::Region("this process has too many of them"))?;
        place.replaced.store(false, Ordering::Relaxed);
        place.end.store(start as usize + len, Ordering::Relaxed);
        place.start.store(start as usize, Ordering::Release);
        Ok(Self(place))
    }

    /// Whether the memory went away, and empty memory is in its place.
    pub fn was_replaced(&self) -> bool {
        self.0.replaced.load(Ordering::Relaxed)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.start.store(FREE, Ordering::Release);
    }
}

/// Has SIGBUS come to us first, from the first call on.
fn catch_signal() -> Result<(), Error> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        let mut before = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: with no new action the call only fills `before`, for which zeroes are valid too.
        let before = unsafe {
            libc::sigaction(libc::SIGBUS, ptr::null(), before.as_mut_ptr());
            before.assume_init()
        };
        let _ = BEFORE.set(before);
        // SAFETY: zeroes are a valid sigaction.
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the handler does nothing that is not allowed in one.
        match unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        }
    });
    installed.map_err(|errno| Error::Host(std::io::Error::from_raw_os_error(errno)))
}

extern "C" fn on_signal(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes the signal's own information, which has an address for SIGBUS.
    let address = unsafe { (*info).si_addr() } as usize;
    // SAFETY: every thread has an errno.
    let errno = unsafe { *libc::__errno_location() };
    let replaced = PLACES_IN_USE.iter().any(|place| replace(place, address));
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
    if !replaced && let Some(before) = BEFORE.get() {
        // The access is made again, and what was there before is called for it.
        // SAFETY: that action was valid when it was read.
        unsafe { libc::sigaction(libc::SIGBUS, before, ptr::null_mut()) };
    }
}

/// Puts empty memory in the place of a region if `address` is in it.
fn replace(place: &Place, address: usize) -> bool {
    let start = place.start.load(Ordering::Acquire);
    let end = place.end.load(Ordering::Acquire);
    if start <= CLAIMED || !(start..end).contains(&address) || place.start.load(Ordering::Acquire) != start {
        return false;
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: whoever watches the range promised that it is a mapping and may become zeroes. mmap is a plain system call.
    let mapped = unsafe { libc::mmap(start as *mut libc::c_void, end - start, access, flags, -1, 0) };
    place.replaced.store(true, Ordering::Relaxed);
    mapped != libc::MAP_FAILED
}
