//! Random numbers for RDRAND and RDSEED, from the host's kernel in batches.

use std::cell::RefCell;

/// Bytes fetched at once; the kernel gives up to 256 without being interrupted.
const BATCH: usize = 256;

struct Pool {
    bytes: [u8; BATCH],
    used: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { bytes: [0; BATCH], used: BATCH }) };
}

/// The next 64 random bits, or `None` if the host has none now.
pub fn next() -> Option<u64> {
    POOL.with_borrow_mut(|pool| {
        if pool.used + 8 > BATCH {
            // SAFETY: the call fills a buffer of ours of exactly this length.
            let got = unsafe { libc::getrandom(pool.bytes.as_mut_ptr().cast(), BATCH, libc::GRND_NONBLOCK) };
            if got != BATCH as isize {
                return None;
            }
            pool.used = 0;
        }
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&pool.bytes[pool.used..pool.used + 8]);
        pool.used += 8;
        Some(u64::from_le_bytes(bytes))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn numbers_do_not_repeat_across_batches() {
        let numbers: HashSet<u64> = (0..200).filter_map(|_| super::next()).collect();
        assert_eq!(numbers.len(), 200);
    }
}
