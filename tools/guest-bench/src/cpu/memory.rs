//! Copies, pointers, and what makes the kernel change page tables.

use std::hint::black_box;
use std::io;
use std::ptr::NonNull;

use super::random::Random;
use super::{Entry, Work};

pub const TESTS: &[Entry] = &[
    ("memory", "copy-32-mib", "bytes", |_| copy_large()),
    ("memory", "copy-256-b", "bytes", |_| copy_small()),
    ("memory", "pointer-chase", "hops", |_| pointer_chase()),
    ("memory", "page-faults", "faults", |_| page_faults()),
    ("memory", "mprotect", "calls", |_| mprotect()),
];

const PAGE: usize = 4096;

fn copy_large() -> Result<Work, String> {
    const LEN: usize = 32 << 20;
    let (from, mut to) = (vec![0x5au8; LEN], vec![1u8; LEN]);
    Work::new(LEN as f64, LEN as u64, move |rounds| {
        for _ in 0..rounds {
            black_box(&mut to[..]).copy_from_slice(black_box(&from[..]));
        }
    })
}

/// Pieces whose length only shows at run time, from places that differ in their alignment.
fn copy_small() -> Result<Work, String> {
    const LEN: usize = 256;
    const PIECES: usize = 64;
    let (from, mut to) = (vec![0x5au8; 2 * LEN + PIECES], vec![1u8; 2 * LEN + PIECES]);
    Work::new((LEN * PIECES) as f64, LEN as u64, move |rounds| {
        for _ in 0..rounds {
            for piece in 0..PIECES {
                let len = black_box(LEN);
                to[PIECES - piece..][..len].copy_from_slice(&black_box(&from)[piece..][..len]);
            }
            black_box(&mut to);
        }
    })
}

/// A ring through 4 MiB in random order.
fn pointer_chase() -> Result<Work, String> {
    const PLACES: usize = 1 << 20;
    const HOPS: usize = 1 << 14;
    let mut ring: Vec<u32> = (0..PLACES as u32).collect();
    let mut random = Random::new(5);
    // Sattolo's shuffle makes one ring of all.
    for index in (1..PLACES).rev() {
        ring.swap(index, random.below(index as u64) as usize);
    }
    let chase = move |mut at: u32| {
        for _ in 0..HOPS {
            at = ring[at as usize];
        }
        at
    };
    let check = u64::from(chase(0));
    let mut at = 0;
    Work::new(HOPS as f64, check, move |rounds| {
        for _ in 0..rounds {
            at = black_box(chase(at));
        }
    })
}

/// Anonymous memory of its own; dropping it gives it back.
struct Mapping {
    at: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(len: usize) -> Result<Self, String> {
        // SAFETY: a new private mapping, wherever the kernel likes.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        match NonNull::new(at.cast::<u8>()) {
            Some(at) if at.as_ptr().cast() != libc::MAP_FAILED => Ok(Self { at, len }),
            _ => Err(format!("mmap: {}", io::Error::last_os_error())),
        }
    }

    /// One fault a page, not one for many of them.
    fn without_huge_pages(self) -> Self {
        // SAFETY: advice on a mapping of ours; a kernel without huge pages refuses it, and has none.
        unsafe { libc::madvise(self.at.as_ptr().cast(), self.len, libc::MADV_NOHUGEPAGE) };
        self
    }

    /// Writes a byte to the page that begins at `offset`, below the mapping's length.
    fn touch(&mut self, offset: usize) {
        assert!(offset < self.len);
        // SAFETY: inside the mapping, which is writable whenever this is called.
        unsafe { self.at.as_ptr().add(offset).write_volatile(1) };
    }

    fn protect(&mut self, protection: i32) -> Result<(), String> {
        // SAFETY: changes the protection of a mapping of ours, which nothing else uses.
        if unsafe { libc::mprotect(self.at.as_ptr().cast(), self.len, protection) } != 0 {
            return Err(format!("mprotect: {}", io::Error::last_os_error()));
        }
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by mmap with this length, and nothing refers to it any more.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}

fn page_faults() -> Result<Work, String> {
    const PAGES: usize = 512;
    Work::fallible(PAGES as f64, PAGES as u64, |rounds| {
        for _ in 0..rounds {
            let mut mapping = Mapping::new(PAGES * PAGE)?.without_huge_pages();
            for page in 0..PAGES {
                mapping.touch(page * PAGE);
            }
        }
        Ok(())
    })
}

/// A page that is closed to writes and opened again, and written each time.
fn mprotect() -> Result<Work, String> {
    let mut mapping = Mapping::new(PAGE)?;
    mapping.touch(0);
    Work::fallible(2.0, PAGE as u64, move |rounds| {
        for _ in 0..rounds {
            mapping.protect(libc::PROT_READ)?;
            mapping.protect(libc::PROT_READ | libc::PROT_WRITE)?;
            mapping.touch(0);
        }
        Ok(())
    })
}
