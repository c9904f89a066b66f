//! One queue pair of a tap: frames go straight between guest memory and the kernel.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use ostler_memory::IoBuf;

use crate::frame::{self, Header, MAX_BUFFERS};
use crate::slots::SlotGuard;
use crate::{Error, HEADER_LEN, MAX_FRAME, NetQueue, Offloads, QueueCounters, Received, Sent};

pub(super) struct TapQueue {
    file: Arc<File>,
    accepts: Offloads,
    counters: QueueCounters,
    /// What the kernel reads in place of the guest's header: checked, and out of the guest's reach.
    header: Header,
    /// For guests that chop a frame into more pieces than one call takes.
    bounce: Vec<u8>,
    /// The pieces of one call; kept for its room, as a call comes for every frame.
    vector: Vec<IoBuf>,
    _slot: SlotGuard,
}

impl TapQueue {
    pub(super) fn new(file: Arc<File>, accepts: Offloads, slot: SlotGuard) -> Self {
        Self {
            file,
            accepts,
            counters: QueueCounters::default(),
            header: Header::default(),
            bounce: Vec::new(),
            vector: Vec::new(),
            _slot: slot,
        }
    }

    /// Reads one frame. The count is larger than the buffers when the frame did not fit.
    ///
    /// # Safety
    /// The buffers are mapped and writable.
    unsafe fn read(&mut self, buffers: &[IoBuf]) -> io::Result<usize> {
        if buffers.len() > MAX_BUFFERS {
            let count = self.read_aside()?;
            // SAFETY: promised by the caller.
            unsafe { frame::scatter(buffers, 0, &self.bounce[..count.min(self.bounce.len())]) };
            return Ok(count);
        }
        // One byte more than the guest gave: the kernel cuts what does not fit and says nothing.
        let mut spill = [0u8];
        self.vector.clear();
        self.vector.extend_from_slice(buffers);
        self.vector.push(IoBuf::of(&mut spill));
        // SAFETY: promised by the caller; `spill` is on this frame.
        unsafe { self.read_vector(&self.vector) }
    }

    /// Reads one frame into the bounce buffer.
    fn read_aside(&mut self) -> io::Result<usize> {
        self.bounce.resize(HEADER_LEN + MAX_FRAME + 1, 0);
        let bounce = [IoBuf::of(&mut self.bounce)];
        // SAFETY: the bounce buffer is ours.
        unsafe { self.read_vector(&bounce) }
    }

    /// # Safety
    /// The buffers are mapped and writable.
    unsafe fn read_vector(&self, vector: &[IoBuf]) -> io::Result<usize> {
        // SAFETY: promised by the caller; IoBuf has the layout of iovec.
        let count =
            unsafe { libc::readv(self.file.as_raw_fd(), vector.as_ptr().cast(), vector.len() as i32) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    /// # Safety
    /// The buffers are mapped, and hold header and frame.
    unsafe fn write(&mut self, buffers: &[IoBuf], len: usize) -> io::Result<()> {
        self.vector.clear();
        self.vector.push(IoBuf::of(&mut self.header.0));
        // SAFETY: promised by the caller.
        let untrusted = unsafe { frame::split_header(buffers, &mut self.vector) };
        let checked = untrusted.checked(self.accepts, len);
        self.header = checked.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        if self.vector.len() > MAX_BUFFERS {
            self.bounce.clear();
            // SAFETY: promised by the caller.
            unsafe { frame::gather(&self.vector, &mut self.bounce) };
            self.vector.clear();
            self.vector.push(IoBuf::of_const(&self.bounce));
        }
        let (entries, count) = (self.vector.as_ptr().cast(), self.vector.len() as i32);
        // SAFETY: promised by the caller; header and bounce buffer are ours, and not moved.
        let written = unsafe { libc::writev(self.file.as_raw_fd(), entries, count) };
        if written < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

/// True for errors after which the descriptor is of no more use: the interface was deleted.
fn is_final(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EBADFD | libc::EBADF | libc::ENODEV)
    )
}

impl NetQueue for TapQueue {
    unsafe fn read_frame(&mut self, buffers: &[IoBuf]) -> Result<Received, Error> {
        let room = IoBuf::total(buffers).unwrap_or(usize::MAX);
        // SAFETY: promised by the caller.
        match unsafe { self.read(buffers) } {
            Ok(count) if count > room || count < HEADER_LEN => {
                self.counters.receive_drops += 1;
                Ok(Received::Dropped)
            }
            Ok(count) => {
                // SAFETY: promised by the caller.
                unsafe { frame::scatter(buffers, frame::NUM_BUFFERS_AT, &frame::ONE_BUFFER) };
                self.counters.received += 1;
                Ok(Received::Frame(count))
            }
            Err(error) if is_final(&error) => Err(Error::Closed),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => Ok(Received::Empty),
                // The buffers are shorter than a header. The frame is still there, so it is taken out.
                Some(libc::EINVAL) => {
                    let _ = self.read_aside();
                    self.counters.receive_drops += 1;
                    Ok(Received::Dropped)
                }
                _ => Err(Error::Io(error)),
            },
        }
    }

    unsafe fn write_frame(&mut self, buffers: &[IoBuf]) -> Result<Sent, Error> {
        let written = match frame::sendable_len(buffers) {
            // SAFETY: promised by the caller, and the length was checked.
            Some(len) => unsafe { self.write(buffers, len) },
            None => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        };
        match written {
            Ok(()) => {
                self.counters.sent += 1;
                Ok(Sent::Sent)
            }
            Err(error) if is_final(&error) => Err(Error::Closed),
            // The interface is down or full, or the kernel did not like the frame.
            Err(_) => {
                self.counters.send_drops += 1;
                Ok(Sent::Dropped)
            }
        }
    }

    fn readable(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn writable(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn counters(&self) -> QueueCounters {
        self.counters
    }
}
