//! One queue pair of a tap: frames go straight between guest memory and the kernel.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use ostler_memory::IoBuf;

use crate::frame::{self, MAX_BUFFERS};
use crate::slots::SlotGuard;
use crate::{Error, HEADER_LEN, MAX_FRAME, NetQueue, Offloads, QueueCounters, Received, Sent};

pub(super) struct TapQueue {
    file: Arc<File>,
    accepts: Offloads,
    counters: QueueCounters,
    /// For guests that chop a frame into more pieces than one call takes.
    bounce: Vec<u8>,
    _slot: SlotGuard,
}

impl TapQueue {
    pub(super) fn new(file: Arc<File>, accepts: Offloads, slot: SlotGuard) -> Self {
        Self {
            file,
            accepts,
            counters: QueueCounters::default(),
            bounce: Vec::new(),
            _slot: slot,
        }
    }

    /// Reads one frame; `None` if there is none. The count is larger than the buffers when the frame did not fit.
    ///
    /// # Safety
    /// The buffers are mapped and writable.
    unsafe fn read(&mut self, buffers: &[IoBuf]) -> io::Result<usize> {
        if buffers.len() > MAX_BUFFERS {
            self.bounce.resize(HEADER_LEN + MAX_FRAME + 1, 0);
            let bounce = [IoBuf::of(&mut self.bounce)];
            // SAFETY: `bounce` is ours.
            let count = unsafe { self.read_vector(&bounce)? };
            // SAFETY: promised by the caller.
            unsafe { frame::scatter(buffers, 0, &self.bounce[..count.min(self.bounce.len())]) };
            return Ok(count);
        }
        // One byte more than the guest gave: the kernel cuts what does not fit and says nothing.
        let mut spill = [0u8];
        let mut vector = Vec::with_capacity(buffers.len() + 1);
        vector.extend_from_slice(buffers);
        vector.push(IoBuf::of(&mut spill));
        // SAFETY: promised by the caller; `spill` is on this frame.
        unsafe { self.read_vector(&vector) }
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
        // SAFETY: promised by the caller.
        let (header, mut vector) = unsafe { frame::split_header(buffers) };
        let Some(header) = header.checked(self.accepts, len) else {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        };
        vector.insert(0, IoBuf::of_const(&header.0));
        if vector.len() > MAX_BUFFERS {
            self.bounce.clear();
            // SAFETY: promised by the caller.
            unsafe { frame::gather(&vector, &mut self.bounce) };
            vector = vec![IoBuf::of_const(&self.bounce)];
        }
        // SAFETY: promised by the caller; header and bounce buffer outlive the call.
        let count =
            unsafe { libc::writev(self.file.as_raw_fd(), vector.as_ptr().cast(), vector.len() as i32) };
        if count < 0 {
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
                    self.bounce.resize(HEADER_LEN + MAX_FRAME + 1, 0);
                    let bounce = [IoBuf::of(&mut self.bounce)];
                    // SAFETY: the bounce buffer is ours.
                    let _ = unsafe { self.read_vector(&bounce) };
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
