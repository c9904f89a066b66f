//! Blocks of a disk, read or written around the page cache, several at once (Linux's AIO, io_submit(2)).

use std::fs::OpenOptions;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use crate::{O_DIRECT, parse, report};

/// Alignment of buffers.
const PAGE: usize = 4096;
const MOST_AT_ONCE: u64 = 256;
const LARGEST: u64 = 1 << 20;
/// `IOCB_CMD_PREAD` and `IOCB_CMD_PWRITE`.
const READ: u16 = 0;
const WRITE: u16 = 1;

/// What is done.
pub struct Work {
    random: bool,
    operation: u16,
    /// Bytes of a block.
    block: u64,
    depth: u64,
}

/// `struct iocb` of <linux/aio_abi.h>, on a machine of the least byte first.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: i32,
    opcode: u16,
    priority: i16,
    descriptor: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_descriptor: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    data: u64,
    object: u64,
    result: i64,
    result2: i64,
}

impl Work {
    /// From words.
    pub fn parse(order: &str, operation: &str, block: &str, depth: &str) -> Result<Self, String> {
        let work = Self {
            random: order == "random",
            operation: if operation == "write" { WRITE } else { READ },
            block: parse(block)?,
            depth: parse(depth)?,
        };
        let fits = work.block.is_multiple_of(PAGE as u64) && (1..=LARGEST).contains(&work.block);
        if !fits || !(1..=MOST_AT_ONCE).contains(&work.depth) {
            return Err(format!("{block} bytes {depth} times at once cannot be"));
        }
        Ok(work)
    }

    /// Does it for so many seconds and says how many blocks that were.
    pub fn run(&self, name: &str, file: &str, seconds: u64) -> Result<(), String> {
        let span = Duration::from_secs(seconds);
        let done = self.blocks(name, file, span);
        done.map_err(|error| format!("{file}: {error}"))
    }

    fn blocks(&self, name: &str, path: &str, span: Duration) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(self.operation == WRITE)
            .custom_flags(O_DIRECT)
            .open(path)?;
        let blocks = file.seek(SeekFrom::End(0))? / self.block;
        if blocks == 0 {
            return Err(io::Error::other("it is shorter than one block"));
        }
        let room = vec![0x5au8; (self.depth * self.block) as usize + PAGE];
        let start = room.as_ptr() as u64 + room.as_ptr().align_offset(PAGE) as u64;
        let mut next = Next {
            number: 0,
            state: 0x9e37_79b9_7f4a_7c15,
            blocks,
            random: self.random,
        };
        let mut commands: Vec<Iocb> = (0..self.depth)
            .map(|slot| Iocb {
                data: slot,
                opcode: self.operation,
                descriptor: file.as_raw_fd() as u32,
                buffer: start + slot * self.block,
                bytes: self.block,
                offset: (next.block() * self.block) as i64,
                ..Iocb::default()
            })
            .collect();
        let context = Context::new(self.depth)?;
        let mut pointers: Vec<*mut Iocb> = commands.iter_mut().map(|command| &raw mut *command).collect();
        let (mut events, mut count, since) = (vec![Event::default(); commands.len()], 0u64, Instant::now());
        context.submit(&mut pointers)?;
        loop {
            let done = context.wait(&mut events)?;
            pointers.clear();
            for event in &events[..done] {
                if event.result != self.block as i64 {
                    return Err(io::Error::from_raw_os_error(event.result.unsigned_abs() as i32));
                }
                let command = &mut commands[event.data as usize];
                command.offset = (next.block() * self.block) as i64;
                pointers.push(command);
            }
            count += done as u64;
            if since.elapsed() >= span {
                break;
            }
            context.submit(&mut pointers)?;
        }
        report(&format!("disk-{name}"), count, since);
        // What is under way still has the buffers: it ends with the context.
        drop(context);
        drop(room);
        Ok(())
    }
}

/// Which block is next.
struct Next {
    number: u64,
    state: u64,
    blocks: u64,
    random: bool,
}

impl Next {
    fn block(&mut self) -> u64 {
        if self.random {
            // xorshift64
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            return self.state % self.blocks;
        }
        self.number = (self.number + 1) % self.blocks;
        self.number
    }
}

/// An AIO context.
struct Context(libc::c_ulong);

impl Context {
    fn new(depth: u64) -> io::Result<Self> {
        let mut context: libc::c_ulong = 0;
        // SAFETY: the call writes a number into `context`.
        check(unsafe { libc::syscall(libc::SYS_io_setup, depth, &raw mut context) })?;
        Ok(Self(context))
    }

    fn submit(&self, commands: &mut [*mut Iocb]) -> io::Result<()> {
        // SAFETY: the commands and their buffers live until the context is destroyed, and nobody looks into a buffer.
        let taken = check(unsafe {
            libc::syscall(libc::SYS_io_submit, self.0, commands.len(), commands.as_mut_ptr())
        })?;
        if taken != commands.len() {
            return Err(io::Error::other("the kernel took only a part of the commands"));
        }
        Ok(())
    }

    /// Waits until at least one is done; how many are.
    fn wait(&self, events: &mut [Event]) -> io::Result<usize> {
        let (most, place) = (events.len(), events.as_mut_ptr());
        // SAFETY: there is room for `most` events.
        check(unsafe { libc::syscall(libc::SYS_io_getevents, self.0, 1, most, place, 0) })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: waits for what is under way, and frees the context.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}

fn check(result: libc::c_long) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
