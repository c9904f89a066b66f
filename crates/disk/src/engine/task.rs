//! One request as a sequence of host calls, whichever engine makes them.
//!
//! The host may move fewer bytes than asked, refuse a kind of zeroing, or need aligned memory. A [`Task`] hides all of
//! that: an engine asks it for the next [`Step`], makes the call, and tells it the result, until the task is over.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use ostler_memory::IoBuf;

use super::aligned::AlignedBuf;
use super::limits::Limits;
use crate::{Completion, Op, RequestError};

/// Scatter-gather entries that the host takes in one call (`IOV_MAX`).
const MAX_BUFFERS: usize = 1024;
/// Bytes of one call through a bounce buffer: bounds what a guest's unaligned requests cost the host.
const BOUNCE_LEN: usize = 256 << 10;
/// Bytes of the shared block of zeroes.
const ZEROES_LEN: usize = 64 << 10;
/// Bytes of one call that writes zeroes.
const ZERO_STEP: u64 = 1 << 20;
/// How often a call may be interrupted or put off before it counts as failed.
const MAX_RETRIES: u32 = 1000;

/// One host call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step<'a> {
    /// `preadv`; never empty.
    Read { offset: u64, buffers: &'a [IoBuf] },
    /// `pwritev`; never empty.
    Write { offset: u64, buffers: &'a [IoBuf] },
    /// `fdatasync`.
    Sync,
    /// `fallocate` with this mode.
    Allocate { mode: i32, offset: u64, len: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Flush,
    Discard,
    /// Zero by `fallocate` with this mode.
    ZeroBy(ZeroMode),
    /// Zero by writing zeroes.
    ZeroByWriting,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ZeroMode {
    /// Gives the space back.
    Punch,
    /// Keeps the space.
    Range,
}

impl ZeroMode {
    fn flags(self) -> i32 {
        libc::FALLOC_FL_KEEP_SIZE
            | match self {
                Self::Punch => libc::FALLOC_FL_PUNCH_HOLE,
                Self::Range => libc::FALLOC_FL_ZERO_RANGE,
            }
    }
}

/// A request that is under way.
#[derive(Debug)]
pub(crate) struct Task {
    limits: Arc<Limits>,
    token: u64,
    kind: Kind,
    /// Where the rest of the request starts on the disk.
    offset: u64,
    /// Bytes of the rest.
    left: u64,
    /// What the rest is moved to or from: entries from `first` on.
    buffers: Vec<IoBuf>,
    first: usize,
    /// Aligned memory, if the guest's own is not.
    bounce: Option<AlignedBuf>,
    /// The part of `bounce` that the current call uses.
    window: [IoBuf; 1],
    retries: u32,
}

impl Task {
    /// Checks a request and makes a task of it; a request that is wrong or empty is complete at once.
    pub(crate) fn new(limits: &Arc<Limits>, token: u64, op: Op<'_>) -> Result<Self, Completion> {
        let end = |result| Completion { token, result };
        let checked = Self::plan(limits, op).map_err(|error| end(Err(error)))?;
        let (kind, offset, left) = checked;
        if left == 0 && kind != Kind::Flush {
            return Err(end(Ok(())));
        }
        let buffers: Vec<IoBuf> = match op {
            Op::Read { buffers, .. } | Op::Write { buffers, .. } => buffers
                .iter()
                .copied()
                .filter(|buffer| !buffer.is_empty())
                .collect(),
            _ => Vec::new(),
        };
        let bounce = buffers
            .iter()
            .any(|buffer| !is_aligned(buffer, limits.align))
            .then(|| {
                let len = BOUNCE_LEN.min(usize::try_from(left).unwrap_or(BOUNCE_LEN));
                AlignedBuf::new(len, limits.align)
            });
        let window = [IoBuf::new(std::ptr::null_mut(), 0)];
        let limits = limits.clone();
        Ok(Self {
            limits,
            token,
            kind,
            offset,
            left,
            buffers,
            first: 0,
            bounce,
            window,
            retries: 0,
        })
    }

    fn plan(limits: &Limits, op: Op<'_>) -> Result<(Kind, u64, u64), RequestError> {
        let total = |buffers: &[IoBuf]| IoBuf::total(buffers).ok_or(RequestError::OutOfRange);
        let (kind, offset, len) = match op {
            Op::Read { offset, buffers } => (Kind::Read, offset, total(buffers)? as u64),
            Op::Write { offset, buffers } => (Kind::Write, offset, total(buffers)? as u64),
            Op::Flush => return Ok((Kind::Flush, 0, 0)),
            Op::Discard { offset, len } => (Kind::Discard, offset, len),
            Op::WriteZeroes { offset, len, unmap } => (first_zeroing(limits, unmap), offset, len),
        };
        if kind != Kind::Read {
            limits.check_writable()?;
        }
        limits.check(offset, len)?;
        Ok((kind, offset, len))
    }

    /// The token of the request.
    pub(crate) fn token(&self) -> u64 {
        self.token
    }

    /// The call to make now. Its buffers stay where they are as long as the task does and is not moved.
    pub(crate) fn step(&mut self) -> Step<'_> {
        let offset = self.offset;
        match self.kind {
            Kind::Flush => Step::Sync,
            Kind::Discard => Step::Allocate {
                mode: ZeroMode::Punch.flags(),
                offset,
                len: self.left,
            },
            Kind::ZeroBy(mode) => Step::Allocate {
                mode: mode.flags(),
                offset,
                len: self.left,
            },
            Kind::ZeroByWriting => {
                self.fill_with_zeroes();
                Step::Write {
                    offset,
                    buffers: &self.buffers,
                }
            }
            Kind::Read => Step::Read {
                offset,
                buffers: self.next_buffers(),
            },
            Kind::Write => {
                self.gather();
                Step::Write {
                    offset,
                    buffers: self.next_buffers(),
                }
            }
        }
    }

    /// Takes the result of the call: a count, or a negative `errno`. Returns how the request ended, if it did.
    pub(crate) fn advance(&mut self, result: i32) -> Option<Result<(), RequestError>> {
        if matches!(-result, libc::EINTR | libc::EAGAIN) {
            self.retries += 1;
            return (self.retries > MAX_RETRIES).then_some(Err(RequestError::Host(-result)));
        }
        match self.kind {
            Kind::Flush => Some(if result < 0 {
                Err(RequestError::from_errno(-result))
            } else {
                Ok(())
            }),
            Kind::Discard => Some(self.after_discard(result)),
            Kind::ZeroBy(mode) => self.after_zeroing(mode, result),
            _ if result < 0 => Some(Err(RequestError::from_errno(-result))),
            Kind::Read => self.after_read(result.unsigned_abs() as usize),
            Kind::Write | Kind::ZeroByWriting => self.after_write(result.unsigned_abs() as usize),
        }
    }

    fn after_discard(&self, result: i32) -> Result<(), RequestError> {
        match -result {
            // A discard is a hint: where the host has no holes, or not at this grain, keeping the bytes is right.
            libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS => Ok(()),
            errno if errno > 0 => Err(RequestError::from_errno(errno)),
            _ => Ok(()),
        }
    }

    fn after_zeroing(&mut self, mode: ZeroMode, result: i32) -> Option<Result<(), RequestError>> {
        match -result {
            // EINVAL: a block device refuses ranges between its blocks; that says nothing of other ranges.
            libc::EINVAL => self.kind = Kind::ZeroByWriting,
            libc::EOPNOTSUPP | libc::ENOSYS => self.kind = self.next_zeroing(mode),
            errno if errno > 0 => return Some(Err(RequestError::from_errno(errno))),
            _ => return Some(Ok(())),
        }
        None
    }

    /// The next best way to zero, after the host said that it has no `mode`.
    fn next_zeroing(&self, mode: ZeroMode) -> Kind {
        let flag = match mode {
            ZeroMode::Punch => &self.limits.can_punch,
            ZeroMode::Range => &self.limits.can_zero,
        };
        flag.store(false, Ordering::Relaxed);
        if mode == ZeroMode::Punch && self.limits.can_zero.load(Ordering::Relaxed) {
            Kind::ZeroBy(ZeroMode::Range)
        } else {
            Kind::ZeroByWriting
        }
    }

    fn after_read(&mut self, count: usize) -> Option<Result<(), RequestError>> {
        let usable = self.usable(count);
        if usable > 0 {
            self.consume(usable, true);
        } else {
            // The end of a file that is shorter than the disk: the last bytes, then zeroes.
            self.consume(count, true);
            for buffer in self.buffers.get(self.first..).unwrap_or_default() {
                // SAFETY: whoever pushed the request promised that its buffers are mapped and writable until now.
                unsafe { buffer.zero() };
            }
            self.left = 0;
        }
        (self.left == 0).then_some(Ok(()))
    }

    fn after_write(&mut self, count: usize) -> Option<Result<(), RequestError>> {
        let usable = self.usable(count);
        if usable == 0 {
            return Some(Err(RequestError::Host(libc::EIO)));
        }
        self.consume(usable, false);
        (self.left == 0).then_some(Ok(()))
    }

    /// How much of `count` bytes counts: direct I/O goes on from a multiple of its unit only.
    fn usable(&self, count: usize) -> usize {
        let count = count.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if count as u64 == self.left {
            count
        } else {
            count - count % self.limits.align
        }
    }

    /// Moves the start of the rest by `count` bytes, scattering them out of the bounce buffer after a read.
    fn consume(&mut self, count: usize, scatter: bool) {
        self.retries = 0;
        let mut from = 0;
        while from < count {
            let Some(buffer) = self.buffers.get_mut(self.first) else {
                break;
            };
            let here = buffer.len().min(count - from);
            if let (true, Some(bounce)) = (scatter, &self.bounce) {
                // SAFETY: whoever pushed the request promised that its buffers are mapped and writable until now.
                unsafe { buffer.copy_from(&bounce.bytes()[from..from + here]) };
            }
            *buffer = buffer.advanced(here);
            if buffer.is_empty() {
                self.first += 1;
            }
            from += here;
        }
        self.offset += count as u64;
        self.left -= (count as u64).min(self.left);
    }

    /// Fills the bounce buffer, if there is one, with what is written next.
    fn gather(&mut self) {
        let Some(bounce) = &mut self.bounce else { return };
        let bytes = bounce.bytes_mut();
        let mut filled = 0;
        for buffer in &self.buffers[self.first..] {
            if filled == bytes.len() {
                break;
            }
            // SAFETY: whoever pushed the request promised that its buffers are mapped until it completes.
            filled += unsafe { buffer.copy_to(&mut bytes[filled..]) };
        }
    }

    fn next_buffers(&mut self) -> &[IoBuf] {
        if let Some(bounce) = &self.bounce {
            self.window = [bounce
                .io_buf()
                .truncated(usize::try_from(self.left).unwrap_or(usize::MAX))];
            return &self.window;
        }
        let end = self.buffers.len().min(self.first + MAX_BUFFERS);
        &self.buffers[self.first..end]
    }

    fn fill_with_zeroes(&mut self) {
        static ZEROES: OnceLock<AlignedBuf> = OnceLock::new();
        let zeroes = ZEROES
            .get_or_init(|| AlignedBuf::new(ZEROES_LEN, ostler_memory::PAGE_SIZE))
            .io_buf();
        self.buffers.clear();
        self.first = 0;
        let mut wanted = self.left.min(ZERO_STEP) as usize;
        while wanted > 0 {
            let piece = zeroes.truncated(wanted);
            wanted -= piece.len();
            self.buffers.push(piece);
        }
    }
}

fn first_zeroing(limits: &Limits, unmap: bool) -> Kind {
    if unmap && limits.can_punch.load(Ordering::Relaxed) {
        Kind::ZeroBy(ZeroMode::Punch)
    } else if limits.can_zero.load(Ordering::Relaxed) {
        Kind::ZeroBy(ZeroMode::Range)
    } else {
        Kind::ZeroByWriting
    }
}

fn is_aligned(buffer: &IoBuf, align: usize) -> bool {
    (buffer.as_ptr().addr() | buffer.len()).is_multiple_of(align)
}

#[cfg(test)]
mod tests;
