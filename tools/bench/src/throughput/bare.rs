//! The disk's file without a guest: what the host's own copies allow.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, fcntl_lock};

use crate::beside::Figures;

/// Its name in the table.
pub(super) const BARE: &str = "bare loop";

const BLOCK: usize = 64 << 10;
/// Blocks in memory, taken in turn: as many as a guest has on their way, which fit into no small cache.
const BLOCKS: usize = 32;
/// How long the kernel may take to give up what an ended program had.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reads `disk` and writes it, in order, by a loop of calls for `time` each.
pub(super) fn measure(disk: &Path, time: Duration, figures: &mut Figures) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(disk)?;
    let blocks = file.metadata()?.len() / BLOCK as u64;
    let mut memory = vec![0x5a; BLOCKS * BLOCK];
    let place = |offset: u64| {
        let start = offset as usize % (BLOCKS * BLOCK);
        start..start + BLOCK
    };
    let read = rate(blocks, time, |offset| {
        file.read_exact_at(&mut memory[place(offset)], offset)
    })?;
    figures.add("seq-read-32", BARE, read);
    let written = rate(blocks, time, |offset| {
        file.write_all_at(&memory[place(offset)], offset)
    })?;
    figures.add("seq-write-32", BARE, written);
    Ok(())
}

/// Megabytes a second of `call` at one block after the other.
fn rate(blocks: u64, time: Duration, mut call: impl FnMut(u64) -> io::Result<()>) -> io::Result<f64> {
    let start = Instant::now();
    let mut calls = 0;
    while start.elapsed() < time {
        call(calls % blocks * BLOCK as u64)?;
        calls += 1;
    }
    Ok((calls * BLOCK as u64) as f64 / 1e6 / start.elapsed().as_secs_f64())
}

/// Waits until nobody has `disk` locked: io_uring lets go of a file a moment after its program has ended.
pub(super) fn wait_until_free(disk: &Path) -> io::Result<()> {
    let file = fs::File::options().read(true).write(true).open(disk)?;
    let start = Instant::now();
    while let Err(error) = fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        if start.elapsed() > PATIENCE {
            return Err(error.into());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
