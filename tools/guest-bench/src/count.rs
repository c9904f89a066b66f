//! How many instructions a block of the loop takes: the CPU's trap flag raises a signal after each one. Exact on any
//! machine, and the number that any accelerator has to execute.

use std::arch::asm;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{hash, sha256};

static STEPS: AtomicU64 = AtomicU64::new(0);

extern "C" fn step(_signal: libc::c_int) {
    STEPS.fetch_add(1, Ordering::Relaxed);
}

/// Instructions of one block: the difference of two counts, so that what lies around the loop does not matter.
pub fn per_block() -> Result<f64, String> {
    // SAFETY: the handler touches one atomic only.
    let set = unsafe {
        libc::signal(
            libc::SIGTRAP,
            step as extern "C" fn(libc::c_int) as libc::sighandler_t,
        )
    };
    if set == libc::SIG_ERR {
        return Err(format!(
            "no handler for single steps: {}",
            io::Error::last_os_error()
        ));
    }
    let few = count(8);
    let many = count(72);
    Ok(many.saturating_sub(few) as f64 / 64.0)
}

fn count(blocks: u64) -> u64 {
    let mut state = sha256::State::default();
    let before = STEPS.load(Ordering::Relaxed);
    // SAFETY: sets the trap flag; each instruction from here on raises SIGTRAP, which is handled.
    unsafe { asm!("pushfq", "or dword ptr [rsp], 0x100", "popfq") };
    hash(&mut state, 0, blocks);
    // SAFETY: clears the trap flag.
    unsafe { asm!("pushfq", "and dword ptr [rsp], 0xfffffeff", "popfq") };
    std::hint::black_box(state.digest());
    STEPS.load(Ordering::Relaxed) - before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_takes_thousands_of_instructions() {
        let counted = per_block().unwrap();
        assert!((500.0..100_000.0).contains(&counted), "{counted}");
        assert_eq!(per_block().unwrap(), counted, "the count is exact");
    }
}
