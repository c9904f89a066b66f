//! Runs inside a benchmark's guest, linked statically. Each command prints one line: `BENCH name count nanoseconds`.

mod count;
mod cpu;
mod disk;
mod io_loop;
mod sha256;
mod stream;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const USAGE: &str = "\
ostler-guest-bench sha256 SECONDS        blocks of 64 bytes hashed by one thread
ostler-guest-bench busy THREADS SECONDS  the same by several threads, added up
ostler-guest-bench read FILE SECONDS     reads of 4096 bytes around the page cache, one at a time
ostler-guest-bench disk NAME FILE ORDER OPERATION BLOCK DEPTH SECONDS
                                         blocks read or written, in order or at random, so many at once
ostler-guest-bench receive PORT          what one TCP connection brings, to its end
ostler-guest-bench send TO SECONDS       the other end of it
ostler-guest-bench loop                  reads and packets, as standard input asks for them
ostler-guest-bench count                 instructions of one block, counted by single steps
ostler-guest-bench cpu FOLDER BUSYBOX WINDOW-MS WINDOWS [TEST...]
                                         the list of tests that compares CPUs; FOLDER is on a tmpfs";

/// The command that does nothing: what a test starts again and again.
const NOTHING: &str = "nothing";

/// `O_DIRECT` of x86-64 Linux.
const O_DIRECT: i32 = 0o40000;
/// Bytes of one read, and its alignment.
const READ_LEN: usize = 4096;
/// Blocks hashed between two looks at the clock.
const BATCH: u64 = 512;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["sha256", seconds] => parse(seconds).map(|seconds| busy("sha256", 1, seconds)),
        ["busy", threads, seconds] => parse(threads)
            .and_then(|threads| parse(seconds).map(|s| busy(&format!("busy{threads}"), threads, s))),
        ["read", file, seconds] => parse(seconds).and_then(|seconds| read(file, seconds)),
        ["disk", name, file, order, operation, block, depth, seconds] => {
            disk::Work::parse(order, operation, block, depth)
                .and_then(|work| work.run(name, file, parse(seconds)?))
        }
        ["receive", port] => stream::receive(port),
        ["send", to, seconds] => parse(seconds).and_then(|seconds| stream::send(to, seconds)),
        ["loop"] => io_loop::serve(),
        [NOTHING] => Ok(()),
        ["cpu", folder, busybox, window, windows, ref only @ ..] => {
            cpu(folder, busybox, window, windows, only)
        }
        ["count"] => count::per_block().map(|instructions| println!("BENCH count {instructions}")),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn parse(number: &str) -> Result<u64, String> {
    number
        .parse()
        .map_err(|_| format!("{number:?} is no number\n{USAGE}"))
}

fn cpu(folder: &str, busybox: &str, window: &str, windows: &str, only: &[&str]) -> Result<(), String> {
    let around = cpu::Surroundings {
        folder: folder.into(),
        busybox: busybox.into(),
    };
    let timing = cpu::Timing {
        window: Duration::from_millis(parse(window)?.max(1)),
        windows: u32::try_from(parse(windows)?.max(1)).map_err(|e| e.to_string())?,
    };
    cpu::run(&around, timing, only)
}

fn block_of(number: u64) -> [u8; 64] {
    let mut block = [0x61; 64];
    block[..8].copy_from_slice(&number.to_le_bytes());
    block
}

/// Hashes the blocks from number `from` up to `to`. Never inlined, so that what is counted is what is timed.
#[inline(never)]
fn hash(state: &mut sha256::State, from: u64, to: u64) {
    (from..to).for_each(|number| state.block(&block_of(number)));
}

fn report(name: &str, count: u64, since: Instant) {
    println!("BENCH {name} {count} {}", since.elapsed().as_nanos());
}

fn busy(name: &str, threads: u64, seconds: u64) {
    let (stop, total) = (AtomicBool::new(false), AtomicU64::new(0));
    let work = || {
        let (mut state, mut done) = (sha256::State::default(), 0);
        while !stop.load(Ordering::Relaxed) {
            hash(&mut state, done, done + BATCH);
            done += BATCH;
        }
        std::hint::black_box(state.digest());
        total.fetch_add(done, Ordering::Relaxed);
    };
    let since = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
        thread::sleep(Duration::from_secs(seconds));
        stop.store(true, Ordering::Relaxed);
    });
    report(name, total.into_inner(), since);
}

/// A file that is read around the page cache.
struct Direct {
    file: File,
    room: Vec<u8>,
    /// Where in `room` an aligned buffer begins.
    skip: usize,
}

fn open_direct(path: &str) -> Result<Direct, String> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(O_DIRECT)
        .open(path)
        .map_err(|error| format!("{path}: {error}"))?;
    let room = vec![0u8; 2 * READ_LEN];
    let skip = room.as_ptr().align_offset(READ_LEN);
    Ok(Direct { file, room, skip })
}

impl Direct {
    /// Reads at most `READ_LEN` bytes; `offset` is a multiple of that.
    fn read_at(&mut self, offset: u64) -> io::Result<&[u8]> {
        let buffer = &mut self.room[self.skip..self.skip + READ_LEN];
        let len = self.file.read_at(buffer, offset)?;
        Ok(&buffer[..len])
    }
}

fn read(file: &str, seconds: u64) -> Result<(), String> {
    let mut disk = open_direct(file)?;
    let (mut count, mut offset) = (0, 0);
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(seconds) {
        let read = disk.read_at(offset).map_err(|error| format!("{file}: {error}"))?;
        match read.len() {
            READ_LEN => offset += READ_LEN as u64,
            // The end: begin again. A disk shorter than one read would turn round for ever.
            _ if offset == 0 => return Err(format!("{file} is shorter than {READ_LEN} bytes")),
            _ => offset = 0,
        }
        count += 1;
    }
    report("read", count, since);
    Ok(())
}
